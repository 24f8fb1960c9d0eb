//! One pinned memory: its file, the pins, and where its pages lie.
//!
//! Addresses are read after pinning, since pinning may move pages first. They stay
//! right as long as this value lives, and [`Pinned::verify`] finds out if not: a
//! holder of the file may punch a hole into it, and huge pages that nothing pins
//! move when their memory is taken offline. A page that is punched out of the file
//! while it is pinned belongs to nobody else until the pins end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use vmshm_link::Extent;
use vmshm_shm::PAGE_SIZE;

use super::device::{Device, DeviceError};
use super::extents::{BadFrame, ExtentList};
use super::memory_file::MemoryFile;
use super::pagemap::{Page, Pagemap};
use super::registrar::{Pin, Registrar};
use super::reservation::Reservation;
use super::ring::RingError;
use super::umem::UmemError;

/// How much is touched between two calls of the progress hook.
const SLICE: u64 = 8 << 20;

/// What is mapped.
#[derive(Debug)]
enum Backing {
    /// A file of our own.
    Memory(MemoryFile),
    /// A device, whose pages the kernel keeps.
    Device(Device),
}

impl Backing {
    /// The unit in which its pages come.
    fn unit(&self) -> u64 {
        match self {
            Self::Memory(file) => file.pages().unit(),
            Self::Device(_) => PAGE_SIZE,
        }
    }
}

impl AsFd for Backing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Memory(file) => file.as_fd(),
            Self::Device(device) => device.as_fd(),
        }
    }
}

/// Memory that stays where it is.
#[derive(Debug)]
pub(crate) struct Pinned {
    // Dropped in this order: unpin, unmap, give back.
    pins: Vec<Pin>,
    reservation: Reservation,
    file: Backing,
    offset: u64,
    length: u64,
    extents: ExtentList,
}

/// Why a memory could not be populated, pinned or located.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PinFault {
    /// A system call failed.
    #[error("{what}: {error}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        #[source]
        error: Errno,
    },
    /// io_uring's pins could not be had.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// AF_XDP's pins could not be had.
    #[error(transparent)]
    Umem(#[from] UmemError),
    /// The page table could not be read.
    #[error("cannot read /proc/self/pagemap: {0}")]
    Pagemap(#[from] io::Error),
    /// The kernel hides page frames.
    #[error("the kernel hides the addresses of pages from this process")]
    Hidden,
    /// A page went away between touching and locating it.
    #[error("page {index} is not present although it is pinned")]
    NotPresent {
        /// Index of the page in the memory.
        index: u64,
    },
    /// The kernel told an impossible frame.
    #[error(transparent)]
    BadFrame(#[from] BadFrame),
}

/// A page that is not where it was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("page {index} moved from guest-physical {was:#x}{}", match .is { Some(is) => format!(" to {is:#x}"), None => ", and is not present any more".to_owned() })]
pub(crate) struct Moved {
    /// Index of the page in the memory.
    pub index: u64,
    /// Where it was.
    pub was: u64,
    /// Where it is.
    pub is: Option<u64>,
}

impl Pinned {
    /// Allocates all of `file` and holds it; pinned where a registrar is named.
    /// `progress` is called now and then.
    pub(crate) fn whole(
        file: MemoryFile,
        by: Option<Registrar>,
        progress: &mut dyn FnMut(),
    ) -> Result<Self, PinFault> {
        let length = file.length();
        Self::part(file, 0, length, by, progress)
    }

    /// Allocates a part of `file` and holds it. Huge pages are held whole.
    pub(crate) fn part(
        file: MemoryFile,
        offset: u64,
        length: u64,
        by: Option<Registrar>,
        progress: &mut dyn FnMut(),
    ) -> Result<Self, PinFault> {
        let system = |what| move |error| PinFault::System { what, error };
        let held = length.next_multiple_of(file.pages().unit());
        let reservation =
            Reservation::new(&file, offset, held).map_err(system("cannot map the memory"))?;
        let mut done = 0;
        while done < held {
            let slice = SLICE.min(held - done);
            file.allocate(offset + done, slice)
                .map_err(system("cannot allocate the memory"))?;
            reservation
                .populate(done, slice)
                .map_err(system("cannot lock the memory"))?;
            done += slice;
            progress();
        }
        let mut pins = Vec::new();
        if let Some(registrar) = by {
            let mut done = 0;
            while done < held {
                let slice = registrar.limit().min(held - done);
                pins.push(registrar.pin(&reservation, done, slice)?);
                done += slice;
                progress();
            }
        }
        let extents = locate(&Pagemap::of_self()?, &reservation, length / PAGE_SIZE)?;
        Ok(Self {
            pins,
            reservation,
            file: Backing::Memory(file),
            offset,
            length,
            extents,
        })
    }

    /// Holds the first bytes of a framebuffer device's memory; nothing is pinned.
    pub(crate) fn device(path: &str, size: u64) -> Result<Self, DeviceError> {
        let device = Device::open(path)?;
        let length = size.next_multiple_of(PAGE_SIZE);
        let path = path.to_owned();
        let reservation = match Reservation::new(&device, 0, length) {
            Ok(reservation) => reservation,
            Err(error) => return Err(DeviceError::Map { path, size, error }),
        };
        // A driver may map pages only when they are touched; others are mapped already.
        let _ = reservation.populate(0, length);
        let located = Pagemap::of_self()
            .map_err(PinFault::from)
            .and_then(|pagemap| locate(&pagemap, &reservation, length / PAGE_SIZE));
        match located {
            Ok(extents) => Ok(Self {
                pins: Vec::new(),
                reservation,
                file: Backing::Device(device),
                offset: 0,
                length,
                extents,
            }),
            Err(_) => Err(DeviceError::NoFrames { path }),
        }
    }

    /// Where the memory starts in its file.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Size in bytes, whole pages.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// How many bytes of guest RAM this takes away.
    pub(crate) fn cost(&self) -> u64 {
        match &self.file {
            Backing::Memory(_) => self.reservation.length(),
            Backing::Device(_) => 0,
        }
    }

    /// Where its pages lie, in order.
    pub(crate) fn extents(&self) -> &[Extent] {
        self.extents.as_slice()
    }

    /// How many pages it has.
    pub(crate) fn pages(&self) -> u64 {
        self.extents.pages()
    }

    /// How many bytes of the memory its file lacks: someone who holds the file has
    /// punched holes into it. Only for a memory that is the whole file; a hole that has
    /// been filled again shows in [`Pinned::verify`] alone. A device has none.
    pub(crate) fn missing(&self) -> io::Result<u64> {
        match &self.file {
            Backing::Memory(file) => Ok(self.cost().saturating_sub(file.allocated()?)),
            Backing::Device(_) => Ok(0),
        }
    }

    /// Gives back every page of the file outside this memory.
    pub(super) fn give_back_the_rest(&self) {
        let Backing::Memory(file) = &self.file else {
            return;
        };
        let end = self.offset + self.length;
        // A page that stays because the kernel refuses is a waste, not a fault.
        let _ = file.punch(0, self.offset);
        let _ = file.punch(end, file.length() - end);
    }

    /// Unpins and unmaps; the file stays. A device has none.
    pub(super) fn into_file(self) -> Result<MemoryFile, PinFault> {
        drop(self.pins);
        match self.file {
            Backing::Memory(file) => Ok(file),
            Backing::Device(_) => Err(PinFault::System {
                what: "cannot use a device as a memory file",
                error: Errno::INVAL,
            }),
        }
    }

    /// Unpins the memory and gives it back, as far as nobody else holds the file.
    pub(crate) fn release(self, progress: &mut dyn FnMut()) {
        let Self {
            pins,
            reservation,
            file,
            ..
        } = self;
        drop(pins);
        drop(reservation);
        let Backing::Memory(file) = file else {
            return;
        };
        let mut at = 0;
        while at < file.length() {
            // A holder may still have it mapped; what he reads then is fresh zeros.
            let _ = file.punch(at, SLICE.min(file.length() - at));
            at += SLICE;
            progress();
        }
    }

    /// Checks that `count` pages from index `first` on are where they were.
    pub(crate) fn verify(
        &self,
        pagemap: &Pagemap,
        first: u64,
        count: u64,
    ) -> io::Result<Result<(), Moved>> {
        let end = first.saturating_add(count).min(self.pages());
        let mut index = first;
        while index < end {
            let mut expected = self.extents.frames_from(index);
            let mut suspect = None;
            let address = self.reservation.address() + index * PAGE_SIZE;
            pagemap.for_each(address, end - index, |page| {
                let was = expected.next();
                if was.map(Page::Frame) != Some(page) {
                    suspect = was;
                    return false;
                }
                index += 1;
                true
            })?;
            if let Some(was) = suspect {
                if let Err(moved) = self.look_again(pagemap, index, was)? {
                    return Ok(Err(moved));
                }
                index += 1;
            }
        }
        Ok(Ok(()))
    }

    /// The kernel may have dropped a mapping of a page that is still in its place.
    fn look_again(&self, pagemap: &Pagemap, index: u64, was: u64) -> io::Result<Result<(), Moved>> {
        let offset = index * PAGE_SIZE;
        let unit = self.file.unit();
        let page = match self.reservation.populate(offset - offset % unit, unit) {
            Ok(()) => pagemap.page(self.reservation.address() + offset)?,
            Err(_) => Page::Absent,
        };
        let is = match page {
            Page::Frame(frame) if frame == was => return Ok(Ok(())),
            Page::Frame(frame) => Some(frame * PAGE_SIZE),
            Page::Absent | Page::Swapped | Page::Hidden => None,
        };
        Ok(Err(Moved {
            index,
            was: was * PAGE_SIZE,
            is,
        }))
    }
}

impl AsFd for Pinned {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The extents of the first pages of a populated reservation.
fn locate(
    pagemap: &Pagemap,
    reservation: &Reservation,
    pages: u64,
) -> Result<ExtentList, PinFault> {
    let mut extents = ExtentList::default();
    let mut fault = None;
    pagemap.for_each(reservation.address(), pages, |page| {
        let result = match page {
            Page::Frame(frame) => extents.push(frame).map_err(PinFault::from),
            Page::Hidden => Err(PinFault::Hidden),
            Page::Absent | Page::Swapped => Err(PinFault::NotPresent {
                index: extents.pages(),
            }),
        };
        result.map_err(|found| fault = Some(found)).is_ok()
    })?;
    match fault {
        None => Ok(extents),
        Some(fault) => Err(fault),
    }
}
