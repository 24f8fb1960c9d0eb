//! A session slot: one page through which one host process talks to the agent.
//!
//! ```text
//! 0x000 state     ┐            0x080 claim: a host's random token ┐
//! 0x008 echo      │ written    0x088 nonce                        │ written
//! 0x010 session   │ by the     0x090 released: the echo, at the end│ by the
//! 0x018 nonce echo│ agent      0x098 host's pulse                 │ host
//! 0x040 reply tail│            0x0a0 who the host is (see below)  │
//! 0x048 req. head ┘            0x100 request tail, 0x108 reply head┘
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
use crate::own_word::OwnWord;
use crate::proof::nonce_echo;
use crate::ring::{Consumer, Producer, RingLayout};

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
const REQUEST_TAIL: u64 = 0x100;
const REPLY_HEAD: u64 = 0x108;
const REQUESTS: u64 = 0x200;
const REQUESTS_SIZE: u64 = 0x400;
const REPLIES: u64 = 0x600;
const REPLIES_SIZE: u64 = 0x800;

const _: () = assert!(IDENTITY + IDENTITY_BYTES as u64 <= REQUEST_TAIL);
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
    /// The host kernel's boot id.
    pub boot_id: [u8; 16],
    /// Inode of the process's pid namespace.
    pub pid_namespace: u64,
    /// The process, as numbered in that namespace.
    pub pid: u64,
    /// The process's start time in clock ticks since boot (`/proc/PID/stat`, field 22).
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

/// What a look at a slot told the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotEvent {
    /// A host has claimed the slot and was granted it.
    Granted,
    /// The host has proved itself; the rings run.
    Proved,
    /// The session is over: free what it held, then call [`AgentSlot::free`].
    Released,
}

/// The rings of a running session, as the agent holds them.
#[derive(Debug)]
pub struct AgentRings<M> {
    /// What the host asks for.
    pub requests: Consumer<M>,
    /// What the agent answers.
    pub replies: Producer<M>,
}

/// The agent's side of a slot.
#[derive(Debug)]
pub struct AgentSlot<M> {
    directory: M,
    base: u64,
    epoch: u64,
    state: SlotState,
    token: u64,
    session: u64,
    ignored_claim: u64,
    old_nonce: u64,
    rings: Option<AgentRings<M>>,
}

impl<M: SharedMemory + Clone> AgentSlot<M> {
    /// Takes a slot over as it lies in memory: one that a session with an earlier
    /// agent may hold becomes orphaned, any other is free.
    ///
    /// # Errors
    /// [`LinkError`] when the memory cannot be reached.
    pub fn adopt(directory: M, base: u64, epoch: u64) -> Result<Self, LinkError> {
        let found = SlotState::from_word(directory.load_relaxed(base + STATE)?);
        let token = directory.load_relaxed(base + ECHO)?;
        let session = directory.load_relaxed(base + SESSION)?;
        let mut slot = Self {
            directory,
            base,
            epoch,
            state: SlotState::Orphaned,
            token,
            session,
            ignored_claim: 0,
            old_nonce: 0,
            rings: None,
        };
        // Without an echo nobody could ever release it: its agent was freeing it.
        if matches!(found, Ok(SlotState::Free | SlotState::Granted)) || token == 0 {
            slot.free()?;
        } else {
            slot.store_state(SlotState::Orphaned)?;
        }
        Ok(slot)
    }

    /// What the slot is now.
    #[must_use]
    pub const fn state(&self) -> SlotState {
        self.state
    }

    /// The number of the running session, or of the one with an earlier agent that
    /// left the slot orphaned; new for each grant.
    #[must_use]
    pub const fn session(&self) -> u64 {
        self.session
    }

    /// The rings, while a session runs: before its proof the host's words are those of
    /// the slot's earlier owner.
    pub const fn rings(&mut self) -> Option<&mut AgentRings<M>> {
        match self.state {
            SlotState::Proved => self.rings.as_mut(),
            _ => None,
        }
    }

    /// Looks at the host's words once. `new_session` numbers a session if one starts;
    /// it must never repeat within an epoch.
    ///
    /// # Errors
    /// What the memory or the host did.
    pub fn poll(&mut self, new_session: u64) -> Result<Option<SlotEvent>, LinkError> {
        if self.state == SlotState::Free {
            // acquire: slot-claim
            let claim = self.directory.load_acquire(self.base + CLAIM)?;
            if claim == 0 || claim == self.ignored_claim {
                return Ok(None);
            }
            self.grant(claim, new_session)?;
            return Ok(Some(SlotEvent::Granted));
        }
        // acquire: slot-released
        if self.directory.load_acquire(self.base + RELEASED)? == self.token {
            self.rings = None;
            return Ok(Some(SlotEvent::Released));
        }
        if self.state == SlotState::Granted {
            // acquire: slot-nonce
            let nonce = self.directory.load_acquire(self.base + NONCE)?;
            if nonce != 0 && nonce != self.old_nonce {
                let echo = nonce_echo(nonce, self.token, self.session, self.epoch);
                self.store_state(SlotState::Proved)?;
                // release: slot-echo
                self.directory.store_release(self.base + NONCE_ECHO, echo)?;
                return Ok(Some(SlotEvent::Proved));
            }
        }
        Ok(None)
    }

    fn grant(&mut self, token: u64, session: u64) -> Result<(), LinkError> {
        self.rings = Some(AgentRings {
            requests: Consumer::start(self.directory.clone(), request_ring(self.base))?,
            replies: Producer::start(self.directory.clone(), reply_ring(self.base))?,
        });
        self.old_nonce = self.directory.load_relaxed(self.base + NONCE)?;
        self.token = token;
        self.session = session;
        self.directory.store_relaxed(self.base + NONCE_ECHO, 0)?;
        self.directory.store_relaxed(self.base + SESSION, session)?;
        // release: slot-grant
        self.directory.store_release(self.base + ECHO, token)?;
        self.store_state(SlotState::Granted)
    }

    fn store_state(&mut self, state: SlotState) -> Result<(), LinkError> {
        // release: slot-state
        self.directory
            .store_release(self.base + STATE, state.to_word())?;
        self.state = state;
        Ok(())
    }

    /// Gives the slot to whoever claims it next. Call it when everything that the
    /// session held is free (or by the user's own decision, to revoke a session).
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn free(&mut self) -> Result<(), LinkError> {
        self.rings = None;
        // A claim that lost against the session that ends now is nobody's any more.
        self.ignored_claim = self.directory.load_relaxed(self.base + CLAIM)?;
        self.directory.store_relaxed(self.base + ECHO, 0)?;
        self.token = 0;
        self.store_state(SlotState::Free)
    }

    /// Count of the host's heartbeats.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn host_pulse(&self) -> Result<u64, LinkError> {
        Ok(self.directory.load_relaxed(self.base + HOST_PULSE)?)
    }
}

/// How a claim stands.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "lives for one poll on the stack; this crate allocates nothing"
)]
pub enum Claim<M> {
    /// The agent has not looked yet.
    Waiting(PendingClaim<M>),
    /// The slot went to another host.
    Lost,
    /// The slot is ours; the nonce's answer is awaited.
    Granted(UnprovedSlot<M>),
}

/// A token in a slot, not echoed yet.
#[derive(Debug)]
pub struct PendingClaim<M> {
    directory: M,
    base: u64,
    token: u64,
}

/// A slot that was granted, and whose nonce has been written.
#[derive(Debug)]
pub struct UnprovedSlot<M> {
    slot: HostSlot<M>,
    expected_echo: u64,
}

/// Whether the nonce has come back.
#[derive(Debug)]
pub enum Proof<M> {
    /// Not yet.
    Waiting(UnprovedSlot<M>),
    /// It has: the session runs.
    Proved(HostSlot<M>),
}

impl<M: SharedMemory + Clone> PendingClaim<M> {
    /// Writes `token` (random, not zero) into the slot at `base` if it is free. The
    /// caller has seen the agent's pulse move in this very page.
    ///
    /// # Errors
    /// What the memory or the agent did.
    pub fn place(directory: M, base: u64, token: u64) -> Result<Option<Self>, LinkError> {
        // acquire: slot-state
        let state = SlotState::from_word(directory.load_acquire(base + STATE)?)?;
        if state != SlotState::Free {
            return Ok(None);
        }
        // release: slot-claim
        directory.store_release(base + CLAIM, token)?;
        Ok(Some(Self {
            directory,
            base,
            token,
        }))
    }

    /// Looks whether the agent has decided. On a grant it starts this side's words
    /// and writes `nonce` (random, not zero).
    ///
    /// # Errors
    /// What the memory or the agent did.
    pub fn poll(
        self,
        epoch: u64,
        nonce: u64,
        identity: &HostIdentity,
    ) -> Result<Claim<M>, LinkError> {
        // acquire: slot-state
        let state = SlotState::from_word(self.directory.load_acquire(self.base + STATE)?)?;
        if state == SlotState::Free {
            return Ok(Claim::Waiting(self));
        }
        // acquire: slot-grant
        let echo = self.directory.load_acquire(self.base + ECHO)?;
        if state == SlotState::Orphaned || echo != self.token {
            return Ok(Claim::Lost);
        }
        let session = self.directory.load_relaxed(self.base + SESSION)?;
        let Self {
            directory,
            base,
            token,
        } = self;
        let requests = Producer::start(directory.clone(), request_ring(base))?;
        let replies = Consumer::start(directory.clone(), reply_ring(base))?;
        directory.write(base + IDENTITY, &identity.to_bytes(token))?;
        let pulse = OwnWord::start(&directory, base + HOST_PULSE, 1, "host's pulse")?;
        // A nonce that stood there before would not be noticed as new.
        let nonce = match directory.load_relaxed(base + NONCE)? {
            old if old == nonce => nonce ^ 1,
            _ => nonce,
        };
        // release: slot-nonce
        directory.store_release(base + NONCE, nonce)?;
        Ok(Claim::Granted(UnprovedSlot {
            expected_echo: nonce_echo(nonce, token, session, epoch),
            slot: HostSlot {
                directory,
                base,
                token,
                session,
                nonce,
                pulse,
                requests,
                replies,
            },
        }))
    }
}

impl<M: SharedMemory + Clone> UnprovedSlot<M> {
    /// Gives the slot back without waiting for the nonce any longer.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn release(self) -> Result<(), LinkError> {
        self.slot.release()
    }

    /// Looks whether the nonce has come back.
    ///
    /// # Errors
    /// [`LinkError::Violation`] when another answer came, or when the slot, which is
    /// given back then, has come to a new agent.
    pub fn poll(self) -> Result<Proof<M>, LinkError> {
        let slot = &self.slot;
        slot.verify()?;
        // acquire: slot-state
        let state = slot.directory.load_acquire(slot.base + STATE)?;
        if state == SlotState::Orphaned.to_word() {
            self.slot.release()?;
            return Err(LinkError::Violation {
                what: "the state of a slot whose nonce was not answered",
                value: state,
            });
        }
        // acquire: slot-echo
        let echo = slot.directory.load_acquire(slot.base + NONCE_ECHO)?;
        if echo == 0 {
            Ok(Proof::Waiting(self))
        } else if echo == self.expected_echo {
            Ok(Proof::Proved(self.slot))
        } else {
            Err(LinkError::Violation {
                what: "the answer to the nonce",
                value: echo,
            })
        }
    }
}

/// The owner's side of a slot whose session runs.
#[derive(Debug)]
pub struct HostSlot<M> {
    directory: M,
    base: u64,
    token: u64,
    session: u64,
    nonce: u64,
    pulse: OwnWord,
    /// What this host asks for.
    pub requests: Producer<M>,
    /// What the agent answers.
    pub replies: Consumer<M>,
}

impl<M: SharedMemory + Clone> HostSlot<M> {
    /// The session's number.
    #[must_use]
    pub const fn session(&self) -> u64 {
        self.session
    }

    /// Compares everything that this side wrote, and that the agent granted, with
    /// what stands there now.
    ///
    /// # Errors
    /// [`LinkError::RolledBack`] when a word of our own changed,
    /// [`LinkError::Violation`] when the slot is not ours any more.
    pub fn verify(&self) -> Result<(), LinkError> {
        self.pulse.verify(&self.directory)?;
        let nonce = self.directory.load_relaxed(self.base + NONCE)?;
        if nonce != self.nonce {
            return Err(LinkError::RolledBack {
                what: "session's nonce",
                written: self.nonce,
                found: nonce,
            });
        }
        self.requests.verify()?;
        self.replies.verify()?;
        let echo = self.directory.load_relaxed(self.base + ECHO)?;
        if echo != self.token {
            return Err(LinkError::Violation {
                what: "the owner of this session's slot",
                value: echo,
            });
        }
        Ok(())
    }

    /// Moves this side's pulse on, so that the guest sees the host alive.
    ///
    /// # Errors
    /// What the memory did; [`LinkError::RolledBack`] when the pulse changed.
    pub fn beat(&mut self) -> Result<(), LinkError> {
        let next = self.pulse.get().wrapping_add(1);
        self.pulse.set(&self.directory, next)
    }

    /// Ends the session: after this call nothing of it may be touched any more.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn release(self) -> Result<(), LinkError> {
        release_for_dead_owner(&self.directory, self.base, self.token)
    }
}
