//! What listener and agent say to each other.
//!
//! Each side first sends a greeting of sixteen bytes: `vmshmTCP` and its protocol
//! version, as in the beacon. Then come messages: the payload's length and the type,
//! 32 bits each, and the payload. All numbers are little-endian.
//!
//! ```text
//! type  from      payload
//! 1     agent     Announce: beacon's address, epoch, boot id (16 bytes),
//!                 agent's version (32 bytes), guest's name (64 bytes)
//! 2     listener  Challenge: nonce (16 bytes)
//! 3     agent     Shown: nothing
//! 4     listener  Tied: countersign (16 bytes)
//! 5     both      Bell: region's number (8 bytes); only after Tied; since 1.1
//! ```
//!
//! A newer minor version may add types, which an older side skips, and may append to
//! payloads, whose rest an older side does not look at. No payload is longer than
//! [`MAX_PAYLOAD`]; whoever announces more is not talked to any further.

use crate::address::GuestPhysical;
use crate::beacon::PAGE;
use crate::error::LinkError;
use crate::fields::{Text, put_word, word_at};
use crate::rendezvous::{Countersign, Nonce};
use crate::version::{VERSION, Version};

/// Length of a greeting.
pub const GREETING_BYTES: usize = 16;
/// The longest payload.
pub const MAX_PAYLOAD: usize = 1024;
/// Longest name of a guest in bytes.
pub const MAX_GUEST_NAME: usize = 64;

const MAGIC: [u8; 8] = *b"vmshmTCP";
const HEADER: usize = 8;
const CAPACITY: usize = HEADER + MAX_PAYLOAD;

const ANNOUNCE: u32 = 1;
const CHALLENGE: u32 = 2;
const SHOWN: u32 = 3;
const TIED: u32 = 4;
const BELL: u32 = 5;

const VERSION_AT: usize = 32;
const NAME_AT: usize = VERSION_AT + 32;
const ANNOUNCE_BYTES: usize = NAME_AT + MAX_GUEST_NAME;

const _: () = assert!(ANNOUNCE_BYTES == 128 && ANNOUNCE_BYTES <= MAX_PAYLOAD);
const _: () = assert!(GREETING_BYTES <= CAPACITY);

/// The first version whose sides know what a bell is; an older one skips it.
pub const BELLS_SINCE: Version = Version { major: 1, minor: 1 };

/// What each side sends first.
#[must_use]
pub fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    put_word(&mut bytes, 8, VERSION.to_word());
    bytes
}

/// Which guest connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announce {
    /// The beacon's own address.
    pub beacon: GuestPhysical,
    /// The beacon's epoch.
    pub epoch: u64,
    /// The guest kernel's boot id.
    pub boot_id: [u8; 16],
    /// The agent's version.
    pub version: Text<32>,
    /// What the guest calls itself.
    pub name: Text<MAX_GUEST_NAME>,
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Which guest connects.
    Announce(Announce),
    /// Show that this nonce has reached that guest.
    Challenge(Nonce),
    /// The answer stands in memory.
    Shown,
    /// The answer was read.
    Tied(Countersign),
    /// There may be something new in this region.
    Bell {
        /// Its number, as somebody says.
        region: u64,
    },
}

/// A message as it goes over the connection.
#[derive(Debug, Clone, Copy)]
pub struct Encoded {
    bytes: [u8; HEADER + ANNOUNCE_BYTES],
    length: usize,
}

impl Encoded {
    /// The bytes to send.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Message {
    /// The message with its header.
    #[must_use]
    pub fn encode(&self) -> Encoded {
        let mut bytes = [0; HEADER + ANNOUNCE_BYTES];
        let payload = &mut bytes[HEADER..];
        let (kind, length) = match self {
            Self::Announce(announce) => {
                put_word(payload, 0, announce.beacon.0);
                put_word(payload, 8, announce.epoch);
                payload[16..VERSION_AT].copy_from_slice(&announce.boot_id);
                payload[VERSION_AT..NAME_AT].copy_from_slice(announce.version.padded());
                payload[NAME_AT..].copy_from_slice(announce.name.padded());
                (ANNOUNCE, ANNOUNCE_BYTES)
            }
            Self::Challenge(Nonce(nonce)) => {
                payload[..16].copy_from_slice(nonce);
                (CHALLENGE, 16)
            }
            Self::Shown => (SHOWN, 0),
            Self::Tied(Countersign(countersign)) => {
                payload[..16].copy_from_slice(countersign);
                (TIED, 16)
            }
            Self::Bell { region } => {
                put_word(payload, 0, *region);
                (BELL, 8)
            }
        };
        // The length in the lower half of a word is the first of two 32-bit numbers.
        put_word(&mut bytes, 0, u64::from(kind) << 32 | length as u64);
        Encoded {
            bytes,
            length: HEADER + length,
        }
    }

    /// Nothing for a type of a newer minor version.
    fn decode(kind: u32, payload: &[u8]) -> Result<Option<Self>, MessageError> {
        let sixteen = || payload.first_chunk::<16>().copied();
        let short = MessageError::Short { kind };
        Ok(Some(match kind {
            ANNOUNCE if payload.len() < ANNOUNCE_BYTES => return Err(short),
            ANNOUNCE => {
                let mut boot_id = [0; 16];
                boot_id.copy_from_slice(&payload[16..VERSION_AT]);
                let announce = Announce {
                    beacon: GuestPhysical(word_at(payload, 0)),
                    epoch: word_at(payload, 8),
                    boot_id,
                    version: Text::from_untrusted(&payload[VERSION_AT..NAME_AT]),
                    name: Text::from_untrusted(&payload[NAME_AT..ANNOUNCE_BYTES]),
                };
                if announce.epoch == 0 || !announce.beacon.is_aligned_to(PAGE) {
                    return Err(MessageError::Impossible);
                }
                Self::Announce(announce)
            }
            CHALLENGE => Self::Challenge(Nonce(sixteen().ok_or(short)?)),
            SHOWN => Self::Shown,
            TIED => Self::Tied(Countersign(sixteen().ok_or(short)?)),
            BELL if payload.len() < 8 => return Err(short),
            BELL => Self::Bell {
                region: word_at(payload, 0),
            },
            _ => return Ok(None),
        }))
    }
}

/// Why what a peer sent cannot be understood. The connection is of no use then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It does not begin with a greeting.
    #[error("it does not speak vmshm's protocol")]
    NoGreeting,
    /// It speaks another major version.
    #[error(transparent)]
    Incompatible(LinkError),
    /// A message is longer than any.
    #[error("it announced a message of {0} bytes, more than {MAX_PAYLOAD}")]
    TooLong(u32),
    /// A message is too short for its type.
    #[error("its message of type {kind} is too short")]
    Short {
        /// The type.
        kind: u32,
    },
    /// An announced beacon that none can be.
    #[error("it announced an impossible beacon")]
    Impossible,
}

/// What came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// The greeting, always first: a version that this side can talk to.
    Greeting(Version),
    /// A message.
    Message(Message),
}

/// Cuts what a peer sends into messages. It holds one message at most, whatever the
/// peer does.
#[derive(Debug, Clone)]
pub struct Inbox {
    bytes: [u8; CAPACITY],
    filled: usize,
    is_greeted: bool,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            bytes: [0; CAPACITY],
            filled: 0,
            is_greeted: false,
        }
    }
}

impl Inbox {
    /// Where the next bytes go. Never empty after [`Inbox::take`] has given nothing.
    pub fn space(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.filled..).unwrap_or_default()
    }

    /// So many bytes were put into [`Inbox::space`].
    pub fn filled(&mut self, count: usize) {
        self.filled = self.filled.saturating_add(count).min(CAPACITY);
    }

    /// Takes the next message; nothing where more bytes are needed. Messages of unknown
    /// types are skipped.
    ///
    /// # Errors
    /// [`MessageError`]; after it nothing more may be taken.
    pub fn take(&mut self) -> Result<Option<Incoming>, MessageError> {
        let there = self.bytes.get(..self.filled).unwrap_or_default();
        if !self.is_greeted {
            // A peer that speaks something else is not waited for.
            if there.iter().zip(MAGIC).any(|(byte, magic)| *byte != magic) {
                return Err(MessageError::NoGreeting);
            }
            if there.len() < GREETING_BYTES {
                return Ok(None);
            }
            let version = Version::from_word(word_at(there, MAGIC.len()));
            Version::accept(version).map_err(MessageError::Incompatible)?;
            self.is_greeted = true;
            self.drop_first(GREETING_BYTES);
            return Ok(Some(Incoming::Greeting(version)));
        }
        loop {
            let there = self.bytes.get(..self.filled).unwrap_or_default();
            let Some(([l0, l1, l2, l3, k0, k1, k2, k3], rest)) =
                there.split_first_chunk::<HEADER>()
            else {
                return Ok(None);
            };
            let announced = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
            let kind = u32::from_le_bytes([*k0, *k1, *k2, *k3]);
            let length = usize::try_from(announced)
                .ok()
                .filter(|length| *length <= MAX_PAYLOAD)
                .ok_or(MessageError::TooLong(announced))?;
            let Some(payload) = rest.get(..length) else {
                return Ok(None);
            };
            let message = Message::decode(kind, payload)?;
            self.drop_first(HEADER + length);
            if let Some(message) = message {
                return Ok(Some(Incoming::Message(message)));
            }
        }
    }

    fn drop_first(&mut self, count: usize) {
        self.bytes
            .copy_within(count.min(self.filled)..self.filled, 0);
        self.filled = self.filled.saturating_sub(count);
    }
}
