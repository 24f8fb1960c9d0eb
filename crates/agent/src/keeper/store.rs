//! The memory that the keeper holds, by number, and the slow check that all of it is
//! still where it was announced.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::protocol::{Allocation, DESCRIPTION_LIMIT, NAME_LIMIT, Purpose};
use crate::pin::pagemap::Pagemap;
use crate::pin::{AllocateError, DeviceError, Pinned, Pinner};

/// Pages that one check looks at: 128 MiB, which takes one millisecond under user-mode
/// Linux and four under an emulator.
const PAGES_PER_CHECK: u64 = 32768;
/// The most extents of one memory; more would not fit a message.
const EXTENT_LIMIT: usize = 1 << 20;

/// Why the store did not do something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The memory could not be had.
    #[error(transparent)]
    Allocate(#[from] AllocateError),
    /// A device's memory could not be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No memory of this number that the agent may change.
    #[error("the keeper holds no region's memory number {0}")]
    Unknown(u64),
    /// A name or description that is too long.
    #[error("the name or description of a memory is too long")]
    TooLong,
    /// The memory is in too many pieces.
    #[error("the memory lies in {0} pieces, which is too many")]
    Fragmented(usize),
}

impl StoreError {
    /// What the user can do.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Allocate(error) => error.hint(),
            Self::Fragmented(_) => {
                Some("run `sysctl vm.compact_memory=1` in the guest, or ask for less")
            }
            Self::Device(_) | Self::Unknown(_) | Self::TooLong => None,
        }
    }
}

#[derive(Debug)]
struct Held {
    purpose: Purpose,
    name: String,
    pinned: Pinned,
    description: Option<String>,
    /// What has happened to its pages; it is not checked again.
    damage: Option<String>,
}

/// A memory that is not any more what was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Its number.
    pub id: u64,
    /// What it was for.
    pub purpose: Purpose,
    /// What happened to it.
    pub message: String,
}

/// All memory of one keeper.
#[derive(Debug)]
pub(crate) struct Store {
    pinner: Pinner,
    held: BTreeMap<u64, Held>,
    last_id: u64,
    pagemap: Pagemap,
    /// Where the next check goes on: memory and page.
    cursor: (u64, u64),
}

impl Store {
    /// Holds nothing yet.
    pub(crate) fn new(pinner: Pinner) -> io::Result<Self> {
        Ok(Self {
            pinner,
            held: BTreeMap::new(),
            last_id: 0,
            pagemap: Pagemap::of_self()?,
            cursor: (0, 0),
        })
    }

    /// How memory is pinned.
    pub(crate) fn pinner(&self) -> &Pinner {
        &self.pinner
    }

    /// Allocates, pins and keeps `size` bytes.
    pub(crate) fn allocate(
        &mut self,
        purpose: Purpose,
        name: &str,
        size: u64,
        progress: &mut dyn FnMut(),
    ) -> Result<u64, StoreError> {
        if name.len() > NAME_LIMIT {
            return Err(StoreError::TooLong);
        }
        let pinned = match purpose {
            Purpose::Beacon => self.pinner.allocate_beacon(progress)?,
            Purpose::Directory | Purpose::Region => self.pinner.allocate(name, size, progress)?,
        };
        self.keep(purpose, name, pinned)
    }

    /// Keeps the memory of a framebuffer device.
    pub(crate) fn allocate_device(
        &mut self,
        name: &str,
        path: &str,
        size: u64,
    ) -> Result<u64, StoreError> {
        if name.len() > NAME_LIMIT {
            return Err(StoreError::TooLong);
        }
        self.keep(Purpose::Region, name, Pinned::device(path, size)?)
    }

    fn keep(&mut self, purpose: Purpose, name: &str, pinned: Pinned) -> Result<u64, StoreError> {
        if pinned.extents().len() > EXTENT_LIMIT {
            return Err(StoreError::Fragmented(pinned.extents().len()));
        }
        self.last_id += 1;
        self.held.insert(
            self.last_id,
            Held {
                purpose,
                name: name.to_owned(),
                pinned,
                description: None,
                damage: None,
            },
        );
        Ok(self.last_id)
    }

    /// The memory of a number.
    pub(crate) fn get(&self, id: u64) -> Option<&Pinned> {
        self.held.get(&id).map(|held| &held.pinned)
    }

    /// A memory as messages describe it.
    pub(crate) fn describe(&self, id: u64) -> Option<Allocation> {
        let held = self.held.get(&id)?;
        Some(Allocation {
            id,
            purpose: held.purpose,
            name: held.name.clone(),
            offset: held.pinned.offset(),
            length: held.pinned.length(),
            cost: held.pinned.cost(),
            extents: held
                .pinned
                .extents()
                .iter()
                .map(|extent| (extent.start.0, extent.length))
                .collect(),
            descriptor: held.pinned.as_fd().as_raw_fd(),
            description: held.description.clone(),
        })
    }

    /// All numbers, in ascending order.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.held.keys().copied().collect()
    }

    /// Keeps a text with a region's memory.
    pub(crate) fn set_description(&mut self, id: u64, text: String) -> Result<(), StoreError> {
        if text.len() > DESCRIPTION_LIMIT {
            return Err(StoreError::TooLong);
        }
        match self.held.get_mut(&id) {
            Some(held) if held.purpose == Purpose::Region => {
                held.description = Some(text);
                Ok(())
            }
            _ => Err(StoreError::Unknown(id)),
        }
    }

    /// Gives a region's memory back.
    pub(crate) fn free(&mut self, id: u64, progress: &mut dyn FnMut()) -> Result<(), StoreError> {
        let is_region = |held: &Held| held.purpose == Purpose::Region;
        if !self.held.get(&id).is_some_and(is_region) {
            return Err(StoreError::Unknown(id));
        }
        if let Some(held) = self.held.remove(&id) {
            held.pinned.release(progress);
        }
        Ok(())
    }

    /// Checks every region for holes, and the next pages for their places. Each memory
    /// that is found damaged is told once, and its pins are kept.
    pub(crate) fn check_some(&mut self) -> io::Result<Option<Damage>> {
        if let Some(holed) = self.find_hole()? {
            return Ok(Some(holed));
        }
        let mut budget = PAGES_PER_CHECK;
        // Once around at most.
        for _ in 0..=self.held.len() {
            let (id, page) = self.cursor;
            let Some((&id, held)) = self.held.range_mut(id..).next() else {
                self.cursor = (0, 0);
                continue;
            };
            if held.damage.is_some() {
                self.cursor = (id + 1, 0);
                continue;
            }
            let first = if id == self.cursor.0 { page } else { 0 };
            let count = budget.min(held.pinned.pages().saturating_sub(first));
            if let Err(moved) = held.pinned.verify(&self.pagemap, first, count)? {
                return Ok(Some(held.damaged(id, &moved)));
            }
            budget -= count;
            self.cursor = if first + count < held.pinned.pages() {
                (id, first + count)
            } else {
                (id + 1, 0)
            };
            if budget == 0 {
                break;
            }
        }
        Ok(None)
    }

    /// A region that a holder has punched a hole into and has not filled again: the
    /// quick look, which costs one call a region. Nobody else holds the other files.
    fn find_hole(&mut self) -> io::Result<Option<Damage>> {
        for (id, held) in &mut self.held {
            if held.purpose != Purpose::Region || held.damage.is_some() {
                continue;
            }
            let missing = held.pinned.missing()?;
            if missing > 0 {
                let what = format!("{missing} bytes were punched out of its file");
                return Ok(Some(held.damaged(*id, &what)));
            }
        }
        Ok(None)
    }

    /// Everything that was found damaged and is still held.
    pub(crate) fn damages(&self) -> Vec<Damage> {
        let told = |(id, held): (&u64, &Held)| {
            held.damage.clone().map(|message| Damage {
                id: *id,
                purpose: held.purpose,
                message,
            })
        };
        self.held.iter().filter_map(told).collect()
    }
}

impl Held {
    /// Marks it, and tells of it.
    fn damaged(&mut self, id: u64, what: &dyn fmt::Display) -> Damage {
        let message = format!("in the memory of `{}`, {what}", self.name);
        self.damage = Some(message.clone());
        Damage {
            id,
            purpose: self.purpose,
            message,
        }
    }
}
