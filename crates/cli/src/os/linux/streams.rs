//! Standard streams: what a terminal shows, and whether somebody still reads.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Descriptor, Signals};

/// Makes the standard streams ready; here they are.
pub(crate) const fn prepare_streams() {}

/// Standard output as a file of our own, without the buffer that looks for ends of lines.
pub(crate) fn standard_output() -> io::Result<File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// A file, lent.
pub(crate) fn descriptor(file: &File) -> Descriptor<'_> {
    file.as_fd()
}

/// Whether a terminal takes escape sequences for colours; here all do.
pub(crate) const fn shows_colour<T>(_terminal: &T) -> bool {
    true
}

/// Whether whoever read stdout has left, so that printing more makes no sense.
pub(crate) fn reader_has_left() -> bool {
    let stdout = io::stdout();
    // Nothing is waited for but this, which is always told.
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    let [fd] = match poll(&mut fds, Some(&Timespec::default())) {
        Ok(_) => fds,
        Err(_) => return false,
    };
    !fd.revents().is_empty()
}

/// Waits for a while; whether a signal came, or nobody reads stdout any more.
pub(crate) fn wait(signals: &Signals, pause: Duration) -> io::Result<bool> {
    let output = io::stdout();
    let wake = signals.descriptor();
    let mut fds = [
        PollFd::new(&wake, PollFlags::IN),
        // Nothing is waited for but that its reader leaves, which is always told.
        PollFd::new(&output, PollFlags::empty()),
    ];
    let timeout = Timespec {
        tv_sec: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: pause.subsec_nanos().into(),
    };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) => Ok(fds.iter().any(|fd| !fd.revents().is_empty())),
        // The handler has run: the next look at its descriptor tells.
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
