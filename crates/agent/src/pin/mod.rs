//! Memory that stays where it is: allocating, pinning and locating it.
//!
//! A [`Pinner`] decides once how pages are pinned: by io_uring's registered buffers,
//! else by taking huge pages, which compaction leaves alone. It refuses to hand out
//! memory that may move. This is the only place of the agent with raw calls.

mod beacon_page;
mod extents;
mod huge_pages;
mod memory_file;
pub(crate) mod pagemap;
mod pinned;
mod prefault;
mod reservation;
mod ring;

use std::fmt;
use std::fs;

use vmshm_shm::PAGE_SIZE;

pub(crate) use beacon_page::is_aligned;
pub(crate) use pinned::{PinFault, Pinned};
pub(crate) use prefault::prefault;

use crate::facts;
use crate::size::show;
use huge_pages::{HugePages, HugePagesError};
use memory_file::{HUGE_PAGE, MemoryFile, Pages};
use ring::{Ring, RingError};
use rustix::io::Errno;

/// How pages are kept in place.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
pub(crate) enum Method {
    /// Buffers registered with io_uring.
    #[value(name = "io_uring")]
    #[serde(rename = "io_uring")]
    IoUring,
    /// 2 MiB pages from hugetlb.
    #[serde(rename = "hugetlb")]
    Hugetlb,
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Hugetlb => "hugetlb",
        })
    }
}

/// Why this system cannot pin at all.
#[derive(Debug, thiserror::Error)]
#[error("this guest cannot pin memory: {io_uring}; {huge_pages}")]
pub(crate) struct NoMethod {
    io_uring: String,
    huge_pages: String,
}

impl NoMethod {
    /// What the user can do.
    pub(crate) fn hint(&self) -> &'static str {
        "allow io_uring (sysctl kernel.io_uring_disabled=0, no seccomp filter against it), or use a kernel with 2 MiB huge pages"
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
            Self::Fault(PinFault::Ring(RingError::Refused(Errno::NOMEM))) => {
                Some("raise the limit of locked memory (ulimit -l)")
            }
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
    /// Whether huge pages are registered with a ring, too: old kernels register those,
    /// but no other files.
    huge_by_ring: bool,
}

/// What is left to the guest when a region is allocated.
const RESERVE: u64 = 16 << 20;

impl Pinner {
    /// Finds out what this system can do; `only` leaves out the other way.
    pub(crate) fn choose(only: Option<Method>) -> Result<Self, NoMethod> {
        let huge_pages = match only {
            Some(Method::IoUring) => Err("huge pages are not wanted".to_owned()),
            _ => HugePages::find().map_err(|error| error.to_string()),
        };
        let io_uring = match only {
            Some(Method::Hugetlb) => Err(NoRing {
                reason: "io_uring is not wanted".to_owned(),
                for_huge_pages: false,
            }),
            _ => probe_ring(),
        };
        let mut huge_by_ring = false;
        let mut notes = Vec::new();
        let (method, huge_pages) = match (io_uring, huge_pages) {
            (Ok(()), huge_pages) => {
                if let Err(reason) = &huge_pages
                    && only.is_none()
                {
                    notes.push(format!(
                        "{reason}: regions are made of 4 KiB pages, so a large one may lie in thousands of pieces; and were io_uring disabled, nothing could be shared"
                    ));
                }
                (Method::IoUring, huge_pages.ok())
            }
            (Err(missing), Ok(pool)) => {
                huge_by_ring = missing.for_huge_pages;
                notes.push(format!(
                    "{}: memory is taken in huge pages, so the beacon, the directory and each region take up multiples of 2 MiB, and a fragmented guest may have none left",
                    missing.reason
                ));
                (Method::Hugetlb, Some(pool))
            }
            (Err(io_uring), Err(huge_pages)) => {
                return Err(NoMethod {
                    io_uring: io_uring.reason,
                    huge_pages,
                });
            }
        };
        Ok(Self {
            method,
            notes,
            huge_pages,
            huge_by_ring,
        })
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
            Method::IoUring => PAGE_SIZE,
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
        if self.method == Method::IoUring || self.huge_pages.is_none() {
            let available = facts::available_memory()?.saturating_sub(RESERVE);
            if wanted > available {
                return Err(AllocateError::Short { wanted, available });
            }
            let file = ordinary(name, wanted)?;
            return Ok(Pinned::whole(file, true, progress)?);
        }
        self.allocate_huge(name, size.max(1), progress)
    }

    /// Allocates the page for the beacon.
    pub(crate) fn allocate_beacon(
        &self,
        progress: &mut dyn FnMut(),
    ) -> Result<Pinned, AllocateError> {
        match self.method {
            Method::IoUring => {
                // A search may borrow an eighth of what is free, or 64 MiB if that is less than half.
                let available = facts::available_memory()?;
                let limit = (available / 8).max((64 << 20).min(available / 2));
                Ok(beacon_page::search(limit, progress)?)
            }
            Method::Hugetlb => self.allocate_huge(beacon_page::NAME, PAGE_SIZE, progress),
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
            match Pinned::part(file, 0, used, self.huge_by_ring, progress) {
                Err(PinFault::System {
                    error: error @ (Errno::NOMEM | Errno::NOSPC),
                    ..
                }) => Err(none(error)),
                result => Ok(result?),
            }
        })?
    }
}

fn ordinary(name: &str, length: u64) -> Result<MemoryFile, PinFault> {
    MemoryFile::new(name, length, Pages::Ordinary).map_err(|error| PinFault::System {
        what: "cannot make a memory file",
        error,
    })
}

/// Why io_uring does not pin ordinary shared memory.
struct NoRing {
    reason: String,
    /// Whether it may pin huge pages.
    for_huge_pages: bool,
}

/// Pins one page for a moment.
fn probe_ring() -> Result<(), NoRing> {
    let attempt = || -> Result<Ring, PinFault> {
        let file = ordinary("probe", PAGE_SIZE)?;
        let system = |error| PinFault::System {
            what: "cannot map the memory",
            error,
        };
        file.allocate(0, PAGE_SIZE).map_err(system)?;
        let reservation = reservation::Reservation::new(&file, 0, PAGE_SIZE).map_err(system)?;
        Ok(Ring::pin(&reservation, 0, PAGE_SIZE)?)
    };
    let Err(fault) = attempt() else {
        return Ok(());
    };
    let reason = match &fault {
        PinFault::Ring(RingError::Unavailable(Errno::NOSYS)) => {
            "this kernel has no io_uring, or a filter hides it".to_owned()
        }
        PinFault::Ring(RingError::Unavailable(Errno::PERM)) => why_forbidden(),
        PinFault::Ring(RingError::Refused(Errno::OPNOTSUPP)) => {
            "this kernel's io_uring pins no shared memory but huge pages".to_owned()
        }
        other => other.to_string(),
    };
    Err(NoRing {
        reason,
        for_huge_pages: matches!(fault, PinFault::Ring(RingError::Refused(Errno::OPNOTSUPP))),
    })
}

fn why_forbidden() -> String {
    match fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
        Ok(level) if level.trim() != "0" => {
            let level = level.trim();
            format!("io_uring is disabled (kernel.io_uring_disabled={level})")
        }
        _ => "io_uring is forbidden to this process".to_owned(),
    }
}
