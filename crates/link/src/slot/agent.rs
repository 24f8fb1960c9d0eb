//! The agent's side of a slot: granting it, proving its owner, serving its rings, freeing
//! it. It decides nothing about what a session holds.

use vmshm_shm::SharedMemory;

use super::{
    CLAIM, ECHO, HOST_PULSE, NONCE, NONCE_ECHO, RELEASED, SESSION, STATE, SlotState, reply_ring,
    request_ring,
};
use crate::error::LinkError;
use crate::proof::nonce_echo;
use crate::ring::{Consumer, Producer};

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
