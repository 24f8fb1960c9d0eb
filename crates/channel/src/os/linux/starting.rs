//! A process that is started to have a channel: one end of a socket pair is its standard input.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::Channel;

/// Starts a program with a channel, which [`inherited`] is in it. It has no standard output, and a
/// process group of its own: a Ctrl-C on the terminal is for who started it.
///
/// # Errors
/// What the system says.
pub fn start(command: &mut Command) -> io::Result<(Child, Channel)> {
    let (ours, theirs) = UnixStream::pair()?;
    let channel = Channel::new(ours)?;
    let child = command
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()?;
    // The command keeps what it was given, and the end of the channel must show.
    command.stdin(Stdio::null());
    Ok((child, channel))
}

/// The channel of a process that was started to have one.
///
/// # Errors
/// What the system says; a standard input that is no socket shows at its first use.
pub fn inherited() -> io::Result<Channel> {
    let input = io::stdin();
    let socket = input.as_fd().try_clone_to_owned()?;
    Channel::new(UnixStream::from(socket))
}
