//! Where the frames of a guest's screens come from, and where input goes.
//!
//! A *source process* ([`serve`]) delivers the screens of one compositor ([`wlroots`]), one
//! framebuffer device ([`framebuffer`]) or the test card ([`test_card`]), with the rights of the
//! desktop's user. It talks to the agent by `vmshm_channel::source`, and knows no host, no slot
//! and no guest-physical address. An [`Outlet`] is the way of a screen's frames into shared
//! memory, the same for all of them.

pub mod framebuffer;
pub mod outlet;
pub mod test_card;
pub mod uinput;
pub mod watched;
pub mod wlroots;

pub use outlet::Outlet;
pub use watched::Watched;

use std::time::Duration;

use vmshm_channel::source::{Kind, ToSource};
use vmshm_channel::{Channel, ChannelError};

/// How long the first message may take.
const START: Duration = Duration::from_secs(10);

/// Why a source process ends.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The agent has ended, or asked for what makes no sense.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The screens cannot be had any more; the agent was told so.
    #[error("{message}")]
    Failed {
        /// Why.
        message: String,
        /// What would help.
        hint: Option<String>,
    },
}

/// Delivers screens until the agent closes the channel or the screens are gone.
///
/// # Errors
/// [`SourceError`]; `Failed` has been said to the agent.
pub fn serve(mut channel: Channel) -> Result<(), SourceError> {
    let (first, _) = channel.next::<ToSource>(START)?;
    let ToSource::Start { kind, input } = first else {
        return Err(ChannelError::Malformed("a first message that is not Start".to_owned()).into());
    };
    let served = match &kind {
        Kind::Wlroots {
            socket,
            environment,
        } => wlroots::serve(&mut channel, socket, environment, input),
        Kind::Framebuffer { device } => framebuffer::serve(&mut channel, device, input),
        Kind::TestCard => test_card::serve(&mut channel),
    };
    if let Err(SourceError::Failed { message, hint }) = &served {
        let failed = vmshm_channel::source::FromSource::Failed {
            message: message.clone(),
            hint: hint.clone(),
        };
        let _ = channel.send(&failed, None);
        let _ = channel.drain(Duration::from_secs(1));
    }
    match served {
        Err(SourceError::Channel(ChannelError::Closed)) => Ok(()),
        other => other,
    }
}
