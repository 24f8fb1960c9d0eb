//! What the stand-in asks of Windows: sections, private memory, and handles to hold.
#![allow(
    unsafe_code,
    reason = "sections and memory are asked of the system by raw calls"
)]

use std::io;
use std::os::windows::io::{FromRawHandle, OwnedHandle};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use vmshm_shm::{Fault, SharedMemory};
use windows_sys::Win32::Foundation::{ERROR_ALREADY_EXISTS, GetLastError, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, MEM_COMMIT, MEM_RESERVE, PAGE_READWRITE, VirtualAlloc,
};
use windows_sys::Win32::System::Threading::CreateEventW;

/// Makes a section of `size` bytes over the paging file.
pub(crate) fn section(name: Option<&str>, size: u64) -> io::Result<OwnedHandle> {
    let words: Option<Vec<u16>> = name.map(|name| name.encode_utf16().chain([0]).collect());
    let name = words.as_ref().map_or(ptr::null(), |words| words.as_ptr());
    let high = u32::try_from(size >> 32).map_err(|_| io::ErrorKind::InvalidInput)?;
    let low = u32::try_from(size & 0xffff_ffff).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: no file and no attributes are asked for, and the name is null or ends in a zero and outlives the call.
    let handle = unsafe {
        CreateFileMappingW(
            INVALID_HANDLE_VALUE,
            ptr::null(),
            PAGE_READWRITE,
            high,
            low,
            name,
        )
    };
    // SAFETY: reads this thread's last error, nothing else.
    let error = unsafe { GetLastError() };
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this handle, and nobody else has it.
    let section = unsafe { OwnedHandle::from_raw_handle(handle) };
    if error == ERROR_ALREADY_EXISTS {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    Ok(section)
}

/// A handle to something that is no section.
pub(crate) fn event() -> io::Result<OwnedHandle> {
    // SAFETY: no attributes and no name are asked for.
    let handle = unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) };
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this handle, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// Memory of this process, as a VMM without sections has it. It stays until the process ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PrivateMemory {
    base: NonNull<u8>,
    size: u64,
}

// SAFETY: all access goes through atomics, and the memory stays until the process ends.
unsafe impl Send for PrivateMemory {}
// SAFETY: as above.
unsafe impl Sync for PrivateMemory {}

impl PrivateMemory {
    /// `size` bytes of zeroes.
    pub(crate) fn new(size: u64) -> io::Result<Self> {
        let length = usize::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: fresh memory at an address that the system chooses.
        let base = unsafe {
            VirtualAlloc(
                ptr::null(),
                length,
                MEM_RESERVE | MEM_COMMIT,
                PAGE_READWRITE,
            )
        };
        let base = NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { base, size })
    }

    /// The address of `length` bytes at `offset`.
    fn at(&self, offset: u64, length: u64) -> Result<NonNull<u8>, Fault> {
        let outside = Fault::OutOfBounds {
            offset,
            length,
            size: self.size,
        };
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(outside);
        }
        let start = usize::try_from(offset).map_err(|_| outside)?;
        // SAFETY: offset <= size, so the address is inside the allocation or at its end.
        Ok(unsafe { self.base.add(start) })
    }

    fn word(&self, offset: u64) -> Result<&AtomicU64, Fault> {
        if !offset.is_multiple_of(8) {
            return Err(Fault::Misaligned { offset });
        }
        let at = self.at(offset, 8)?.as_ptr().cast();
        // SAFETY: eight aligned bytes of memory that is never freed; atomics may be shared with any writer.
        Ok(unsafe { AtomicU64::from_ptr(at) })
    }

    fn byte(&self, offset: u64) -> Result<&AtomicU8, Fault> {
        let at = self.at(offset, 1)?.as_ptr();
        // SAFETY: a byte of memory that is never freed; atomics may be shared with any writer.
        Ok(unsafe { AtomicU8::from_ptr(at) })
    }
}

impl SharedMemory for PrivateMemory {
    fn size(&self) -> u64 {
        self.size
    }

    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        Ok(self.word(offset)?.load(Ordering::Relaxed))
    }

    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        Ok(self.word(offset)?.load(Ordering::Acquire))
    }

    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.word(offset)?.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
        self.word(offset)?.store(value, Ordering::Release);
        Ok(())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.at(offset, into.len() as u64)?;
        for (at, byte) in (offset..).zip(into) {
            *byte = self.byte(at)?.load(Ordering::Relaxed);
        }
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        self.at(offset, from.len() as u64)?;
        for (at, byte) in (offset..).zip(from) {
            self.byte(at)?.store(*byte, Ordering::Relaxed);
        }
        Ok(())
    }
}
