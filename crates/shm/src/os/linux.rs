//! Linux mappings: pieces of a file laid out as one linear memory.
//!
//! Only shared mappings of files are made here. Nothing is mapped beyond the
//! pieces that were asked for.

use core::ffi::c_void;
use core::ptr::{self, NonNull};

use rustix::fd::AsFd;
/// What the system answers when it refuses.
pub use rustix::io::Errno as SystemError;
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap,
};

use super::pieces::{MapError, PAGE_SIZE, Piece, Protection, total_length};
use crate::SharedMemory;
use crate::word::{Span, shared_memory_over_span};

/// Huge pages of x86-64 Linux that RAM files are commonly made of.
const HUGE_PAGE: usize = 2 << 20;

/// Pieces of a file, mapped one after the other as one memory; unmapped on drop.
///
/// The bytes belong to whoever else maps the file. A file that shrinks under the
/// mapping raises SIGBUS on access.
#[derive(Debug)]
pub struct Mapping {
    /// What can be reached.
    span: Span,
    /// What is mapped, in bytes: more than that where a file's pages are huge.
    mapped: usize,
}

impl Mapping {
    /// Maps `pieces` of `file` in their order as one linear memory.
    ///
    /// # Errors
    /// [`MapError`]; nothing stays mapped then.
    pub fn new(
        file: impl AsFd,
        pieces: &[Piece],
        protection: Protection,
    ) -> Result<Self, MapError> {
        let total = total_length(pieces)?;
        let base = reserve(total)?;
        // SAFETY: the reservation is page aligned, `total` bytes long, ours, and unmapped
        // only by our own Drop.
        let span = unsafe { Span::new(base, total, protection == Protection::ReadWrite) };
        // From here on Drop gives the whole range back, whatever fails.
        let mapping = Self {
            span,
            mapped: total,
        };
        let prot = match protection {
            Protection::Read => ProtFlags::READ,
            Protection::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        let mut at = 0_usize;
        for (index, piece) in pieces.iter().enumerate() {
            let length = usize::try_from(piece.length).map_err(|_| MapError::BadPiece { index })?;
            let target = span
                .bytes(at as u64, length)
                .map_err(|_| MapError::BadPiece { index })?;
            // SAFETY: FIXED replaces part of our own reservation only: `bytes` proved that
            // the target lies inside it.
            unsafe {
                mmap(
                    target.as_ptr().cast::<c_void>(),
                    length,
                    prot,
                    MapFlags::SHARED | MapFlags::FIXED,
                    &file,
                    piece.offset,
                )
            }
            .map_err(MapError::System)?;
            at += length;
        }
        Ok(mapping)
    }

    /// Maps the first `length` bytes of `file`.
    ///
    /// # Errors
    /// As [`Mapping::new`].
    pub fn whole(file: impl AsFd, length: u64, protection: Protection) -> Result<Self, MapError> {
        Self::new(file, &[Piece { offset: 0, length }], protection)
    }

    /// Maps the first `length` bytes of a `file` that is made of pages of `unit` bytes: huge
    /// pages can only be mapped whole. What is mapped beyond `length` cannot be reached.
    ///
    /// # Errors
    /// As [`Mapping::new`].
    pub fn start(
        file: impl AsFd,
        length: u64,
        unit: u64,
        protection: Protection,
    ) -> Result<Self, MapError> {
        let whole = length
            .checked_next_multiple_of(unit.max(PAGE_SIZE))
            .ok_or(MapError::BadPiece { index: 0 })?;
        let mut mapping = Self::whole(file, whole, protection)?;
        let length = usize::try_from(length).map_err(|_| MapError::BadPiece { index: 0 })?;
        mapping.span = mapping.span.shortened(length);
        Ok(mapping)
    }

    /// Makes every page present in this process now, so that no later access waits for it;
    /// changes no byte. What cannot be done is only slower later.
    ///
    /// # Errors
    /// [`MapError::System`] when the memory cannot be used any more.
    pub fn populate(&mut self) -> Result<(), MapError> {
        let start: *mut c_void = self.span.base().as_ptr().cast();
        let (advice, less, usual) = match self.span.check_writable() {
            Ok(()) => (
                Advice::LinuxPopulateWrite,
                MprotectFlags::READ,
                MprotectFlags::READ | MprotectFlags::WRITE,
            ),
            Err(_) => (
                Advice::LinuxPopulateRead,
                MprotectFlags::empty(),
                MprotectFlags::READ,
            ),
        };
        // SAFETY: the whole range is our own mapping; populating changes no byte.
        if unsafe { madvise(start, self.mapped, advice) }.is_err() {
            // Kernels before 5.14. What cannot be read is found out by who uses it.
            for page in 0..self.size() / PAGE_SIZE {
                let _ = self.load_relaxed(page * PAGE_SIZE);
            }
        }
        // Under user-mode Linux the pages are in the guest's tables now, but each still
        // costs a fault of some 100 µs, unless a protection changes: then the guest's
        // kernel has the host map whole runs at once.
        // SAFETY: the whole range is our own mapping, and `self` is borrowed exclusively, so
        // that nobody touches it meanwhile.
        if unsafe { mprotect(start, self.mapped, less) }.is_err() {
            return Ok(());
        }
        // SAFETY: as above; this gives back what the mapping was made with.
        unsafe { mprotect(start, self.mapped, usual) }.map_err(MapError::System)
    }

    /// Lets go of the file, and has zeros of this process's own in its place: for memory that is
    /// another's from now on, while somebody here may not have noticed. What is stored
    /// afterwards reaches nobody.
    ///
    /// # Errors
    /// [`MapError::System`]; the file stays mapped then.
    pub fn abandon(&self) -> Result<(), MapError> {
        let prot = match self.span.check_writable() {
            Ok(()) => ProtFlags::READ | ProtFlags::WRITE,
            Err(_) => ProtFlags::READ,
        };
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        let start = self.span.base().as_ptr().cast();
        // SAFETY: the whole range is our own mapping. Whoever accesses it meanwhile does so by
        // atomics and copies that expect any bytes, and finds memory there at every moment.
        unsafe { mmap_anonymous(start, self.mapped, prot, flags) }.map_err(MapError::System)?;
        Ok(())
    }

    /// Where the memory starts in this process, for the kernel's own interfaces
    /// (registering, pagemap); not for dereferencing.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.span.base().as_ptr() as u64
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours alone, and `self` is gone after this.
        let _ = unsafe { munmap(self.span.base().as_ptr().cast(), self.mapped) };
    }
}

// SAFETY: all access goes through atomics or copies that allow concurrent writers.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

shared_memory_over_span!(Mapping);

/// Reserves `total` bytes of addresses, so that pieces can be placed side by side. Where
/// there is room for a huge page the start is aligned to one: pieces of a file of huge
/// pages cannot lie elsewhere.
fn reserve(total: usize) -> Result<NonNull<u8>, MapError> {
    let slack = if total < HUGE_PAGE { 0 } else { HUGE_PAGE };
    let length = total
        .checked_add(slack)
        .ok_or(MapError::System(SystemError::NOMEM))?;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a fresh private reservation at an address that the system chooses.
    let whole = unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), flags) }
        .map_err(MapError::System)?
        .cast::<u8>();
    let before = if slack == 0 {
        0
    } else {
        whole.align_offset(HUGE_PAGE)
    };
    // What lies before and behind the aligned part goes back at once.
    for (start, unused) in [(0, before), (before + total, slack - before)] {
        if unused > 0 {
            // SAFETY: start + unused <= length, so the address is inside the reservation.
            let at = unsafe { whole.add(start) };
            // SAFETY: these bytes belong to our own reservation, and nobody has them yet.
            let _ = unsafe { munmap(at.cast(), unused) };
        }
    }
    // SAFETY: before <= slack, so the address is inside the reservation.
    NonNull::new(unsafe { whole.add(before) }).ok_or(MapError::System(SystemError::NOMEM))
}
