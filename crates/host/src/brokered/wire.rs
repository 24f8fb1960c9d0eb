//! What a broker and its clients say to each other, over a Unix socket that keeps datagrams
//! apart (`SOCK_SEQPACKET`).
//!
//! ```text
//! program                                    broker
//!   │ Hello: version, which VM ────────────▶ │ knows the user from the socket, asks its rules
//!   │ ◀───── Welcome: process, slot, name    │ has a session of its own for this program
//!   │ requests as to an agent ─────────────▶ │ asks its rules, then the guest's agent
//!   │ ◀──────── replies; Region with a file  │ lays out, proves and grafts before it answers
//!   │ ◀───────── Condition, Ended, unasked   │
//!   │ Regions ─────────────────────────────▶ │
//!   │ ◀──────── Entry …, End of list         │
//! ```
//!
//! A datagram is eight bytes, its number first, and then the payload: for requests and
//! replies as in a slot's rings. Datagrams that are too long, cut short or of no known number
//! are refused; so is a program that sends a descriptor. A reply that grants a region names
//! neither its extents nor any address.

use vmshm_link::control::{MAX_MESSAGE, Reply, Request};
use vmshm_link::directory::{MAX_NAME, RegionEntry, RegionKind, is_valid_name, is_valid_size};
use vmshm_link::fields::{Text, put_word, word_at};
use vmshm_link::{LinkError, Version};

use crate::ending::{Condition, SessionEnd};

/// Longest datagram in bytes.
pub const MAX_PACKET: usize = 8 + 1016;
const _: () = assert!(MAX_MESSAGE <= MAX_PACKET - 8);
/// Longest selector of a VM.
const MAX_SELECTOR: usize = 256;
/// Longest name or other short text.
const MAX_WORD: usize = 128;
/// Longest explanation or hint.
const MAX_TEXT: usize = 400;

const HELLO: u64 = 0x200;
const REGIONS: u64 = 0x201;
const WELCOME: u64 = 0x210;
const REFUSED: u64 = 0x211;
const ENTRY: u64 = 0x212;
const END_OF_LIST: u64 = 0x213;
const MACHINE: u64 = 0x214;
const CONDITION: u64 = 0x215;
const ENDED: u64 = 0x216;

/// What a client wants of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A session with the VM that this names: a process number, a name, or `vmm:name`.
    Session(String),
    /// The VMs and regions that it would be given.
    List,
}

/// To a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToBroker {
    /// The first datagram.
    Hello {
        /// The protocol's version.
        version: Version,
        /// What for.
        purpose: Purpose,
        /// How long the client waits for the guest, in milliseconds.
        patience_millis: u64,
    },
    /// Which regions of this VM would be given?
    Regions {
        /// What the entries repeat.
        tag: u64,
    },
    /// As to an agent; nothing for a request that this version does not know.
    Request {
        /// What the reply repeats.
        tag: u64,
        /// What is asked.
        request: Option<Box<Request>>,
    },
}

/// A VM as a broker tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The VMM's process.
    pub pid: u32,
    /// When that process started.
    pub start_time: u64,
    /// The kind of VMM, as `vmshm list` shows it.
    pub vmm: String,
    /// Its name.
    pub name: String,
    /// RAM as configured.
    pub ram_bytes: u64,
    /// Its guest's operating system, where that is known.
    pub guest_os: Option<String>,
    /// Its agent's version, where one is alive.
    pub agent: Option<String>,
    /// The guest's boot id, where an agent is alive.
    pub boot_id: [u8; 16],
}

/// From a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromBroker {
    /// A session is there.
    Welcome {
        /// The VMM's process.
        pid: u32,
        /// When that process started.
        start_time: u64,
        /// The slot of the session among the guest's: the number of a screen's reader.
        slot: u64,
        /// The VM's name.
        name: String,
    },
    /// There will be none; the connection ends with this.
    Refused {
        /// Why.
        explanation: String,
        /// What would help.
        hint: String,
    },
    /// A region that would be given.
    Entry {
        /// The question's tag; in a list of VMs, the process of its VM.
        tag: u64,
        /// The region.
        entry: RegionEntry,
    },
    /// Nothing more comes under that tag.
    EndOfList {
        /// The question's.
        tag: u64,
    },
    /// A VM of which something would be given.
    Machine(Box<Machine>),
    /// What the guest does now.
    Condition(Condition),
    /// The session is over; the connection ends with this.
    Ended(SessionEnd),
    /// As from an agent.
    Reply {
        /// The request's.
        tag: u64,
        /// The answer.
        reply: Box<Reply>,
    },
}

/// A datagram ready to be sent.
#[derive(Debug, Clone)]
pub struct Packet(Vec<u8>);

impl Packet {
    fn new(number: u64) -> Self {
        let mut packet = Self(Vec::with_capacity(64));
        packet.word(number);
        packet
    }

    fn word(&mut self, word: u64) {
        self.0.extend(word.to_le_bytes());
    }

    /// A text behind its length; one that is too long is cut at a character.
    fn text(&mut self, text: &str, limit: usize) {
        let mut end = text.len().min(limit);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.word(end as u64);
        self.0
            .extend(text.as_bytes().get(..end).unwrap_or_default());
    }

    /// What is sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Takes a payload apart, in the order in which it was put together.
struct Payload<'a> {
    rest: &'a [u8],
}

const fn violation(what: &'static str, value: u64) -> LinkError {
    LinkError::Violation { what, value }
}

impl<'a> Payload<'a> {
    fn word(&mut self) -> Result<u64, LinkError> {
        let (word, rest) = self.rest.split_first_chunk::<8>().ok_or(violation(
            "the length of a datagram",
            self.rest.len() as u64,
        ))?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*word))
    }

    fn text(&mut self, limit: usize) -> Result<String, LinkError> {
        let length = self.word()?;
        let bad = violation("the length of a text", length);
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= limit)
            .ok_or(bad)?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or(bad)?;
        self.rest = rest;
        let text = std::str::from_utf8(text).map_err(|_| violation("a text's bytes", 0))?;
        Ok(text.to_owned())
    }

    fn pid(&mut self) -> Result<u32, LinkError> {
        let word = self.word()?;
        u32::try_from(word).map_err(|_| violation("a process number", word))
    }
}

fn taken_apart(packet: &[u8]) -> Result<(u64, Payload<'_>), LinkError> {
    if packet.len() > MAX_PACKET || packet.len() < 8 {
        return Err(violation("the length of a datagram", packet.len() as u64));
    }
    let rest = packet.get(8..).unwrap_or_default();
    Ok((word_at(packet, 0), Payload { rest }))
}

impl ToBroker {
    /// As a datagram.
    #[must_use]
    pub fn to_packet(&self) -> Packet {
        match self {
            Self::Hello {
                version,
                purpose,
                patience_millis,
            } => {
                let mut packet = Packet::new(HELLO);
                packet.word(version.to_word());
                packet.word(*patience_millis);
                match purpose {
                    Purpose::Session(selector) => {
                        packet.word(1);
                        packet.text(selector, MAX_SELECTOR);
                    }
                    Purpose::List => packet.word(2),
                }
                packet
            }
            Self::Regions { tag } => {
                let mut packet = Packet::new(REGIONS);
                packet.word(*tag);
                packet
            }
            Self::Request { tag, request } => match request {
                Some(request) => Self::of_request(*tag, request),
                None => Packet::new(0),
            },
        }
    }

    /// A request as a datagram.
    #[must_use]
    pub fn of_request(tag: u64, request: &Request) -> Packet {
        Self::of_message(&request.to_message(tag))
    }

    /// A request that is a message already.
    #[must_use]
    pub fn of_message(message: &vmshm_link::control::Message) -> Packet {
        let mut packet = Packet::new(u64::from(message.kind));
        packet.0.extend(message.payload());
        packet
    }

    /// From what a client has sent.
    ///
    /// # Errors
    /// [`LinkError::Violation`].
    pub fn parse(packet: &[u8]) -> Result<Self, LinkError> {
        let (number, mut payload) = taken_apart(packet)?;
        match number {
            HELLO => {
                let version = Version::from_word(payload.word()?);
                let patience_millis = payload.word()?;
                let purpose = match payload.word()? {
                    1 => Purpose::Session(payload.text(MAX_SELECTOR)?),
                    2 => Purpose::List,
                    other => return Err(violation("the purpose of a greeting", other)),
                };
                Ok(Self::Hello {
                    version,
                    purpose,
                    patience_millis,
                })
            }
            REGIONS => Ok(Self::Regions {
                tag: payload.word()?,
            }),
            number => {
                let kind = u16::try_from(number)
                    .ok()
                    .filter(|kind| u64::from(*kind) < HELLO)
                    .ok_or(violation("a datagram's number", number))?;
                if payload.rest.len() < 8 || payload.rest.len() > MAX_MESSAGE {
                    let length = payload.rest.len() as u64;
                    return Err(violation("the length of a request", length));
                }
                let (tag, request) = Request::from_payload(kind, payload.rest);
                Ok(Self::Request {
                    tag,
                    request: request.map(Box::new),
                })
            }
        }
    }
}

impl FromBroker {
    /// As a datagram.
    #[must_use]
    pub fn to_packet(&self) -> Packet {
        match self {
            Self::Welcome {
                pid,
                start_time,
                slot,
                name,
            } => {
                let mut packet = Packet::new(WELCOME);
                [u64::from(*pid), *start_time, *slot]
                    .into_iter()
                    .for_each(|word| packet.word(word));
                packet.text(name, MAX_WORD);
                packet
            }
            Self::Refused { explanation, hint } => {
                let mut packet = Packet::new(REFUSED);
                packet.text(explanation, MAX_TEXT);
                packet.text(hint, MAX_TEXT);
                packet
            }
            Self::Entry { tag, entry } => {
                let mut packet = Packet::new(ENTRY);
                [*tag, entry.kind.to_word(), entry.size, entry.record]
                    .into_iter()
                    .for_each(|word| packet.word(word));
                packet.text(entry.name.as_str(), MAX_NAME);
                packet
            }
            Self::EndOfList { tag } => {
                let mut packet = Packet::new(END_OF_LIST);
                packet.word(*tag);
                packet
            }
            Self::Machine(machine) => machine.to_packet(),
            Self::Condition(condition) => {
                let mut packet = Packet::new(CONDITION);
                packet.word(match condition {
                    Condition::Running => 0,
                    Condition::Stopped => 1,
                    Condition::Silent => 2,
                });
                packet
            }
            Self::Ended(end) => {
                let mut packet = Packet::new(ENDED);
                end_words(end)
                    .into_iter()
                    .for_each(|word| packet.word(word));
                packet
            }
            Self::Reply { tag, reply } => {
                let message = reply.to_message(*tag);
                let mut packet = Packet::new(u64::from(message.kind));
                packet.0.extend(message.payload());
                packet
            }
        }
    }

    /// From what a broker has sent.
    ///
    /// # Errors
    /// [`LinkError::Violation`].
    pub fn parse(packet: &[u8]) -> Result<Self, LinkError> {
        let (number, mut payload) = taken_apart(packet)?;
        Ok(match number {
            WELCOME => Self::Welcome {
                pid: payload.pid()?,
                start_time: payload.word()?,
                slot: payload.word()?,
                name: payload.text(MAX_WORD)?,
            },
            REFUSED => Self::Refused {
                explanation: payload.text(MAX_TEXT)?,
                hint: payload.text(MAX_TEXT)?,
            },
            ENTRY => {
                let tag = payload.word()?;
                let kind = RegionKind::from_word(payload.word()?);
                let (size, record) = (payload.word()?, payload.word()?);
                let name = payload.text(MAX_NAME)?;
                if !is_valid_size(size) || !is_valid_name(&name) {
                    return Err(violation("the size of a listed region", size));
                }
                let entry = RegionEntry {
                    id: 0,
                    kind,
                    size,
                    ready: true,
                    record,
                    ended: None,
                    name: Text::new(&name),
                };
                Self::Entry { tag, entry }
            }
            END_OF_LIST => Self::EndOfList {
                tag: payload.word()?,
            },
            MACHINE => Self::Machine(Box::new(Machine::parse(&mut payload)?)),
            CONDITION => Self::Condition(match payload.word()? {
                0 => Condition::Running,
                1 => Condition::Stopped,
                _ => Condition::Silent,
            }),
            ENDED => {
                let words = [payload.word()?, payload.word()?, payload.word()?];
                Self::Ended(end_of(words))
            }
            number => {
                let kind = u16::try_from(number)
                    .ok()
                    .filter(|kind| u64::from(*kind) < HELLO)
                    .ok_or(violation("a datagram's number", number))?;
                let (tag, reply) = Reply::from_payload(kind, payload.rest)?;
                Self::Reply {
                    tag,
                    reply: Box::new(reply),
                }
            }
        })
    }
}

impl Machine {
    fn to_packet(&self) -> Packet {
        let mut packet = Packet::new(MACHINE);
        let known = u64::from(self.guest_os.is_some()) | u64::from(self.agent.is_some()) << 1;
        [u64::from(self.pid), self.start_time, self.ram_bytes, known]
            .into_iter()
            .for_each(|word| packet.word(word));
        packet.0.extend(self.boot_id);
        packet.text(&self.vmm, MAX_WORD);
        packet.text(&self.name, MAX_WORD);
        packet.text(self.guest_os.as_deref().unwrap_or_default(), MAX_WORD);
        packet.text(self.agent.as_deref().unwrap_or_default(), MAX_WORD);
        packet
    }

    fn parse(payload: &mut Payload<'_>) -> Result<Self, LinkError> {
        let (pid, start_time) = (payload.pid()?, payload.word()?);
        let (ram_bytes, known) = (payload.word()?, payload.word()?);
        let [low, high] = [payload.word()?, payload.word()?];
        let mut boot_id = [0; 16];
        put_word(&mut boot_id, 0, low);
        put_word(&mut boot_id, 8, high);
        let mut text = || payload.text(MAX_WORD);
        let (vmm, name, guest_os, agent) = (text()?, text()?, text()?, text()?);
        Ok(Self {
            pid,
            start_time,
            vmm,
            name,
            ram_bytes,
            guest_os: (known & 1 != 0).then_some(guest_os),
            agent: (known & 2 != 0).then_some(agent),
            boot_id,
        })
    }
}

fn end_words(end: &SessionEnd) -> [u64; 3] {
    match end {
        SessionEnd::VmGone { pid } => [1, u64::from(*pid), 0],
        SessionEnd::AgentDied => [2, 0, 0],
        SessionEnd::AgentRestarted => [3, 0, 0],
        SessionEnd::AgentLeft => [4, 0, 0],
        SessionEnd::GuestRestarted => [5, 0, 0],
        SessionEnd::TakenBack => [6, 0, 0],
        SessionEnd::PagesTaken => [7, 0, 0],
        SessionEnd::BrokerGone => [8, 0, 0],
        SessionEnd::GraftUndone => [12, 0, 0],
        SessionEnd::MadeWay => [13, 0, 0],
        SessionEnd::Link(LinkError::RolledBack { written, found, .. }) => [9, *written, *found],
        SessionEnd::Link(LinkError::Revoked) => [10, 0, 0],
        SessionEnd::Link(LinkError::Violation { value, .. }) => [11, *value, 0],
        SessionEnd::Link(_) => [0, 0, 0],
    }
}

fn end_of([number, first, second]: [u64; 3]) -> SessionEnd {
    match number {
        1 => SessionEnd::VmGone {
            pid: u32::try_from(first).unwrap_or_default(),
        },
        2 => SessionEnd::AgentDied,
        3 => SessionEnd::AgentRestarted,
        4 => SessionEnd::AgentLeft,
        5 => SessionEnd::GuestRestarted,
        6 => SessionEnd::TakenBack,
        7 => SessionEnd::PagesTaken,
        9 => SessionEnd::Link(LinkError::RolledBack {
            what: "word",
            written: first,
            found: second,
        }),
        10 => SessionEnd::Link(LinkError::Revoked),
        11 => SessionEnd::Link(LinkError::Violation {
            what: "a word of the guest",
            value: first,
        }),
        12 => SessionEnd::GraftUndone,
        13 => SessionEnd::MadeWay,
        // A reason of a newer broker.
        _ => SessionEnd::BrokerGone,
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
