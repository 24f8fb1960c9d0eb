//! Reads and writes another process's memory by copying, through a handle that stays bound to
//! it. `WriteProcessMemory` writes pages that may only be read, too, by changing them for a
//! moment: whoever writes has seen them writable.
#![allow(
    unsafe_code,
    reason = "the system copies between processes by raw calls"
)]

use std::os::windows::io::{AsRawHandle, OwnedHandle};

use windows_sys::Win32::Foundation::{ERROR_INVALID_ADDRESS, ERROR_PARTIAL_COPY};
use windows_sys::Win32::System::Diagnostics::Debug::{ReadProcessMemory, WriteProcessMemory};
use windows_sys::Win32::System::Threading::{
    PROCESS_QUERY_INFORMATION, PROCESS_VM_OPERATION, PROCESS_VM_READ, PROCESS_VM_WRITE,
};

use super::code;
use super::handle::{has_ended, last_error, open_process};
use super::liveness::Liveness;
use super::process::Process;
use crate::address::VmmVirtual;
use crate::os::facts::MemoryRead;

/// The memory of one living process.
#[derive(Debug)]
pub(crate) struct ProcessMemory {
    process: OwnedHandle,
}

impl ProcessMemory {
    /// Opens the memory of the process that `liveness` holds. The error is the system's code;
    /// [`code::NO_PROCESS`] where the process is gone.
    pub(crate) fn open(process: &Process, liveness: &Liveness) -> Result<Self, i32> {
        let rights =
            PROCESS_VM_READ | PROCESS_VM_WRITE | PROCESS_VM_OPERATION | PROCESS_QUERY_INFORMATION;
        let process = open_process(process.pid(), rights)?;
        // Opened by number: alive now means that the number was still the process's own.
        if liveness.is_gone() {
            return Err(code::NO_PROCESS);
        }
        Ok(Self { process })
    }

    /// Fills `into` from `address`. The error is the system's code.
    pub(crate) fn read(&self, address: VmmVirtual, into: &mut [u8]) -> Result<(), i32> {
        read_from(&self.process, address.0, into)
    }

    /// Writes `from` to `address`; errors as for [`read`](Self::read).
    pub(crate) fn write(&self, address: VmmVirtual, from: &[u8]) -> Result<(), i32> {
        let at = usize::try_from(address.0).map_err(|_| ERROR_INVALID_ADDRESS.cast_signed())?;
        let mut copied = 0;
        // SAFETY: the address is the other process's; the system reads no more than the
        // buffer's length.
        let done = unsafe {
            WriteProcessMemory(
                self.process.as_raw_handle(),
                std::ptr::without_provenance(at),
                from.as_ptr().cast(),
                from.len(),
                &raw mut copied,
            )
        };
        answer(&self.process, done, copied, from.len())
    }

    /// Fills `into` from one run of memory.
    pub(crate) fn read_whole(
        &self,
        _liveness: &Liveness,
        address: VmmVirtual,
        into: &mut [u8],
    ) -> Result<(), i32> {
        // The handle is bound to the process, so that nothing else is ever read.
        self.read(address, into)
    }

    /// Fills `into` from several runs of memory, one after the other, that together are
    /// as long.
    pub(crate) fn read_pieces(
        &self,
        _liveness: &Liveness,
        pieces: &[(VmmVirtual, usize)],
        into: &mut [u8],
    ) -> Result<(), i32> {
        let mut rest = into;
        for &(address, length) in pieces {
            let Some((now, later)) = rest.split_at_mut_checked(length) else {
                return Err(code::BAD_DESCRIPTOR);
            };
            self.read(address, now)?;
            rest = later;
        }
        Ok(())
    }

    /// Carries out many reads. Those that fail are reported to `failed` by their index and
    /// the system's code; the others are filled.
    ///
    /// The error means that nothing of what was read may be used.
    pub(crate) fn read_many(
        &self,
        liveness: &Liveness,
        reads: &mut [MemoryRead<'_>],
        failed: &mut dyn FnMut(usize, i32),
    ) -> Result<(), i32> {
        for (index, read) in reads.iter_mut().enumerate() {
            if let Err(code) = self.read(read.from, read.into) {
                failed(index, code);
            }
        }
        if liveness.is_gone() {
            return Err(code::NO_PROCESS);
        }
        Ok(())
    }
}

/// Fills `into` from an address of an opened process. The error is the system's code.
pub(super) fn read_from(process: &OwnedHandle, at: u64, into: &mut [u8]) -> Result<(), i32> {
    let at = usize::try_from(at).map_err(|_| ERROR_INVALID_ADDRESS.cast_signed())?;
    let mut copied = 0;
    // SAFETY: the address is the other process's; the system writes no more than the buffer's
    // length, and fails where nothing is mapped.
    let done = unsafe {
        ReadProcessMemory(
            process.as_raw_handle(),
            std::ptr::without_provenance(at),
            into.as_mut_ptr().cast(),
            into.len(),
            &raw mut copied,
        )
    };
    answer(process, done, copied, into.len())
}

fn answer(process: &OwnedHandle, done: i32, copied: usize, wanted: usize) -> Result<(), i32> {
    if done == 0 {
        let failed = last_error();
        return Err(if has_ended(process) {
            code::NO_PROCESS
        } else {
            failed
        });
    }
    if copied == wanted {
        Ok(())
    } else {
        Err(ERROR_PARTIAL_COPY.cast_signed())
    }
}
