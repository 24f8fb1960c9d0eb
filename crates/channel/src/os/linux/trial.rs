//! For tests: channels within one process.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;

use super::Handed;
use crate::Channel;

/// Two ends; the first may hand over.
pub(crate) fn pair() -> io::Result<(Channel, Channel)> {
    let (one, other) = UnixStream::pair()?;
    Ok((Channel::new(one)?, Channel::new(other)?))
}

/// A channel whose peer has said these bytes, and is there still.
pub(crate) fn that_hears(bytes: &[u8]) -> io::Result<Channel> {
    let (mut raw, other) = UnixStream::pair()?;
    raw.write_all(bytes)?;
    std::mem::forget(raw);
    Channel::new(other)
}

/// Something to hand over.
pub(crate) fn file() -> io::Result<Handed> {
    Ok(File::open("/dev/null")?.into())
}
