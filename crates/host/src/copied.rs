//! Which regions a session writes by copying, as its slot tells the other processes of this
//! host: whoever replaces a region's pages asks for the region first. It waits for nothing, says
//! nothing of mapped memory, of which the kernel tells, and nothing in a slot that is no longer
//! this session's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use vmshm_link::LinkError;
use vmshm_link::slot::{COPIED_NAMED, Tenure, say_copied, say_more_copied};
use vmshm_ram::View;

/// The regions, and the slot.
#[derive(Debug)]
pub(crate) struct Copied {
    directory: Arc<View>,
    slot: u64,
    regions: Mutex<Regions>,
}

/// A region, and its memory as long as somebody has it.
type Held = (u64, Weak<View>);

#[derive(Debug)]
struct Regions {
    /// The right to the slot, until it is given back.
    tenure: Option<Tenure<Arc<View>>>,
    /// Each at its place in the slot; those behind the places are only counted there.
    held: Vec<Option<Held>>,
}

impl Regions {
    /// Puts one at a free place.
    fn put(&mut self, held: Held) -> usize {
        let free = self.held.iter().position(Option::is_none);
        let place = free.unwrap_or(self.held.len());
        match self.held.get_mut(place) {
            Some(free) => *free = Some(held),
            None => self.held.push(Some(held)),
        }
        place
    }

    fn unnamed(&self) -> u64 {
        let unnamed = self.held.iter().skip(COPIED_NAMED).flatten();
        unnamed.count() as u64
    }

    /// Whether the slot may be written.
    fn check(&self) -> Result<(), LinkError> {
        self.tenure.as_ref().ok_or(LinkError::Revoked)?.verify()
    }
}

impl Copied {
    /// For the slot that starts at `slot` of the directory.
    pub(crate) fn new(directory: Arc<View>, slot: u64, tenure: Tenure<Arc<View>>) -> Self {
        let regions = Regions {
            tenure: Some(tenure),
            held: Vec::new(),
        };
        Self {
            directory,
            slot,
            regions: Mutex::new(regions),
        }
    }

    /// Says that a region's memory is written from now on, if that is done by copying. To be
    /// called while nobody grafts.
    ///
    /// # Errors
    /// [`LinkError`] when the slot cannot be reached, or is this session's no more.
    pub(crate) fn add(&self, region: u64, memory: &Arc<View>) -> Result<(), LinkError> {
        if memory.is_mapped() {
            return Ok(());
        }
        let mut regions = self.locked();
        regions.check()?;
        let place = regions.put((region, Arc::downgrade(memory)));
        if place < COPIED_NAMED {
            say_copied(&self.directory, self.slot, place, Some(region))
        } else {
            say_more_copied(&self.directory, self.slot, regions.unnamed())
        }
    }

    /// Says so of those that nobody has any more.
    ///
    /// # Errors
    /// [`LinkError`] when the slot cannot be reached, or is this session's no more.
    pub(crate) fn forget_dropped(&self) -> Result<(), LinkError> {
        self.forget(|(_, memory)| memory.strong_count() == 0)
    }

    /// Says no more that it copies a region, which it does not write from now on.
    ///
    /// # Errors
    /// [`LinkError`] when the slot cannot be reached, or is this session's no more.
    #[allow(dead_code, reason = "only some systems have grafts")]
    pub(crate) fn forget_region(&self, region: u64) -> Result<(), LinkError> {
        self.forget(|(one, _)| *one == region)
    }

    /// Nothing is said any more: the slot is given back.
    pub(crate) fn close(&self) {
        self.locked().tenure = None;
    }

    fn forget(&self, is_over: impl Fn(&Held) -> bool) -> Result<(), LinkError> {
        let mut regions = self.locked();
        let mut freed = Vec::new();
        for (place, held) in regions.held.iter_mut().enumerate() {
            if held.as_ref().is_some_and(&is_over) {
                *held = None;
                freed.push(place);
            }
        }
        if freed.is_empty() {
            return Ok(());
        }
        regions.check()?;
        for place in freed {
            say_copied(&self.directory, self.slot, place, None)?;
        }
        say_more_copied(&self.directory, self.slot, regions.unnamed())
    }

    fn locked(&self) -> MutexGuard<'_, Regions> {
        // What the lock guards is whole between any two calls.
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
