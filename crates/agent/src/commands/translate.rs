//! `vmshm-agent translate PID ADDRESS`: from a process's address to the
//! guest-physical one. It refuses addresses that have no page at this moment.

use std::fs;
use std::io;

use vmshm_link::GuestPhysical;
use vmshm_shm::PAGE_SIZE;

use crate::pin::pagemap::{Page, Pagemap};

/// Why there is no guest-physical address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TranslateError {
    /// No such process.
    #[error("there is no process {0}")]
    NoProcess(u32),
    /// The process may not be looked at.
    #[error("process {pid} may not be looked at: {error}")]
    Forbidden {
        /// The process.
        pid: u32,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The kernel hides page frames.
    #[error("the kernel hides the addresses of pages from this process")]
    Hidden,
    /// The process has nothing there.
    #[error("process {pid} has nothing mapped at {address:#x}")]
    NotMapped {
        /// The process.
        pid: u32,
        /// The address.
        address: u64,
    },
    /// The page has not been touched yet, or is not in memory.
    #[error("the page at {address:#x} of process {pid} is not present: {why}")]
    NotPresent {
        /// The process.
        pid: u32,
        /// The address.
        address: u64,
        /// Why.
        why: &'static str,
    },
    /// The kernel told an impossible frame.
    #[error("the kernel told an impossible page frame {0:#x}")]
    BadFrame(u64),
    /// Reading failed.
    #[error("cannot read the page table of process {pid}: {error}")]
    Unreadable {
        /// The process.
        pid: u32,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl TranslateError {
    /// What the user can do.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Forbidden { .. } | Self::Hidden => {
                Some("run as root in the guest's initial user namespace".to_owned())
            }
            Self::NotPresent { .. } => {
                Some("let the process write to the page, and lock it (mlock)".to_owned())
            }
            _ => None,
        }
    }
}

/// Where the byte at `address` of process `pid` lies at this moment.
pub(crate) fn run(pid: u32, address: u64) -> Result<GuestPhysical, TranslateError> {
    let opened = Pagemap::of_process(pid).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => TranslateError::NoProcess(pid),
        _ => TranslateError::Forbidden { pid, error },
    })?;
    let page = match opened.page(address) {
        Ok(page) => page,
        // Beyond the end of the address space there are no entries.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(TranslateError::NotMapped { pid, address });
        }
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            return Err(TranslateError::NoProcess(pid));
        }
        Err(error) => return Err(TranslateError::Unreadable { pid, error }),
    };
    match page {
        Page::Frame(frame) => frame
            .checked_mul(PAGE_SIZE)
            .and_then(|start| start.checked_add(address % PAGE_SIZE))
            .map(GuestPhysical)
            .ok_or(TranslateError::BadFrame(frame)),
        Page::Hidden => Err(TranslateError::Hidden),
        Page::Swapped => Err(TranslateError::NotPresent {
            pid,
            address,
            why: "it is swapped out",
        }),
        Page::Absent if is_mapped(pid, address) => Err(TranslateError::NotPresent {
            pid,
            address,
            why: "it has not been touched yet",
        }),
        Page::Absent => Err(TranslateError::NotMapped { pid, address }),
    }
}

/// Whether `/proc/PID/maps` has the address; what cannot be read has nothing.
fn is_mapped(pid: u32, address: u64) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    contains(&maps, address)
}

fn contains(maps: &str, address: u64) -> bool {
    let hexadecimal = |text| u64::from_str_radix(text, 16).ok();
    maps.lines().any(|line| {
        line.split_whitespace()
            .next()
            .and_then(|range| range.split_once('-'))
            .and_then(|(start, end)| Some(hexadecimal(start)?..hexadecimal(end)?))
            .is_some_and(|range| range.contains(&address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_addresses_in_maps() {
        let maps = "00400000-00401000 r-xp 00000000 08:01 1 /bin/x\n7ffc0000-7ffc2000 rw-p 00000000 00:00 0 [stack]\n";
        assert!(contains(maps, 0x40_0fff));
        assert!(!contains(maps, 0x40_1000));
        assert!(contains(maps, 0x7ffc_0000));
        assert!(!contains("", 0));
    }

    #[test]
    fn tells_errors_apart() {
        let none = u32::MAX >> 1;
        assert!(matches!(run(none, 0), Err(TranslateError::NoProcess(_))));
        let ours = std::process::id();
        let zero = run(ours, 0);
        assert!(
            matches!(zero, Err(TranslateError::NotMapped { .. })),
            "{zero:?}"
        );
        let beyond = run(ours, u64::MAX);
        assert!(
            matches!(beyond, Err(TranslateError::NotMapped { .. })),
            "{beyond:?}"
        );
    }
}
