//! Listening over vsock, where the kernel has it.

use std::io;
use std::os::fd::OwnedFd;

use socket2::{Domain, SockAddr, Socket, Type};

use super::source::Connection;
use crate::listen::Address;
use crate::listen::address::ANY_MACHINE;

/// Stands for any free port (vsock(7), VMADDR_PORT_ANY).
const ANY_PORT: u32 = u32::MAX;
/// Connections that may wait to be taken.
const BACKLOG: i32 = 64;

/// Listens at a port, for connections to this machine by the number `cid`, or by any.
pub(super) fn bind(cid: Option<u32>, port: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
    let port = if port == 0 { ANY_PORT } else { port };
    socket.bind(&SockAddr::vsock(cid.unwrap_or(ANY_MACHINE), port))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Where it listens.
pub(super) fn address(socket: &Socket) -> Option<Address> {
    Some(named(&socket.local_addr().ok()?))
}

/// Takes a connection.
pub(super) fn accept(socket: &Socket) -> io::Result<Connection> {
    let (socket, from) = socket.accept()?;
    socket.set_nonblocking(true)?;
    Ok(Connection {
        socket: OwnedFd::from(socket),
        from: named(&from),
    })
}

fn named(address: &SockAddr) -> Address {
    let (cid, port) = address
        .as_vsock_address()
        .unwrap_or((ANY_MACHINE, ANY_PORT));
    Address::Vsock { cid, port }
}
