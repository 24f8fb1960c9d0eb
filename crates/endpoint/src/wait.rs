//! Waiting for the other side: look, spin, let others run, and sleep until the doorbell
//! rings or a bound has passed, whichever is first.
//!
//! While this spins it makes no system call and reads no clock (under user-mode Linux even
//! that is one). Timeouts therefore are looked at only once it yields or sleeps.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use vmshm_link::LinkError;
use vmshm_link::duplex::Side;
use vmshm_link::wait::{Backoff, Pause};

use crate::connection::Connection;
use crate::error::LinkFailure;
use crate::hold::Hold;

/// Looks before the first yield: 20 to 50 µs over mapped memory.
const SPINS: u32 = 1000;
/// The same where every look is a system call.
const COSTLY_SPINS: u32 = 20;
/// Spins between two looks at the clock, where an application asks for more than the usual.
const SPINS_PER_GLANCE: u32 = 8192;
/// No bound makes sleeps shorter: a sleep takes the system about as long.
const SHORTEST_SLEEP: Duration = Duration::from_micros(50);
/// Sleeps of one length before the next is twice as long, where nothing rings.
const SLEEPS_PER_DOUBLING: u32 = 4;
/// The longest sleep where the host waits, unless the application says otherwise.
const HOST_SLEEP: Duration = Duration::from_millis(5);
/// The longest sleep where the guest waits.
const GUEST_SLEEP: Duration = Duration::from_millis(40);

/// How an end waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Manner {
    /// Looks before it lets others run; nothing: what suits the machine.
    pub(crate) spins: Option<u32>,
    /// The bound of each sleep; nothing: the side's own.
    pub(crate) longest_sleep: Option<Duration>,
}

impl Manner {
    fn backoff(self, side: Side, costly: bool) -> Backoff {
        let spins = self.spins.unwrap_or_else(|| match (alone(), costly) {
            (true, _) => 0,
            (false, true) => COSTLY_SPINS,
            (false, false) => SPINS,
        });
        let longest = self.longest_sleep.unwrap_or(match side {
            Side::Host => HOST_SLEEP,
            Side::Guest => GUEST_SLEEP,
        });
        let longest = longest.max(SHORTEST_SLEEP).as_micros();
        Backoff::new(spins, u32::try_from(longest).unwrap_or(u32::MAX))
    }
}

/// Whether this machine has a single processor, which the peer may need to do what is
/// waited for.
fn alone() -> bool {
    static ALONE: OnceLock<bool> = OnceLock::new();
    *ALONE.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from) == 1)
}

impl<C: Connection> Hold<C> {
    /// Calls `look` until it finds something, the link is over, or `timeout` has passed;
    /// nothing in the last case. With a timeout of zero it looks once.
    #[inline]
    pub(crate) fn wait<T>(
        &self,
        timeout: Option<Duration>,
        mut look: impl FnMut() -> Result<Option<T>, LinkError>,
    ) -> Result<Option<T>, LinkFailure> {
        match self.look(&mut look)? {
            None if timeout != Some(Duration::ZERO) => self.wait_longer(timeout, look),
            found => Ok(found),
        }
    }

    /// As [`Hold::wait`], with its timeout an error.
    #[inline]
    pub(crate) fn wait_or_fail<T>(
        &self,
        timeout: Option<Duration>,
        look: impl FnMut() -> Result<Option<T>, LinkError>,
    ) -> Result<T, LinkFailure> {
        self.wait(timeout, look)?
            .ok_or_else(|| LinkFailure::Timeout(timeout.unwrap_or_default()))
    }

    #[inline]
    fn look<T>(
        &self,
        look: &mut impl FnMut() -> Result<Option<T>, LinkError>,
    ) -> Result<Option<T>, LinkFailure> {
        self.check()?;
        look().map_err(|error| self.explain(error))
    }

    #[cold]
    fn wait_longer<T>(
        &self,
        timeout: Option<Duration>,
        mut look: impl FnMut() -> Result<Option<T>, LinkError>,
    ) -> Result<Option<T>, LinkFailure> {
        let mut backoff = self
            .manner()
            .backoff(C::SIDE, self.is_costly())
            .doubling_every(if self.has_doorbell() {
                1
            } else {
                SLEEPS_PER_DOUBLING
            });
        let mut clock = Clock::new(timeout);
        let mut spun = 0_u32;
        loop {
            match backoff.pause() {
                Pause::Spin => {
                    spun = spun.wrapping_add(1);
                    if spun.is_multiple_of(SPINS_PER_GLANCE) && clock.left() == Some(Duration::ZERO)
                    {
                        return Ok(None);
                    }
                    std::hint::spin_loop();
                }
                Pause::Yield => {
                    if clock.left() == Some(Duration::ZERO) {
                        return Ok(None);
                    }
                    std::thread::yield_now();
                }
                Pause::Sleep(micros) => {
                    let mut bound = Duration::from_micros(micros.into());
                    if let Some(left) = clock.left() {
                        if left.is_zero() {
                            return Ok(None);
                        }
                        bound = bound.min(left);
                    }
                    // Rings are counted from before the last look: what is rung for after
                    // that look ends the sleep at once.
                    let rings = self.tether().rings();
                    self.fall_asleep()?;
                    let found = self.look(&mut look);
                    if matches!(found, Ok(None)) {
                        self.tether().sleep_since(rings, bound);
                    }
                    let awake = self.wake_up();
                    if let Some(found) = found? {
                        // It is done, whatever has happened since: the next call tells.
                        return Ok(Some(found));
                    }
                    awake?;
                }
            }
            if let Some(found) = self.look(&mut look)? {
                return Ok(Some(found));
            }
        }
    }
}

/// A timeout that starts to run when it is first looked at.
struct Clock {
    timeout: Option<Duration>,
    deadline: Option<Instant>,
}

impl Clock {
    const fn new(timeout: Option<Duration>) -> Self {
        Self {
            timeout,
            deadline: None,
        }
    }

    /// What is left; nothing: forever.
    fn left(&mut self) -> Option<Duration> {
        let timeout = self.timeout?;
        let now = Instant::now();
        match self.deadline {
            Some(deadline) => Some(deadline.saturating_duration_since(now)),
            None => {
                // A time that no clock can say is never over.
                self.deadline = now.checked_add(timeout);
                if self.deadline.is_none() {
                    self.timeout = None;
                }
                Some(timeout)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_runs_out_and_an_endless_one_does_not() {
        let mut clock = Clock::new(Some(Duration::from_millis(1)));
        assert!(clock.left().is_some_and(|left| !left.is_zero()));
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(clock.left(), Some(Duration::ZERO));
        let mut endless = Clock::new(Some(Duration::MAX));
        assert!(endless.left().is_some());
        assert_eq!(endless.left(), None);
        assert_eq!(Clock::new(None).left(), None);
    }

    #[test]
    fn the_application_says_how_to_wait() {
        let manner = Manner {
            spins: Some(0),
            longest_sleep: Some(Duration::from_micros(70)),
        };
        let mut backoff = manner.backoff(Side::Host, false);
        assert_eq!(backoff.pause(), Pause::Yield);
        let last = (0..1000).map(|_| backoff.pause()).last();
        assert_eq!(last, Some(Pause::Sleep(70)));
    }
}
