//! Copying a region's bytes into its file: most of them while all threads still run, and the
//! rest, which was written meanwhile, when they stand still. That is what keeps the pause
//! short. Where the kernel cannot say what was written (before Linux 6.7), or the memory is
//! not private (others may write it by another way), all bytes are copied in the pause.
//!
//! A write by a device that was told the pages' place before they were watched is not seen,
//! as it is not after the change itself: whoever pins pages of a process is refused.

use std::thread;

use rustix::io::Errno;
use vmshm_ram::MemoryMapping;

use crate::os::{FileView, Run, Tracking};
use crate::pieces::Piece;

/// From this size on it is worth a call of a borrowed thread.
const WORTHWHILE: u64 = 1 << 20;

/// So little is left to the pause.
const LITTLE: u64 = 512 << 10;

/// How often is copied while the threads run.
const PASSES: usize = 4;

/// From this size on two threads copy.
const LARGE: u64 = 4 << 20;

/// How long a run is at most, so that two threads can share the work.
const PORTION: u64 = 1 << 20;

/// Whether copying ahead is possible and worthwhile.
pub(crate) fn is_worthwhile(pieces: &[Piece], mappings: &[MemoryMapping]) -> bool {
    let total: u64 = pieces.iter().map(|piece| piece.length).sum();
    let is_private = |piece: &Piece| {
        let end = piece.at.0.saturating_add(piece.length);
        mappings
            .iter()
            .filter(|mapping| mapping.start.0 < end && piece.at < mapping.end())
            .all(|mapping| !mapping.shared)
    };
    total >= WORTHWHILE && pieces.iter().all(is_private)
}

/// Pieces whose bytes are in the file, but for what was written since.
#[derive(Debug)]
pub(crate) struct Ahead {
    tracking: Tracking,
}

impl Ahead {
    /// Watches pieces, and copies them while the process runs. `watched` is told when the
    /// first is done.
    pub(crate) fn copy(
        tracking: Tracking,
        view: &FileView,
        pid: u32,
        pieces: &[Piece],
        watched: impl FnOnce(),
    ) -> Result<Self, Errno> {
        let ahead = Self { tracking };
        for piece in pieces {
            ahead.tracking.add(piece.at.0, piece.length)?;
        }
        ahead.written(pieces, true)?;
        watched();
        // What has no page is not told of as written, and its bytes in the file may be old ones.
        let mut portions = whole(pieces);
        for _ in 0..PASSES {
            copy(view, pid, &portions)?;
            portions = ahead.written(pieces, true)?;
            if length(&portions) <= LITTLE {
                break;
            }
        }
        // What the last look took is no longer told of.
        copy(view, pid, &portions)?;
        Ok(ahead)
    }

    /// What was written since it was last taken.
    fn written(&self, pieces: &[Piece], take: bool) -> Result<Vec<Run>, Errno> {
        let mut portions = Vec::new();
        for piece in pieces {
            let report = |at: u64, length: u64| {
                let into = at.saturating_sub(piece.at.0);
                portions.extend(cut(piece.offset.saturating_add(into), at, length));
            };
            self.tracking
                .written(piece.at.0, piece.length, take, report)?;
        }
        Ok(portions)
    }
}

/// Copies what is still missing of pieces in the file, when nobody writes them any more.
pub(crate) fn complete(
    ahead: Option<&Ahead>,
    view: &FileView,
    pid: u32,
    pieces: &[Piece],
) -> Result<(), Errno> {
    let written = ahead.and_then(|ahead| ahead.written(pieces, false).ok());
    copy(view, pid, &written.unwrap_or_else(|| whole(pieces)))
}

fn whole(pieces: &[Piece]) -> Vec<Run> {
    let portions = |piece: &Piece| cut(piece.offset, piece.at.0, piece.length);
    pieces.iter().flat_map(portions).collect()
}

fn cut(offset: u64, at: u64, length: u64) -> impl Iterator<Item = Run> {
    (0..length.div_ceil(PORTION)).map(move |index| {
        let done = index * PORTION;
        Run {
            offset: offset + done,
            at: at + done,
            length: PORTION.min(length - done),
        }
    })
}

fn length(portions: &[Run]) -> u64 {
    portions.iter().map(|portion| portion.length).sum()
}

fn copy(view: &FileView, pid: u32, portions: &[Run]) -> Result<(), Errno> {
    let copy = |portions: &[Run]| view.fill(pid, portions);
    if length(portions) < LARGE {
        return copy(portions);
    }
    let (first, second) = portions.split_at(portions.len() / 2);
    thread::scope(|scope| {
        let second = thread::Builder::new().spawn_scoped(scope, || copy(second));
        let first = copy(first);
        let second = match second {
            Ok(thread) => thread.join().unwrap_or(Err(Errno::IO)),
            Err(_) => Err(Errno::AGAIN),
        };
        first.and(second)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmshm_ram::VmmVirtual;

    #[test]
    fn portions_cover_pieces_without_gaps() {
        let piece = Piece {
            at: VmmVirtual(0x10000),
            length: 2 * PORTION + 4096,
            offset: 8192,
        };
        let portions = whole(&[piece]);
        let parts: Vec<(u64, u64, u64)> = portions
            .iter()
            .map(|one| (one.offset, one.at, one.length))
            .collect();
        assert_eq!(
            parts,
            [
                (8192, 0x10000, PORTION),
                (8192 + PORTION, 0x10000 + PORTION, PORTION),
                (8192 + 2 * PORTION, 0x10000 + 2 * PORTION, 4096),
            ]
        );
        assert_eq!(length(&portions), piece.length);
    }
}
