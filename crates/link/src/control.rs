//! Messages between a host process and the agent, over a slot's rings.
//!
//! A request carries a *tag* that its reply repeats. Words are little-endian;
//! a message is the record's payload, its number the record's kind. Numbers that a
//! side does not know are answered with [`RefusalCode::Unsupported`] (requests) or end
//! the session (replies); fields that a newer minor version appends are ignored.

use crate::address::{Extent, GuestPhysical};
use crate::beacon::PAGE;
use crate::directory::{MAX_NAME, RegionKind, is_valid_size};
use crate::error::LinkError;
use crate::fields::{Text, put_word, word_at};
use crate::screens::{ModeList, ScreenReply, ScreenRequest};

/// Longest message in bytes; fits half of either ring.
pub const MAX_MESSAGE: usize = 504;
/// The most extents that one reply carries.
pub const EXTENTS_PER_REPLY: usize = 28;
/// Longest explanation of a refusal.
pub const MAX_EXPLANATION: usize = 240;

const _: () = assert!(24 + 16 * EXTENTS_PER_REPLY <= MAX_MESSAGE);
const _: () = assert!(16 + MAX_EXPLANATION <= MAX_MESSAGE);
const _: () = assert!(24 + MAX_EXPLANATION <= MAX_MESSAGE);
const _: () = assert!(40 + MAX_NAME <= MAX_MESSAGE);

/// What a host asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "nothing is allocated here, and a request lives as long as one message"
)]
pub enum Request {
    /// Make a region. It stays until it is removed.
    Create {
        /// What it is laid out for.
        kind: RegionKind,
        /// Bytes; rounded up to whole pages.
        size: u64,
        /// Its name.
        name: Text<MAX_NAME>,
    },
    /// Hold a region: its pages stay until this session closes it. For a pipe this
    /// takes the host's end and makes the region if it is not there.
    Open {
        /// The kind that is expected.
        kind: RegionKind,
        /// Size for a region that is made by this request; else ignored.
        size: u64,
        /// Its name.
        name: Text<MAX_NAME>,
    },
    /// Tell the extents of an open region, from number `first` on.
    Extents {
        /// The region.
        region: u64,
        /// The first extent wanted.
        first: u64,
    },
    /// This host has seen the pattern in every page of the region.
    Proved {
        /// The region.
        region: u64,
        /// Where the host saw it: a checksum over the region's pieces in the VMM's
        /// RAM blocks. The agent keeps it and tells it to hosts that open the region
        /// later; one that computes the same number looks at the same, proved pages.
        placement: u64,
    },
    /// Hold the region no longer.
    Close {
        /// The region. From a program of the guest, 0 takes back the `Link` that waits under
        /// the same tag (see [`crate::local`]).
        region: u64,
    },
    /// Remove the region from the table; its pages go when nobody holds them.
    Remove {
        /// Its name.
        name: Text<MAX_NAME>,
    },
    /// Answer pings and echo records in an open bench region (see `bench`).
    Bench {
        /// The region.
        region: u64,
        /// See [`crate::bench::Mode`].
        mode: u64,
    },
    /// Hold a link's region (ring, latest, stream or raw) for an application, and make it if
    /// it is not there and `size` is not zero. Since protocol 1.1.
    Link {
        /// The kind that is expected.
        kind: RegionKind,
        /// Size for a region that is made by this request; zero: it must exist.
        size: u64,
        /// Its name.
        name: Text<MAX_NAME>,
        /// What a record or value has in bytes (see [`crate::ends`]); the region's own must
        /// be the same.
        record: u64,
        /// What the opener will do.
        role: Role,
    },
    /// Wake the other side's program that sleeps over this region, if a doorbell leads there.
    /// Never answered. Since protocol 1.1.
    Bell {
        /// The region.
        region: u64,
    },
    /// About screens. Since protocol 1.2.
    Screen(ScreenRequest),
}

/// What the opener of a link does there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It writes its side's words: one process of a side at a time.
    End,
    /// It only reads: any number.
    Watch,
}

impl Role {
    const fn to_word(self) -> u64 {
        match self {
            Self::End => 0,
            Self::Watch => 1,
        }
    }

    /// What an unknown role may do least.
    const fn from_word(word: u64) -> Self {
        match word {
            0 => Self::End,
            _ => Self::Watch,
        }
    }
}

/// What the agent answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// To `Create` and `Open`.
    Region(RegionReply),
    /// To `Extents`.
    Extents(ExtentsReply),
    /// To the others.
    Done,
    /// The agent will not, and says why.
    Refused {
        /// The kind of reason.
        code: RefusalCode,
        /// The reason in words.
        explanation: Text<MAX_EXPLANATION>,
    },
    /// To nothing: a region is over for its holder. Only programs of the guest get this; a
    /// host finds it in the table. Since protocol 1.1.
    Ended {
        /// The region.
        region: u64,
        /// The kind of reason.
        cause: EndCause,
        /// The reason in words.
        explanation: Text<MAX_EXPLANATION>,
    },
    /// To nothing: the other side rang the doorbell of a region. Since protocol 1.1.
    Bell {
        /// The region.
        region: u64,
    },
    /// To a request about a screen. Since protocol 1.2.
    Screen(ScreenReply),
    /// To the request for a screen's modes. Since protocol 1.2.
    Modes(ModeList),
}

/// Why a region is over although its session goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndCause {
    /// Somebody removed it.
    Removed,
    /// A holder of its file has taken pages out of it: guest and host no longer see the same.
    Damaged,
    /// A cause of a newer minor version.
    Other(u64),
}

impl EndCause {
    /// As written in messages and in the table.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        match self {
            Self::Removed => 1,
            Self::Damaged => 2,
            Self::Other(word) => word,
        }
    }

    /// From a message or the table.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        match word {
            1 => Self::Removed,
            2 => Self::Damaged,
            other => Self::Other(other),
        }
    }
}

/// A region that the session holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionReply {
    /// Its number.
    pub region: u64,
    /// Its size in bytes.
    pub size: u64,
    /// How many extents it consists of.
    pub extents: u64,
    /// Whether it has been proved before. If not, its pages carry the pattern of
    /// `key`, and it may be used only after `Proved`.
    pub ready: bool,
    /// Key of the pattern.
    pub key: u64,
    /// What the host that proved the region said of its place; zero before that.
    pub placement: u64,
}

/// Some of a region's extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtentsReply {
    /// Number of the first one given.
    pub first: u64,
    extents: [Extent; EXTENTS_PER_REPLY],
    count: usize,
}

impl ExtentsReply {
    /// Takes as many of `extents` as one reply carries.
    #[must_use]
    pub fn new(first: u64, extents: &[Extent]) -> Self {
        let mut reply = Self {
            first,
            extents: [Extent::default(); EXTENTS_PER_REPLY],
            count: extents.len().min(EXTENTS_PER_REPLY),
        };
        reply.extents[..reply.count].copy_from_slice(&extents[..reply.count]);
        reply
    }

    /// The extents, in the region's order.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        self.extents.get(..self.count).unwrap_or_default()
    }
}

/// Why the agent refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    /// A region of this name exists.
    Exists,
    /// There is none.
    NotFound,
    /// More memory than the guest allows to be pinned.
    OverBudget,
    /// A name or size that no region can have.
    Invalid,
    /// The region is of another kind.
    WrongKind,
    /// Somebody else has this end.
    Busy,
    /// The guest could not pin the memory.
    CannotPin,
    /// The agent does not know this request.
    Unsupported,
    /// The guest's rules do not let this user have that region.
    Denied,
    /// Another opener is still proving the region's pages. Asking again helps once it is
    /// done, or gone.
    Proving,
    /// Nothing in the guest can do this: no compositor that adds outputs, a mode that the
    /// screen cannot have.
    Unable,
    /// The guest was told not to: `--no-input`, `--no-screens`.
    Forbidden,
    /// A reason of a newer minor version.
    Other(u64),
}

impl RefusalCode {
    const KNOWN: [(Self, u64); 12] = [
        (Self::Exists, 1),
        (Self::NotFound, 2),
        (Self::OverBudget, 3),
        (Self::Invalid, 4),
        (Self::WrongKind, 5),
        (Self::Busy, 6),
        (Self::CannotPin, 7),
        (Self::Unsupported, 8),
        (Self::Denied, 9),
        (Self::Proving, 10),
        (Self::Unable, 11),
        (Self::Forbidden, 12),
    ];

    fn to_word(self) -> u64 {
        match self {
            Self::Other(word) => word,
            known => Self::KNOWN
                .iter()
                .find(|(code, _)| *code == known)
                .map_or(0, |(_, word)| *word),
        }
    }

    fn from_word(word: u64) -> Self {
        Self::KNOWN
            .iter()
            .find(|(_, number)| *number == word)
            .map_or(Self::Other(word), |(code, _)| *code)
    }
}

/// A message ready for a ring: the record's kind and its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The record's kind.
    pub kind: u16,
    bytes: [u8; MAX_MESSAGE],
    length: usize,
}

impl Message {
    pub(crate) fn new(kind: u16, tag: u64) -> Self {
        let mut message = Self {
            kind,
            bytes: [0; MAX_MESSAGE],
            length: 0,
        };
        message.word(tag);
        message
    }

    pub(crate) fn word(&mut self, value: u64) {
        put_word(&mut self.bytes, self.length, value);
        self.length += 8;
    }

    pub(crate) fn text<const N: usize>(&mut self, text: &Text<N>) {
        if let Some(place) = self.bytes.get_mut(self.length..self.length + N) {
            place.copy_from_slice(text.padded());
            self.length += N;
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let rest = self.bytes.get_mut(self.length..).unwrap_or_default();
        let count = bytes.len().min(rest.len());
        rest[..count].copy_from_slice(&bytes[..count]);
        self.length += count;
    }

    /// The record's payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Reads a text field that may be cut short.
pub(crate) fn text_at<const N: usize>(payload: &[u8], offset: usize) -> Text<N> {
    let field = payload.get(offset..).unwrap_or_default();
    Text::from_untrusted(field.get(..N.min(field.len())).unwrap_or_default())
}

impl Request {
    /// As a message, with the tag that the reply shall carry.
    #[must_use]
    pub fn to_message(&self, tag: u64) -> Message {
        let (number, words, name) = match self {
            Self::Screen(request) => return request.to_message(tag),
            Self::Create { kind, size, name } => (1, [kind.to_word(), *size], Some(name)),
            Self::Open { kind, size, name } => (2, [kind.to_word(), *size], Some(name)),
            Self::Extents { region, first } => (3, [*region, *first], None),
            Self::Proved { region, placement } => (4, [*region, *placement], None),
            Self::Close { region } => (5, [*region, 0], None),
            Self::Remove { name } => (6, [0, 0], Some(name)),
            Self::Bench { region, mode } => (7, [*region, *mode], None),
            Self::Link {
                kind, size, name, ..
            } => (8, [kind.to_word(), *size], Some(name)),
            Self::Bell { region } => (9, [*region, 0], None),
        };
        let mut message = Message::new(number, tag);
        words.into_iter().for_each(|word| message.word(word));
        if let Some(name) = name {
            message.text(name);
        }
        if let Self::Link { record, role, .. } = self {
            message.word(*record);
            message.word(role.to_word());
        }
        message
    }

    /// Reads a private copy of a record: the tag, and the request unless it is one of
    /// a newer minor version.
    #[must_use]
    pub fn from_payload(kind: u16, payload: &[u8]) -> (u64, Option<Self>) {
        let tag = word_at(payload, 0);
        let first = word_at(payload, 8);
        let second = word_at(payload, 16);
        let name = text_at::<MAX_NAME>(payload, 24);
        let request = match kind {
            1 => Self::Create {
                kind: RegionKind::from_word(first),
                size: second,
                name,
            },
            2 => Self::Open {
                kind: RegionKind::from_word(first),
                size: second,
                name,
            },
            3 => Self::Extents {
                region: first,
                first: second,
            },
            4 => Self::Proved {
                region: first,
                placement: second,
            },
            5 => Self::Close { region: first },
            6 => Self::Remove { name },
            7 => Self::Bench {
                region: first,
                mode: second,
            },
            8 => Self::Link {
                kind: RegionKind::from_word(first),
                size: second,
                name,
                record: word_at(payload, 24 + MAX_NAME),
                role: Role::from_word(word_at(payload, 32 + MAX_NAME)),
            },
            9 => Self::Bell { region: first },
            other => {
                return (
                    tag,
                    ScreenRequest::from_payload(other, payload).map(Self::Screen),
                );
            }
        };
        (tag, Some(request))
    }
}

impl Reply {
    /// As a message that answers the request with this tag.
    #[must_use]
    pub fn to_message(&self, tag: u64) -> Message {
        match self {
            Self::Region(reply) => {
                let mut message = Message::new(1, tag);
                message.word(reply.region);
                message.word(reply.size);
                message.word(reply.extents);
                message.word(u64::from(reply.ready));
                message.word(reply.key);
                message.word(reply.placement);
                message
            }
            Self::Extents(reply) => {
                let mut message = Message::new(2, tag);
                message.word(reply.first);
                message.word(reply.count as u64);
                for extent in reply.extents() {
                    message.word(extent.start.0);
                    message.word(extent.length);
                }
                message
            }
            Self::Done => Message::new(3, tag),
            Self::Refused { code, explanation } => {
                let mut message = Message::new(4, tag);
                message.word(code.to_word());
                message.text(explanation);
                message
            }
            Self::Ended {
                region,
                cause,
                explanation,
            } => {
                let mut message = Message::new(5, tag);
                message.word(*region);
                message.word(cause.to_word());
                message.text(explanation);
                message
            }
            Self::Bell { region } => {
                let mut message = Message::new(6, tag);
                message.word(*region);
                message
            }
            Self::Screen(screen) => screen.to_message(tag),
            Self::Modes(modes) => modes.to_message(tag),
        }
    }

    /// Reads a private copy of a record: the tag and the reply.
    ///
    /// # Errors
    /// [`LinkError::Violation`] for a message that no agent of this major version
    /// sends.
    pub fn from_payload(kind: u16, payload: &[u8]) -> Result<(u64, Self), LinkError> {
        let tag = word_at(payload, 0);
        let word = |index: usize| word_at(payload, 8 * index);
        let reply = match kind {
            1 => {
                let reply = RegionReply {
                    region: word(1),
                    size: word(2),
                    extents: word(3),
                    ready: word(4) == 1,
                    key: word(5),
                    placement: word(6),
                };
                let possible = reply.region != 0
                    && is_valid_size(reply.size)
                    && (1..=reply.size / PAGE).contains(&reply.extents);
                if !possible {
                    return Err(LinkError::Violation {
                        what: "a region in a reply, by its id,",
                        value: reply.region,
                    });
                }
                Self::Region(reply)
            }
            2 => {
                let count = usize::try_from(word(2))
                    .ok()
                    .filter(|count| (1..=EXTENTS_PER_REPLY).contains(count))
                    .ok_or(LinkError::Violation {
                        what: "the number of extents in a reply",
                        value: word(2),
                    })?;
                let mut extents = [Extent::default(); EXTENTS_PER_REPLY];
                for (index, extent) in extents.iter_mut().take(count).enumerate() {
                    extent.start = GuestPhysical(word(3 + 2 * index));
                    extent.length = word(4 + 2 * index);
                    let possible = extent.start.is_aligned_to(PAGE)
                        && is_valid_size(extent.length)
                        && extent.end().is_some();
                    if !possible {
                        return Err(LinkError::Violation {
                            what: "an extent in a reply",
                            value: extent.start.0,
                        });
                    }
                }
                Self::Extents(ExtentsReply {
                    first: word(1),
                    extents,
                    count,
                })
            }
            3 => Self::Done,
            4 => Self::Refused {
                code: RefusalCode::from_word(word(1)),
                explanation: text_at(payload, 16),
            },
            5 => Self::Ended {
                region: word(1),
                cause: EndCause::from_word(word(2)),
                explanation: text_at(payload, 24),
            },
            6 => Self::Bell { region: word(1) },
            7 => Self::Screen(ScreenReply::from_payload(payload)?),
            8 => Self::Modes(ModeList::from_payload(payload)?),
            other => {
                return Err(LinkError::Violation {
                    what: "a reply's number",
                    value: u64::from(other),
                });
            }
        };
        Ok((tag, reply))
    }
}
