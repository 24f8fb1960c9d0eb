//! What the agent's messages mean for one screen's memory and readers, the same for every
//! source, and how a source waits for messages. It knows no pictures.
//!
//! ```text
//!  Watch ──▶ an outlet   need() ──▶ NeedPixels … Pixels ──▶ the outlet has memory, PixelsInUse
//!  Readers ──▶ the outlet's readers        Unwatch ──▶ nothing is left
//! ```
//!
//! While new memory is asked for, the outlet goes on with what it has. An answer to anything
//! but the newest question is dropped.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use vmshm_channel::source::{FromSource, PixelMemory, ToSource};
use vmshm_channel::{Channel, ChannelError, timespec};

use crate::SourceError;
use crate::outlet::{Outlet, OutletError};

/// What has happened to a screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Somebody watches it from now on. It has no pixels yet.
    Watched,
    /// Its outlet has the memory that was asked for.
    Pixels,
    /// The memory that was asked for cannot be had, for this reason. What was there stays.
    NoPixels(String),
    /// Its readers are others.
    Readers,
    /// Nobody watches it any more.
    Unwatched,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    request: u64,
    slot_bytes: u64,
}

/// A screen, watched or not.
#[derive(Debug)]
pub struct Watched {
    screen: u64,
    outlet: Option<Outlet>,
    asked: Option<Asked>,
    last_request: u64,
}

impl Watched {
    /// A screen that nobody watches.
    #[must_use]
    pub const fn new(screen: u64) -> Self {
        Self {
            screen,
            outlet: None,
            asked: None,
            last_request: 0,
        }
    }

    /// The way of its frames, while somebody watches.
    #[must_use]
    pub const fn outlet(&mut self) -> Option<&mut Outlet> {
        self.outlet.as_mut()
    }

    /// Whether somebody watches.
    #[must_use]
    pub const fn is_watched(&self) -> bool {
        self.outlet.is_some()
    }

    /// Nobody watches it any more, whether or not that was said: the frames' memory was taken back.
    pub fn forget(&mut self) {
        self.outlet = None;
        self.asked = None;
    }

    /// Whether memory was asked for that has not come yet.
    #[must_use]
    pub const fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// Asks for pinned memory with room for `count` pictures in slots of `slot_bytes` (see
    /// [`slot_bytes`](crate::outlet::slot_bytes)). An earlier question is void.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn need(
        &mut self,
        channel: &mut Channel,
        slot_bytes: u64,
        count: u64,
    ) -> Result<(), ChannelError> {
        let size = slot_bytes.saturating_mul(count);
        self.need_memory(channel, PixelMemory::Pinned { size }, slot_bytes)
    }

    /// Asks for memory of any kind. An earlier question is void.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn need_memory(
        &mut self,
        channel: &mut Channel,
        memory: PixelMemory,
        slot_bytes: u64,
    ) -> Result<(), ChannelError> {
        self.last_request += 1;
        let request = self.last_request;
        self.asked = Some(Asked {
            request,
            slot_bytes,
        });
        let need = FromSource::NeedPixels {
            screen: self.screen,
            request,
            memory,
        };
        channel.send(&need, None)
    }

    /// Takes a message that may be about this screen; nothing when it is not, or when it
    /// changes nothing. Memory that is of no use is told to the user, and is no error: other
    /// screens of the source go on.
    ///
    /// # Errors
    /// [`ChannelError`], also when a descriptor is missing.
    pub fn take(
        &mut self,
        channel: &mut Channel,
        message: &ToSource,
        descriptor: Option<OwnedFd>,
    ) -> Result<Option<Change>, ChannelError> {
        match message {
            ToSource::Watch { screen, size } if *screen == self.screen => {
                self.asked = None;
                match Outlet::open(expected(descriptor)?, *size) {
                    Ok(outlet) => {
                        self.outlet = Some(outlet);
                        return Ok(Some(Change::Watched));
                    }
                    Err(error) => note(channel, error.to_string())?,
                }
            }
            ToSource::Unwatch { screen } if *screen == self.screen => {
                self.asked = None;
                return Ok(self.outlet.take().map(|_| Change::Unwatched));
            }
            ToSource::Readers { screen, readers } if *screen == self.screen => {
                if let Some(outlet) = &mut self.outlet {
                    outlet.set_readers(readers);
                    return Ok(Some(Change::Readers));
                }
            }
            ToSource::Pixels {
                screen,
                request,
                region,
                size,
            } if *screen == self.screen => {
                let answered = self.asked.take_if(|asked| asked.request == *request);
                if let (Some(asked), Some(outlet)) = (answered, &mut self.outlet) {
                    let file = expected(descriptor)?;
                    return match outlet.take_pixels(*region, *size, file, asked.slot_bytes) {
                        Ok(()) => {
                            let in_use = FromSource::PixelsInUse {
                                screen: self.screen,
                                region: *region,
                            };
                            channel.send(&in_use, None)?;
                            Ok(Some(Change::Pixels))
                        }
                        Err(error) => Ok(Some(Change::NoPixels(error.to_string()))),
                    };
                }
            }
            ToSource::NoPixels {
                screen,
                request,
                message,
            } if *screen == self.screen => {
                let answered = self.asked.take_if(|asked| asked.request == *request);
                return Ok(answered.map(|_| Change::NoPixels(message.clone())));
            }
            _ => {}
        }
        Ok(None)
    }
}

fn expected(descriptor: Option<OwnedFd>) -> Result<OwnedFd, ChannelError> {
    descriptor.ok_or_else(|| ChannelError::Malformed("memory without a descriptor".to_owned()))
}

/// Tells the user something, once.
///
/// # Errors
/// [`ChannelError`].
pub fn note(channel: &mut Channel, message: String) -> Result<(), ChannelError> {
    channel.send(&FromSource::Note { message }, None)
}

/// How a source ends whose frames cannot be delivered.
#[must_use]
pub fn failed(error: &OutletError) -> SourceError {
    SourceError::Failed {
        message: error.to_string(),
        hint: None,
    }
}

/// Sleeps until the agent says something, or `pause` is over (never, if there is none); whether
/// there is something to receive. Sends what waits meanwhile.
///
/// # Errors
/// [`ChannelError`].
pub fn wait(channel: &mut Channel, pause: Option<Duration>) -> Result<bool, ChannelError> {
    let interest = channel.interest();
    let timeout = pause.map(timespec);
    let mut fds = [PollFd::from_borrowed_fd(channel.as_fd(), interest)];
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let happened = fds[0].revents();
    if interest.contains(PollFlags::OUT) {
        channel.flush()?;
    }
    // Hanging up and errors are for `receive` to find.
    Ok(happened.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR))
}
