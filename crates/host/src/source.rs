//! Whence the bytes of a session's regions come: from the VMM's memory, or from files that a
//! broker sends.

use std::sync::Arc;
use std::time::Duration;

use vmshm_link::Extent;
use vmshm_link::control::RegionReply;
use vmshm_ram::{BlockPiece, FileRuns, OpenError, Protection, View};

use crate::os::{Files, RegionFile, whole_file};
use crate::region::{Ask, Ground, Region};
use crate::session::RequestError;

/// Whence regions' bytes come.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// From the VMM's memory.
    Own(Ground),
    /// From files that a broker sends.
    Brokered(Files),
}

impl From<Files> for Source {
    fn from(files: Files) -> Self {
        Self::Brokered(files)
    }
}

/// Where a region's bytes are that is only read.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// In the VMM's RAM blocks.
    Pieces(Vec<BlockPiece>),
    /// In a file of their own.
    File(Arc<RegionFile>),
}

impl Source {
    /// Lays a granted region out as one memory and proves it, unless another host process
    /// has.
    ///
    /// # Errors
    /// [`RequestError`]; the agent still counts the region as held then.
    pub(crate) fn lay_out(
        &self,
        granted: &RegionReply,
        protection: Protection,
        timeout: Duration,
        ask: Ask<'_>,
    ) -> Result<Region, RequestError> {
        match self {
            Self::Own(ground) => ground.lay_out(granted, protection, timeout, ask),
            Self::Brokered(files) => {
                // Whoever sent it has proved it.
                let file = files.take(granted, protection)?;
                let view = file.view(protection);
                let view = view.map_err(|error| RequestError::Pages(error.to_string()))?;
                Ok(Region {
                    id: granted.region,
                    memory: Arc::new(view),
                    extents: Vec::new(),
                })
            }
        }
    }

    /// Where a granted region lies that is only read, and therefore never proved.
    ///
    /// # Errors
    /// As [`lay_out`](Self::lay_out).
    pub(crate) fn locate(
        &self,
        granted: &RegionReply,
        timeout: Duration,
        ask: Ask<'_>,
    ) -> Result<Place, RequestError> {
        match self {
            Self::Own(ground) => {
                let pieces = ground.locate(granted, timeout, ask)?;
                // The guest goes on drawing, and what it draws next is in the file.
                ground.see_to_graft(granted.region, &pieces)?;
                Ok(Place::Pieces(pieces))
            }
            Self::Brokered(files) => Ok(Place::File(files.take(granted, Protection::Read)?)),
        }
    }

    /// A granted region's extents in the guest.
    ///
    /// # Errors
    /// [`RequestError`]: a broker tells of none.
    pub(crate) fn fetch_extents(
        &self,
        granted: &RegionReply,
        timeout: Duration,
        ask: Ask<'_>,
    ) -> Result<Vec<Extent>, RequestError> {
        match self {
            Self::Own(ground) => ground.fetch_extents(granted, timeout, ask),
            Self::Brokered(_) => Err(RequestError::Pages(
                "a broker does not tell where they are".to_owned(),
            )),
        }
    }

    /// What lies at a place, as one memory.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn view(&self, place: &Place, protection: Protection) -> Result<View, OpenError> {
        match (self, place) {
            (Self::Own(ground), Place::Pieces(pieces)) => ground.ram.view(pieces, protection),
            (_, Place::File(file)) => file.view(protection),
            (Self::Brokered(_), Place::Pieces(_)) => Err(OpenError::ReadOnly),
        }
    }

    /// What another process needs for mapping what lies at a place; nothing where it could
    /// not.
    pub(crate) fn file_runs<'a>(
        &'a self,
        place: &'a Place,
        protection: Protection,
    ) -> Option<FileRuns<'a>> {
        match (self, place) {
            (Self::Own(ground), Place::Pieces(pieces)) => ground.ram.file_runs(pieces, protection),
            (_, Place::File(file)) => Some(file.runs()),
            (Self::Brokered(_), Place::Pieces(_)) => None,
        }
    }

    /// The same for a region that is laid out.
    pub(crate) fn runs_of<'a>(
        &'a self,
        region: &'a Region,
        protection: Protection,
    ) -> Option<FileRuns<'a>> {
        if let Some(runs) = whole_file(&region.memory) {
            return Some(runs);
        }
        match self {
            Self::Own(ground) => {
                let pieces = ground.pieces(&region.extents).ok()?;
                ground.ram.file_runs(&pieces, protection)
            }
            Self::Brokered(_) => None,
        }
    }
}
