//! Where shared memory of a process came from, so that undoing a graft can put it back: into
//! the very file that other processes map, and not into memory of the process's own that
//! nobody else would ever see. The process must still have that file open.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::fs::OFlags;
use rustix::io::Errno;
use vmshm_ram::{MemoryMapping, VmmVirtual};

use crate::pieces::Piece;
use crate::process;
use crate::refusal::{GraftError, Refusal};
use crate::region_file;

/// How many bytes are copied at once.
const PORTION: usize = 1 << 20;

/// A run of a process's memory that lies, or lay, in a shared file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Where it starts in the process.
    pub at: VmmVirtual,
    /// How long it is, in bytes.
    pub length: u64,
    /// The file's name as the process's mappings show it.
    pub name: String,
    /// The file's number on its device.
    pub inode: u64,
    /// Where in the file the run starts.
    pub offset: u64,
}

/// The same with the file at hand.
#[derive(Debug)]
pub(crate) struct OpenOrigin {
    origin: Origin,
    /// Its number in the process.
    pub(crate) number: u32,
    file: OwnedFd,
}

impl OpenOrigin {
    /// Where in the file a piece belongs, if it lies in this run.
    pub(crate) fn offset_of(&self, piece: &Piece) -> Option<u64> {
        let into = piece.at.0.checked_sub(self.origin.at.0)?;
        let end = into.checked_add(piece.length)?;
        (end <= self.origin.length).then(|| self.origin.offset.checked_add(into))?
    }
}

/// The origin of a piece, and where in its file it belongs.
pub(crate) fn origin_of<'o>(
    origins: &'o [OpenOrigin],
    piece: &Piece,
) -> Option<(&'o OpenOrigin, u64)> {
    origins
        .iter()
        .find_map(|origin| Some((origin, origin.offset_of(piece)?)))
}

/// The origins of pieces that lie in shared files.
pub(crate) fn of(mappings: &[MemoryMapping], pieces: &[Piece]) -> Vec<Origin> {
    let touched = |mapping: &&MemoryMapping| {
        let end = |piece: &Piece| piece.at.0.saturating_add(piece.length);
        mapping.shared
            && pieces
                .iter()
                .any(|piece| piece.at < mapping.end() && mapping.start.0 < end(piece))
    };
    let origin = |mapping: &MemoryMapping| {
        let file = mapping.file?;
        Some(Origin {
            at: mapping.start,
            length: mapping.length,
            name: mapping.name.clone(),
            inode: file.inode,
            offset: file.offset,
        })
    };
    mappings.iter().filter(touched).filter_map(origin).collect()
}

/// Finds the files of origins among those that a process has open for writing.
pub(crate) fn open(pid: u32, origins: &[Origin]) -> Result<Vec<OpenOrigin>, GraftError> {
    if origins.is_empty() {
        return Ok(Vec::new());
    }
    let files = process::open_files(pid).map_err(|_| Refusal::Gone { pid })?;
    let find = |origin: &Origin| {
        for file in files.iter().filter(|file| file.target == origin.name) {
            let path = format!("/proc/{pid}/fd/{}", file.number);
            let same = std::fs::metadata(path).is_ok_and(|found| found.ino() == origin.inode);
            if !same {
                continue;
            }
            let (number, file) = (file.number, region_file::bring(pid, file.number)?.file);
            let flags = rustix::fs::fcntl_getfl(&file).map_err(|error| GraftError::System {
                what: "look at the file of its memory",
                error,
            })?;
            if flags & OFlags::RWMODE == OFlags::RDWR {
                let origin = origin.clone();
                return Ok(OpenOrigin {
                    origin,
                    number,
                    file,
                });
            }
        }
        Err(Refusal::OriginClosed { at: origin.at }.into())
    };
    origins.iter().map(find).collect()
}

/// Copies a piece out of a region's file to where it belongs.
pub(crate) fn copy_back(
    region: &OwnedFd,
    piece: &Piece,
    (origin, offset): (&OpenOrigin, u64),
) -> Result<(), Errno> {
    let mut buffer = vec![0; PORTION];
    let mut done = 0;
    while done < piece.length {
        let length = usize::try_from(piece.length - done).map_or(PORTION, |n| n.min(PORTION));
        let part = buffer.get_mut(..length).ok_or(Errno::INVAL)?;
        let count = rustix::io::pread(region, part, piece.offset + done)?;
        let part = buffer.get(..count).ok_or(Errno::INVAL)?;
        let written = rustix::io::pwrite(&origin.file, part, offset + done)?;
        if written == 0 {
            return Err(Errno::IO);
        }
        done += written as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn pieces_find_their_place_and_come_back_to_it() {
        let made =
            rustix::fs::memfd_create("origin", rustix::fs::MemfdFlags::CLOEXEC).expect("a file");
        rustix::fs::ftruncate(&made, 0x8000).expect("its size");
        let path = format!("/proc/self/fd/{}", made.as_raw_fd());
        let origin = Origin {
            at: VmmVirtual(0x10000),
            length: 0x4000,
            name: std::fs::read_link(&path)
                .expect("a link")
                .to_string_lossy()
                .into_owned(),
            inode: std::fs::metadata(&path).expect("it is there").ino(),
            offset: 0x1000,
        };
        let opened = open(std::process::id(), std::slice::from_ref(&origin)).expect("found");
        let piece = |at, length| Piece {
            at: VmmVirtual(at),
            length,
            offset: 0x1000,
        };
        assert!(origin_of(&opened, &piece(0xf000, 0x1000)).is_none());
        assert!(origin_of(&opened, &piece(0x13000, 0x2000)).is_none());
        let inside = piece(0x12000, 0x2000);
        let found = origin_of(&opened, &inside).expect("its place");
        assert_eq!(found.1, 0x3000);
        let region =
            rustix::fs::memfd_create("region", rustix::fs::MemfdFlags::CLOEXEC).expect("a file");
        let region = std::fs::File::from(region);
        region.write_all_at(&[7; 0x3000], 0).expect("filled");
        copy_back(&OwnedFd::from(region), &inside, found).expect("copied");
        let file = std::fs::File::from(made);
        let mut seen = [0; 0x2000];
        file.read_exact_at(&mut seen, 0x3000).expect("read");
        assert_eq!(seen, [7; 0x2000]);
        let gone = Origin {
            inode: origin.inode + 1,
            ..origin
        };
        assert!(open(std::process::id(), &[gone]).is_err());
    }
}
