//! The end of a process whose mapped memory cannot be read any more.
//!
//! A section cannot shrink, and a view keeps it alive when the VMM has ended. What is left: a
//! section of a file whose disk or network share fails (an in-page error), and pages that
//! the VMM reserved but never committed (an access violation inside a view). There is
//! nothing to go back to. The handler has a thread say so over the channel, waits for that no
//! longer than [`PATIENCE_MILLIS`], and leaves.

use std::fs::File;
use std::io::Write;
use std::mem::size_of;
use std::os::windows::io::AsHandle;
use std::ptr;
use std::sync::OnceLock;

use windows_sys::Win32::Foundation::{EXCEPTION_ACCESS_VIOLATION, EXCEPTION_IN_PAGE_ERROR, HANDLE};
use windows_sys::Win32::System::Diagnostics::Debug::{
    EXCEPTION_POINTERS, SetUnhandledExceptionFilter,
};
use windows_sys::Win32::System::Memory::{MEM_MAPPED, MEMORY_BASIC_INFORMATION, VirtualQuery};
use windows_sys::Win32::System::Threading::{
    CreateEventW, GetCurrentProcess, INFINITE, SetEvent, TerminateProcess, WaitForSingleObject,
};

/// What is said then.
pub const MESSAGE: &str = "the guest's memory cannot be read any more";
/// What may have happened.
pub const HINT: &str =
    "the disk or share with the VM's memory file has failed, or the VMM does not back that memory";
/// The exit code.
pub const EXIT_CODE: u32 = 75;
/// How long the last words may take, in milliseconds: a peer may not read.
const PATIENCE_MILLIS: u32 = 1000;
/// What `SetUnhandledExceptionFilter` documents for going on with the search for a handler.
const CONTINUE_SEARCH: i32 = 0;

/// Two events: the memory is lost, and that was said.
struct Events {
    lost: HANDLE,
    told: HANDLE,
}

// SAFETY: handles of events may be used by any thread.
unsafe impl Send for Events {}
// SAFETY: as above.
unsafe impl Sync for Events {}

static EVENTS: OnceLock<Events> = OnceLock::new();

unsafe extern "system" fn leave(pointers: *const EXCEPTION_POINTERS) -> i32 {
    if !is_lost_memory(pointers) {
        return CONTINUE_SEARCH;
    }
    if let Some(events) = EVENTS.get() {
        // SAFETY: both events stay open as long as the process lives.
        unsafe { SetEvent(events.lost) };
        // SAFETY: as above.
        unsafe { WaitForSingleObject(events.told, PATIENCE_MILLIS) };
    }
    // SAFETY: no preconditions.
    let own = unsafe { GetCurrentProcess() };
    // SAFETY: the handle that stands for this process is always open.
    unsafe { TerminateProcess(own, EXIT_CODE) };
    CONTINUE_SEARCH
}

fn is_lost_memory(pointers: *const EXCEPTION_POINTERS) -> bool {
    // SAFETY: the system passes pointers that are valid while the filter runs, or null.
    let Some(pointers) = (unsafe { pointers.as_ref() }) else {
        return false;
    };
    // SAFETY: as above.
    let Some(record) = (unsafe { pointers.ExceptionRecord.as_ref() }) else {
        return false;
    };
    match record.ExceptionCode {
        EXCEPTION_IN_PAGE_ERROR => true,
        EXCEPTION_ACCESS_VIOLATION => {
            // The second word is the address (EXCEPTION_RECORD's documentation).
            let [_, address, ..] = record.ExceptionInformation;
            let mut region = MEMORY_BASIC_INFORMATION::default();
            // SAFETY: any address may be asked for; `region` is a place for the answer.
            let length = unsafe {
                VirtualQuery(
                    ptr::without_provenance(address),
                    &raw mut region,
                    size_of::<MEMORY_BASIC_INFORMATION>(),
                )
            };
            length != 0 && region.Type == MEM_MAPPED
        }
        _ => false,
    }
}

/// Installs the handler; `frame` is what the channel on standard output shall carry then.
pub fn install(frame: Vec<u8>) {
    let event = || {
        // SAFETY: an event of this process's own, without a name; nothing is passed by address.
        unsafe { CreateEventW(ptr::null(), 1, 0, ptr::null()) }
    };
    let (lost, told) = (event(), event());
    let output = std::io::stdout().as_handle().try_clone_to_owned();
    let (Ok(output), false) = (output, lost.is_null() || told.is_null()) else {
        // Without it the fault itself ends the process, which is right as well.
        return;
    };
    if EVENTS.set(Events { lost, told }).is_err() {
        return;
    }
    let speaker = std::thread::Builder::new().name("last-words".to_owned());
    let spawned = speaker.spawn(move || {
        let Some(events) = EVENTS.get() else {
            return;
        };
        // SAFETY: the event stays open as long as the process lives.
        unsafe { WaitForSingleObject(events.lost, INFINITE) };
        let _ = File::from(output).write_all(&frame);
        // SAFETY: as above.
        unsafe { SetEvent(events.told) };
    });
    if spawned.is_ok() {
        // SAFETY: the filter calls only what may be called in one.
        unsafe { SetUnhandledExceptionFilter(Some(leave)) };
    }
}
