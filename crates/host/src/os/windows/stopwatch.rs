//! Measuring times of a hundred nanoseconds and less. `QueryPerformanceCounter`, which
//! `Instant` reads, counts in steps of a hundred (learn.microsoft.com, "Acquiring
//! high-resolution time stamps"); the processor's counter behind it is finer, so it is read
//! itself where it runs at one rate whatever the processor does.
#![cfg_attr(
    target_arch = "x86_64",
    allow(unsafe_code, reason = "the processor's counter has no safe interface")
)]

use std::time::Instant;

/// A moment.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moment {
    /// In ticks of the processor, and how long one takes.
    #[cfg(target_arch = "x86_64")]
    Ticks {
        /// The count.
        at: u64,
        /// Of one tick.
        nanoseconds: f64,
    },
    /// Of the system's clock.
    System(Instant),
}

impl Moment {
    /// This moment. The first call takes some milliseconds.
    pub(crate) fn now() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(nanoseconds) = processor::nanoseconds_of_tick() {
            let at = processor::ticks();
            return Self::Ticks { at, nanoseconds };
        }
        Self::System(Instant::now())
    }

    /// How long ago it was.
    #[allow(
        clippy::cast_precision_loss,
        reason = "what is timed takes less than days"
    )]
    pub(crate) fn elapsed_nanoseconds(self) -> f64 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Ticks { at, nanoseconds } => {
                processor::ticks().saturating_sub(at) as f64 * nanoseconds
            }
            Self::System(start) => start.elapsed().as_secs_f64() * 1e9,
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod processor {
    use std::arch::x86_64::{__cpuid, _mm_lfence, _rdtsc};
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};

    /// The leaf that says which extended leaves there are, and the one that says whether the
    /// counter runs at one rate (bit 8 of EDX: Intel's manual, volume 3, "Invariant TSC").
    const HIGHEST_EXTENDED: u32 = 0x8000_0000;
    const POWER_MANAGEMENT: u32 = 0x8000_0007;
    const INVARIANT: u32 = 1 << 8;
    /// How long the counter is compared with the system's clock: their steps are then a
    /// hundred-thousandth of that.
    const COMPARED: Duration = Duration::from_millis(20);

    /// How long a tick takes, where the counter runs at one rate.
    pub(super) fn nanoseconds_of_tick() -> Option<f64> {
        static KNOWN: OnceLock<Option<f64>> = OnceLock::new();
        *KNOWN.get_or_init(|| is_invariant().then(compare)?)
    }

    #[allow(clippy::cast_precision_loss, reason = "ticks of some milliseconds")]
    fn compare() -> Option<f64> {
        let (start, first) = both()?;
        while start.elapsed() < COMPARED {
            std::hint::spin_loop();
        }
        let (end, last) = both()?;
        let passed = end.saturating_duration_since(start);
        let counted = last.saturating_sub(first);
        (counted > 0).then(|| passed.as_secs_f64() * 1e9 / counted as f64)
    }

    /// Both clocks at one moment: of several attempts the one that was interrupted least.
    fn both() -> Option<(Instant, u64)> {
        let attempts = (0..16).map(|_| {
            let before = ticks();
            let time = Instant::now();
            (ticks().saturating_sub(before), time, before)
        });
        let (took, time, before) = attempts.min_by_key(|(took, ..)| *took)?;
        Some((time, before + took / 2))
    }

    #[allow(
        unused_unsafe,
        reason = "asking the processor was unsafe before Rust 1.94"
    )]
    fn is_invariant() -> bool {
        // SAFETY: every processor of this architecture has the instruction and this leaf.
        let highest = unsafe { __cpuid(HIGHEST_EXTENDED) }.eax;
        if highest < POWER_MANAGEMENT {
            return false;
        }
        // SAFETY: the processor has this leaf, as it just said.
        let power = unsafe { __cpuid(POWER_MANAGEMENT) };
        power.edx & INVARIANT != 0
    }

    /// The counter, read after whatever comes before.
    pub(super) fn ticks() -> u64 {
        // SAFETY: every processor of this architecture has it.
        unsafe { _mm_lfence() };
        // SAFETY: every processor of this architecture has it, and Windows lets programs read it.
        unsafe { _rdtsc() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_the_systems_clock() {
        let before = Instant::now();
        let moment = Moment::now();
        let after = Instant::now();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let least = after.elapsed().as_secs_f64() * 1e9;
        let ours = moment.elapsed_nanoseconds();
        let most = before.elapsed().as_secs_f64() * 1e9;
        assert!(
            ours > least * 0.9 && ours < most * 1.1,
            "{least} {ours} {most}"
        );
    }
}
