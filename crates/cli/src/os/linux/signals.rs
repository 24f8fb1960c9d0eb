//! Ctrl-C and its like as a flag and as a descriptor. What the user's shell had ignored
//! (`nohup`, a job in the background) stays ignored.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

use super::Descriptor;
use crate::interruption::Interruption;

/// The signals by which a user ends a command.
#[derive(Debug)]
pub(crate) struct Signals {
    flag: Arc<AtomicBool>,
    wake: UnixStream,
}

impl Signals {
    /// From here on signals that would end the process set the flag instead.
    pub(crate) fn watch() -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        let (wake, sender) = UnixStream::pair()?;
        let ignored = ignored_signals();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            if ignored & (1 << (signal - 1)) == 0 {
                // In this order: whoever is woken sees the flag.
                signal_hook::flag::register(signal, Arc::clone(&flag))?;
                signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
            }
        }
        // A file that grows past the user's limit is an error of the write, no death.
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        Ok(Self { flag, wake })
    }

    /// Whether one came.
    pub(crate) fn came(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Readable once one came.
    pub(crate) fn descriptor(&self) -> Descriptor<'_> {
        self.wake.as_fd()
    }
}

impl AsFd for Interruption {
    fn as_fd(&self) -> Descriptor<'_> {
        self.descriptor()
    }
}

/// The signals that this process was started with as ignored, bit by bit from signal 1.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_in(&status)
}

fn ignored_in(status: &str) -> u64 {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        let mask = ignored_in(status);
        assert!(mask & (1 << (SIGHUP - 1)) != 0);
        assert!(mask & (1 << (SIGINT - 1)) == 0);
        assert_eq!(ignored_in(""), 0);
    }
}
