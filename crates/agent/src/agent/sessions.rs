//! The session slots: who holds one, and how long a host has been silent.
//!
//! Silence is counted in looks, not by the clock: a guest that was paused does not
//! take its hosts for dead when it runs again.

use std::sync::Arc;

use tracing::warn;
use vmshm_link::LinkError;
use vmshm_link::control::{MAX_MESSAGE, Message, Request};
use vmshm_link::directory::{SLOTS, slot_offset};
use vmshm_link::slot::{AgentSlot, SlotEvent, SlotState};

use super::local_protocol::SessionInfo;
use super::regions::Holder;
use crate::window::Window;

/// Looks per second at which silence is counted.
pub(crate) const LOOKS_PER_SECOND: u32 = 10;
/// From then on a host counts as silent.
const SILENT: u32 = 5 * LOOKS_PER_SECOND;
/// A host that was granted a slot and never proved itself loses it after so long; it
/// holds no pages.
const UNPROVED: u32 = 10 * LOOKS_PER_SECOND;

/// One slot.
#[derive(Debug)]
pub(crate) struct Session {
    slot: AgentSlot<Arc<Window>>,
    index: usize,
    /// A reply that the ring had no room for.
    outgoing: Option<Message>,
    /// A request that cannot be answered yet.
    deferred: Option<(u64, Request)>,
    /// Whether its last request is answered later: when a region is made, or a screen's
    /// source has answered.
    pub(crate) waits: bool,
    broken: Option<LinkError>,
    last_pulse: u64,
    quiet_looks: u32,
}

impl Session {
    /// The slot as a holder of regions.
    pub(crate) fn holder(&self) -> Holder {
        Holder {
            slot: self.index,
            session: self.slot.session(),
        }
    }

    /// What the slot is.
    pub(crate) fn state(&self) -> SlotState {
        self.slot.state()
    }

    /// Gives it to whoever claims it next.
    pub(crate) fn free(&mut self) -> Result<(), LinkError> {
        self.outgoing = None;
        self.deferred = None;
        self.waits = false;
        self.broken = None;
        self.slot.free()
    }

    /// Looks at the host's words once.
    pub(crate) fn poll(&mut self, new_session: u64) -> Result<Option<SlotEvent>, LinkError> {
        let event = self.slot.poll(new_session)?;
        if event == Some(SlotEvent::Granted) {
            self.quiet_looks = 0;
        }
        Ok(event)
    }

    /// The host broke the protocol: it is not served any more, but what it holds stays
    /// until it lets go.
    pub(crate) fn set_broken(&mut self, error: LinkError) {
        warn!(slot = self.index, %error, "a host is not served any more");
        self.broken = Some(error);
    }

    /// The next request, if there is one and the last has been answered.
    pub(crate) fn next_request(&mut self) -> Result<Option<Incoming>, LinkError> {
        if self.broken.is_some() || self.waits || !self.flush()? {
            return Ok(None);
        }
        if let Some((tag, request)) = self.deferred.take() {
            return Ok(Some(Incoming {
                tag,
                request: Some(request),
                is_new: false,
            }));
        }
        let Some(rings) = self.slot.rings() else {
            return Ok(None);
        };
        let mut payload = [0; MAX_MESSAGE];
        let Some((kind, length)) = rings.requests.try_pop(&mut payload)? else {
            return Ok(None);
        };
        let (tag, request) = Request::from_payload(kind, &payload[..length]);
        Ok(Some(Incoming {
            tag,
            request,
            is_new: true,
        }))
    }

    /// Keeps a request for the next look.
    pub(crate) fn defer(&mut self, tag: u64, request: Request) {
        self.deferred = Some((tag, request));
    }

    /// Answers.
    pub(crate) fn reply(&mut self, message: Message) -> Result<(), LinkError> {
        self.waits = false;
        self.outgoing = Some(message);
        self.flush().map(drop)
    }

    /// Sends what the ring had no room for; false while it still has none.
    fn flush(&mut self) -> Result<bool, LinkError> {
        let Some(rings) = self.slot.rings() else {
            self.outgoing = None;
            return Ok(true);
        };
        let Some(message) = &self.outgoing else {
            return Ok(true);
        };
        rings.replies.verify()?;
        if rings.replies.try_push(message.kind, message.payload())? {
            self.outgoing = None;
        }
        Ok(self.outgoing.is_none())
    }

    /// Counts silence; true when an unproved slot has waited too long.
    fn look(&mut self) -> Result<bool, LinkError> {
        let pulse = self.slot.host_pulse()?;
        if pulse == self.last_pulse {
            self.quiet_looks = self.quiet_looks.saturating_add(1);
        } else {
            self.last_pulse = pulse;
            self.quiet_looks = 0;
        }
        Ok(self.state() == SlotState::Granted && self.quiet_looks > UNPROVED)
    }

    /// Whether its host has not been heard for a while.
    pub(crate) fn is_silent(&self) -> bool {
        self.quiet_looks > SILENT
    }

    /// For how many seconds its host has not been heard.
    pub(crate) fn silent_seconds(&self) -> u32 {
        self.quiet_looks / LOOKS_PER_SECOND
    }

    /// Whether its host broke the protocol.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Whether somebody has it.
    pub(crate) fn is_in_use(&self) -> bool {
        self.state() != SlotState::Free
    }

    /// For `status`.
    fn info(&self) -> SessionInfo {
        SessionInfo {
            slot: self.index,
            silent_seconds: self.silent_seconds(),
            broken: self.broken.map(|error| error.to_string()),
        }
    }
}

/// A request as it was taken from a ring.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// What its reply must repeat.
    pub tag: u64,
    /// The request, unless it is one of a newer minor version.
    pub request: Option<Request>,
    /// Whether it is looked at for the first time.
    pub is_new: bool,
}

/// Takes all slots over as they lie in memory.
pub(crate) fn adopt(directory: &Arc<Window>, epoch: u64) -> Result<Vec<Session>, LinkError> {
    (0..SLOTS)
        .map(|index| {
            let slot = AgentSlot::adopt(Arc::clone(directory), slot_offset(index), epoch)?;
            Ok(Session {
                last_pulse: slot.host_pulse()?,
                slot,
                index,
                outgoing: None,
                deferred: None,
                waits: false,
                broken: None,
                quiet_looks: 0,
            })
        })
        .collect()
}

/// Counts the silence of all slots in use, and frees those that were granted and never
/// proved.
pub(crate) fn look_at_all(sessions: &mut [Session]) -> Result<(), LinkError> {
    for session in sessions.iter_mut().filter(|session| session.is_in_use()) {
        if session.look()? {
            session.free()?;
        }
    }
    Ok(())
}

/// For `status`: all slots in use.
pub(crate) fn infos(sessions: &[Session]) -> Vec<SessionInfo> {
    let in_use = sessions.iter().filter(|session| session.is_in_use());
    in_use.map(Session::info).collect()
}
