//! A process that is started to have a channel: its standard input and output are the pipes. It
//! refuses a standard input and output that are something else.
#![allow(unsafe_code, reason = "what a handle is has no safe interface")]

use std::io::{self, PipeReader, PipeWriter};
use std::os::windows::io::{AsHandle, AsRawHandle, OwnedHandle};
use std::os::windows::process::CommandExt;
use std::process::{Child, Command, Stdio};

use windows_sys::Win32::Storage::FileSystem::{FILE_TYPE_PIPE, GetFileType};
use windows_sys::Win32::System::Threading::CREATE_NEW_PROCESS_GROUP;

use super::handing::Handing;
use super::pipes::Connection;
use crate::Channel;

/// Starts a program with a channel, which [`inherited`] is in it. It has a process group of its
/// own: a Ctrl-C on the console is for who started it.
///
/// # Errors
/// What the system says.
pub fn start(command: &mut Command) -> io::Result<(Child, Channel)> {
    let (their_input, target) = io::pipe()?;
    let (source, their_output) = io::pipe()?;
    let spawned = command
        .stdin(their_input)
        .stdout(their_output)
        .creation_flags(CREATE_NEW_PROCESS_GROUP)
        .spawn();
    // The command keeps what it was given, and the end of the channel must show.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = spawned?;
    match Handing::to(&child) {
        Ok(handing) => {
            let connection = Connection::new(source, target, handing);
            Ok((child, Channel::over(connection)))
        }
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

/// The channel of a process that was started to have one. Of several in one process only one may
/// receive, and only one may send.
///
/// # Errors
/// What the system says, or that they are no pipes.
pub fn inherited() -> io::Result<Channel> {
    let source = only_pipe(io::stdin().as_handle().try_clone_to_owned()?)?;
    let target = only_pipe(io::stdout().as_handle().try_clone_to_owned()?)?;
    let (source, target) = (PipeReader::from(source), PipeWriter::from(target));
    Ok(Channel::over(Connection::new(
        source,
        target,
        Handing::From,
    )))
}

fn only_pipe(handle: OwnedHandle) -> io::Result<OwnedHandle> {
    // SAFETY: the handle is open, or null, which is answered as of unknown type.
    let kind = unsafe { GetFileType(handle.as_raw_handle()) };
    if kind == FILE_TYPE_PIPE {
        Ok(handle)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "no pipe"))
    }
}
