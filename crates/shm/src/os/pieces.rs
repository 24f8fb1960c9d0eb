//! What is asked of a mapping, the same on every system. Refuses pieces that are not runs
//! of whole pages.

use super::SystemError;

/// The page size of every system that this crate supports so far (x86-64).
pub const PAGE_SIZE: u64 = 4096;

/// One run of bytes of a file, to be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where the run starts in the file; a multiple of [`PAGE_SIZE`].
    pub offset: u64,
    /// How long it is; a multiple of [`PAGE_SIZE`], not zero.
    pub length: u64,
}

/// What may be done through a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Loads and reads; stores answer [`Fault::ReadOnly`](crate::Fault::ReadOnly).
    Read,
    /// Loads and stores.
    ReadWrite,
}

/// Why a mapping could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// A piece is empty, not made of whole pages, or the sum overflows.
    #[error("piece {index} is not a run of whole pages")]
    BadPiece {
        /// Which piece.
        index: usize,
    },
    /// The system refused; on Linux `ENOMEM` with many pieces means `vm.max_map_count`.
    #[error("the system refused to map the memory: {0}")]
    System(SystemError),
}

/// The bytes of all pieces together, each of which is checked.
pub(super) fn total_length(pieces: &[Piece]) -> Result<usize, MapError> {
    let mut total = 0_u64;
    for (index, piece) in pieces.iter().enumerate() {
        let bad = MapError::BadPiece { index };
        if piece.length == 0 || piece.length % PAGE_SIZE != 0 || piece.offset % PAGE_SIZE != 0 {
            return Err(bad);
        }
        piece.offset.checked_add(piece.length).ok_or(bad)?;
        total = total.checked_add(piece.length).ok_or(bad)?;
    }
    if pieces.is_empty() {
        return Err(MapError::BadPiece { index: 0 });
    }
    usize::try_from(total).map_err(|_| MapError::BadPiece { index: 0 })
}
