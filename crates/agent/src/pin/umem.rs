//! Pins by AF_XDP: the memory is registered as the packet memory (UMEM) of a socket,
//! which holds its pages resident *and unmoved*, as a DMA target, for as long as the
//! socket lives. The socket is bound to no interface; nothing is ever sent or received.
//!
//! It works since Linux 4.18, also where io_uring is switched off. It refuses where the
//! kernel was built without it, and processes without `CAP_NET_RAW`. The kernel unpins
//! some milliseconds after the socket is closed.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt::set_xdp_umem_reg;
use rustix::net::xdp::{XdpUmemReg, XdpUmemRegFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use vmshm_shm::PAGE_SIZE;

use super::reservation::Reservation;

/// The most bytes that one socket's memory may have. Kernels before 5.14 list its pages
/// in one contiguous block, which for more would be hard to find in a fragmented guest.
pub(super) const LIMIT: u64 = 256 << 20;
/// The unit in which packets would lie: a page, the largest that is allowed.
const CHUNK: u32 = 4096;
const _: () = assert!(CHUNK as u64 == PAGE_SIZE);

/// A socket that holds the pins of a part of a reservation.
#[derive(Debug)]
pub(crate) struct Umem {
    _socket: OwnedFd,
}

/// Where pinning by AF_XDP failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UmemError {
    /// The kernel gives no socket: AF_XDP is absent, forbidden or filtered.
    #[error("the kernel gives no AF_XDP socket ({0})")]
    Unavailable(Errno),
    /// A socket was given, but it does not pin the pages.
    #[error("AF_XDP cannot pin the pages ({0})")]
    Refused(Errno),
}

impl Umem {
    /// Pins `length` bytes (at most [`LIMIT`]) of `reservation` from `offset` on, which
    /// must be populated.
    pub(crate) fn pin(
        reservation: &Reservation,
        offset: u64,
        length: u64,
    ) -> Result<Self, UmemError> {
        // Proves that the range lies in the mapping.
        reservation
            .part(offset, length)
            .map_err(UmemError::Refused)?;
        let socket = socket_with(
            AddressFamily::XDP,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(UmemError::Unavailable)?;
        // Kernels that know fewer fields look at the first ones only.
        let memory = XdpUmemReg {
            addr: reservation.address() + offset,
            len: length,
            chunk_size: CHUNK,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        set_xdp_umem_reg(&socket, memory).map_err(UmemError::Refused)?;
        Ok(Self { _socket: socket })
    }
}
