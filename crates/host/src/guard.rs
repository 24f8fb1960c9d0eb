//! The watch of somebody who has put a guest's pages into the hands of others: whether the
//! guest's keeper still holds these pages for them. It decides sooner, and on less, than a
//! session's watch: a keeper that does not beat may have been killed, or its guest be booting
//! anew, and the pages another's by now.
//!
//! A keeper beats four times a second. It counts as lost when it has not for [`SILENCE`] while
//! the guest has run: while the agent beside it has beaten, or while the VMM has used the
//! processor for [`RAN`]. A VM that is paused, or that the host gives no time, runs nothing
//! that could use the pages, and is waited for. Where a BIOS starts over that is seen at once
//! (`firmware_ticks`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use vmshm_link::LinkError;
use vmshm_link::beacon::{Beacon, BeaconError, KeeperState, Signs};
use vmshm_ram::{Liveness, View};

use crate::beacon_page::read_beacon_page;
use crate::ending::SessionEnd;
use crate::firmware_ticks::FirmwareTicks;
use crate::os::processor_time;

/// So long a keeper may not beat while its guest runs.
pub const SILENCE: Duration = Duration::from_millis(600);
/// A VMM that has used the processor for so long has run its guest.
pub const RAN: Duration = Duration::from_millis(300);
/// An agent that has beaten so often since shows that the guest runs.
const AGENT_BEATS: u32 = 2;

/// The guard over one guest.
#[derive(Debug)]
pub struct Guard {
    pid: u32,
    liveness: Arc<Liveness>,
    page: Arc<View>,
    beacon: Beacon,
    ticks: Option<Arc<FirmwareTicks>>,
    judge: Judge,
}

impl Guard {
    pub(crate) fn new(
        liveness: Arc<Liveness>,
        pid: u32,
        page: Arc<View>,
        (beacon, signs): (Beacon, &Signs),
        ticks: Option<Arc<FirmwareTicks>>,
    ) -> Self {
        Self {
            pid,
            liveness,
            page,
            beacon,
            ticks,
            judge: Judge::new(signs, Instant::now(), processor_time(pid)),
        }
    }

    /// Looks once; to be called some twenty times a second.
    ///
    /// # Errors
    /// [`SessionEnd`] when the pages must be taken back now, with the reason.
    pub fn look(&mut self) -> Result<(), SessionEnd> {
        let (_, page) = read_beacon_page(&self.liveness, self.pid, &self.page)?;
        match Beacon::from_page(&page) {
            Ok(there) if there == self.beacon => {}
            Ok(_) | Err(BeaconError::NoBrand | BeaconError::Checksum | BeaconError::Field(_)) => {
                return Err(SessionEnd::GuestRestarted);
            }
            Err(BeaconError::Incompatible(error)) => return Err(error.into()),
        }
        if self.ticks.as_ref().is_some_and(|ticks| ticks.have_moved()) {
            return Err(SessionEnd::GuestRestarted);
        }
        let signs = Signs::from_page(&page)?;
        let now = Instant::now();
        self.judge.look(&signs, now, || processor_time(self.pid))
    }
}

/// What the signs mean, one after the other.
#[derive(Debug)]
struct Judge {
    last: Signs,
    beaten: Instant,
    used: Option<Duration>,
    agent_beats: u32,
}

impl Judge {
    const fn new(signs: &Signs, now: Instant, used: Option<Duration>) -> Self {
        Self {
            last: *signs,
            beaten: now,
            used,
            agent_beats: 0,
        }
    }

    fn look(
        &mut self,
        signs: &Signs,
        now: Instant,
        used: impl FnOnce() -> Option<Duration>,
    ) -> Result<(), SessionEnd> {
        let last = self.last;
        if signs.generation < last.generation
            || signs.keeper_pulse < last.keeper_pulse
            || (signs.generation == last.generation && signs.agent_pulse < last.agent_pulse)
        {
            return Err(LinkError::RolledBack {
                what: "guest's pulse",
                written: last.keeper_pulse,
                found: signs.keeper_pulse,
            }
            .into());
        }
        if signs.state == KeeperState::Withdrawn {
            return Err(SessionEnd::AgentLeft);
        }
        self.last = *signs;
        if signs.keeper_pulse > last.keeper_pulse {
            self.beaten = now;
            self.agent_beats = 0;
            self.used = used();
            return Ok(());
        }
        if signs.agent_pulse > last.agent_pulse {
            self.agent_beats = self.agent_beats.saturating_add(1);
        }
        if now.saturating_duration_since(self.beaten) < SILENCE {
            return Ok(());
        }
        let has_run = self.agent_beats >= AGENT_BEATS
            || match (self.used, used()) {
                (Some(before), Some(now)) => now.saturating_sub(before) >= RAN,
                // Where it cannot be known, the worse is true.
                _ => true,
            };
        if has_run {
            Err(SessionEnd::TakenBack)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(50);

    /// A guest that is looked at every 50 ms.
    struct Play {
        judge: Judge,
        now: Instant,
        used: Duration,
        signs: Signs,
    }

    impl Play {
        fn new() -> Self {
            let signs = Signs {
                keeper_pulse: 100,
                state: KeeperState::AgentAlive,
                agent_pulse: 100,
                generation: 1,
            };
            let now = Instant::now();
            Self {
                judge: Judge::new(&signs, now, Some(Duration::ZERO)),
                now,
                used: Duration::ZERO,
                signs,
            }
        }

        /// Goes on for so long, using so much of the processor in a step. How long it took
        /// until the guest was given up, if it was.
        fn pass(&mut self, long: Duration, used: Duration, beats: bool) -> Option<Duration> {
            let start = self.now;
            while self.now - start < long {
                self.now += STEP;
                self.used += used;
                if beats && (self.now - start).as_millis().is_multiple_of(250) {
                    self.signs.keeper_pulse += 1;
                }
                let used = self.used;
                let verdict = self.judge.look(&self.signs, self.now, || Some(used));
                if verdict.is_err() {
                    assert_eq!(verdict, Err(SessionEnd::TakenBack));
                    return Some(self.now - start);
                }
            }
            None
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_guest_whose_keeper_beats_is_never_given_up_however_busy() {
        assert_eq!(Play::new().pass(LONG, STEP * 4, true), None);
        assert_eq!(Play::new().pass(LONG, Duration::ZERO, true), None);
    }

    #[test]
    fn a_guest_that_boots_anew_is_given_up_before_a_second_is_over() {
        let mut play = Play::new();
        assert_eq!(play.pass(LONG, STEP / 2, true), None);
        let after = play.pass(LONG, STEP, false).expect("given up");
        assert!(after <= SILENCE + STEP, "{after:?}");
    }

    #[test]
    fn a_paused_guest_and_one_without_processor_time_are_waited_for() {
        assert_eq!(Play::new().pass(LONG, Duration::ZERO, false), None);
        let mut starved = Play::new();
        let after = starved.pass(LONG, STEP / 10, false).expect("given up");
        assert!(after >= RAN * 10, "{after:?}");
    }

    #[test]
    fn a_keeper_that_is_silent_beside_its_agent_is_lost() {
        let mut play = Play::new();
        let last = SILENCE.as_millis() / STEP.as_millis();
        for beat in 1..=last {
            play.now += STEP;
            play.signs.agent_pulse += u64::from(beat % 5 == 1);
            let (now, signs) = (play.now, play.signs);
            let verdict = play.judge.look(&signs, now, || Some(Duration::ZERO));
            assert_eq!(verdict.is_err(), beat == last, "look {beat}");
        }
    }

    #[test]
    fn what_goes_back_is_another_guest() {
        for change in [
            |signs: &mut Signs| signs.keeper_pulse -= 1,
            |signs: &mut Signs| signs.agent_pulse -= 1,
            |signs: &mut Signs| signs.generation -= 1,
        ] {
            let mut play = Play::new();
            change(&mut play.signs);
            let verdict = play.judge.look(&play.signs, play.now, || None);
            assert!(matches!(
                verdict,
                Err(SessionEnd::Link(LinkError::RolledBack { .. }))
            ));
        }
        // A new agent counts anew, and the keeper holds the pages as before.
        let mut play = Play::new();
        play.signs.generation += 1;
        play.signs.agent_pulse = 0;
        assert_eq!(play.judge.look(&play.signs, play.now, || None), Ok(()));
    }
}
