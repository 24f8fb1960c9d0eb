//! Handles that go into another process. It refuses to take any from a process that this one
//! started: a number out of there would name a handle of this process's own.
#![allow(
    unsafe_code,
    reason = "duplicating handles between processes has no safe binding"
)]

use std::io;
use std::os::windows::io::{
    AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle, RawHandle,
};
use std::process::Child;

use windows_sys::Win32::Foundation::{
    DUPLICATE_SAME_ACCESS, DuplicateHandle, GetHandleInformation, HANDLE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

/// Bytes of a frame that tell of a handle: its number in the process that gets it.
pub(crate) const HANDED_BYTES: usize = 8;

/// Which way handles may go.
#[derive(Debug)]
pub(crate) enum Handing {
    /// Into this process, which was started.
    To(OwnedHandle),
    /// From the process that started this one.
    From,
}

impl Handing {
    /// To a process that was just started.
    pub(crate) fn to(child: &Child) -> io::Result<Self> {
        Ok(Self::To(child.as_handle().try_clone_to_owned()?))
    }

    /// Puts a handle of the same object and rights into the peer; how the frame tells of it.
    /// A handle whose frame is never read goes with the peer.
    pub(crate) fn hand_over(&self, handed: BorrowedHandle<'_>) -> io::Result<[u8; HANDED_BYTES]> {
        let Self::To(process) = self else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let mut number: HANDLE = std::ptr::null_mut();
        // SAFETY: no preconditions; it answers a handle that stands for this process.
        let own = unsafe { GetCurrentProcess() };
        // SAFETY: all three handles are open as long as they are borrowed, and `number` is a
        // place for one handle.
        let done = unsafe {
            DuplicateHandle(
                own,
                handed.as_raw_handle(),
                process.as_raw_handle(),
                &raw mut number,
                0,
                0,
                DUPLICATE_SAME_ACCESS,
            )
        };
        if done == 0 {
            return Err(io::Error::last_os_error());
        }
        // Handles of 64-bit processes fit into 64 bits, those of 32-bit ones into 32.
        Ok((number.addr() as u64).to_le_bytes())
    }

    /// The handle that a frame tells of, if that can be one.
    pub(crate) fn take(&self, description: &[u8]) -> Option<OwnedHandle> {
        let (Self::From, Ok(number)) = (self, <[u8; HANDED_BYTES]>::try_from(description)) else {
            return None;
        };
        let number = usize::try_from(u64::from_le_bytes(number)).ok()?;
        let handle: RawHandle = std::ptr::without_provenance_mut(number);
        if handle.is_null() || handle == INVALID_HANDLE_VALUE {
            return None;
        }
        let mut flags = 0;
        // SAFETY: any number may be asked for; `flags` is a place for 32 bits.
        if unsafe { GetHandleInformation(handle, &raw mut flags) } == 0 {
            return None;
        }
        // SAFETY: it is an open handle, and the process that started this one says that it put
        // it here for this frame: nobody else has it.
        Some(unsafe { OwnedHandle::from_raw_handle(handle) })
    }
}

#[cfg(test)]
mod tests {
    use std::os::windows::io::AsHandle;

    use super::super::trial;
    use super::*;

    #[test]
    fn handles_go_one_way_only() {
        let (mut one, mut other) = trial::pair().expect("succeeds");
        let file = trial::file().expect("succeeds");
        let refused = other.send(&"back", Some(file.as_handle()));
        assert!(refused.is_err());
        one.send(&"there", Some(file.as_handle()))
            .expect("succeeds");
        // A frame that claims one all the same may name what this process has open.
        let number = file.as_raw_handle().addr() as u64;
        let starter = Handing::To(file.try_clone().expect("succeeds"));
        assert!(starter.take(&number.to_le_bytes()).is_none());
    }

    #[test]
    fn numbers_that_are_no_handles_are_refused() {
        for number in [0, u64::MAX, 0x7fff_fff0] {
            assert!(Handing::From.take(&number.to_le_bytes()).is_none());
        }
        assert!(Handing::From.take(&[1; 4]).is_none());
    }
}
