//! A proved session with a guest's agent: asking it for things, and noticing the end.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use vmshm_link::LinkError;
use vmshm_link::beacon::Beacon;
use vmshm_link::control::{MAX_EXPLANATION, RefusalCode, Reply, Request};
use vmshm_link::directory::{Budget, MAX_NAME, RegionEntry, SLOTS, is_valid_name, slot_offset};
use vmshm_link::fields::Text;
use vmshm_link::slot::{HostSlot, Tenure};
use vmshm_link::wait::Backoff;
use vmshm_pipe::pause;
use vmshm_ram::{GuestRam, Layout, View};

use crate::attach;
use crate::conversation::{Conversation, Question};
use crate::deadline::Deadline;
use crate::ending::{Condition, SessionEnd};
use crate::os::GraftGround;
use crate::region::Ground;
use crate::sighting::Directory;
use crate::watch::Watch;

/// How often a session looks whether its guest is still there.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A session; dropping it ends it.
#[derive(Debug)]
pub struct Session {
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
}

/// Why a request to the agent did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The agent refused.
    #[error("{explanation}")]
    Refused {
        /// The kind of reason.
        code: RefusalCode,
        /// The agent's own words.
        explanation: String,
    },
    /// The agent did not answer in time.
    #[error("vmshm-agent did not answer within {seconds} s{}", match .condition { Condition::Running => "", Condition::Stopped => " (the VM is paused: its process is stopped)", Condition::Silent => " (the guest is paused or hangs: no heartbeat)" })]
    NoAnswer {
        /// How long was waited.
        seconds: u64,
        /// What the guest was doing.
        condition: Condition,
    },
    /// The session is over.
    #[error(transparent)]
    Ended(#[from] SessionEnd),
    /// The name cannot be a region's.
    #[error("{0:?} cannot be a region's name")]
    BadName(String),
    /// The region's pages could not be reached or proved.
    #[error("the region's pages cannot be used: {0}")]
    Pages(String),
    /// The region was to be grafted, and was not.
    #[error("{cause}")]
    Graft {
        /// Why.
        cause: String,
        /// What the user can do about it.
        hint: Option<String>,
    },
}

impl RequestError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Refused { code, .. } => match code {
                RefusalCode::OverBudget => {
                    "start the agent with a larger `--max-pinned SIZE`, or remove regions"
                }
                RefusalCode::NotFound => "`vmshm region list VM` shows the regions that exist",
                RefusalCode::Exists => "choose another name, or remove that region first",
                RefusalCode::Proving => "wait longer, or end that process if it hangs",
                RefusalCode::Busy => "wait until it has ended, or use another name",
                RefusalCode::WrongKind => {
                    "`vmshm region list VM` shows each region's kind: `region read` and `region write` are for raw ones, `pipe` for pipes; rings, latests and streams belong to the programs that open them"
                }
                _ => return None,
            },
            Self::NoAnswer { .. } => "--timeout SECONDS waits longer",
            Self::BadName(_) => "names are 1 to 64 letters, digits, dots, dashes and underscores",
            Self::Ended(end) => return end.hint().map(str::to_owned),
            Self::Graft { hint, .. } => return hint.clone(),
            Self::Pages(_) => return None,
        };
        Some(text.to_owned())
    }
}

impl From<LinkError> for RequestError {
    fn from(error: LinkError) -> Self {
        Self::Ended(SessionEnd::Link(error))
    }
}

impl Session {
    pub(crate) fn new(
        ram: Arc<GuestRam>,
        directory: Directory,
        beacon: Beacon,
        watch: Watch,
        slot: HostSlot<Arc<View>>,
        name: String,
    ) -> Self {
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

    /// How much the guest has pinned.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn budget(&self) -> Result<Budget, LinkError> {
        Budget::read(&self.directory.memory)
    }

    /// For threads that write beside the session's own: whether it still may. After the
    /// session's end it always says no.
    pub(crate) fn tenure(&self) -> impl Fn() -> Result<(), LinkError> + Clone + Send + 'static {
        let tenure = self.slot_tenure();
        move || tenure.as_ref().ok_or(LinkError::Revoked)?.verify()
    }

    /// The same as a value; nothing after the session's end.
    pub(crate) fn slot_tenure(&self) -> Option<Tenure<Arc<View>>> {
        self.slot.as_ref().map(HostSlot::tenure)
    }

    /// Where its regions lie.
    pub(crate) fn ground(&self) -> Ground {
        Ground {
            ram: Arc::clone(&self.ram),
            layout: Arc::new(self.layout().clone()),
            graft: GraftGround::new(
                self.pid(),
                self.beacon.epoch,
                Arc::clone(&self.ram),
                Arc::clone(&self.directory.memory),
            ),
        }
    }

    /// Keeps the session alive and looks whether it is. Call it several times a second;
    /// calls in between cost nothing.
    ///
    /// # Errors
    /// [`SessionEnd`] when it is over.
    pub fn keep(&mut self) -> Result<Condition, SessionEnd> {
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

    /// How long no heartbeat of the guest has been seen.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.watch.silence()
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn request(&mut self, request: &Request, timeout: Duration) -> Result<Reply, RequestError> {
        let deadline = Deadline::after(timeout);
        let mut question = None;
        let mut backoff = Backoff::new(64, 1000);
        loop {
            match question {
                None => question = self.ask(request)?,
                Some(asked) => {
                    if let Some(reply) = self.answer(asked)? {
                        return refusal_to_error(reply);
                    }
                }
            }
            let condition = self.keep()?;
            if deadline.has_passed() {
                if let Some(asked) = question {
                    self.give_up(asked);
                }
                return Err(RequestError::NoAnswer {
                    seconds: timeout.as_secs(),
                    condition,
                });
            }
            pause(&mut backoff);
        }
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

    /// Removes a region by name.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn remove_region(&mut self, name: &str, timeout: Duration) -> Result<(), RequestError> {
        let name = region_name(name)?;
        self.request(&Request::Remove { name }, timeout).map(drop)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            // A guest that is gone needs no release.
            if slot.verify().is_ok() {
                let _ = slot.release();
            }
        }
    }
}

/// Checks a name that the user gave.
///
/// # Errors
/// [`RequestError::BadName`].
pub fn region_name(name: &str) -> Result<Text<MAX_NAME>, RequestError> {
    if is_valid_name(name) {
        Ok(Text::new(name))
    } else {
        Err(RequestError::BadName(name.to_owned()))
    }
}

/// A refusal is an error to whoever waits for an answer.
///
/// # Errors
/// [`RequestError::Refused`].
pub(crate) fn refusal_to_error(reply: Reply) -> Result<Reply, RequestError> {
    match reply {
        Reply::Refused { code, explanation } => {
            let explanation: Text<MAX_EXPLANATION> = explanation;
            Err(RequestError::Refused {
                code,
                explanation: explanation.as_str().to_owned(),
            })
        }
        other => Ok(other),
    }
}
