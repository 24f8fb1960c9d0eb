//! A proved session with a guest's agent: asking it for things, and noticing the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vmshm_link::LinkError;
use vmshm_link::beacon::Beacon;
use vmshm_link::control::{MAX_EXPLANATION, RefusalCode, Reply, Request};
use vmshm_link::directory::{self, Budget, MAX_NAME, RegionEntry, is_valid_name};
use vmshm_link::fields::Text;
use vmshm_link::slot::HostSlot;
use vmshm_link::wait::Backoff;
use vmshm_pipe::pause;
use vmshm_ram::{GuestRam, Layout, View};

use crate::ending::{Condition, SessionEnd};
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
    next_tag: u64,
    last_look: Instant,
    last_condition: Condition,
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
                RefusalCode::Busy => "wait until it has ended, or use another name",
                _ => return None,
            },
            Self::NoAnswer { .. } => "--timeout SECONDS waits longer",
            Self::BadName(_) => "names are 1 to 64 letters, digits, dots, dashes and underscores",
            Self::Ended(end) => return end.hint().map(str::to_owned),
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
            next_tag: 1,
            last_look: Instant::now(),
            last_condition: Condition::Running,
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
        directory::regions(&self.directory.memory).collect()
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
        let tenure = self.slot.as_ref().map(HostSlot::tenure);
        move || tenure.as_ref().ok_or(LinkError::Revoked)?.verify()
    }

    /// Keeps the session alive and looks whether it is. Call it several times a second;
    /// calls in between cost nothing.
    ///
    /// # Errors
    /// [`SessionEnd`] when it is over.
    pub fn keep(&mut self) -> Result<Condition, SessionEnd> {
        if self.last_look.elapsed() >= LOOK_EVERY {
            self.last_look = Instant::now();
            // First who is there; a VM that is gone must not be reported as a fault.
            self.last_condition = self.watch.look()?;
            if let Some(slot) = &mut self.slot {
                slot.verify()?;
                slot.beat()?;
            }
        }
        Ok(self.last_condition)
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
        let tag = self.next_tag;
        self.next_tag += 1;
        let message = request.to_message(tag);
        let deadline = Instant::now() + timeout;
        let mut sent = false;
        let mut backoff = Backoff::new(64, 1000);
        let mut buffer = [0; vmshm_link::control::MAX_MESSAGE];
        loop {
            let slot = self.slot.as_mut().ok_or(SessionEnd::AgentLeft)?;
            if !sent {
                sent = slot.requests.try_push(message.kind, message.payload())?;
            }
            if let Some((kind, length)) = slot.replies.try_pop(&mut buffer)? {
                let payload = buffer.get(..length).unwrap_or_default();
                let (answered, reply) = Reply::from_payload(kind, payload)?;
                if answered == tag {
                    return refusal_to_error(reply);
                }
                // The answer to a request that we gave up on. A guest may send any number
                // of such, so each counts as a look like any other.
                backoff.reset();
            }
            let condition = self.keep()?;
            if Instant::now() >= deadline {
                return Err(RequestError::NoAnswer {
                    seconds: timeout.as_secs(),
                    condition,
                });
            }
            pause(&mut backoff);
        }
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

fn refusal_to_error(reply: Reply) -> Result<Reply, RequestError> {
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
