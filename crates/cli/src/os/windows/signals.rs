//! Ctrl-C, Ctrl-Break, and the end of the console or the session, as a flag and as an event. Where Ctrl-C was switched
//! off for this process (it leads a process group of its own) it stays off.
//!
//! Source: SetConsoleCtrlHandler, HandlerRoutine (learn.microsoft.com/windows/console/handlerroutine).
#![allow(
    unsafe_code,
    reason = "the handler of console control events is registered through the system's own interface"
)]

use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, OwnedHandle};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use windows_sys::Win32::Foundation::{FALSE, TRUE};
use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, CTRL_C_EVENT, CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT,
    SetConsoleCtrlHandler,
};
use windows_sys::Win32::System::Threading::{CreateEventW, SetEvent};
use windows_sys::core::BOOL;

use super::{Descriptor, check};
use crate::interruption::Interruption;

/// Whether one came. The handler has no argument of its own, so that there is one for the process.
static CAME: AtomicBool = AtomicBool::new(false);
/// What is waited for.
static EVENT: OnceLock<OwnedHandle> = OnceLock::new();
/// Whether the handler is registered: nothing, or the system's number of why not.
static HANDLER: OnceLock<Result<(), i32>> = OnceLock::new();

/// The system ends the process when its handler of a closed console returns, and after five seconds in any case
/// (HandlerRoutine, "Timeouts"): so long the command has for its good end.
const CLOSING: Duration = Duration::from_secs(5);

/// The events by which a user ends a command.
#[derive(Debug)]
pub(crate) struct Signals {
    event: &'static OwnedHandle,
}

impl Signals {
    /// From here on events that would end the process set the flag instead.
    pub(crate) fn watch() -> io::Result<Self> {
        let event = match EVENT.get() {
            Some(event) => event,
            None => {
                let made = make_event()?;
                EVENT.get_or_init(|| made)
            }
        };
        // Only now: the handler finds the event.
        let registered = HANDLER.get_or_init(|| {
            // SAFETY: the handler is a function of this program, which is never unloaded, and touches only statics.
            let done = unsafe { SetConsoleCtrlHandler(Some(handle), TRUE) };
            check(done).map_err(|error| error.raw_os_error().unwrap_or(0))
        });
        registered.map_err(io::Error::from_raw_os_error)?;
        Ok(Self { event })
    }

    /// Whether one came.
    pub(crate) fn came(&self) -> bool {
        CAME.load(Ordering::Relaxed)
    }

    /// Signalled once one came.
    pub(crate) fn descriptor(&self) -> Descriptor<'_> {
        self.event.as_handle()
    }
}

impl AsHandle for Interruption {
    fn as_handle(&self) -> Descriptor<'_> {
        self.descriptor()
    }
}

fn make_event() -> io::Result<OwnedHandle> {
    // SAFETY: no attributes and no name are given; both may be null.
    let event = unsafe { CreateEventW(std::ptr::null(), TRUE, FALSE, std::ptr::null()) };
    if event.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was made just now, and nobody else closes it.
    Ok(unsafe { OwnedHandle::from_raw_handle(event) })
}

/// What the system calls, in a thread of its own.
unsafe extern "system" fn handle(kind: u32) -> BOOL {
    if !is_ours(kind) {
        return FALSE;
    }
    // In this order: whoever is woken sees the flag.
    CAME.store(true, Ordering::Relaxed);
    if let Some(event) = EVENT.get() {
        // SAFETY: the event is open as long as the process lives.
        unsafe { SetEvent(event.as_raw_handle()) };
    }
    if !matches!(kind, CTRL_C_EVENT | CTRL_BREAK_EVENT) {
        // The main thread ends the process meanwhile.
        std::thread::sleep(CLOSING);
    }
    TRUE
}

const fn is_ours(kind: u32) -> bool {
    matches!(
        kind,
        CTRL_C_EVENT
            | CTRL_BREAK_EVENT
            | CTRL_CLOSE_EVENT
            | CTRL_LOGOFF_EVENT
            | CTRL_SHUTDOWN_EVENT
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::windows::process::CommandExt;
    use std::process::{Command, Stdio};
    use windows_sys::Win32::Foundation::WAIT_OBJECT_0;
    use windows_sys::Win32::System::Console::{AllocConsole, GenerateConsoleCtrlEvent};
    use windows_sys::Win32::System::Threading::{CREATE_NEW_PROCESS_GROUP, WaitForSingleObject};

    #[test]
    fn an_event_sets_the_flag_and_wakes_who_waits() {
        let signals = Signals::watch().expect("registered");
        assert!(!signals.came());
        // SAFETY: the handler may be called by anybody.
        assert_eq!(unsafe { handle(77) }, FALSE);
        assert!(!signals.came());
        // SAFETY: as above.
        assert_eq!(unsafe { handle(CTRL_BREAK_EVENT) }, TRUE);
        let again = Signals::watch().expect("registered");
        assert!(signals.came() && again.came());
        // SAFETY: the event is open.
        let state = unsafe { WaitForSingleObject(again.descriptor().as_raw_handle(), 0) };
        assert_eq!(state, WAIT_OBJECT_0);
    }

    #[test]
    #[ignore = "the part of a process that a_break_in_the_console_ends_it_well starts"]
    fn until_it_is_asked_to_end() {
        let signals = Signals::watch().expect("registered");
        println!("\nready");
        let ended = super::super::wait(&signals, Duration::from_secs(60)).expect("waited");
        assert!(ended && signals.came());
    }

    #[test]
    fn a_break_in_the_console_ends_it_well() {
        // Fails where there is one already, which will do.
        // SAFETY: takes nothing.
        unsafe { AllocConsole() };
        let mut child = Command::new(std::env::current_exe().expect("known"))
            .args([
                "until_it_is_asked_to_end",
                "--include-ignored",
                "--nocapture",
            ])
            .creation_flags(CREATE_NEW_PROCESS_GROUP)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stdout = child.stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout).lines();
        let ready = lines.find(|line| line.as_ref().is_ok_and(|line| line == "ready"));
        assert!(ready.is_some(), "it ends before it is asked to");
        // SAFETY: takes numbers alone.
        let sent = unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, child.id()) };
        if let Err(error) = check(sent) {
            // Wine has no Ctrl-Break, and no console where it is started without a terminal.
            eprintln!("skipped: no Ctrl-Break can be sent here: {error}");
            child.kill().expect("it lives");
            child.wait().expect("it ends");
            return;
        }
        assert!(lines.count() > 0);
        assert!(child.wait().expect("it ends").success());
    }
}
