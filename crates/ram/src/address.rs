//! Kinds of addresses on the host's side, as types of their own: an address in the
//! VMM's process never passes for an offset into a RAM block, nor for a
//! guest-physical address.

use std::fmt;

/// An address inside the VMM's process (QEMU's documentation says HVA).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VmmVirtual(pub u64);

impl fmt::Display for VmmVirtual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A place in guest RAM as the VMM holds it: which RAM block, and how far into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockOffset {
    /// Index of the block among the VM's RAM blocks.
    pub block: usize,
    /// Bytes from the start of that block.
    pub offset: u64,
}

impl BlockOffset {
    /// The place `bytes` further on in the same block, or nothing where the number
    /// would overflow.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.offset.checked_add(bytes) {
            Some(offset) => Some(Self {
                block: self.block,
                offset,
            }),
            None => None,
        }
    }
}

impl fmt::Display for BlockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {} + {:#x}", self.block, self.offset)
    }
}

/// A run of bytes inside one RAM block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockPiece {
    /// Where it starts.
    pub at: BlockOffset,
    /// How long it is, in bytes.
    pub length: u64,
}

/// Joins neighbours that follow each other in the same block; the order stays.
#[must_use]
pub fn merge_pieces(pieces: &[BlockPiece]) -> Vec<BlockPiece> {
    let mut merged: Vec<BlockPiece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        if let Some(last) = merged.last_mut()
            && last.at.checked_add(last.length) == Some(piece.at)
            && let Some(length) = last.length.checked_add(piece.length)
        {
            last.length = length;
        } else {
            merged.push(*piece);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(block: usize, offset: u64, length: u64) -> BlockPiece {
        BlockPiece {
            at: BlockOffset { block, offset },
            length,
        }
    }

    #[test]
    fn only_true_neighbours_are_joined() {
        let given = [
            piece(0, 0, 4096),
            piece(0, 4096, 4096),
            piece(1, 8192, 4096),
            piece(0, 12288, 4096),
            piece(0, 8192, 4096),
        ];
        let merged = merge_pieces(&given);
        assert_eq!(
            merged,
            [
                piece(0, 0, 8192),
                piece(1, 8192, 4096),
                piece(0, 12288, 4096),
                piece(0, 8192, 4096)
            ]
        );
    }
}
