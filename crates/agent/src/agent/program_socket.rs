//! The system's part of the socket for programs: listening for every user, and sending
//! without ever waiting.

use std::fs::{self, Permissions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use vmshm_link::local::Datagram;

/// Connections that the system keeps for the agent.
const BACKLOG: i32 = 128;

/// Listens at `path`, for every user, in the place of a socket that nobody listens at any
/// more. The caller holds the agent's lock.
pub(crate) fn listen(path: &Path) -> Result<OwnedFd, ListenError> {
    let fail = |error: io::Error| ListenError {
        path: path.to_owned(),
        error,
    };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let bound = || -> rustix::io::Result<OwnedFd> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    let socket = bound().map_err(|error| fail(error.into()))?;
    fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(fail)?;
    Ok(socket)
}

/// Programs cannot be listened to.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for programs at {}: {error}", .path.display())]
pub(crate) struct ListenError {
    path: PathBuf,
    #[source]
    error: io::Error,
}

/// Sends without waiting. A descriptor goes along with the datagram, or neither goes.
pub(crate) fn transmit(
    socket: &OwnedFd,
    datagram: &Datagram,
    file: Option<BorrowedFd<'_>>,
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(file) = &file {
        control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(file)));
    }
    loop {
        match rustix::net::sendmsg(
            socket.as_fd(),
            &[io::IoSlice::new(datagram.bytes())],
            &mut control,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        ) {
            Err(Errno::INTR) => {}
            result => return result.map(drop),
        }
    }
}
