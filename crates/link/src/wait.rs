//! How long to pause between two looks at a word that the peer has yet to write:
//! first not at all, then by yielding, then by ever longer sleeps up to a bound. It
//! only says what to do; the caller has the clock.

/// What to do before the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// A processor hint, no system call.
    Spin,
    /// Let other threads of this machine run.
    Yield,
    /// Sleep for so many microseconds.
    Sleep(u32),
}

/// A schedule of pauses. Every sleep is bounded, so a peer that says nothing costs
/// little and is still noticed within the bound.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    looks: u32,
    spins: u32,
    longest_sleep_micros: u32,
    looks_per_doubling: u32,
}

const YIELDS: u32 = 16;
const FIRST_SLEEP_MICROS: u32 = 50;
/// Sleeps double so seldom that a short wait stays short.
const LOOKS_PER_DOUBLING: u32 = 32;

impl Backoff {
    /// A schedule that spins `spins` times and never sleeps longer than
    /// `longest_sleep_micros` at once.
    #[must_use]
    pub const fn new(spins: u32, longest_sleep_micros: u32) -> Self {
        Self {
            looks: 0,
            spins,
            longest_sleep_micros,
            looks_per_doubling: LOOKS_PER_DOUBLING,
        }
    }

    /// The same with sleeps that double every so many looks (at least one).
    #[must_use]
    pub const fn doubling_every(self, looks: u32) -> Self {
        Self {
            looks_per_doubling: if looks == 0 { 1 } else { looks },
            ..self
        }
    }

    /// Starts over: the peer has done something.
    pub const fn reset(&mut self) {
        self.looks = 0;
    }

    /// The next pause.
    pub fn pause(&mut self) -> Pause {
        let look = self.looks;
        self.looks = self.looks.saturating_add(1);
        if look < self.spins {
            return Pause::Spin;
        }
        let look = look - self.spins;
        if look < YIELDS {
            return Pause::Yield;
        }
        let doublings = ((look - YIELDS) / self.looks_per_doubling).min(16);
        let micros = FIRST_SLEEP_MICROS << doublings;
        Pause::Sleep(micros.min(self.longest_sleep_micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_grow_to_the_bound_and_start_over() {
        let mut backoff = Backoff::new(2, 5000);
        assert_eq!(backoff.pause(), Pause::Spin);
        assert_eq!(backoff.pause(), Pause::Spin);
        assert_eq!(backoff.pause(), Pause::Yield);
        let mut last = 0;
        for _ in 0..100_000 {
            if let Pause::Sleep(micros) = backoff.pause() {
                assert!(micros >= last && micros <= 5000);
                last = micros;
            }
        }
        assert_eq!(last, 5000);
        backoff.reset();
        assert_eq!(backoff.pause(), Pause::Spin);
    }
}
