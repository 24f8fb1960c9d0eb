//! What showing screens asks of Linux: sealed memory files, and waiting for descriptors.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use vmshm_channel::{Channel, Handed, HandedRef, timespec};

/// A memory file of `size` bytes, all zero. Whoever maps it need not fear that it shrinks.
///
/// # Errors
/// What the system says.
pub(crate) fn make_memory_file(name: &str, size: u64) -> io::Result<Handed> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create(name, flags)?;
    ftruncate(&file, size)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// A descriptor of such a file through which it can only be read.
///
/// # Errors
/// What the system says.
pub(crate) fn only_readable(file: &Handed) -> io::Result<Handed> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Waits until the monitor says something or takes more, until `wake` can be read, or for `pause`.
///
/// # Errors
/// What the system says.
pub(crate) fn wait_for_monitor(
    channel: &Channel,
    wake: HandedRef<'_>,
    pause: Duration,
) -> io::Result<()> {
    let mut fds = [
        PollFd::new(channel, channel.interest()),
        PollFd::new(&wake, PollFlags::IN),
    ];
    match rustix::event::poll(&mut fds, Some(&timespec(pause))) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
