//! A broker's client: the connection that stands for a session. It never blocks by itself;
//! whoever waits says until when.

mod file;
mod socket;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vmshm_link::LinkError;
use vmshm_link::control::{EndCause, Reply, Request};
use vmshm_link::directory::RegionEntry;
use vmshm_link::wait::Backoff;
use vmshm_pipe::pause;
use vmshm_ram::{FileRuns, View};
use vmshm_shm::SharedMemory;

pub(crate) use file::{Files, RegionFile};
pub use socket::{Received, Socket};

use crate::brokered::BrokerError;
use crate::brokered::wire::{FromBroker, Machine, Purpose, ToBroker};
use crate::conversation::{Conversation, Question};
use crate::deadline::Deadline;
use crate::ending::{Condition, SessionEnd};
use crate::right::WriteRight;
use crate::session::RequestError;
use crate::source::Source;

/// How often the socket is looked at where nobody waits for an answer.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The most datagrams that one look takes in.
const PER_LOOK: usize = 64;
/// The most entries of a list.
const MOST_ENTRIES: usize = 10_000;
/// A broker may take so long beyond what the guest has.
const GRACE: Duration = Duration::from_secs(2);

/// Whether the session has ended, as its broker said it last.
#[derive(Debug, Clone, Default)]
pub(crate) struct BrokeredRight(Arc<AtomicBool>);

impl BrokeredRight {
    pub(crate) fn check(&self) -> Result<(), LinkError> {
        if self.0.load(Ordering::Relaxed) {
            Err(LinkError::Revoked)
        } else {
            Ok(())
        }
    }

    fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What another process needs for mapping memory that is all of a file.
pub(crate) fn whole_file(memory: &View) -> Option<FileRuns<'_>> {
    let file = memory.graft()?;
    Some(FileRuns::whole(file, memory.size()))
}

/// A session that a broker keeps. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Brokered {
    socket: Socket,
    pid: u32,
    slot: u64,
    name: String,
    conversation: Conversation,
    files: Files,
    right: BrokeredRight,
    end: Option<SessionEnd>,
    condition: Condition,
    told_over: Vec<(u64, EndCause)>,
    entries: Vec<(u64, RegionEntry)>,
    lists_done: Vec<u64>,
    last_list: u64,
    last_look: Instant,
}

impl Brokered {
    /// Asks the broker at `path` for a session with the VM that `selector` names.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub(crate) fn open(
        path: &Path,
        selector: &str,
        patience: Duration,
    ) -> Result<Self, BrokerError> {
        let purpose = Purpose::Session(selector.to_owned());
        let caller = Caller::call(path, purpose, patience)?;
        match caller.next()? {
            FromBroker::Welcome {
                pid, slot, name, ..
            } => Ok(Self {
                socket: caller.socket,
                pid,
                slot,
                name,
                conversation: Conversation::default(),
                files: Files::default(),
                right: BrokeredRight::default(),
                end: None,
                condition: Condition::Running,
                told_over: Vec::new(),
                entries: Vec::new(),
                lists_done: Vec::new(),
                last_list: 0,
                last_look: Instant::now(),
            }),
            other => Err(caller.strange(&other)),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn slot_index(&self) -> Option<usize> {
        usize::try_from(self.slot).ok()
    }

    pub(crate) fn right(&self) -> Option<WriteRight> {
        Some(self.right.clone().into())
    }

    pub(crate) fn source(&self) -> Source {
        self.files.clone().into()
    }

    pub(crate) fn keep(&mut self) -> Result<Condition, SessionEnd> {
        if self.last_look.elapsed() >= LOOK_EVERY {
            return self.look_now();
        }
        self.end.map_or(Ok(self.condition), Err)
    }

    pub(crate) fn look_now(&mut self) -> Result<Condition, SessionEnd> {
        self.last_look = Instant::now();
        self.take_in()?;
        Ok(self.condition)
    }

    pub(crate) fn why_it_ended(&mut self, error: LinkError) -> SessionEnd {
        match self.look_now() {
            Err(end) => end,
            Ok(_) => SessionEnd::Link(error),
        }
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Result<Option<Question>, SessionEnd> {
        self.end.map_or(Ok(()), Err)?;
        let socket = &self.socket;
        self.conversation.ask_over(request, |message| {
            carried(socket.try_send(&ToBroker::of_message(message), None))
        })
    }

    pub(crate) fn tell(&mut self, request: &Request) -> Result<bool, SessionEnd> {
        self.end.map_or(Ok(()), Err)?;
        // No question ever has this tag.
        carried(
            self.socket
                .try_send(&ToBroker::of_request(0, request), None),
        )
    }

    pub(crate) fn answer(&mut self, question: Question) -> Result<Option<Reply>, SessionEnd> {
        self.take_in()?;
        Ok(self.conversation.answer(question))
    }

    pub(crate) fn give_up(&mut self, question: Question) {
        self.conversation.give_up(question);
    }

    pub(crate) fn late_grants(&mut self) -> Result<Vec<u64>, SessionEnd> {
        self.take_in()?;
        let late = self.conversation.late_grants();
        late.iter().for_each(|region| self.files.forget(*region));
        Ok(late)
    }

    pub(crate) fn regions_told_over(&mut self) -> Vec<(u64, EndCause)> {
        std::mem::take(&mut self.told_over)
    }

    /// The regions of the VM that the broker would give.
    ///
    /// # Errors
    /// [`RequestError`].
    pub(crate) fn regions(&mut self, patience: Duration) -> Result<Vec<RegionEntry>, RequestError> {
        self.last_list += 1;
        let tag = self.last_list;
        let deadline = Deadline::after(patience);
        let packet = ToBroker::Regions { tag }.to_packet();
        let mut backoff = Backoff::new(64, 1000);
        let mut asked = false;
        loop {
            if !asked {
                asked = carried(self.socket.try_send(&packet, None))?;
            }
            self.take_in()?;
            if self.lists_done.contains(&tag) {
                break;
            }
            if deadline.has_passed() {
                return Err(RequestError::NoAnswer {
                    seconds: patience.as_secs(),
                    condition: self.condition,
                });
            }
            pause(&mut backoff);
        }
        self.lists_done.retain(|done| *done != tag);
        let entries = std::mem::take(&mut self.entries).into_iter();
        Ok(entries
            .filter_map(|(list, entry)| (list == tag).then_some(entry))
            .collect())
    }

    /// Takes in what the broker has said.
    fn take_in(&mut self) -> Result<(), SessionEnd> {
        for _ in 0..PER_LOOK {
            self.end.map_or(Ok(()), Err)?;
            match self.socket.try_receive() {
                Ok(Some(received)) => match FromBroker::parse(received.bytes()) {
                    Ok(message) => self.take(message, received),
                    Err(error) => self.finish(SessionEnd::Link(error)),
                },
                Err(Errno::AGAIN) => return Ok(()),
                Ok(None) | Err(_) => self.finish(SessionEnd::BrokerGone),
            }
        }
        Ok(())
    }

    fn take(&mut self, message: FromBroker, received: Received) {
        match message {
            FromBroker::Reply { tag, reply } => match *reply {
                Reply::Ended { region, cause, .. } => self.told_over.push((region, cause)),
                Reply::Bell { .. } => {}
                reply => {
                    if let (Reply::Region(granted), Some(file)) = (&reply, received.file) {
                        self.files.put(granted.region, file);
                    }
                    self.conversation.note(tag, reply);
                }
            },
            FromBroker::Condition(condition) => self.condition = condition,
            FromBroker::Ended(end) => self.finish(end),
            FromBroker::Entry { tag, entry } if self.entries.len() < MOST_ENTRIES => {
                self.entries.push((tag, entry));
            }
            FromBroker::EndOfList { tag } => self.lists_done.push(tag),
            FromBroker::Entry { .. }
            | FromBroker::Welcome { .. }
            | FromBroker::Refused { .. }
            | FromBroker::Machine(_) => {}
        }
    }

    fn finish(&mut self, end: SessionEnd) {
        self.end.get_or_insert(end);
        self.right.end();
    }
}

impl Drop for Brokered {
    fn drop(&mut self) {
        // Links that are left learn it, too.
        self.right.end();
    }
}

/// Whether something was sent; an end where nobody takes it any more.
fn carried(sent: Result<(), Errno>) -> Result<bool, SessionEnd> {
    match sent {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::NOBUFS) => Ok(false),
        // Its last words are still to be read.
        Err(Errno::PIPE | Errno::CONNRESET) => Ok(false),
        Err(_) => Err(SessionEnd::BrokerGone),
    }
}

/// What a broker tells of the VMs of which it would give something, each with the regions
/// that it would give.
///
/// # Errors
/// [`BrokerError`].
pub fn list_of_broker(
    path: &Path,
    patience: Duration,
) -> Result<Vec<(Machine, Vec<RegionEntry>)>, BrokerError> {
    let caller = Caller::call(path, Purpose::List, patience)?;
    let mut found: Vec<(Machine, Vec<RegionEntry>)> = Vec::new();
    for _ in 0..MOST_ENTRIES {
        match caller.next()? {
            FromBroker::Machine(machine) => found.push((*machine, Vec::new())),
            FromBroker::Entry { tag, entry } => {
                let of = found
                    .iter_mut()
                    .find(|(machine, _)| u64::from(machine.pid) == tag);
                if let Some((_, entries)) = of {
                    entries.push(entry);
                }
            }
            FromBroker::EndOfList { .. } => break,
            other => return Err(caller.strange(&other)),
        }
    }
    Ok(found)
}

/// A connection that has said hello.
struct Caller {
    socket: Socket,
    path: PathBuf,
    deadline: Deadline,
}

impl Caller {
    fn call(path: &Path, purpose: Purpose, patience: Duration) -> Result<Self, BrokerError> {
        let deadline = Deadline::after(patience.saturating_add(GRACE));
        let failed = |error: Errno| BrokerError::Connect {
            path: path.to_owned(),
            error: error.into(),
        };
        let socket = Socket::connect(path, deadline).map_err(failed)?;
        let hello = ToBroker::Hello {
            version: vmshm_link::VERSION,
            purpose,
            patience_millis: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        };
        match socket.try_send(&hello.to_packet(), None) {
            // A broker that takes nobody more says why before it hangs up.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(error) => return Err(failed(error)),
        }
        Ok(Self {
            socket,
            path: path.to_owned(),
            deadline,
        })
    }

    /// What the broker says next; its refusal is an error.
    fn next(&self) -> Result<FromBroker, BrokerError> {
        loop {
            match self.socket.try_receive() {
                Ok(Some(received)) => {
                    return match FromBroker::parse(received.bytes()) {
                        Ok(FromBroker::Refused { explanation, hint }) => {
                            Err(BrokerError::Refused {
                                explanation,
                                hint: Some(hint).filter(|hint| !hint.is_empty()),
                            })
                        }
                        Ok(message) => Ok(message),
                        Err(source) => Err(BrokerError::Strange {
                            path: self.path.clone(),
                            source,
                        }),
                    };
                }
                Ok(None) => return Err(self.silent()),
                Err(Errno::AGAIN) if self.deadline.has_passed() => return Err(self.silent()),
                Err(Errno::AGAIN) => {
                    let patience = self.deadline.left().min(LOOK_EVERY);
                    self.socket
                        .wait(patience)
                        .map_err(|error| self.failed(error))?;
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    fn failed(&self, error: Errno) -> BrokerError {
        BrokerError::Connect {
            path: self.path.clone(),
            error: error.into(),
        }
    }

    fn silent(&self) -> BrokerError {
        BrokerError::Silent {
            path: self.path.clone(),
        }
    }

    fn strange(&self, message: &FromBroker) -> BrokerError {
        tracing::debug!(?message, "the broker's answer fits no question");
        BrokerError::Strange {
            path: self.path.clone(),
            source: LinkError::Violation {
                what: "the kind of the broker's answer",
                value: 0,
            },
        }
    }
}
