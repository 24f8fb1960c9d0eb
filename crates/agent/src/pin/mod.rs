//! Memory that stays where it is: allocating, pinning and locating it.
//!
//! A [`Pinner`] decides once how pages are pinned: by io_uring's registered buffers,
//! else by the packet memory of an AF_XDP socket, else by taking huge pages, which
//! compaction leaves alone. It refuses to hand out memory that may move. This is the
//! only place of the agent with raw calls.

mod beacon_page;
mod device;
mod extents;
mod huge_pages;
mod memory_file;
pub(crate) mod pagemap;
mod pinned;
mod prefault;
mod registrar;
mod reservation;
mod ring;
mod umem;

use std::fmt;

use vmshm_shm::PAGE_SIZE;

pub(crate) use beacon_page::is_aligned;
pub(crate) use device::DeviceError;
pub(crate) use pinned::{PinFault, Pinned};
pub(crate) use prefault::prefault;

use crate::facts;
use crate::size::show;
use huge_pages::{HugePages, HugePagesError};
use memory_file::{HUGE_PAGE, MemoryFile, Pages};
use registrar::{Registrar, Unable};
use ring::RingError;
use rustix::io::Errno;
use umem::UmemError;

/// How pages are kept in place.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
pub(crate) enum Method {
    /// Buffers registered with io_uring.
    #[value(name = "io_uring")]
    #[serde(rename = "io_uring")]
    IoUring,
    /// The packet memory of AF_XDP sockets.
    #[value(name = "af_xdp")]
    #[serde(rename = "af_xdp")]
    AfXdp,
    /// 2 MiB pages from hugetlb.
    #[serde(rename = "hugetlb")]
    Hugetlb,
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::IoUring => "io_uring",
            Self::AfXdp => "af_xdp",
            Self::Hugetlb => "hugetlb",
        })
    }
}

/// Why this system cannot pin at all.
#[derive(Debug, thiserror::Error)]
#[error("this guest cannot pin memory: {io_uring}; {af_xdp}; {huge_pages}")]
pub(crate) struct NoMethod {
    io_uring: String,
    af_xdp: String,
    huge_pages: String,
}

impl NoMethod {
    /// What the user can do.
    pub(crate) fn hint(&self) -> &'static str {
        "allow io_uring (sysctl kernel.io_uring_disabled=0, no seccomp filter against it), or use a kernel with AF_XDP or 2 MiB huge pages"
    }
}

/// Why one memory could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AllocateError {
    /// The guest does not have so much left.
    #[error("{} are wanted, but only {} of the guest's RAM are available", show(*.wanted), show(*.available))]
    Short {
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes that could be had.
        available: u64,
    },
    /// No huge pages could be had.
    #[error("{pages} huge pages of 2 MiB cannot be had ({error})")]
    NoHugePages {
        /// How many.
        pages: u64,
        /// What the system said.
        #[source]
        error: Errno,
    },
    /// The pool of huge pages cannot be used.
    #[error(transparent)]
    HugePages(#[from] HugePagesError),
    /// A system call failed.
    #[error(transparent)]
    Fault(#[from] PinFault),
    /// The facts about memory could not be read.
    #[error(transparent)]
    Facts(#[from] facts::FactsError),
}

impl AllocateError {
    /// What the user can do.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Short { .. }
            | Self::Fault(PinFault::System {
                error: Errno::NOMEM | Errno::NOSPC,
                ..
            }) => Some("end programs in the guest, or ask for less"),
            Self::NoHugePages { .. } => Some(
                "the guest's memory is too fragmented: ask for less, run `sysctl vm.compact_memory=1`, or allow io_uring",
            ),
            Self::Fault(PinFault::Hidden) => {
                Some("run as root in the guest's initial user namespace (CAP_SYS_ADMIN)")
            }
            Self::Fault(
                PinFault::Ring(RingError::Refused(Errno::NOMEM))
                | PinFault::Umem(UmemError::Refused(Errno::NOBUFS)),
            ) => Some("raise the limit of locked memory (ulimit -l)"),
            _ => None,
        }
    }
}

/// Allocates memory that stays where it is.
#[derive(Debug)]
pub(crate) struct Pinner {
    method: Method,
    notes: Vec<String>,
    huge_pages: Option<HugePages>,
    /// Where memory is registered; huge pages, too, if old kernels allow that.
    registrar: Option<Registrar>,
}

/// What is left to the guest when a region is allocated.
const RESERVE: u64 = 16 << 20;

impl Pinner {
    /// Finds out what this system can do; `only` leaves out the other ways.
    pub(crate) fn choose(only: Option<Method>) -> Result<Self, NoMethod> {
        let probe = |method, registrar: Registrar| match only {
            Some(only) if only != method => Err(Unable {
                reason: format!("{method} is not wanted"),
                for_huge_pages: false,
            }),
            _ => registrar.probe(),
        };
        let huge_pages = match only {
            None | Some(Method::Hugetlb) => HugePages::find().map_err(|error| error.to_string()),
            Some(_) => Err("huge pages are not wanted".to_owned()),
        };
        let Err(io_uring) = probe(Method::IoUring, Registrar::IoUring) else {
            let notes = match &huge_pages {
                Err(reason) if only.is_none() => vec![format!(
                    "{reason}: regions are made of 4 KiB pages, so a large one may lie in thousands of pieces"
                )],
                _ => Vec::new(),
            };
            return Ok(Self {
                method: Method::IoUring,
                notes,
                huge_pages: None,
                registrar: Some(Registrar::IoUring),
            });
        };
        let Err(af_xdp) = probe(Method::AfXdp, Registrar::AfXdp) else {
            let notes = match only {
                None => vec![format!(
                    "{}: memory is pinned by AF_XDP instead, which is as good",
                    io_uring.reason
                )],
                Some(_) => Vec::new(),
            };
            return Ok(Self {
                method: Method::AfXdp,
                notes,
                huge_pages: None,
                registrar: Some(Registrar::AfXdp),
            });
        };
        match huge_pages {
            Ok(pool) => Ok(Self {
                method: Method::Hugetlb,
                notes: vec![format!(
                    "{}; {}: memory is taken in huge pages, so the beacon, the directory and each region take up multiples of 2 MiB, and a fragmented guest may have none left",
                    io_uring.reason, af_xdp.reason
                )],
                huge_pages: Some(pool),
                registrar: io_uring.for_huge_pages.then_some(Registrar::IoUring),
            }),
            Err(huge_pages) => Err(NoMethod {
                io_uring: io_uring.reason,
                af_xdp: af_xdp.reason,
                huge_pages,
            }),
        }
    }

    /// How it pins.
    pub(crate) fn method(&self) -> Method {
        self.method
    }

    /// What is missing on this system, with its cost.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How many bytes of RAM an allocation of `size` bytes takes.
    pub(crate) fn cost(&self, size: u64) -> u64 {
        let unit = match self.method {
            Method::IoUring | Method::AfXdp => PAGE_SIZE,
            Method::Hugetlb => HUGE_PAGE,
        };
        size.checked_next_multiple_of(unit).unwrap_or(u64::MAX)
    }

    /// Allocates `size` bytes, rounded up to whole 4 KiB pages.
    pub(crate) fn allocate(
        &self,
        name: &str,
        size: u64,
        progress: &mut dyn FnMut(),
    ) -> Result<Pinned, AllocateError> {
        let wanted = self.cost(size.max(1));
        if self.method == Method::Hugetlb {
            return self.allocate_huge(name, size.max(1), progress);
        }
        let available = facts::available_memory()?.saturating_sub(RESERVE);
        if wanted > available {
            return Err(AllocateError::Short { wanted, available });
        }
        let file =
            MemoryFile::new(name, wanted, Pages::Ordinary).map_err(|error| PinFault::System {
                what: "cannot make a memory file",
                error,
            })?;
        Ok(Pinned::whole(file, self.registrar, progress)?)
    }

    /// Allocates the page for the beacon.
    pub(crate) fn allocate_beacon(
        &self,
        progress: &mut dyn FnMut(),
    ) -> Result<Pinned, AllocateError> {
        match self.registrar {
            Some(by) if self.method != Method::Hugetlb => {
                // A search may borrow an eighth of what is free, or 64 MiB if that is less than half.
                let available = facts::available_memory()?;
                let limit = (available / 8).max((64 << 20).min(available / 2));
                Ok(beacon_page::search(limit, by, progress)?)
            }
            _ => self.allocate_huge(beacon_page::NAME, PAGE_SIZE, progress),
        }
    }

    /// `size` bytes out of huge pages; what the last page has beyond is not offered.
    fn allocate_huge(
        &self,
        name: &str,
        size: u64,
        progress: &mut dyn FnMut(),
    ) -> Result<Pinned, AllocateError> {
        let pool = self.huge_pages.as_ref().ok_or(HugePagesError::Absent)?;
        let pages = self.cost(size) / HUGE_PAGE;
        let none = |error| AllocateError::NoHugePages { pages, error };
        let used = size.checked_next_multiple_of(PAGE_SIZE).unwrap_or(size);
        pool.with_surplus(pages, || {
            let file = MemoryFile::new(name, size, Pages::Huge).map_err(none)?;
            match Pinned::part(file, 0, used, self.registrar, progress) {
                Err(PinFault::System {
                    error: error @ (Errno::NOMEM | Errno::NOSPC),
                    ..
                }) => Err(none(error)),
                result => Ok(result?),
            }
        })?
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn a_method_has_one_name() {
        for method in Method::value_variants() {
            let name = method.to_string();
            let option = method.to_possible_value().expect("none is hidden");
            assert_eq!(option.get_name(), name);
            let text = serde_json::to_string(method).expect("succeeds");
            assert_eq!(text, format!("\"{name}\""));
        }
    }

    #[test]
    fn says_of_every_way_why_it_is_closed() {
        let none = NoMethod {
            io_uring: "no ring".to_owned(),
            af_xdp: "no socket".to_owned(),
            huge_pages: "no pool".to_owned(),
        };
        assert_eq!(
            none.to_string(),
            "this guest cannot pin memory: no ring; no socket; no pool"
        );
        assert!(none.hint().contains("AF_XDP"));
    }
}
