//! What shows, after a graft, that guest and host use the same bytes.
//!
//! A region that was just made carries a keyed pattern, which the agent removes once the
//! host has seen it. Grafted in between, the region's file is given the pattern by the host, and
//! the agent's own stores then take it away again, page by page, before the host's eyes:
//! nothing but the guest can have done that.
//!
//! In a region that is in use every byte is somebody's, so none can be written for a proof.
//! There three things are brought together: the pattern was seen at these places when the
//! region was made; the kernel's list of the VMM's mappings now shows the region's file at each of
//! these places, at the right offset; and each page reads the same through the VMM's memory
//! and through the file. Where a word differs it must be one that changes at that moment.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{fstat, major, minor};
use vmshm_graft::Region;
use vmshm_ram::{MemoryMapping, ProcRoot};

/// How the last graft was proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Proof {
    /// The agent's stores to every page were seen in the file.
    Pattern,
    /// The VMM's mappings and the contents of every page agree with the file.
    Mappings,
}

impl Proof {
    /// The word that scripts see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pattern => "pattern",
            Self::Mappings => "mappings",
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pattern => "the guest took a keyed pattern out of every page of the file",
            Self::Mappings => {
                "the VMM maps the file at every place where the region was proved, and every page reads the same"
            }
        })
    }
}

/// How often a part is read that changes while it is compared.
const TRIES: usize = 1000;

/// How many bytes are compared at once.
const PORTION: usize = 64 << 10;

/// Compares a grafted region with its file, by mappings and by contents.
pub(super) fn compare(pid: u32, region: &Region, file: &OwnedFd) -> Result<(), &'static str> {
    let unreadable = "the VMM's memory can no longer be read";
    let mappings = ProcRoot::system().mappings(pid).map_err(|_| unreadable)?;
    are_mapped(&mappings, region, file)?;
    let memory = File::open(format!("/proc/{pid}/mem")).map_err(|_| unreadable)?;
    let file = file.try_clone().map(File::from);
    let file = file.map_err(|_| "its file cannot be read")?;
    read_the_same(region, &memory, &file)
}

fn are_mapped(
    mappings: &[MemoryMapping],
    region: &Region,
    file: impl AsFd,
) -> Result<(), &'static str> {
    let elsewhere = "the VMM does not map its file at all of its places";
    let status = fstat(file).map_err(|_| "its file cannot be looked at")?;
    let device = (major(status.st_dev), minor(status.st_dev));
    for piece in &region.pieces {
        let mut done = 0;
        while done < piece.length {
            let at = piece.at.0.saturating_add(done);
            let index = mappings.partition_point(|mapping| mapping.start.0 <= at);
            let mapping = index.checked_sub(1).and_then(|index| mappings.get(index));
            let mapping = mapping.filter(|mapping| at < mapping.end().0 && mapping.shared);
            let (Some(mapping), Some(behind)) = (mapping, mapping.and_then(|one| one.file)) else {
                return Err(elsewhere);
            };
            let offset = behind.offset.checked_add(at - mapping.start.0);
            if behind.inode != status.st_ino
                || behind.device != device
                || offset != piece.offset.checked_add(done)
            {
                return Err(elsewhere);
            }
            done = mapping.end().0 - piece.at.0;
        }
    }
    Ok(())
}

fn read_the_same(region: &Region, memory: &File, file: &File) -> Result<(), &'static str> {
    let mut buffers = [vec![0; PORTION], vec![0; PORTION], vec![0; PORTION]];
    for piece in &region.pieces {
        let mut done = 0;
        while done < piece.length {
            let length = usize::try_from(piece.length - done).map_or(PORTION, |n| n.min(PORTION));
            let mut tries = 0;
            loop {
                let [before, theirs, after] = buffers
                    .each_mut()
                    .map(|one| one.get_mut(..length).unwrap_or_default());
                file.read_exact_at(before, piece.offset + done)
                    .and_then(|()| memory.read_exact_at(theirs, piece.at.0 + done))
                    .and_then(|()| file.read_exact_at(after, piece.offset + done))
                    .map_err(|_| "a page of it cannot be read")?;
                if agree(before, theirs, after) {
                    break;
                }
                tries += 1;
                if tries > TRIES {
                    return Err("the VMM's memory and the file differ");
                }
            }
            done += length as u64;
        }
    }
    Ok(())
}

/// Whether the VMM's memory, read in between, is that of the file: a word that differs
/// must be one that just changed in the file.
fn agree(before: &[u8], theirs: &[u8], after: &[u8]) -> bool {
    let words = |bytes: &[u8]| bytes.as_chunks::<8>().0.to_vec();
    before == theirs
        || words(before)
            .iter()
            .zip(words(theirs))
            .zip(words(after))
            .all(|((before, theirs), after)| *before == theirs || *before != after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_that_just_changed_may_differ() {
        let page = [1_u8; 32];
        let mut changed = page;
        changed[9] = 2;
        assert!(agree(&page, &page, &changed));
        assert!(agree(&page, &changed, &changed));
        assert!(!agree(&page, &changed, &page));
        let mut elsewhere = page;
        elsewhere[20] = 3;
        assert!(!agree(&page, &changed, &elsewhere));
    }

    #[test]
    fn a_file_at_another_offset_is_no_proof() {
        let file = rustix::fs::memfd_create("vmshm-proof", rustix::fs::MemfdFlags::CLOEXEC)
            .expect("a file");
        let status = fstat(&file).expect("its status");
        let piece = vmshm_graft::Piece {
            at: vmshm_ram::VmmVirtual(0x5000),
            length: 0x2000,
            offset: 0x1000,
        };
        let region = Region {
            id: "1.a".to_owned(),
            size: 0x3000,
            pieces: vec![piece],
        };
        let mapping = |start: u64, length: u64, offset: u64| MemoryMapping {
            start: vmshm_ram::VmmVirtual(start),
            length,
            readable: true,
            writable: true,
            executable: false,
            shared: true,
            file: Some(vmshm_ram::FileIdentity {
                device: (major(status.st_dev), minor(status.st_dev)),
                inode: status.st_ino,
                offset,
            }),
            name: String::new(),
        };
        let whole = [mapping(0x4000, 0x4000, 0)];
        assert_eq!(are_mapped(&whole, &region, &file), Ok(()));
        let parts = [
            mapping(0x5000, 0x1000, 0x1000),
            mapping(0x6000, 0x1000, 0x2000),
        ];
        assert_eq!(are_mapped(&parts, &region, &file), Ok(()));
        assert!(are_mapped(&parts[..1], &region, &file).is_err());
        let shifted = [mapping(0x5000, 0x2000, 0x2000)];
        assert!(are_mapped(&shifted, &region, &file).is_err());
        let mut private = mapping(0x5000, 0x2000, 0x1000);
        private.shared = false;
        assert!(are_mapped(&[private], &region, &file).is_err());
    }
}
