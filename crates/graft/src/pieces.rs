//! Which pieces of a process's memory belong to a region, and how they stand: still the
//! process's own, or replaced by the region's memory file. Pieces that are no whole pages,
//! lie outside the region or overlap are refused.

use vmshm_ram::{MemoryMapping, VmmVirtual};

use crate::refusal::Refusal;

/// The page size of x86-64.
pub(crate) const PAGE: u64 = 4096;

/// A piece is never treated in larger steps: the kernel copies less than 2 GiB in one call.
const LARGEST: u64 = 1 << 30;

/// A run of a region's bytes in the VMM's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Where it starts in the process; a multiple of the page size.
    pub at: VmmVirtual,
    /// How long it is, in bytes; a multiple of the page size, not zero.
    pub length: u64,
    /// Where it starts in the region; a multiple of the page size.
    pub offset: u64,
}

impl Piece {
    fn end(&self) -> u64 {
        self.at.0.saturating_add(self.length)
    }
}

/// A memory file, as mappings show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileNumber {
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
}

/// Checks pieces and joins neighbours, so that there are as few mappings as possible.
pub(crate) fn arrange(pieces: &[Piece], size: u64) -> Result<Vec<Piece>, Refusal> {
    let whole = |value: u64| value.is_multiple_of(PAGE);
    for (index, piece) in pieces.iter().enumerate() {
        let inside = piece
            .offset
            .checked_add(piece.length)
            .is_some_and(|end| end <= size);
        let fits = piece.at.0.checked_add(piece.length).is_some();
        let pages = whole(piece.at.0) && whole(piece.length) && whole(piece.offset);
        if piece.length == 0 || !inside || !fits || !pages {
            return Err(Refusal::BadPiece { index });
        }
    }
    let apart = |key: fn(&Piece) -> u64| {
        let mut order: Vec<usize> = (0..pieces.len()).collect();
        order.sort_by_key(|index| pieces.get(*index).map(key));
        order.windows(2).find_map(|pair| {
            let before = pieces.get(*pair.first()?)?;
            let after = pair.get(1)?;
            let overlap = key(pieces.get(*after)?) < key(before).saturating_add(before.length);
            overlap.then_some(*after)
        })
    };
    if let Some(index) = apart(|piece| piece.at.0).or_else(|| apart(|piece| piece.offset)) {
        return Err(Refusal::BadPiece { index });
    }
    let mut sorted = pieces.to_vec();
    sorted.sort_by_key(|piece| piece.at);
    Ok(join(&sorted))
}

/// Joins neighbours of a sorted list, up to the largest step.
fn join(sorted: &[Piece]) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::new();
    for piece in sorted {
        let mut rest = *piece;
        if let Some(last) = joined.last_mut()
            && last.end() == rest.at.0
            && last.offset.checked_add(last.length) == Some(rest.offset)
        {
            let taken = rest.length.min(LARGEST.saturating_sub(last.length));
            last.length += taken;
            rest = after(rest, taken);
        }
        while rest.length > LARGEST {
            joined.push(Piece {
                length: LARGEST,
                ..rest
            });
            rest = after(rest, LARGEST);
        }
        if rest.length > 0 {
            joined.push(rest);
        }
    }
    joined
}

/// Cuts pieces at the process's addresses that are multiples of `step`, a power of two.
pub(crate) fn cut(pieces: Vec<Piece>, step: u64) -> Vec<Piece> {
    let mut parts = Vec::new();
    for mut rest in pieces {
        loop {
            let first = step - (rest.at.0 & (step - 1));
            if rest.length <= first {
                break;
            }
            parts.push(Piece {
                length: first,
                ..rest
            });
            rest = after(rest, first);
        }
        parts.push(rest);
    }
    parts
}

fn after(piece: Piece, bytes: u64) -> Piece {
    Piece {
        at: VmmVirtual(piece.at.0 + bytes),
        length: piece.length - bytes,
        offset: piece.offset + bytes,
    }
}

/// The parts of the pieces that are, or are not, replaced by the file. Both lists are cut
/// at the borders of mappings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Standing {
    pub(crate) replaced: Vec<Piece>,
    pub(crate) own: Vec<Piece>,
}

/// Compares pieces with a process's mappings. What is not mapped at all counts as its own.
pub(crate) fn standing(
    pieces: &[Piece],
    mappings: &[MemoryMapping],
    file: Option<FileNumber>,
) -> Standing {
    let mut standing = Standing::default();
    for piece in pieces {
        let mut rest = *piece;
        while rest.length > 0 {
            let here = mappings
                .iter()
                .find(|mapping| mapping.start <= rest.at && rest.at < mapping.end());
            let length = match here {
                Some(mapping) => mapping.end().0 - rest.at.0,
                None => mappings
                    .iter()
                    .map(|mapping| mapping.start.0)
                    .filter(|start| *start > rest.at.0)
                    .min()
                    .map_or(rest.length, |start| start - rest.at.0),
            }
            .min(rest.length);
            let part = Piece { length, ..rest };
            let is_ours = here.is_some_and(|mapping| {
                let shown = mapping.file.filter(|_| mapping.shared);
                let number = shown.map(|shown| FileNumber {
                    device: shown.device,
                    inode: shown.inode,
                });
                let into = rest.at.0 - mapping.start.0;
                number.is_some()
                    && number == file
                    && shown.and_then(|shown| shown.offset.checked_add(into)) == Some(rest.offset)
            });
            if is_ours {
                standing.replaced.push(part);
            } else {
                standing.own.push(part);
            }
            rest = after(rest, length);
        }
    }
    standing
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmshm_ram::FileIdentity;

    fn piece(at: u64, length: u64, offset: u64) -> Piece {
        Piece {
            at: VmmVirtual(at * PAGE),
            length: length * PAGE,
            offset: offset * PAGE,
        }
    }

    #[test]
    fn neighbours_are_joined_and_others_are_not() {
        let given = [
            piece(20, 2, 4),
            piece(10, 2, 0),
            piece(12, 2, 2),
            piece(22, 1, 7),
        ];
        assert_eq!(
            arrange(&given, 8 * PAGE).expect("good pieces"),
            [piece(10, 4, 0), piece(20, 2, 4), piece(22, 1, 7)]
        );
    }

    #[test]
    fn bad_pieces_are_refused_by_their_number() {
        let bad = |pieces: &[Piece]| match arrange(pieces, 8 * PAGE) {
            Err(Refusal::BadPiece { index }) => Some(index),
            _ => None,
        };
        let good = piece(10, 2, 0);
        assert_eq!(bad(&[good, piece(10, 0, 2)]), Some(1));
        assert_eq!(bad(&[good, piece(14, 2, 7)]), Some(1));
        assert_eq!(bad(&[good, piece(11, 2, 4)]), Some(1));
        assert_eq!(bad(&[good, piece(20, 2, 1)]), Some(1));
        let mut odd = good;
        odd.at.0 += 1;
        assert_eq!(bad(&[odd]), Some(0));
        let last = Piece {
            at: VmmVirtual(u64::MAX - PAGE + 1),
            length: 2 * PAGE,
            offset: 0,
        };
        assert_eq!(bad(&[last]), Some(0));
        assert_eq!(bad(&[good]), None);
    }

    #[test]
    fn large_pieces_are_cut() {
        let large = Piece {
            at: VmmVirtual(PAGE),
            length: 2 * LARGEST + PAGE,
            offset: 0,
        };
        let arranged = arrange(&[large], 3 * LARGEST).expect("a good piece");
        let lengths: Vec<u64> = arranged.iter().map(|piece| piece.length).collect();
        assert_eq!(lengths, [LARGEST, LARGEST, PAGE]);
        assert_eq!(arranged[2].offset, 2 * LARGEST);
    }

    fn mapping(at: u64, length: u64, offset: u64, inode: u64) -> MemoryMapping {
        MemoryMapping {
            start: VmmVirtual(at * PAGE),
            length: length * PAGE,
            readable: true,
            writable: true,
            executable: false,
            shared: inode != 0,
            file: (inode != 0).then_some(FileIdentity {
                device: (0, 1),
                inode,
                offset: offset * PAGE,
            }),
            name: String::new(),
        }
    }

    #[test]
    fn half_done_pieces_are_told_apart() {
        let file = Some(FileNumber {
            device: (0, 1),
            inode: 9,
        });
        let mappings = [
            mapping(0, 12, 0, 0),
            mapping(12, 2, 2, 9),
            mapping(14, 2, 3, 9),
            mapping(16, 1, 6, 8),
        ];
        let found = standing(&[piece(10, 10, 0)], &mappings, file);
        assert_eq!(found.replaced, [piece(12, 2, 2)]);
        assert_eq!(
            found.own,
            [
                piece(10, 2, 0),
                piece(14, 2, 4),
                piece(16, 1, 6),
                piece(17, 3, 7)
            ]
        );
        assert_eq!(standing(&[piece(12, 2, 2)], &mappings, None).replaced, []);
    }
}
