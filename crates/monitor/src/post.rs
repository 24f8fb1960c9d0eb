//! The way to `vmshm display`: any thread may send, none waits.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::PollFlags;
use vmshm_channel::sink::FromMonitor;
use vmshm_channel::{Channel, ChannelError};

use crate::canvas::lock;

/// A sender that can be cloned.
#[derive(Debug, Clone)]
pub struct Post {
    /// Only sent over; another end of the same socket receives.
    channel: Arc<Mutex<Channel>>,
}

impl Post {
    /// Sends over this channel.
    pub fn new(channel: Channel) -> Self {
        Self {
            channel: Arc::new(Mutex::new(channel)),
        }
    }

    /// Sends. What fails shows at the receiving end, which sees the connection's end.
    pub fn send(&self, message: &FromMonitor) {
        let _ = lock(&self.channel).send(message, None);
    }

    /// Sends what the socket did not take before; what to poll for now.
    pub fn flush(&self) -> Result<PollFlags, ChannelError> {
        let mut channel = lock(&self.channel);
        channel.flush()?;
        Ok(channel.interest())
    }

    /// Waits until all is sent, or gives up.
    pub fn drain(&self, patience: Duration) {
        let _ = lock(&self.channel).drain(patience);
    }
}
