//! Why guest RAM could not be opened, viewed, read or written: each error says the
//! cause, and where the user can act, a hint says how.

use vmshm_shm::MapError;

use crate::access::{Access, Obstacle};
use crate::address::BlockOffset;
use crate::os::{advice, code};

/// Why a VM's RAM could not be opened or viewed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The process ended, or another one has its number now.
    #[error("the VM's process {pid} is gone")]
    Gone {
        /// The process's number.
        pid: u32,
    },
    /// The process has other memory than when it was found: it replaced itself or moved
    /// the guest's RAM.
    #[error("the memory of the VM's process {pid} has changed since it was found")]
    Moved {
        /// The process's number.
        pid: u32,
    },
    /// The method that was asked for does not work.
    #[error("{method} does not work on this VM: {obstacle}")]
    Method {
        /// Which.
        method: Access,
        /// Why.
        obstacle: Obstacle,
    },
    /// No method works.
    #[error("the VM's RAM cannot be reached: {0}")]
    Unreachable(Obstacle),
    /// A piece to be viewed is not a run of whole pages inside its block.
    #[error("{length} bytes at {at} are no run of whole pages of the VM's RAM")]
    BadPiece {
        /// Where it starts.
        at: BlockOffset,
        /// Its length.
        length: u64,
    },
    /// Writing was asked for, but the file could be opened for reading only.
    #[error("the file behind the VM's RAM may be read but not written")]
    ReadOnly,
    /// The pieces could not be mapped.
    #[error("{pieces} pieces of the VM's RAM could not be mapped: {cause}")]
    Map {
        /// How many.
        pieces: usize,
        /// Why.
        cause: MapError,
    },
}

impl OpenError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Method {
                obstacle: obstacle @ Obstacle::Private { .. },
                ..
            } => obstacle
                .hint()
                .map(|hint| format!("{}{hint}", advice::GRAFT_FIRST)),
            Self::Method { obstacle, .. } | Self::Unreachable(obstacle) => obstacle.hint(),
            Self::ReadOnly => Some(format!(
                "{}, or as the user who runs the VM",
                advice::FULL_RIGHTS
            )),
            Self::Map {
                cause: MapError::System(error),
                ..
            } if error.raw_os_error() == code::NO_MEMORY => Some(advice::MANY_PIECES.to_owned()),
            Self::Map { .. } => Some("use the copy method".to_owned()),
            Self::Moved { .. } => Some("try again".to_owned()),
            Self::Gone { .. } | Self::BadPiece { .. } => None,
        }
    }
}

/// Why an access to guest RAM did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RamError {
    /// The access is not inside a block.
    #[error("{length} bytes at {at} are outside the VM's RAM")]
    Outside {
        /// Where it starts.
        at: BlockOffset,
        /// Its length.
        length: u64,
    },
    /// The file could be opened for reading only.
    #[error("the VM's RAM was opened for reading only")]
    ReadOnly,
    /// The VMM has ended.
    #[error("the VM is gone")]
    Gone,
    /// The system could not reach the memory.
    #[error("the VM's RAM at {at} cannot be reached: system error {code}")]
    Unreachable {
        /// Where.
        at: BlockOffset,
        /// The raw `errno` value.
        code: i32,
    },
}
