//! Why a region is not grafted, or a graft not undone: each cause with what is possible
//! instead. The VM runs on unharmed in every case.

use std::io;

use vmshm_graft::{GraftError, Refusal};

use crate::ending::SessionEnd;
use crate::session::RequestError;

/// Why a region is not grafted, or a graft not undone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraftFailure {
    /// The VMM's process may not or could not be changed.
    #[error("the region cannot be grafted: {0}")]
    Graft(#[from] GraftError),
    /// There is nothing to undo.
    #[error("the region is not grafted")]
    NotGrafted,
    /// The graft could not be taken back; it stands, in whole or in part.
    #[error("the graft cannot be undone: {0}")]
    Undo(#[source] GraftError),
    /// The session is over.
    #[error(transparent)]
    Ended(#[from] SessionEnd),
    /// The agent did not do what was needed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It is not known where the region lies in the VMM.
    #[error("the region cannot be grafted: {0}")]
    Pages(String),
    /// Another process grafts in this VM and does not come to an end.
    #[error("another process is grafting in process {pid}")]
    Taken {
        /// The VMM.
        pid: u32,
    },
    /// The lock against a second one could not be had.
    #[error("cannot lock process {pid} against a second graft")]
    Lock {
        /// The VMM.
        pid: u32,
        /// The system's answer.
        #[source]
        error: io::Error,
    },
    /// Other vmshm processes use the region's old pages.
    #[error(
        "other vmshm processes use the region, would go on with the old pages, and do not let go of it: {}",
        numbers(.pids)
    )]
    InUse {
        /// Those processes.
        pids: Vec<u32>,
    },
    /// After the change the two sides do not see the same.
    #[error("the region was grafted, but {what}; the graft was undone")]
    Unproved {
        /// What is wrong.
        what: &'static str,
    },
    /// The file could not be used here.
    #[error("the region's file cannot be mapped: {0}")]
    Map(#[from] vmshm_ram::MapError),
}

impl GraftFailure {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Graft(error) | Self::Undo(error) => return error.hint().map(str::to_owned),
            Self::Ended(end) => return end.hint().map(str::to_owned),
            Self::Request(error) => return error.hint(),
            Self::Taken { .. } => "try again when it has ended",
            Self::InUse { .. } => "end them, graft, and start them again: they will find the graft",
            Self::Unproved { .. } => "use --method copy, and report this",
            Self::NotGrafted | Self::Pages(_) | Self::Lock { .. } | Self::Map(_) => return None,
        };
        Some(text.to_owned())
    }

    /// The reason why the VMM is not changed, if that is it.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Graft(GraftError::Refused(refusal))
            | Self::Undo(GraftError::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }

    /// A process whose mappings may not be read, or that is gone.
    pub(super) fn not_looked_into(pid: u32, error: &io::Error) -> Self {
        let refusals = vmshm_graft::examine(pid, &[], &[]);
        match refusals.into_iter().next() {
            Some(refusal) => Self::Graft(refusal.into()),
            None => Self::Lock {
                pid,
                error: error.kind().into(),
            },
        }
    }
}

fn numbers(pids: &[u32]) -> String {
    let numbers: Vec<String> = pids.iter().map(u32::to_string).collect();
    numbers.join(", ")
}
