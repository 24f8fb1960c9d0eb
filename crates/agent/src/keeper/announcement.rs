//! The keeper's words in the beacon's page, and the removal of the brand. Everything
//! else in the page is the agent's.

use std::time::{Duration, Instant};

use vmshm_link::LinkError;
use vmshm_link::beacon::{KEEPER_BEAT_MILLIS, KEEPER_PULSE, KEEPER_STATE, KeeperState, PAGE};
use vmshm_link::own_word::OwnWord;
use vmshm_shm::{MapError, Protection, SharedMemory};

use crate::pin::Pinned;
use crate::window::Window;

/// Time between two heartbeats.
pub(crate) const BEAT: Duration = Duration::from_millis(KEEPER_BEAT_MILLIS);
/// Length of the brand.
const BRAND_BYTES: usize = 16;

/// The beacon as the keeper writes it.
#[derive(Debug)]
pub(crate) struct Announcement {
    page: Window,
    pulse: OwnWord,
    state: OwnWord,
    next_beat: Instant,
}

/// Why the beacon's page cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnnouncementError {
    /// It cannot be mapped.
    #[error("cannot map the beacon's page: {0}")]
    Map(#[from] MapError),
    /// It cannot be accessed.
    #[error("cannot write the beacon's page: {0}")]
    Link(#[from] LinkError),
}

impl Announcement {
    /// Starts the keeper's words in a fresh page.
    pub(crate) fn start(beacon: &Pinned) -> Result<Self, AnnouncementError> {
        let page = Window::open(beacon, beacon.offset(), PAGE, Protection::ReadWrite)?;
        let state = KeeperState::Starting.to_word();
        Ok(Self {
            pulse: OwnWord::start(&page, KEEPER_PULSE, 1, "keeper's pulse")?,
            state: OwnWord::start(&page, KEEPER_STATE, state, "keeper's state")?,
            page,
            next_beat: Instant::now() + BEAT,
        })
    }

    /// Beats if it is time.
    pub(crate) fn beat(&mut self, now: Instant) -> Result<(), AnnouncementError> {
        if now >= self.next_beat {
            self.next_beat = now + BEAT;
            self.pulse
                .set(&self.page, self.pulse.get().wrapping_add(1))?;
        }
        Ok(())
    }

    /// When the next beat is due.
    pub(crate) fn next_beat(&self) -> Instant {
        self.next_beat
    }

    /// Says what has become of the agent.
    pub(crate) fn say(&mut self, state: KeeperState) -> Result<(), AnnouncementError> {
        if self.state.get() != state.to_word() {
            self.state.set(&self.page, state.to_word())?;
        }
        Ok(())
    }

    /// Removes the brand: no host finds the page any more.
    pub(crate) fn wipe_brand(&self) -> Result<(), AnnouncementError> {
        self.page
            .write(0, &[0; BRAND_BYTES])
            .map_err(LinkError::from)?;
        Ok(())
    }
}
