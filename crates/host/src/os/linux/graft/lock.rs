//! One process at a time grafts in a VM, and none while another maps a region there. The lock is
//! one on the kernel's list of the VMM's mappings: whoever may graft can open it, nobody else can,
//! and it goes with who held it.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::failure::GraftFailure;

/// How often a taken lock is tried again.
const AGAIN: Duration = Duration::from_millis(5);

/// The lock, as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a VMM.
    pub(super) fn take(pid: u32, patience: Duration) -> Result<Self, GraftFailure> {
        Self::wait(pid, patience, FlockOperation::NonBlockingLockExclusive)
    }

    /// Keeps grafts away, beside others that do.
    pub(super) fn share(pid: u32, patience: Duration) -> Result<Self, GraftFailure> {
        Self::wait(pid, patience, FlockOperation::NonBlockingLockShared)
    }

    fn wait(pid: u32, patience: Duration, how: FlockOperation) -> Result<Self, GraftFailure> {
        // Whoever may not open it hears the exact reason from the attempt that follows.
        let file = File::open(format!("/proc/{pid}/maps"))
            .map_err(|error| GraftFailure::not_looked_into(pid, &error))?;
        let since = Instant::now();
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::WOULDBLOCK | Errno::INTR) if since.elapsed() < patience => {
                    std::thread::sleep(AGAIN);
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    return Err(GraftFailure::Taken { pid });
                }
                Err(error) => {
                    return Err(GraftFailure::Lock {
                        pid,
                        error: error.into(),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_waits_its_turn_and_says_why_it_gives_up() {
        let pid = std::process::id();
        let first = Lock::take(pid, Duration::ZERO).expect("taken");
        assert!(matches!(
            Lock::take(pid, Duration::from_millis(20)),
            Err(GraftFailure::Taken { .. })
        ));
        assert!(matches!(
            Lock::share(pid, Duration::ZERO),
            Err(GraftFailure::Taken { .. })
        ));
        drop(first);
        let shared = [(); 2].map(|()| Lock::share(pid, Duration::from_secs(30)).expect("shared"));
        assert!(matches!(
            Lock::take(pid, Duration::ZERO),
            Err(GraftFailure::Taken { .. })
        ));
        drop(shared);
        Lock::take(pid, Duration::from_secs(30)).expect("taken again");
    }

    #[test]
    fn a_process_that_is_gone_is_called_so() {
        assert!(matches!(
            Lock::take(u32::MAX / 2, Duration::ZERO),
            Err(GraftFailure::Graft(_))
        ));
    }
}
