//! The way to `vmshm display`: any thread may send, none waits.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use vmshm_channel::sink::FromMonitor;
use vmshm_channel::{Channel, ChannelError};

use crate::canvas::lock;

/// A sender that can be cloned.
#[derive(Debug, Clone)]
pub struct Post {
    /// Only sent over; another end of the same connection receives.
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

    /// Sends what the connection did not take before; whether something is left.
    pub fn flush(&self) -> Result<bool, ChannelError> {
        let mut channel = lock(&self.channel);
        channel.flush()?;
        Ok(channel.has_unflushed())
    }

    /// Waits until all is sent, or gives up.
    pub fn drain(&self, patience: Duration) {
        let _ = lock(&self.channel).drain(patience);
    }
}
