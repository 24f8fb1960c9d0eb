//! Watching a guest during a session: is the VM there, does it run, is it still the
//! same agent of the same boot? It only reads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vmshm_link::LinkError;
use vmshm_link::beacon::{Beacon, BeaconError, KeeperState, Signs};
use vmshm_ram::{Liveness, RunState, View};

use crate::beacon_page::read_beacon_page;
use crate::ending::{Condition, SessionEnd};
use crate::firmware_ticks::FirmwareTicks;
use crate::guard::Guard;

/// A guest whose heartbeat has not moved for so long is called silent. The slowest
/// pulse is four a second; a busy emulator may delay it.
const SILENCE: Duration = Duration::from_millis(1500);

/// The watch over one session.
#[derive(Debug)]
pub struct Watch {
    pid: u32,
    liveness: Arc<Liveness>,
    page: Arc<View>,
    beacon: Beacon,
    generation: u64,
    last: Signs,
    last_moved: Instant,
    ticks: Option<Arc<FirmwareTicks>>,
}

impl Watch {
    /// Watches the guest of `beacon`, whose page is `page`, as `signs` showed it; by what its
    /// firmware has left, too, if it has.
    #[must_use]
    pub(crate) fn new(
        liveness: Arc<Liveness>,
        pid: u32,
        page: Arc<View>,
        (beacon, signs): (Beacon, Signs),
        ticks: Option<Arc<FirmwareTicks>>,
    ) -> Self {
        Self {
            pid,
            liveness,
            page,
            beacon,
            generation: signs.generation,
            last: signs,
            last_moved: Instant::now(),
            ticks,
        }
    }

    /// Looks once.
    ///
    /// # Errors
    /// [`SessionEnd`] when the session is over, with the reason.
    pub fn look(&mut self) -> Result<Condition, SessionEnd> {
        let (run_state, page) = read_beacon_page(&self.liveness, self.pid, &self.page)?;
        match Beacon::from_page(&page) {
            Ok(there) if there == self.beacon => {}
            Ok(_) | Err(BeaconError::NoBrand | BeaconError::Checksum | BeaconError::Field(_)) => {
                // The keeper says that the agent left before it wipes the brand.
                let state = Signs::from_page(&page).map(|signs| signs.state);
                return Err(if state == Ok(KeeperState::Withdrawn) {
                    SessionEnd::AgentLeft
                } else {
                    SessionEnd::GuestRestarted
                });
            }
            Err(BeaconError::Incompatible(error)) => return Err(error.into()),
        }
        if self.ticks.as_ref().is_some_and(|ticks| ticks.have_moved()) {
            return Err(SessionEnd::GuestRestarted);
        }
        let signs = Signs::from_page(&page)?;
        self.judge(&signs)?;
        if signs.moved_since(&self.last) {
            self.last = signs;
            self.last_moved = Instant::now();
        }
        Ok(if run_state == RunState::Stopped {
            Condition::Stopped
        } else if self.silence() > SILENCE {
            Condition::Silent
        } else {
            Condition::Running
        })
    }

    fn judge(&mut self, signs: &Signs) -> Result<(), SessionEnd> {
        if signs.generation > self.generation {
            return Err(SessionEnd::AgentRestarted);
        }
        if signs.generation < self.generation
            || signs.keeper_pulse < self.last.keeper_pulse
            || signs.agent_pulse < self.last.agent_pulse
        {
            return Err(LinkError::RolledBack {
                what: "guest's pulse",
                written: self.last.keeper_pulse,
                found: signs.keeper_pulse,
            }
            .into());
        }
        match signs.state {
            KeeperState::AgentAlive | KeeperState::Starting => Ok(()),
            KeeperState::AgentDead => Err(SessionEnd::AgentDied),
            KeeperState::Withdrawn => Err(SessionEnd::AgentLeft),
        }
    }

    /// A guard beside this watch, for another thread.
    #[must_use]
    pub fn guard(&self) -> Guard {
        let (liveness, page) = (Arc::clone(&self.liveness), Arc::clone(&self.page));
        let ticks = self.ticks.clone();
        Guard::new(liveness, self.pid, page, (self.beacon, &self.last), ticks)
    }

    /// How long no heartbeat has been seen to move. Right only if [`Watch::look`] is
    /// called several times a second.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.last_moved.elapsed()
    }

    /// The VMM's process.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }
}
