//! The end of a process whose mapped memory cannot be read any more.
//!
//! A section cannot shrink, and a view keeps it alive when the VMM has ended. What is left: a
//! section of a file whose disk or network share fails (an in-page error), and whatever else
//! takes pages of a view away (an access violation inside it; pages that were only reserved
//! are refused when they are mapped). There is nothing to go back to. The handler has a thread say so over the channel, waits for that no
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
pub const HINT: &str = "the disk or share with the VM's memory file has failed";
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use vmshm_shm::{Mapping, Protection};
    use windows_sys::Win32::System::Diagnostics::Debug::{EXCEPTION_RECORD, RaiseException};

    use super::super::trial::memory_file;
    use super::*;

    const ROLE: &str = "VMSHM_MONITOR_TEST_FAULTS";
    const WORDS: &[u8] = b"last words";

    fn judged(code: i32, address: usize) -> bool {
        let mut record = EXCEPTION_RECORD {
            ExceptionCode: code,
            ..Default::default()
        };
        record.ExceptionInformation[1] = address;
        let pointers = EXCEPTION_POINTERS {
            ExceptionRecord: &raw mut record,
            ContextRecord: ptr::null_mut(),
        };
        is_lost_memory(&raw const pointers)
    }

    #[test]
    fn only_faults_of_mapped_memory_count() {
        let file = memory_file(65536);
        let mapping = Mapping::whole(&file, 65536, Protection::Read).expect("mapped");
        let local = 0_u64;
        let own = (&raw const local).addr();
        let mut at = ptr::null::<u8>();
        let mut region = MEMORY_BASIC_INFORMATION::default();
        // The first view of that size is the mapping's.
        loop {
            // SAFETY: any address may be asked for; `region` is a place for the answer.
            let length = unsafe {
                VirtualQuery(
                    at.cast(),
                    &raw mut region,
                    size_of::<MEMORY_BASIC_INFORMATION>(),
                )
            };
            assert!(length != 0, "no view");
            if region.Type == MEM_MAPPED && region.RegionSize == 65536 {
                break;
            }
            at = ptr::without_provenance(region.BaseAddress.addr() + region.RegionSize);
        }
        assert!(judged(
            EXCEPTION_ACCESS_VIOLATION,
            region.BaseAddress.addr()
        ));
        assert!(judged(EXCEPTION_IN_PAGE_ERROR, own));
        assert!(!judged(EXCEPTION_ACCESS_VIOLATION, own));
        assert!(!judged(EXCEPTION_ACCESS_VIOLATION, 0));
        assert!(!judged(1, own));
        assert!(!is_lost_memory(ptr::null()));
        drop(mapping);
    }

    /// Not a test of its own: what the other process does.
    #[test]
    fn role() {
        if std::env::var_os(ROLE).is_none() {
            return;
        }
        install(WORDS.to_vec());
        // SAFETY: the fault that a failing disk causes, without arguments.
        unsafe { RaiseException(EXCEPTION_IN_PAGE_ERROR.cast_unsigned(), 0, 0, ptr::null()) };
    }

    #[test]
    fn the_last_words_are_said_and_the_process_ends() {
        let program = std::env::current_exe().expect("it runs");
        let output = Command::new(program)
            .args([
                "--exact",
                "os::windows::lost_memory::tests::role",
                "--nocapture",
            ])
            .env(ROLE, "1")
            .output()
            .expect("started");
        assert_eq!(output.status.code(), Some(EXIT_CODE.cast_signed()));
        assert!(output.stdout.ends_with(WORDS), "{output:?}");
    }
}
