//! Why a broker gave nothing, with what would help. It decides nothing.

use std::io;
use std::path::PathBuf;

use vmshm_link::LinkError;

/// Why a broker gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Nobody listens there, or not for this user.
    #[error("no broker can be reached at {}: {error}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// It refused, in its own words.
    #[error("the broker refused: {explanation}")]
    Refused {
        /// Why.
        explanation: String,
        /// What would help.
        hint: Option<String>,
    },
    /// It hung up, or did not answer.
    #[error("the broker at {} did not answer", .path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
    },
    /// Its answer makes no sense.
    #[error("the broker at {} cannot be talked to", .path.display())]
    Strange {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        #[source]
        source: LinkError,
    },
}

impl BrokerError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { .. } => Some("sudo systemctl start vmshm-broker".to_owned()),
            Self::Refused { hint, .. } => hint.clone(),
            Self::Silent { .. } => Some("--timeout SECONDS waits longer".to_owned()),
            Self::Strange { .. } => {
                Some("use the same release of vmshm for the broker and its clients".to_owned())
            }
        }
    }

    /// Whether nobody listens there at all.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        let kinds = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        matches!(self, Self::Connect { error, .. } if kinds.contains(&error.kind()))
    }
}
