//! Standard streams: bytes as they are, what a console shows, and whether somebody still reads.
//!
//! Sources: GetConsoleMode and ENABLE_VIRTUAL_TERMINAL_PROCESSING (learn.microsoft.com/windows/console);
//! FILE_PIPE_LOCAL_INFORMATION (learn.microsoft.com/windows-hardware/drivers/ddi/ntifs).
#![allow(
    unsafe_code,
    reason = "modes of consoles, flags of handles and states of pipes have no safe interface"
)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle};
use std::time::{Duration, Instant};

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_PIPE_CLOSING_STATE, FILE_PIPE_DISCONNECTED_STATE, FILE_PIPE_LOCAL_INFORMATION,
    FilePipeLocalInformation, NtQueryInformationFile,
};
use windows_sys::Win32::Foundation::{
    HANDLE_FLAG_INHERIT, SetHandleInformation, WAIT_FAILED, WAIT_OBJECT_0,
};
use windows_sys::Win32::System::Console::{
    ENABLE_VIRTUAL_TERMINAL_PROCESSING, GetConsoleMode, SetConsoleMode,
};
use windows_sys::Win32::System::IO::IO_STATUS_BLOCK;
use windows_sys::Win32::System::Threading::WaitForSingleObject;

use super::{Descriptor, Signals};

/// How often a wait looks whether stdout's reader has left, of which nobody tells.
const LOOK: Duration = Duration::from_millis(200);

/// Keeps the standard streams from processes that are started: who waits for the end of a
/// pipe must not wait for a reaper, too. What a process is to have, it is given.
pub(crate) fn prepare_streams() {
    let (input, output, errors) = (io::stdin(), io::stdout(), io::stderr());
    for stream in [input.as_handle(), output.as_handle(), errors.as_handle()] {
        // SAFETY: the handle is borrowed from the stream. One that is missing, or that cannot be kept, stays as it is.
        unsafe { SetHandleInformation(stream.as_raw_handle(), HANDLE_FLAG_INHERIT, 0) };
    }
}

/// Standard output as a file of our own, without the buffer that looks for ends of lines.
pub(crate) fn standard_output() -> io::Result<File> {
    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}

/// A file, lent.
pub(crate) fn descriptor(file: &File) -> Descriptor<'_> {
    file.as_handle()
}

/// Whether a terminal takes escape sequences for colours. A console of Windows does once it
/// is told to; any other terminal (of Cygwin, of MSYS) does.
pub(crate) fn shows_colour<T: AsHandle>(terminal: &T) -> bool {
    let console = terminal.as_handle().as_raw_handle();
    let mut mode = 0;
    // SAFETY: the handle is borrowed, and `mode` is where the mode goes.
    if unsafe { GetConsoleMode(console, &mut mode) } == 0 {
        return true;
    }
    // SAFETY: the handle is borrowed.
    unsafe { SetConsoleMode(console, mode | ENABLE_VIRTUAL_TERMINAL_PROCESSING) != 0 }
}

/// Whether whoever read stdout has left, so that printing more makes no sense. Of what is no
/// pipe of Windows it is not known: there the next write fails.
pub(crate) fn reader_has_left() -> bool {
    other_end_has_left(io::stdout().as_handle())
}

fn other_end_has_left(pipe: BorrowedHandle<'_>) -> bool {
    let mut status = MaybeUninit::<IO_STATUS_BLOCK>::zeroed();
    let mut known = FILE_PIPE_LOCAL_INFORMATION::default();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a structure of forty bytes"
    )]
    let length = size_of::<FILE_PIPE_LOCAL_INFORMATION>() as u32;
    // SAFETY: the handle is borrowed; `known` has room for `length` bytes, which any pattern of bytes may fill.
    let result = unsafe {
        NtQueryInformationFile(
            pipe.as_raw_handle(),
            status.as_mut_ptr(),
            (&raw mut known).cast(),
            length,
            FilePipeLocalInformation,
        )
    };
    result == 0
        && matches!(
            known.NamedPipeState,
            FILE_PIPE_CLOSING_STATE | FILE_PIPE_DISCONNECTED_STATE
        )
}

/// Waits for a while; whether the user asked to stop, or nobody reads stdout any more.
pub(crate) fn wait(signals: &Signals, pause: Duration) -> io::Result<bool> {
    let start = Instant::now();
    loop {
        let left = pause.saturating_sub(start.elapsed());
        // Rounded up, so that the last part of a millisecond is no busy loop.
        let slice = left.min(LOOK).as_micros().div_ceil(1000);
        let slice = u32::try_from(slice).unwrap_or(0);
        // SAFETY: the event is borrowed.
        match unsafe { WaitForSingleObject(signals.descriptor().as_raw_handle(), slice) } {
            WAIT_OBJECT_0 => return Ok(true),
            WAIT_FAILED => return Err(io::Error::last_os_error()),
            _ if reader_has_left() => return Ok(true),
            _ if start.elapsed() >= pause => return Ok(false),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_reader_is_seen() {
        let (reader, writer) = io::pipe().expect("a pipe");
        assert!(!other_end_has_left(writer.as_handle()));
        drop(reader);
        assert!(other_end_has_left(writer.as_handle()));
        let file = tempfile::tempfile().expect("a file");
        assert!(!other_end_has_left(file.as_handle()));
        assert!(shows_colour(&file));
    }
}
