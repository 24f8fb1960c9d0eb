//! A proved session with a guest's agent: asking it for things, and noticing the end. It is
//! either this process's own, over a slot in the guest's memory, or one that a broker of this
//! host keeps for it.

use std::sync::Arc;
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::control::{MAX_EXPLANATION, RefusalCode, Reply, Request};
use vmshm_link::directory::{MAX_NAME, RegionEntry, is_valid_name};
use vmshm_link::fields::Text;
use vmshm_link::wait::Backoff;
use vmshm_pipe::pause;
use vmshm_ram::View;

use crate::brokered::ADD_A_RULE;
use crate::conversation::Question;
use crate::deadline::Deadline;
use crate::direct::Direct;
use crate::ending::{Condition, SessionEnd};
use crate::os::Brokered;
use crate::right::WriteRight;
use crate::source::Source;

/// A session; dropping it ends it.
#[derive(Debug)]
pub struct Session {
    way: Way,
}

#[derive(Debug)]
enum Way {
    Direct(Box<Direct>),
    Brokered(Box<Brokered>),
}

/// The same for either way.
macro_rules! either {
    ($session:expr, $one:ident => $work:expr) => {
        match &$session.way {
            Way::Direct($one) => $work,
            Way::Brokered($one) => $work,
        }
    };
    (mut $session:expr, $one:ident => $work:expr) => {
        match &mut $session.way {
            Way::Direct($one) => $work,
            Way::Brokered($one) => $work,
        }
    };
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
                RefusalCode::Denied => ADD_A_RULE,
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
    pub(crate) fn direct_one(direct: Direct) -> Self {
        Self {
            way: Way::Direct(Box::new(direct)),
        }
    }

    pub(crate) fn brokered_one(brokered: Brokered) -> Self {
        Self {
            way: Way::Brokered(Box::new(brokered)),
        }
    }

    /// The session over a slot of this process's own; nothing where a broker keeps it.
    #[must_use]
    pub fn direct(&self) -> Option<&Direct> {
        match &self.way {
            Way::Direct(direct) => Some(direct),
            Way::Brokered(_) => None,
        }
    }

    /// The VM's name.
    #[must_use]
    pub fn name(&self) -> &str {
        either!(self, one => one.name())
    }

    /// The VMM's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        either!(self, one => one.pid())
    }

    /// The index of its slot among the guest's.
    pub(crate) fn slot_index(&self) -> Option<usize> {
        either!(self, one => one.slot_index())
    }

    /// The regions that the guest lists, or those of them that the broker would give.
    ///
    /// # Errors
    /// [`RequestError`] when the table is damaged, or the broker does not answer.
    pub fn regions(&mut self, timeout: Duration) -> Result<Vec<RegionEntry>, RequestError> {
        match &mut self.way {
            Way::Direct(direct) => Ok(direct.regions()?),
            Way::Brokered(brokered) => brokered.regions(timeout),
        }
    }

    /// For threads that write beside the session's own: whether it still may. After the
    /// session's end it always says no.
    pub(crate) fn tenure(&self) -> impl Fn() -> Result<(), LinkError> + Clone + Send + 'static {
        let right = self.right();
        move || match &right {
            Some(right) => right.check(),
            None => Err(LinkError::Revoked),
        }
    }

    /// The same as a value; nothing after the session's end.
    pub(crate) fn right(&self) -> Option<WriteRight> {
        either!(self, one => one.right())
    }

    /// Whence the bytes of its regions come.
    pub(crate) fn source(&self) -> Source {
        match &self.way {
            Way::Direct(direct) => Source::Own(direct.ground()),
            Way::Brokered(brokered) => brokered.source(),
        }
    }

    /// Keeps the session alive and looks whether it is. Call it several times a second;
    /// calls in between cost nothing.
    ///
    /// # Errors
    /// [`SessionEnd`] when it is over.
    pub fn keep(&mut self) -> Result<Condition, SessionEnd> {
        either!(mut self, one => one.keep())
    }

    /// As [`keep`](Self::keep), however short a time ago the last look was.
    ///
    /// # Errors
    /// [`SessionEnd`] when it is over.
    pub(crate) fn look_now(&mut self) -> Result<Condition, SessionEnd> {
        either!(mut self, one => one.look_now())
    }

    /// Ends with this memory of a region, should it be cut off from the VM.
    pub(crate) fn watch_memory(&mut self, memory: &Arc<View>) {
        match &mut self.way {
            Way::Direct(direct) => direct.watch_memory(memory),
            // A broker tells when it takes back.
            Way::Brokered(_) => {}
        }
    }

    /// The reason behind a failure of the memory or the link: the end of the VM or of
    /// the agent, if that explains it, else the failure itself.
    pub(crate) fn why_it_ended(&mut self, error: LinkError) -> SessionEnd {
        either!(mut self, one => one.why_it_ended(error))
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
        either!(mut self, one => one.ask(request))
    }

    /// Says something that is never answered; whether there was room for it.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub(crate) fn tell(&mut self, request: &Request) -> Result<bool, SessionEnd> {
        either!(mut self, one => one.tell(request))
    }

    /// The answer to a question, if it has come. A refusal is an answer.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub(crate) fn answer(&mut self, question: Question) -> Result<Option<Reply>, SessionEnd> {
        either!(mut self, one => one.answer(question))
    }

    /// Nobody waits for that answer any more.
    pub(crate) fn give_up(&mut self, question: Question) {
        either!(mut self, one => one.give_up(question));
    }

    /// Regions that were granted when nobody waited for them any more, each once.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub(crate) fn late_grants(&mut self) -> Result<Vec<u64>, SessionEnd> {
        either!(mut self, one => one.late_grants())
    }

    /// What a broker has said of regions that are over although the session goes on. A
    /// session of one's own finds that in the guest's table.
    pub(crate) fn regions_told_over(&mut self) -> Vec<(u64, vmshm_link::control::EndCause)> {
        match &mut self.way {
            Way::Direct(_) => Vec::new(),
            Way::Brokered(brokered) => brokered.regions_told_over(),
        }
    }

    /// Frees what other vmshm processes of this host held when they died. Says whether
    /// the agent has yet to free what one of them held. A broker does it by itself.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub(crate) fn release_slots_of_the_dead(&mut self) -> Result<bool, SessionEnd> {
        match &mut self.way {
            Way::Direct(direct) => direct.release_slots_of_the_dead(),
            Way::Brokered(brokered) => brokered.keep().map(|_| false),
        }
    }

    /// Removes a region by name, and its graft.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn remove_region(&mut self, name: &str, timeout: Duration) -> Result<(), RequestError> {
        let wanted = region_name(name)?;
        let undo = self.undo_of_graft(name);
        self.request(&Request::Remove { name: wanted }, timeout)?;
        undo();
        Ok(())
    }

    /// What undoes the graft of the region that has this name now, to be called once it is removed.
    pub(crate) fn undo_of_graft(&self, name: &str) -> impl FnOnce() + use<> {
        let region = match &self.way {
            Way::Direct(direct) => direct
                .region_named(name)
                .map(|region| (direct.ground().graft, region)),
            // A broker takes back what is removed.
            Way::Brokered(_) => None,
        };
        move || {
            if let Some((ground, region)) = region {
                ground.undo_removed(region);
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
