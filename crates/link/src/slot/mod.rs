//! A session slot: one page through which one host process talks to the agent.
//!
//! ```text
//! 0x000 state     ┐            0x080 claim: a host's random token ┐
//! 0x008 echo      │ written    0x088 nonce                        │ written
//! 0x010 session   │ by the     0x090 released: the echo, at the end│ by the
//! 0x018 nonce echo│ agent      0x098 host's pulse                 │ host
//! 0x040 reply tail│            0x0a0 who the host is (see below)  │
//! 0x048 req. head ┘            0x100 request tail, 0x108 reply head┘
//! 0x0d0 leave: the echo, written by another host process
//! 0x110 copied: the regions that its owner writes by copying, 30 words
//! 0x200 requests, 1 KiB (host → agent)     0x600 replies, 2 KiB (agent → host)
//! 0xff0 own address, 0xff8 agent's pulse (see `directory`)
//! ```
//!
//! *Claiming.* A host that finds `state` free writes a random token into `claim` and
//! waits until the agent answers with `echo`. Only the host whose token comes back
//! owns the slot; any other tries the next one. `claim` is the one word with several
//! possible writers, and nothing is ever concluded from it but what the agent echoes.
//!
//! *Proving.* The owner starts its words, states who it is and writes `nonce`; the
//! agent answers with `nonce echo`. From then on both rings run. What an owner states
//! of itself is bound to its token by a checksum, so that nobody takes an earlier
//! owner of the slot, long dead, for this one. A slot that was granted but never
//! proved holds no pages: the agent may free it after a while, since its host may
//! have died before it could say who it was.
//!
//! *Ending.* The owner, or another host process that sees the owner dead, writes the
//! echo into `released`; the agent then frees what the session held, and the slot.
//! A proved slot whose owner is silent stays held: its pages are never reused on a
//! guess.
//!
//! *Leaving.* A host process that is about to put other pages in the place of what an owner
//! has mapped writes the owner's echo into `leave`. It may come from several processes, always
//! says the same, and frees nothing: an owner that sees it ends its session by itself, and may
//! attach anew at once. One that does not look goes on.
//!
//! *Copying.* Which files a process maps, the kernel tells; which memory it copies, only itself. An
//! owner that writes a region by copying puts one more than the region's number into a free word
//! of `copied`, while no region's pages can be replaced, and clears the word when it has let go of
//! the region. A word keeps its place, so that a reader misses none. The last word counts those
//! for which there was no other: each region may be one of them.
//!
//! *A new agent* finds the slots of the one before it. Proved ones become orphaned,
//! and stay so until they are released. Granted ones, and ones that lost their echo
//! while the earlier agent was freeing them, hold nothing and become free.
//!
//! The pairs: `slot-state` (agent's state → host), `slot-grant` (agent's echo → host; a
//! state that is seen may be an earlier session's), `slot-claim` (host's claim → agent),
//! `slot-nonce` (host's nonce → agent), `slot-echo` (agent's nonce echo → host),
//! `slot-released` (host's released → agent).

use vmshm_shm::SharedMemory;

use crate::error::LinkError;
use crate::fields::{put_word, word_at};
use crate::mix::{checksum, mix};
use crate::ring::RingLayout;

pub mod agent;
pub mod host;

pub use agent::{AgentRings, AgentSlot, SlotEvent};
pub use host::{Claim, HostSlot, PendingClaim, Proof, Tenure, UnprovedSlot};

const STATE: u64 = 0x000;
const ECHO: u64 = 0x008;
const SESSION: u64 = 0x010;
const NONCE_ECHO: u64 = 0x018;
const REPLY_TAIL: u64 = 0x040;
const REQUEST_HEAD: u64 = 0x048;
const CLAIM: u64 = 0x080;
const NONCE: u64 = 0x088;
const RELEASED: u64 = 0x090;
const HOST_PULSE: u64 = 0x098;
const IDENTITY: u64 = 0x0a0;
const IDENTITY_BYTES: usize = 48;
const LEAVE: u64 = 0x0d0;
const REQUEST_TAIL: u64 = 0x100;
const REPLY_HEAD: u64 = 0x108;
const COPIED: u64 = 0x110;
/// How many regions an owner can name that it copies; the word behind them counts the others.
pub const COPIED_NAMED: usize = 29;
const REQUESTS: u64 = 0x200;
const REQUESTS_SIZE: u64 = 0x400;
const REPLIES: u64 = 0x600;
const REPLIES_SIZE: u64 = 0x800;

const _: () = assert!(IDENTITY + IDENTITY_BYTES as u64 <= LEAVE && LEAVE + 8 <= REQUEST_TAIL);
const _: () = assert!(COPIED + 8 * (COPIED_NAMED as u64 + 1) <= REQUESTS);
const _: () = assert!(REQUESTS + REQUESTS_SIZE <= REPLIES);
const _: () = assert!(REPLIES + REPLIES_SIZE <= crate::directory::PAGE_ADDRESS);

/// What the agent says of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// Nobody's.
    Free,
    /// Given to the host whose token is echoed; not proved yet.
    Granted,
    /// In use.
    Proved,
    /// Left over from an earlier agent: kept until its host releases it.
    Orphaned,
}

impl SlotState {
    const fn to_word(self) -> u64 {
        match self {
            Self::Free => 0,
            Self::Granted => 1,
            Self::Proved => 2,
            Self::Orphaned => 3,
        }
    }

    const fn from_word(word: u64) -> Result<Self, LinkError> {
        match word {
            0 => Ok(Self::Free),
            1 => Ok(Self::Granted),
            2 => Ok(Self::Proved),
            3 => Ok(Self::Orphaned),
            value => Err(LinkError::Violation {
                what: "a slot's state",
                value,
            }),
        }
    }
}

/// Which host process owns a slot: enough for another process of the same host to
/// tell whether it still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostIdentity {
    /// The host's boot: Linux's boot id; on Windows made of the installation's number and
    /// the time of the boot.
    pub boot_id: [u8; 16],
    /// Whose process numbers count: on Linux the inode of the pid namespace, on Windows 1.
    pub pid_namespace: u64,
    /// The process, as numbered in that namespace.
    pub pid: u64,
    /// The process's start time in its host's own units: on Linux clock ticks since boot
    /// (proc_pid_stat(5), field 22), on Windows 100 nanoseconds since 1601.
    pub start_time: u64,
}

impl HostIdentity {
    fn to_bytes(self, token: u64) -> [u8; IDENTITY_BYTES] {
        let mut bytes = [0; IDENTITY_BYTES];
        bytes[..16].copy_from_slice(&self.boot_id);
        put_word(&mut bytes, 16, self.pid_namespace);
        put_word(&mut bytes, 24, self.pid);
        put_word(&mut bytes, 32, self.start_time);
        let sum = mix(checksum(&bytes[..40]), token);
        put_word(&mut bytes, 40, sum);
        bytes
    }

    fn from_bytes(bytes: &[u8; IDENTITY_BYTES], token: u64) -> Option<Self> {
        if word_at(bytes, 40) != mix(checksum(&bytes[..40]), token) {
            return None;
        }
        let mut boot_id = [0; 16];
        boot_id.copy_from_slice(&bytes[..16]);
        Some(Self {
            boot_id,
            pid_namespace: word_at(bytes, 16),
            pid: word_at(bytes, 24),
            start_time: word_at(bytes, 32),
        })
    }
}

/// A slot as anybody who may read the directory sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotView {
    /// What the agent says of it.
    pub state: SlotState,
    /// The owner's token.
    pub token: u64,
    /// Whether its end has been written.
    pub released: bool,
    /// The owner, if it has said who it is.
    pub owner: Option<HostIdentity>,
    /// Count of the owner's heartbeats.
    pub host_pulse: u64,
    /// The regions that the owner writes by copying.
    pub copied: CopiedRegions,
}

/// Which regions the owner of a slot writes by copying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopiedRegions {
    words: [u64; COPIED_NAMED],
    others: u64,
}

impl CopiedRegions {
    fn read<M: SharedMemory>(directory: &M, base: u64) -> Result<Self, LinkError> {
        let mut bytes = [0; 8 * (COPIED_NAMED + 1)];
        directory.read(base + COPIED, &mut bytes)?;
        let mut copied = Self::default();
        for (index, word) in copied.words.iter_mut().enumerate() {
            *word = word_at(&bytes, 8 * index);
        }
        copied.others = word_at(&bytes, 8 * COPIED_NAMED);
        Ok(copied)
    }

    /// Whether a region may be among them.
    #[must_use]
    pub fn may_have(&self, region: u64) -> bool {
        self.others != 0 || self.words.contains(&region.wrapping_add(1))
    }
}

impl SlotView {
    /// Reads the slot that starts at `base` of the directory.
    ///
    /// # Errors
    /// What the memory or its writer did.
    pub fn read<M: SharedMemory>(directory: &M, base: u64) -> Result<Self, LinkError> {
        // acquire: slot-state
        let state = SlotState::from_word(directory.load_acquire(base + STATE)?)?;
        // acquire: slot-grant
        let token = directory.load_acquire(base + ECHO)?;
        // acquire: slot-released
        let released = token != 0 && directory.load_acquire(base + RELEASED)? == token;
        let mut identity = [0; IDENTITY_BYTES];
        directory.read(base + IDENTITY, &mut identity)?;
        let owner = match state {
            SlotState::Proved | SlotState::Orphaned => HostIdentity::from_bytes(&identity, token),
            SlotState::Free | SlotState::Granted => None,
        };
        Ok(Self {
            state,
            token,
            released,
            owner,
            host_pulse: directory.load_relaxed(base + HOST_PULSE)?,
            copied: CopiedRegions::read(directory, base)?,
        })
    }

    /// Whether somebody still holds it.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        !matches!(self.state, SlotState::Free) && !self.released
    }
}

/// Ends the session of an owner that is known to be dead: writes `released` in its
/// place. `token` is the echo that was read together with the owner's identity; if
/// the slot has found another owner since, nothing happens.
///
/// # Errors
/// [`LinkError::Fault`] when the memory cannot be reached.
pub fn release_for_dead_owner<M: SharedMemory>(
    directory: &M,
    base: u64,
    token: u64,
) -> Result<(), LinkError> {
    if directory.load_relaxed(base + ECHO)? == token {
        // release: slot-released
        directory.store_release(base + RELEASED, token)?;
    }
    Ok(())
}

/// Asks an owner that lives to end its session, since what it has mapped is about to lie
/// elsewhere. `token` is the echo that was read together with the owner's identity; an owner
/// that the slot has found since is not asked.
///
/// # Errors
/// [`LinkError::Fault`] when the memory cannot be reached.
pub fn ask_to_leave<M: SharedMemory>(
    directory: &M,
    base: u64,
    token: u64,
) -> Result<(), LinkError> {
    Ok(directory.store_relaxed(base + LEAVE, token)?)
}

/// Says at a place in `copied` that the owner of a slot writes a region by copying, or that nothing
/// is there any more. Only the owner may; while it adds one it holds back whoever would replace
/// the region's pages. Places from [`COPIED_NAMED`] on name nothing.
///
/// # Errors
/// [`LinkError::Fault`] when the memory cannot be reached.
pub fn say_copied<M: SharedMemory>(
    directory: &M,
    base: u64,
    place: usize,
    region: Option<u64>,
) -> Result<(), LinkError> {
    if place < COPIED_NAMED {
        let word = region.map_or(0, |region| region.wrapping_add(1));
        directory.store_relaxed(base + COPIED + 8 * place as u64, word)?;
    }
    Ok(())
}

/// Says how many more regions the owner of a slot writes by copying than it can name.
///
/// # Errors
/// [`LinkError::Fault`] when the memory cannot be reached.
pub fn say_more_copied<M: SharedMemory>(
    directory: &M,
    base: u64,
    count: u64,
) -> Result<(), LinkError> {
    Ok(directory.store_relaxed(base + COPIED + 8 * COPIED_NAMED as u64, count)?)
}

fn request_ring(base: u64) -> RingLayout {
    RingLayout {
        tail: base + REQUEST_TAIL,
        head: base + REQUEST_HEAD,
        data: base + REQUESTS,
        capacity: REQUESTS_SIZE,
    }
}

fn reply_ring(base: u64) -> RingLayout {
    RingLayout {
        tail: base + REPLY_TAIL,
        head: base + REPLY_HEAD,
        data: base + REPLIES,
        capacity: REPLIES_SIZE,
    }
}
