//! A range of our own addresses at which a file is mapped, so that the kernel
//! can be asked to populate, lock, pin and locate its pages. Nothing is ever read or
//! written through it.

#![allow(
    unsafe_code,
    reason = "mapping and locking are raw calls; no access is made through the addresses"
)]

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// Part of a file, mapped; unmapped on drop.
#[derive(Debug)]
pub(crate) struct Reservation {
    base: NonNull<c_void>,
    length: usize,
}

// SAFETY: the value is a range of addresses that it owns; it is never dereferenced.
unsafe impl Send for Reservation {}

impl Reservation {
    /// Maps `length` bytes of `file` from `offset` on; nothing is populated yet.
    pub(crate) fn new(file: impl AsFd, offset: u64, length: u64) -> Result<Self, Errno> {
        let length = usize::try_from(length).map_err(|_| Errno::NOMEM)?;
        // SAFETY: a fresh mapping at an address that the system chooses.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                offset,
            )
        }?;
        let base = NonNull::new(base).ok_or(Errno::NOMEM)?;
        Ok(Self { base, length })
    }

    /// Where it starts.
    pub(crate) fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Size in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length as u64
    }

    /// Makes every page of a range present, and keeps it from being reclaimed.
    pub(crate) fn populate(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let (start, length) = self.part(offset, length)?;
        // SAFETY: `part` proved that the range lies in our own mapping.
        unsafe { rustix::mm::mlock(start.as_ptr(), length) }
    }

    /// The part of the mapping from `offset` on, as the kernel's calls take it.
    pub(super) fn part(&self, offset: u64, length: u64) -> Result<(NonNull<c_void>, usize), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
        let length = usize::try_from(length).map_err(|_| Errno::INVAL)?;
        match start.checked_add(length) {
            Some(end) if end <= self.length => {
                // SAFETY: start <= end <= our length.
                Ok((unsafe { self.base.byte_add(start) }, length))
            }
            _ => Err(Errno::INVAL),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the range is ours alone, and nobody holds an address into it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.length) };
    }
}
