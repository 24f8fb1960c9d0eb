//! The process that started this one, and how one is started apart from the console.
//!
//! Sources: "Process Creation Flags", PROCESSENTRY32W, GetProcessTimes (learn.microsoft.com/windows/win32).
#![allow(
    unsafe_code,
    reason = "handles of other processes have no safe interface"
)]

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::os::windows::process::CommandExt;
use std::process::Command;

use windows_sys::Win32::Foundation::{FILETIME, HANDLE, INVALID_HANDLE_VALUE, WAIT_TIMEOUT};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
};
use windows_sys::Win32::System::Threading::{
    DETACHED_PROCESS, GetCurrentProcess, GetProcessTimes, OpenProcess,
    PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, WaitForSingleObject,
};

use super::check;

/// A Ctrl-C in the console, or its end, is for the command, not for what it starts this way.
pub(crate) fn keep_apart(command: &mut Command) -> &mut Command {
    command.creation_flags(DETACHED_PROCESS)
}

/// The process that started this one.
#[derive(Debug)]
pub(crate) struct Parent(Option<OwnedHandle>);

impl Parent {
    /// Asks who it is. One that cannot be asked counts as dead.
    pub(crate) fn of_this_process() -> Self {
        let parent = number_of_parent().and_then(open);
        if let Err(error) = &parent {
            tracing::debug!(%error, "no parent");
        }
        Self(parent.ok())
    }

    /// Whether it still lives.
    pub(crate) fn lives(&self) -> bool {
        self.0.as_ref().is_some_and(|parent| {
            // SAFETY: the handle is open.
            let state = unsafe { WaitForSingleObject(parent.as_raw_handle(), 0) };
            state == WAIT_TIMEOUT
        })
    }
}

/// Opens the parent, unless its number has gone to a process that is younger than this one.
fn open(number: u32) -> io::Result<OwnedHandle> {
    let access = PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE;
    // SAFETY: takes numbers alone.
    let process = unsafe { OpenProcess(access, 0, number) };
    if process.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was made just now, and nobody else closes it.
    let process = unsafe { OwnedHandle::from_raw_handle(process) };
    // SAFETY: takes nothing, and gives a number that stands for this process.
    let own = unsafe { GetCurrentProcess() };
    if start_time(process.as_raw_handle())? > start_time(own)? {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(process)
}

/// When a process was started, in the system's units of 100 ns.
fn start_time(process: HANDLE) -> io::Result<u64> {
    let mut times = [FILETIME::default(); 4];
    let [start, end, kernel, user] = &mut times;
    // SAFETY: the process is open, and the four places are ours.
    check(unsafe { GetProcessTimes(process, start, end, kernel, user) })?;
    Ok(u64::from(start.dwHighDateTime) << 32 | u64::from(start.dwLowDateTime))
}

fn number_of_parent() -> io::Result<u32> {
    // SAFETY: takes numbers alone.
    let list = unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0) };
    if list == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was made just now, and nobody else closes it.
    let list = unsafe { OwnedHandle::from_raw_handle(list) };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a structure of some hundred bytes"
    )]
    let mut entry = PROCESSENTRY32W {
        dwSize: size_of::<PROCESSENTRY32W>() as u32,
        ..PROCESSENTRY32W::default()
    };
    // SAFETY: the list is open, and the entry says its own size.
    let mut more = unsafe { Process32FirstW(list.as_raw_handle(), &mut entry) };
    while more != 0 {
        if entry.th32ProcessID == std::process::id() {
            return Ok(entry.th32ParentProcessID);
        }
        // SAFETY: as above.
        more = unsafe { Process32NextW(list.as_raw_handle(), &mut entry) };
    }
    Err(io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_ends_is_dead_and_a_younger_process_is_no_parent() {
        let mut command = Command::new(std::env::current_exe().expect("known"));
        let mut child = keep_apart(command.args(["--exact", "no such test"]))
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        assert_eq!(
            open(child.id()).expect_err("it is younger").kind(),
            io::ErrorKind::NotFound
        );
        let own = open(std::process::id()).expect("as old as itself");
        assert!(Parent(Some(own)).lives());
        child.wait().expect("it ends");
        let handle = OwnedHandle::from(child);
        assert!(!Parent(Some(handle)).lives());
        assert!(!Parent(None).lives());
    }
}
