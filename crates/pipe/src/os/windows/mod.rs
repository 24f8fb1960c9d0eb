//! Windows: the standard streams' handles are duplicated, replaced by ones that lead to
//! `NUL`, and closed. Bytes pass as they are; a console's, too, which are in the console's
//! code page.
#![allow(
    unsafe_code,
    reason = "a process's standard handles are taken from it, which only raw handles can say"
)]

use std::fs::File;
use std::io;
use std::os::windows::io::{
    AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, IntoRawHandle, OwnedHandle, RawHandle,
};

use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::System::Console::{
    STD_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, SetStdHandle,
};

/// Standard input and output as files of our own, unbuffered. The streams themselves
/// lead nowhere from then on: dropping a file closes its direction for the program
/// behind it. No other thread may be in the middle of using them.
///
/// # Errors
/// What the system refused, or that there is no such stream; the streams are then as they
/// were, or lead nowhere.
pub fn take_standard_streams() -> io::Result<(File, File)> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let (input, output) = (stdin.as_handle(), stdout.as_handle());
    let before = [input.as_raw_handle(), output.as_raw_handle()];
    let files = (own(input)?, own(output)?);
    lead_nowhere(STD_INPUT_HANDLE)?;
    lead_nowhere(STD_OUTPUT_HANDLE)?;
    let errors = io::stderr().as_raw_handle();
    for (place, handle) in before.iter().enumerate() {
        // Several streams may share one handle; the one for errors stays.
        let is_closed = before.iter().take(place).any(|other| other == handle);
        if *handle != errors && !is_closed {
            close(*handle);
        }
    }
    Ok(files)
}

fn own(stream: BorrowedHandle<'_>) -> io::Result<File> {
    // A process without a console may have none (GetStdHandle's documentation).
    let handle = stream.as_raw_handle();
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "this program was started without standard input or output",
        ));
    }
    Ok(File::from(stream.try_clone_to_owned()?))
}

fn lead_nowhere(stream: STD_HANDLE) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("NUL")?;
    // It stays open as long as the process, like any standard handle.
    let null = null.into_raw_handle();
    // SAFETY: `null` is an open handle that nobody else owns.
    if unsafe { SetStdHandle(stream, null) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn close(former: RawHandle) {
    // SAFETY: `former` was open, as duplicating it has shown, belongs to the process, and
    // is no standard handle any more, so nobody else uses or closes it.
    drop(unsafe { OwnedHandle::from_raw_handle(former) });
}
