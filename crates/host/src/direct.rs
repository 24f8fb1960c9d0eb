//! A session over a slot of this process's own in a guest's memory. It waits for nothing.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use vmshm_link::LinkError;
use vmshm_link::beacon::Beacon;
use vmshm_link::control::{Reply, Request};
use vmshm_link::directory::{Budget, RegionEntry, SLOTS, slot_offset};
use vmshm_link::slot::HostSlot;
use vmshm_ram::{GuestRam, Layout, View};

use crate::attach;
use crate::conversation::{Conversation, Question};
use crate::copied::Copied;
use crate::ending::{Condition, SessionEnd};
use crate::guard::Guard;
use crate::os::{GraftGround, OwnGrafts, abandon};
use crate::region::Ground;
use crate::right::WriteRight;
use crate::sighting::Directory;
use crate::watch::Watch;

/// How often a session looks whether its guest is still there.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The session; dropping it gives the slot back.
#[derive(Debug)]
pub struct Direct {
    ram: Arc<GuestRam>,
    directory: Directory,
    beacon: Beacon,
    watch: Watch,
    slot: Option<HostSlot<Arc<View>>>,
    name: String,
    conversation: Conversation,
    last_look: Instant,
    last_condition: Condition,
    /// The memory of its regions that may lie in files of grafts.
    grafts: Vec<Weak<View>>,
    copied: Arc<Copied>,
    own_grafts: Arc<OwnGrafts>,
}

impl Direct {
    pub(crate) fn new(
        ram: Arc<GuestRam>,
        directory: Directory,
        beacon: Beacon,
        watch: Watch,
        slot: HostSlot<Arc<View>>,
        name: String,
    ) -> Self {
        let copied = Copied::new(Arc::clone(&directory.memory), slot.base(), slot.tenure());
        Self {
            ram,
            directory,
            beacon,
            watch,
            slot: Some(slot),
            name,
            conversation: Conversation::default(),
            last_look: Instant::now(),
            last_condition: Condition::Running,
            grafts: Vec::new(),
            copied: Arc::new(copied),
            own_grafts: Arc::default(),
        }
    }

    /// The VM's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The VM's memory.
    #[must_use]
    pub const fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// Where guest-physical addresses lie, with how each range is known.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.directory.layout
    }

    /// The VMM's process.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.watch.pid()
    }

    /// The index of its slot among the guest's.
    pub(crate) fn slot_index(&self) -> Option<usize> {
        let base = self.slot.as_ref()?.base();
        (0..SLOTS).find(|index| slot_offset(*index) == base)
    }

    /// The guest's beacon.
    #[must_use]
    pub const fn beacon(&self) -> &Beacon {
        &self.beacon
    }

    /// The guest's directory.
    #[must_use]
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The regions that the guest lists.
    ///
    /// # Errors
    /// [`LinkError`] when the table is damaged.
    pub fn regions(&self) -> Result<Vec<RegionEntry>, LinkError> {
        self.directory.regions().collect()
    }

    /// The number of the region of a name, where the guest's table has one.
    pub(crate) fn region_named(&self, name: &str) -> Option<u64> {
        let mut regions = self.directory.regions().filter_map(Result::ok);
        let found = regions.find(|entry| entry.name.as_str() == name);
        found.map(|entry| entry.id)
    }

    /// How much the guest has pinned.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn budget(&self) -> Result<Budget, LinkError> {
        Budget::read(&self.directory.memory)
    }

    /// Whether regions may still be written; nothing after the session's end.
    pub(crate) fn right(&self) -> Option<WriteRight> {
        self.slot
            .as_ref()
            .map(|slot| WriteRight::of_slot(slot.tenure()))
    }

    /// Where its regions lie.
    pub(crate) fn ground(&self) -> Ground {
        Ground {
            ram: Arc::clone(&self.ram),
            layout: Arc::new(self.layout().clone()),
            copied: Arc::clone(&self.copied),
            graft: GraftGround::new(
                self.pid(),
                self.beacon.epoch,
                Arc::clone(&self.ram),
                Arc::new(self.directory.clone()),
                Arc::clone(&self.own_grafts),
            ),
        }
    }

    /// Says no more that it copies a region, which it does not write from now on.
    ///
    /// # Errors
    /// [`LinkError`] when its slot is its own no more.
    #[allow(dead_code, reason = "only some systems have grafts")]
    pub(crate) fn stop_copying(&self, region: u64) -> Result<(), LinkError> {
        self.copied.forget_region(region)
    }

    /// What it grafts stays when it ends: somebody else takes it back.
    #[allow(dead_code, reason = "only some systems have brokers")]
    pub(crate) fn leave_grafts(&self) {
        self.own_grafts.keep_all();
    }

    /// Keeps the session alive and looks whether it is. Call it several times a second;
    /// calls in between cost nothing.
    ///
    /// # Errors
    /// [`SessionEnd`] when it is over.
    pub(crate) fn keep(&mut self) -> Result<Condition, SessionEnd> {
        if self.last_look.elapsed() >= LOOK_EVERY {
            self.look_now()?;
        }
        Ok(self.last_condition)
    }

    /// As [`keep`](Self::keep), however short a time ago the last look was.
    ///
    /// # Errors
    /// [`SessionEnd`] when it is over.
    pub(crate) fn look_now(&mut self) -> Result<Condition, SessionEnd> {
        self.last_look = Instant::now();
        // First who is there; a VM that is gone must not be reported as a fault.
        self.last_condition = self.watch.look()?;
        if let Some(slot) = &mut self.slot {
            slot.verify()?;
            slot.beat()?;
            self.copied.forget_dropped()?;
            if slot.is_asked_to_leave()? {
                return Err(SessionEnd::MadeWay);
            }
        }
        self.grafts.retain(|memory| memory.strong_count() > 0);
        let mut grafts = self.grafts.iter().filter_map(Weak::upgrade);
        if grafts.any(|memory| memory.is_cut_off()) {
            return Err(SessionEnd::GraftUndone);
        }
        Ok(self.last_condition)
    }

    /// Ends with this memory of a region, should it be cut off from the VM.
    pub(crate) fn watch_memory(&mut self, memory: &Arc<View>) {
        if memory.lies_in_grafts() {
            self.grafts.push(Arc::downgrade(memory));
        }
    }

    /// The reason behind a failure of the memory or the link: the end of the VM or of
    /// the agent, if that explains it, else the failure itself.
    pub(crate) fn why_it_ended(&mut self, error: LinkError) -> SessionEnd {
        match self.watch.look() {
            Err(end) => end,
            Ok(_) => SessionEnd::Link(error),
        }
    }

    /// A guard over the guest, for another thread.
    #[must_use]
    pub fn guard(&self) -> Guard {
        self.watch.guard()
    }

    /// How long no heartbeat of the guest has been seen.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.watch.silence()
    }

    /// Asks without waiting; nothing when the agent has too many requests before it.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Option<Question>, SessionEnd> {
        let slot = self.slot.as_mut().ok_or(SessionEnd::AgentLeft)?;
        Ok(self.conversation.ask(slot, request)?)
    }

    /// Says something that is never answered; whether there was room for it.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub(crate) fn tell(&mut self, request: &Request) -> Result<bool, SessionEnd> {
        let slot = self.slot.as_mut().ok_or(SessionEnd::AgentLeft)?;
        Ok(Conversation::tell(slot, request)?)
    }

    /// The answer to a question, if it has come. A refusal is an answer.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub(crate) fn answer(&mut self, question: Question) -> Result<Option<Reply>, SessionEnd> {
        let slot = self.slot.as_mut().ok_or(SessionEnd::AgentLeft)?;
        self.conversation.take_in(slot)?;
        Ok(self.conversation.answer(question))
    }

    /// Nobody waits for that answer any more.
    pub(crate) fn give_up(&mut self, question: Question) {
        self.conversation.give_up(question);
    }

    /// Regions that were granted when nobody waited for them any more, each once.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub(crate) fn late_grants(&mut self) -> Result<Vec<u64>, SessionEnd> {
        let slot = self.slot.as_mut().ok_or(SessionEnd::AgentLeft)?;
        self.conversation.take_in(slot)?;
        Ok(self.conversation.late_grants())
    }

    /// Frees what other vmshm processes of this host held when they died. Says whether
    /// the agent has yet to free what one of them held.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub(crate) fn release_slots_of_the_dead(&mut self) -> Result<bool, SessionEnd> {
        // The guest may have restarted since the last look; its pages are another's then.
        self.look_now()?;
        Ok(attach::release_slots_of_the_dead(&self.directory)?)
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        // Nothing of it may be touched any more, and what others use is theirs.
        let grafts = self.grafts.iter().filter_map(Weak::upgrade);
        grafts.for_each(|memory| abandon(&memory));
        // Before the slot holds its pages no more.
        self.ground().graft.undo_own();
        self.copied.close();
        if let Some(slot) = self.slot.take() {
            // A guest that is gone needs no release.
            if slot.verify().is_ok() {
                let _ = slot.release();
            }
        }
    }
}
