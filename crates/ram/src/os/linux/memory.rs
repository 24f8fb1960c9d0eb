//! Reads and writes another process's memory by copying.
//!
//! Single accesses go through `/proc/PID/mem`, which stays bound to the address space
//! that it was opened on: when the process ends or replaces itself they fail, and
//! never reach a later process with the same number. Batches of reads go through
//! `process_vm_readv`, which knows a process by number only; their result counts only
//! if the process is seen to live afterwards.

use std::io::IoSliceMut;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, pread, pwrite};

use super::liveness::Liveness;
use super::process::Process;
use crate::address::VmmVirtual;
use crate::os::facts::MemoryRead;

/// The system's limit on the pieces of one vectored call.
const PIECES_PER_CALL: usize = 1024;
/// Up to this length the bound descriptor is as fast as a direct copy.
const SHORT: usize = 8192;

/// The memory of one living process.
#[derive(Debug)]
pub(crate) struct ProcessMemory {
    pid: Pid,
    descriptor: OwnedFd,
}

impl ProcessMemory {
    /// Opens the memory of the process that `liveness` holds.
    ///
    /// The error is the system's code; `ESRCH` where the process is gone.
    pub(crate) fn open(process: &Process, liveness: &Liveness) -> Result<Self, i32> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
        let descriptor = open(process.path("mem"), flags, Mode::empty())
            .map_err(|error| error.raw_os_error())?;
        // Opened by number: alive now means that the number was still the process's own.
        if liveness.is_gone() {
            return Err(Errno::SRCH.raw_os_error());
        }
        let pid = i32::try_from(process.pid()).map_err(|_| Errno::SRCH.raw_os_error())?;
        Ok(Self {
            pid: Pid::from_raw(pid),
            descriptor,
        })
    }

    /// Fills `into` from `address`. The error is the system's code: `ESRCH` once the
    /// process is gone, `EIO` where nothing is mapped.
    pub(crate) fn read(&self, address: VmmVirtual, into: &mut [u8]) -> Result<(), i32> {
        let mut done = 0;
        while done < into.len() {
            let at = address.0 + done as u64;
            match pread(&self.descriptor, &mut into[done..], at) {
                // End of file is how an address space that is no more answers.
                Ok(0) => return Err(Errno::SRCH.raw_os_error()),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.raw_os_error()),
            }
        }
        Ok(())
    }

    /// Writes `from` to `address`; errors as for [`read`](Self::read).
    pub(crate) fn write(&self, address: VmmVirtual, from: &[u8]) -> Result<(), i32> {
        let mut done = 0;
        while done < from.len() {
            let at = address.0 + done as u64;
            match pwrite(&self.descriptor, &from[done..], at) {
                Ok(0) => return Err(Errno::SRCH.raw_os_error()),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.raw_os_error()),
            }
        }
        Ok(())
    }

    /// Fills `into` from one run of memory; long runs without a copy in between.
    pub(crate) fn read_whole(
        &self,
        liveness: &Liveness,
        address: VmmVirtual,
        into: &mut [u8],
    ) -> Result<(), i32> {
        if into.len() <= SHORT {
            return self.read(address, into);
        }
        self.read_pieces(liveness, &[(address, into.len())], into)
    }

    /// Fills `into` from several runs of memory, one after the other, that together are
    /// as long.
    pub(crate) fn read_pieces(
        &self,
        liveness: &Liveness,
        pieces: &[(VmmVirtual, usize)],
        into: &mut [u8],
    ) -> Result<(), i32> {
        let mut rest = into;
        for batch in pieces.chunks(PIECES_PER_CALL) {
            let length = batch.iter().map(|piece| piece.1).sum();
            let Some((now, later)) = rest.split_at_mut_checked(length) else {
                return Err(Errno::INVAL.raw_os_error());
            };
            self.read_batch(batch, now)?;
            rest = later;
        }
        if liveness.is_gone() {
            return Err(Errno::SRCH.raw_os_error());
        }
        Ok(())
    }

    fn read_batch(&self, pieces: &[(VmmVirtual, usize)], into: &mut [u8]) -> Result<(), i32> {
        let mut done = 0;
        while done < into.len() {
            let mut skip = done;
            let remote: Vec<RemoteIoVec> = pieces
                .iter()
                .filter_map(|&(address, length)| {
                    let skipped = skip.min(length);
                    skip -= skipped;
                    (skipped < length).then(|| RemoteIoVec {
                        base: usize::try_from(address.0 + skipped as u64).unwrap_or(usize::MAX),
                        len: length - skipped,
                    })
                })
                .collect();
            let mut local = [IoSliceMut::new(&mut into[done..])];
            match process_vm_readv(self.pid, &mut local, &remote) {
                Ok(0) => return Err(Errno::FAULT.raw_os_error()),
                Ok(count) => done += count,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error as i32),
            }
        }
        Ok(())
    }

    /// Carries out many reads in few calls. Those that fail are reported to `failed`
    /// by their index and the system's code; the others are filled.
    ///
    /// The error means that nothing of what was read may be used.
    pub(crate) fn read_many(
        &self,
        liveness: &Liveness,
        reads: &mut [MemoryRead<'_>],
        failed: &mut dyn FnMut(usize, i32),
    ) -> Result<(), i32> {
        let mut next = 0;
        while next < reads.len() {
            let batch_end = reads.len().min(next + PIECES_PER_CALL);
            let batch = &mut reads[next..batch_end];
            let remote: Vec<RemoteIoVec> = batch
                .iter()
                .map(|read| RemoteIoVec {
                    base: usize::try_from(read.from.0).unwrap_or(usize::MAX),
                    len: read.into.len(),
                })
                .collect();
            let lengths: Vec<usize> = remote.iter().map(|piece| piece.len).collect();
            let mut local: Vec<IoSliceMut<'_>> = batch
                .iter_mut()
                .map(|read| IoSliceMut::new(&mut *read.into))
                .collect();
            match process_vm_readv(self.pid, &mut local, &remote) {
                Ok(mut count) => {
                    for length in lengths {
                        if count < length {
                            break;
                        }
                        count -= length;
                        next += 1;
                    }
                    if next < batch_end {
                        // The call stopped short inside or before this one: try it alone,
                        // which also tells why it fails.
                        let read = &mut reads[next];
                        if let Err(code) = self.read(read.from, read.into) {
                            failed(next, code);
                        }
                        next += 1;
                    }
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EFAULT) => {
                    let read = &mut reads[next];
                    if let Err(code) = self.read(read.from, read.into) {
                        failed(next, code);
                    }
                    next += 1;
                }
                Err(error) => return Err(error as i32),
            }
        }
        if liveness.is_gone() {
            return Err(Errno::SRCH.raw_os_error());
        }
        Ok(())
    }
}
