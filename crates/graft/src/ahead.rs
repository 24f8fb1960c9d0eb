//! Copying a region's bytes into its file: most of them while all threads still run, and the
//! rest, which was written meanwhile, when they stand still. That is what keeps the pause
//! short. Where the kernel cannot say what was written (before Linux 6.7), or the memory is
//! not private (others may write it by another way), all bytes are copied in the pause.
//!
//! A transfer that had the pages' place before they were watched (a read past the page cache)
//! writes without being seen. So all threads are stopped for a moment once the pages are
//! watched: what they had asked for is done then, and whatever comes later is seen. Pages are
//! watched once, and never again while they are copied. Transfers that no thread waits for
//! (io_uring, the kernel's old asynchronous I/O) could still be under way, so who uses those
//! is not copied ahead; who pins pages for longer is refused.

use std::thread;

use rustix::io::Errno;
use vmshm_ram::MemoryMapping;

use crate::os::{FileView, Run, Tracking};
use crate::pieces::Piece;
use crate::process::OpenFile;

/// From this size on it is worth a call of a borrowed thread.
const WORTHWHILE: u64 = 1 << 20;

/// From this size on two threads copy.
const LARGE: u64 = 4 << 20;

/// How long a run is at most, so that two threads can share the work.
const PORTION: u64 = 1 << 20;

/// Whether copying ahead is possible and worthwhile.
pub(crate) fn is_worthwhile(
    pieces: &[Piece],
    mappings: &[MemoryMapping],
    files: &[OpenFile],
) -> bool {
    let total: u64 = pieces.iter().map(|piece| piece.length).sum();
    let is_private = |piece: &Piece| {
        let end = piece.at.0.saturating_add(piece.length);
        mappings
            .iter()
            .filter(|mapping| mapping.start.0 < end && piece.at < mapping.end())
            .all(|mapping| !mapping.shared)
    };
    total >= WORTHWHILE && pieces.iter().all(is_private) && !transfers_unwatched(mappings, files)
}

/// Whether the process may have transfers under way that no thread of it waits for.
fn transfers_unwatched(mappings: &[MemoryMapping], files: &[OpenFile]) -> bool {
    // io_setup(2) maps its ring under this name.
    let has_ring = |mapping: &MemoryMapping| mapping.name.starts_with("/[aio]");
    let is_ring = |file: &OpenFile| file.target == "anon_inode:[io_uring]";
    mappings.iter().any(has_ring) || files.iter().any(is_ring)
}

/// Pieces whose bytes are in the file, but for what was written since.
#[derive(Debug)]
pub(crate) struct Ahead {
    tracking: Tracking,
}

impl Ahead {
    /// Watches pieces from now on. Before they are copied all threads are to be stopped once.
    pub(crate) fn watch(tracking: Tracking, pieces: &[Piece]) -> Result<Self, Errno> {
        for piece in pieces {
            tracking.add(piece.at.0, piece.length)?;
            tracking.start(piece.at.0, piece.length)?;
        }
        Ok(Self { tracking })
    }

    /// Copies the pieces while the process runs.
    pub(crate) fn copy(&self, view: &FileView, pid: u32, pieces: &[Piece]) -> Result<(), Errno> {
        copy(view, pid, &whole(pieces))
    }

    /// What was written since it is watched, or has no page: its bytes in the file may be old.
    fn written(&self, pieces: &[Piece]) -> Result<Vec<Run>, Errno> {
        let mut portions = Vec::new();
        for piece in pieces {
            let report = |at: u64, length: u64| {
                let into = at.saturating_sub(piece.at.0);
                portions.extend(cut(piece.offset.saturating_add(into), at, length));
            };
            self.tracking.written(piece.at.0, piece.length, report)?;
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
    let written = ahead.and_then(|ahead| ahead.written(pieces).ok());
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
    fn whoever_transfers_without_a_thread_that_waits_is_not_copied_ahead() {
        let pieces = [Piece {
            at: VmmVirtual(0x10_0000),
            length: WORTHWHILE,
            offset: 0,
        }];
        let mapping = |start: u64, name: &str, shared: bool| MemoryMapping {
            start: VmmVirtual(start),
            length: WORTHWHILE,
            readable: true,
            writable: true,
            executable: false,
            shared,
            file: None,
            name: name.to_owned(),
        };
        let file = |target: &str| OpenFile {
            number: 3,
            target: target.to_owned(),
        };
        let ram = mapping(0x10_0000, "", false);
        let ring = mapping(0x90_0000, "/[aio] (deleted)", true);
        let uring = file("anon_inode:[io_uring]");
        let both = [ram, ring];
        let (ram, _) = both.split_at(1);
        assert!(is_worthwhile(&pieces, ram, &[file("socket:[1]")]));
        assert!(!is_worthwhile(&pieces, &both, &[]));
        assert!(!is_worthwhile(&pieces, ram, &[uring]));
        assert!(!is_worthwhile(
            &pieces,
            &[mapping(0x10_0000, "", true)],
            &[]
        ));
    }

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
