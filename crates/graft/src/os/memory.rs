//! The memory of another process, by copying, and a memory file mapped here, into which
//! is copied. Nothing here makes a reference to either: others write both.

use std::ffi::c_void;
use std::ptr::null_mut;

use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Copies bytes out of a process, all of them or none that count.
pub(crate) fn read_memory(process: u32, address: u64, into: &mut [u8]) -> Result<(), Errno> {
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    // SAFETY: `local` names a live buffer of that length, borrowed for writing.
    let copied = unsafe { copy(process, &[local], &[address], Direction::Here) }?;
    is_whole(copied, into.len())
}

/// Copies bytes into a process; fails where its pages may not be written.
pub(crate) fn write_memory(process: u32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let local = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: `local` names a live buffer of that length, which is only read.
    let copied = unsafe { copy(process, &[local], &[address], Direction::There) }?;
    is_whole(copied, bytes.len())
}

fn is_whole(copied: usize, wanted: usize) -> Result<(), Errno> {
    if copied == wanted {
        Ok(())
    } else {
        Err(Errno::FAULT)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Here,
    There,
}

/// Copies between buffers here and as many addresses there, in one call.
///
/// # Safety
/// `local` must name memory that lives, and that may be written if bytes come here.
unsafe fn copy(
    process: u32,
    local: &[libc::iovec],
    addresses: &[u64],
    direction: Direction,
) -> Result<usize, Errno> {
    let process = i32::try_from(process).map_err(|_| Errno::SRCH)?;
    let mut remote = Vec::with_capacity(local.len());
    for (local, address) in local.iter().zip(addresses) {
        let address = usize::try_from(*address).map_err(|_| Errno::FAULT)?;
        remote.push(libc::iovec {
            iov_base: std::ptr::without_provenance_mut(address),
            iov_len: local.iov_len,
        });
    }
    let count = libc::c_ulong::try_from(remote.len()).map_err(|_| Errno::INVAL)?;
    let (local, remote) = (local.as_ptr(), remote.as_ptr());
    let copied = if direction == Direction::Here {
        // SAFETY: the caller vouches for `local`; `remote` is the kernel's to check.
        unsafe { libc::process_vm_readv(process, local, count, remote, count, 0) }
    } else {
        // SAFETY: as above.
        unsafe { libc::process_vm_writev(process, local, count, remote, count, 0) }
    };
    usize::try_from(copied).map_err(|_| {
        std::io::Error::last_os_error()
            .raw_os_error()
            .map_or(Errno::IO, Errno::from_raw_os_error)
    })
}

/// A run of bytes to be copied: from where in the process, to where in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) offset: u64,
    pub(crate) at: u64,
    pub(crate) length: u64,
}

/// How many runs one call takes: with runs of 1 MiB, less than the kernel copies at once.
const MOST_RUNS: usize = 1000;

/// A whole memory file, mapped here and present; unmapped on drop. The file must be
/// sealed against shrinking: a mapping past a file's end would raise SIGBUS.
#[derive(Debug)]
pub(crate) struct FileView {
    start: *mut c_void,
    length: usize,
}

// SAFETY: the mapping belongs to the process and not to a thread, and nothing here
// makes a reference into it.
unsafe impl Send for FileView {}
// SAFETY: as above; the kernel copies into it, whoever asks.
unsafe impl Sync for FileView {}

impl FileView {
    /// Maps the file, asks for huge pages, and makes all of it present.
    pub(crate) fn populated(file: impl AsFd, length: u64) -> Result<Self, Errno> {
        let length = usize::try_from(length).map_err(|_| Errno::NOMEM)?;
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe {
            mmap(
                null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        }?;
        let view = Self { start, length };
        // A kernel without huge pages for such files says so, and small ones do.
        // SAFETY: the mapping was made above with this length.
        let _ = unsafe { madvise(view.start, view.length, Advice::LinuxHugepage) };
        // SAFETY: as above; pages appear, and no byte changes.
        unsafe { madvise(view.start, view.length, Advice::LinuxPopulateWrite) }?;
        Ok(view)
    }

    /// Copies runs of bytes of a process into the file, as many with one call as the kernel
    /// takes.
    pub(crate) fn fill(&self, process: u32, runs: &[Run]) -> Result<(), Errno> {
        for runs in runs.chunks(MOST_RUNS) {
            let mut local = Vec::with_capacity(runs.len());
            let mut addresses = Vec::with_capacity(runs.len());
            let mut wanted = 0_usize;
            for run in runs {
                let offset = usize::try_from(run.offset).map_err(|_| Errno::INVAL)?;
                let length = usize::try_from(run.length).map_err(|_| Errno::INVAL)?;
                let end = offset.checked_add(length).ok_or(Errno::INVAL)?;
                if end > self.length {
                    return Err(Errno::INVAL);
                }
                local.push(libc::iovec {
                    iov_base: self.start.wrapping_byte_add(offset),
                    iov_len: length,
                });
                addresses.push(run.at);
                wanted = wanted.checked_add(length).ok_or(Errno::INVAL)?;
            }
            // SAFETY: the ranges lie in the mapping, which lives as long as `self`, and to
            // which nobody here holds a reference.
            let copied = unsafe { copy(process, &local, &addresses, Direction::Here) }?;
            is_whole(copied, wanted)?;
        }
        Ok(())
    }
}

impl Drop for FileView {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this start and length, and nothing refers to it.
        let _ = unsafe { munmap(self.start, self.length) };
    }
}
