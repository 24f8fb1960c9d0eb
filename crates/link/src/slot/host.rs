//! The host's side of a slot: claiming it, proving itself, keeping and ending the
//! session.

use vmshm_shm::SharedMemory;

use super::{
    CLAIM, COPIED, COPIED_NAMED, ECHO, HOST_PULSE, HostIdentity, IDENTITY, LEAVE, NONCE,
    NONCE_ECHO, SESSION, STATE, SlotState, release_for_dead_owner, reply_ring, request_ring,
};
use crate::error::LinkError;
use crate::own_word::OwnWord;
use crate::proof::nonce_echo;
use crate::ring::{Consumer, Producer};

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
        // Before who this is: whatever stands here was an earlier owner's.
        directory.write(base + COPIED, &[0; 8 * (COPIED_NAMED + 1)])?;
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

    /// Where the slot starts in the directory.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Compares everything that this side wrote, and that the agent granted, with
    /// what stands there now.
    ///
    /// # Errors
    /// [`LinkError::RolledBack`] when a word of our own changed,
    /// [`LinkError::Violation`] when the slot is not ours any more.
    pub fn verify(&self) -> Result<(), LinkError> {
        self.pulse.verify(&self.directory)?;
        self.requests.verify()?;
        self.replies.verify()?;
        self.tenure().verify()
    }

    /// What a thread needs to tell, before each write, whether the slot is still ours.
    #[must_use]
    pub fn tenure(&self) -> Tenure<M> {
        Tenure {
            directory: self.directory.clone(),
            base: self.base,
            token: self.token,
            nonce: self.nonce,
        }
    }

    /// Moves this side's pulse on, so that the guest sees the host alive.
    ///
    /// # Errors
    /// What the memory did; [`LinkError::RolledBack`] when the pulse changed.
    pub fn beat(&mut self) -> Result<(), LinkError> {
        let next = self.pulse.get().wrapping_add(1);
        self.pulse.set(&self.directory, next)
    }

    /// Whether another process of this host asks this session to end.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn is_asked_to_leave(&self) -> Result<bool, LinkError> {
        Ok(self.directory.load_relaxed(self.base + LEAVE)? == self.token)
    }

    /// Ends the session: after this call nothing of it may be touched any more.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn release(self) -> Result<(), LinkError> {
        release_for_dead_owner(&self.directory, self.base, self.token)
    }
}

/// The right to touch what a slot holds, as a thread beside the owner checks it: two
/// words, cheap enough for every copy. A host that was stopped, and whose memory the
/// guest's user has taken back by force meanwhile, finds out here before it writes on.
#[derive(Debug, Clone)]
pub struct Tenure<M> {
    directory: M,
    base: u64,
    token: u64,
    nonce: u64,
}

impl<M: SharedMemory> Tenure<M> {
    /// Looks whether the slot is still its owner's.
    ///
    /// # Errors
    /// [`LinkError::RolledBack`] when the owner's nonce changed, [`LinkError::Revoked`]
    /// when the agent has given the slot away.
    pub fn verify(&self) -> Result<(), LinkError> {
        let nonce = self.directory.load_relaxed(self.base + NONCE)?;
        if nonce != self.nonce {
            return Err(LinkError::RolledBack {
                what: "session's nonce",
                written: self.nonce,
                found: nonce,
            });
        }
        let echo = self.directory.load_relaxed(self.base + ECHO)?;
        if echo != self.token {
            return Err(LinkError::Revoked);
        }
        Ok(())
    }
}
