//! Which part of the kernel registers memory as a DMA target, and thereby pins it:
//! io_uring or AF_XDP. Both hold pages equally well; each alone suffices.
//!
//! Also finds out whether one of them does so here, and says in plain words why not.

use std::fs;

use rustix::io::Errno;
use vmshm_shm::PAGE_SIZE;

use super::memory_file::{MemoryFile, Pages};
use super::pinned::PinFault;
use super::reservation::Reservation;
use super::ring::{self, Ring, RingError};
use super::umem::{self, Umem, UmemError};

/// Where memory is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registrar {
    /// With a ring of io_uring.
    IoUring,
    /// With a socket of AF_XDP.
    AfXdp,
}

/// Pins of a part of a reservation; they end when it is dropped.
#[derive(Debug)]
pub(super) enum Pin {
    /// A ring's.
    Ring { _ring: Ring },
    /// A socket's.
    Umem { _umem: Umem },
}

/// Why a registrar does not pin ordinary shared memory.
#[derive(Debug)]
pub(super) struct Unable {
    /// In words.
    pub(super) reason: String,
    /// Whether it may pin huge pages: old kernels register those, but no other files.
    pub(super) for_huge_pages: bool,
}

impl Registrar {
    /// The most bytes that one pin may hold.
    pub(super) fn limit(self) -> u64 {
        match self {
            Self::IoUring => ring::LIMIT,
            Self::AfXdp => umem::LIMIT,
        }
    }

    /// Pins a part of `reservation`, which must be populated: `length` bytes, at most
    /// [`Registrar::limit`], from `offset` on.
    pub(super) fn pin(
        self,
        reservation: &Reservation,
        offset: u64,
        length: u64,
    ) -> Result<Pin, PinFault> {
        Ok(match self {
            Self::IoUring => Pin::Ring {
                _ring: Ring::pin(reservation, offset, length)?,
            },
            Self::AfXdp => Pin::Umem {
                _umem: Umem::pin(reservation, offset, length)?,
            },
        })
    }

    /// Pins one page for a moment.
    pub(super) fn probe(self) -> Result<(), Unable> {
        match self.pin_a_page() {
            Ok(_) => Ok(()),
            Err(fault) => Err(Unable {
                reason: explain(&fault),
                for_huge_pages: matches!(
                    fault,
                    PinFault::Ring(RingError::Refused(Errno::OPNOTSUPP))
                ),
            }),
        }
    }

    fn pin_a_page(self) -> Result<Pin, PinFault> {
        let system = |what| move |error| PinFault::System { what, error };
        let file = MemoryFile::new("probe", PAGE_SIZE, Pages::Ordinary)
            .map_err(system("cannot make a memory file"))?;
        file.allocate(0, PAGE_SIZE)
            .map_err(system("cannot allocate the memory"))?;
        let reservation =
            Reservation::new(&file, 0, PAGE_SIZE).map_err(system("cannot map the memory"))?;
        self.pin(&reservation, 0, PAGE_SIZE)
    }
}

/// Why a page could not be pinned, in words for the user.
fn explain(fault: &PinFault) -> String {
    match fault {
        PinFault::Ring(RingError::Unavailable(Errno::NOSYS)) => {
            "this kernel has no io_uring, or a filter hides it".to_owned()
        }
        PinFault::Ring(RingError::Unavailable(Errno::PERM)) => {
            why_forbidden(fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok())
        }
        PinFault::Ring(RingError::Refused(Errno::OPNOTSUPP)) => {
            "this kernel's io_uring pins no shared memory but huge pages".to_owned()
        }
        PinFault::Umem(UmemError::Unavailable(Errno::AFNOSUPPORT)) => {
            "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)".to_owned()
        }
        PinFault::Umem(UmemError::Unavailable(Errno::PERM)) => {
            "AF_XDP is forbidden to this process (it needs CAP_NET_RAW)".to_owned()
        }
        PinFault::Umem(UmemError::Unavailable(Errno::NOSYS | Errno::ACCESS)) => {
            "a filter forbids AF_XDP to this process".to_owned()
        }
        other => other.to_string(),
    }
}

/// Why no ring is given, by what the switch says, if there is one.
fn why_forbidden(switch: Option<String>) -> String {
    match switch.as_deref().map(str::trim) {
        Some(level) if level != "0" => {
            format!("io_uring is disabled (kernel.io_uring_disabled={level})")
        }
        _ => "io_uring is forbidden to this process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_missing_in_plain_words() {
        let umem = |error| explain(&PinFault::Umem(error));
        for (error, word) in [
            (Errno::AFNOSUPPORT, "no AF_XDP"),
            (Errno::PERM, "CAP_NET_RAW"),
            (Errno::ACCESS, "filter"),
            (Errno::MFILE, "gives no AF_XDP socket"),
        ] {
            let reason = umem(UmemError::Unavailable(error));
            assert!(reason.contains(word), "{reason}");
        }
        let reason = umem(UmemError::Refused(Errno::NOBUFS));
        assert!(reason.contains("cannot pin"), "{reason}");
        let ring = |error| explain(&PinFault::Ring(error));
        let reason = ring(RingError::Unavailable(Errno::NOSYS));
        assert!(reason.contains("no io_uring"), "{reason}");
        let reason = ring(RingError::Refused(Errno::OPNOTSUPP));
        assert!(reason.contains("but huge pages"), "{reason}");
    }

    #[test]
    fn names_the_switch_where_it_is_the_reason() {
        let reason = why_forbidden(Some("2\n".to_owned()));
        assert!(reason.contains("kernel.io_uring_disabled=2"), "{reason}");
        for other in [Some("0\n".to_owned()), None] {
            let reason = why_forbidden(other);
            assert!(reason.contains("forbidden"), "{reason}");
        }
    }

    #[test]
    fn refuses_a_part_outside_the_reservation() {
        let file = MemoryFile::new("test", 4 * PAGE_SIZE, Pages::Ordinary).expect("succeeds");
        file.allocate(0, file.length()).expect("succeeds");
        let reservation = Reservation::new(&file, 0, file.length()).expect("succeeds");
        for registrar in [Registrar::IoUring, Registrar::AfXdp] {
            let beyond = registrar.pin(&reservation, 2 * PAGE_SIZE, 3 * PAGE_SIZE);
            assert!(
                matches!(
                    beyond,
                    Err(PinFault::Ring(RingError::Refused(Errno::INVAL))
                        | PinFault::Umem(UmemError::Refused(Errno::INVAL)))
                ),
                "{beyond:?}"
            );
        }
    }
}
