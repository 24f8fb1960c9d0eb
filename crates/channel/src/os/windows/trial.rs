//! For tests: channels within one process.
#![allow(unsafe_code, reason = "this process as one that handles go to")]

use std::fs::File;
use std::io::{self, Write};
use std::os::windows::io::{BorrowedHandle, RawHandle};

use windows_sys::Win32::System::Threading::GetCurrentProcess;

use super::Handed;
use super::handing::Handing;
use super::pipes::Connection;
use crate::Channel;

/// Two ends; the first may hand over.
pub(crate) fn pair() -> io::Result<(Channel, Channel)> {
    let (one_source, other_target) = io::pipe()?;
    let (other_source, one_target) = io::pipe()?;
    // SAFETY: no preconditions.
    let own: RawHandle = unsafe { GetCurrentProcess() };
    // SAFETY: the handle that stands for this process is always open.
    let own = unsafe { BorrowedHandle::borrow_raw(own) };
    let handing = Handing::To(own.try_clone_to_owned()?);
    Ok((
        Channel::over(Connection::new(one_source, one_target, handing)),
        Channel::over(Connection::new(other_source, other_target, Handing::From)),
    ))
}

/// A channel whose peer has said these bytes, and is there still.
pub(crate) fn that_hears(bytes: &[u8]) -> io::Result<Channel> {
    let (source, mut raw) = io::pipe()?;
    let (nowhere, target) = io::pipe()?;
    raw.write_all(bytes)?;
    std::mem::forget((raw, nowhere));
    Ok(Channel::over(Connection::new(
        source,
        target,
        Handing::From,
    )))
}

/// Something to hand over.
pub(crate) fn file() -> io::Result<Handed> {
    Ok(File::open("NUL")?.into())
}
