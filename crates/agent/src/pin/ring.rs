//! Pins by io_uring: a registered buffer holds its pages resident *and unmoved*, as
//! a DMA target, for as long as the ring lives. No request is ever submitted.
//!
//! Each allocation has rings of its own, one for each GiB: a ring costs a few
//! kilobytes, freeing one allocation cannot disturb another, and no call takes long.
//! It works since Linux 5.1.

#![allow(
    unsafe_code,
    reason = "registering buffers with io_uring is a raw call"
)]

use core::ptr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::io_uring::{
    IoringRegisterOp, io_uring_params, io_uring_register, io_uring_setup, iovec,
};

use super::reservation::Reservation;

/// The most bytes that one ring's buffer may have.
pub(super) const LIMIT: u64 = 1 << 30;

/// A ring that holds the pins of a part of a reservation.
#[derive(Debug)]
pub(crate) struct Ring {
    fd: OwnedFd,
}

/// Where pinning by io_uring failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RingError {
    /// The kernel gives no ring: io_uring is absent, disabled or filtered.
    #[error("the kernel gives no io_uring ({0})")]
    Unavailable(Errno),
    /// A ring was given, but it does not pin the pages.
    #[error("io_uring cannot pin the pages ({0})")]
    Refused(Errno),
}

impl Ring {
    /// Pins `length` bytes (at most [`LIMIT`]) of `reservation` from `offset` on, which
    /// must be populated.
    pub(crate) fn pin(
        reservation: &Reservation,
        offset: u64,
        length: u64,
    ) -> Result<Self, RingError> {
        let (start, length) = reservation
            .part(offset, length)
            .map_err(RingError::Refused)?;
        let buffer = iovec {
            iov_base: start.as_ptr(),
            iov_len: length,
        };
        let mut parameters = io_uring_params::default();
        // SAFETY: `parameters` is a valid structure that lives over the call; no ring
        // memory is mapped.
        let fd = unsafe { io_uring_setup(1, &mut parameters) }.map_err(RingError::Unavailable)?;
        // SAFETY: one entry lives over the call; it names a part of our own mapping, into
        // which no request will ever be made.
        unsafe {
            io_uring_register(
                &fd,
                IoringRegisterOp::RegisterBuffers,
                ptr::from_ref(&buffer).cast(),
                1,
            )
        }
        .map_err(RingError::Refused)?;
        Ok(Self { fd })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Closing the ring unpins at some later time; this does it now.
        // SAFETY: the call takes no memory.
        let _ = unsafe {
            io_uring_register(
                &self.fd,
                IoringRegisterOp::UnregisterBuffers,
                ptr::null(),
                0,
            )
        };
    }
}
