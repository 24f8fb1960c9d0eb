//! Where a region lies in the VMM's process, by the layout before it is grafted and by the
//! VMM's own mappings afterwards; and putting the file there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vmshm_graft::{Contents, GraftError, Origin, Piece, Refusal};
use vmshm_ram::{BlockPiece, GuestRam, MemoryMapping, ProcRoot, RamBlock, VmmVirtual};

use super::failure::GraftFailure;
use super::lock::Lock;
use super::proof::{self, Proof};
use super::{GraftedRegion, PATIENCE, Pause, Watch, described, sharing, undo_locked};
use crate::sighting::Directory;

/// What the name of a region's memory file starts with, as mappings show it.
const NAME: &str = "vmshm-";

/// A graft as a VMM has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What tells it from all others of the VM.
    pub id: String,
    /// How many bytes of it are in use.
    pub length: u64,
    /// Where.
    pub pieces: Vec<Piece>,
}

/// The grafts in a VMM, by what its mappings show. One that was only begun may be missing.
///
/// # Errors
/// [`GraftFailure`] where the process may not be looked into.
pub fn standing(pid: u32) -> Result<Vec<Standing>, GraftFailure> {
    let mappings = ProcRoot::system()
        .mappings(pid)
        .map_err(|error| GraftFailure::not_looked_into(pid, &error))?;
    Ok(of_mappings(&mappings))
}

fn id_of(mapping: &MemoryMapping) -> Option<&str> {
    mapping.memfd_name()?.strip_prefix(NAME)
}

fn of_mappings(mappings: &[MemoryMapping]) -> Vec<Standing> {
    let mut found: Vec<Standing> = Vec::new();
    for mapping in mappings.iter().filter(|mapping| mapping.shared) {
        let (Some(id), Some(file)) = (id_of(mapping), mapping.file) else {
            continue;
        };
        let piece = Piece {
            at: mapping.start,
            length: mapping.length,
            offset: file.offset,
        };
        match found.iter_mut().find(|one| one.id == id) {
            Some(one) => {
                one.length = one.length.saturating_add(piece.length);
                one.pieces.push(piece);
            }
            None => found.push(Standing {
                id: id.to_owned(),
                length: piece.length,
                pieces: vec![piece],
            }),
        }
    }
    found
}

/// The shared files in which a VMM's RAM blocks lie; nothing of private ones.
pub(super) fn origins(pid: u32) -> Vec<Origin> {
    let blocks = vmshm_ram::find_by_pid(pid).map_or_else(|_| Vec::new(), |vmm| vmm.blocks);
    let origin = |block: &RamBlock| {
        let file = block.file.filter(|_| block.backing.is_shared())?;
        Some(Origin {
            at: block.start,
            length: block.length,
            name: block.name.clone(),
            inode: file.inode,
            offset: file.offset,
        })
    };
    blocks.iter().filter_map(origin).collect()
}

/// Cuts a piece at the borders of origins: the kernel may show two of them as one mapping.
fn cut(piece: Piece, origins: &[Origin]) -> Vec<Piece> {
    let end = piece.at.0.saturating_add(piece.length);
    let mut borders: Vec<u64> = origins
        .iter()
        .flat_map(|origin| [origin.at.0, origin.at.0.saturating_add(origin.length)])
        .filter(|border| piece.at.0 < *border && *border < end)
        .collect();
    borders.extend([piece.at.0, end]);
    borders.sort_unstable();
    borders.dedup();
    let part = |pair: &[u64]| {
        let (first, last) = (*pair.first()?, *pair.get(1)?);
        Some(Piece {
            at: VmmVirtual(first),
            length: last - first,
            offset: piece.offset.saturating_add(first - piece.at.0),
        })
    };
    borders.windows(2).filter_map(part).collect()
}

/// A graft as the engine takes it, by what a process's mappings show.
pub(super) fn as_it_stands(
    mappings: &[MemoryMapping],
    id: &str,
    origins: &[Origin],
) -> vmshm_graft::Region {
    let pieces = of_mappings(mappings)
        .into_iter()
        .find(|one| one.id == id)
        .map(|one| one.pieces)
        .unwrap_or_default();
    let pieces: Vec<Piece> = pieces
        .into_iter()
        .flat_map(|piece| cut(piece, origins))
        .collect();
    let ends = pieces
        .iter()
        .map(|piece| piece.offset.saturating_add(piece.length));
    vmshm_graft::Region {
        id: id.to_owned(),
        size: ends.max().unwrap_or(0),
        pieces,
    }
}

/// What tells a graft from all others of a VM.
pub(super) fn id(epoch: u64, region: u64) -> String {
    format!("{region}.{epoch:016x}")
}

/// How long is waited for who maps the VM's memory to be known by a slot: a vmshm program that
/// is just attaching has none yet.
const ATTACHING: Duration = Duration::from_secs(1);
/// How often it is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// The VMM in whose memory regions are grafted.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) pid: u32,
    /// The number of the guest's keeper: regions of another one are other regions.
    pub(crate) epoch: u64,
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) directory: Arc<Directory>,
}

impl Ground {
    pub(crate) fn new(pid: u32, epoch: u64, ram: Arc<GuestRam>, directory: Arc<Directory>) -> Self {
        Self {
            pid,
            epoch,
            ram,
            directory,
        }
    }

    /// What tells the graft of a region from all others of the VM, earlier boots of its
    /// guest included.
    pub(crate) fn id(&self, region: u64) -> String {
        id(self.epoch, region)
    }

    /// Puts a region's file in the place of its pieces.
    pub(crate) fn replace(
        &self,
        region: u64,
        pieces: &[BlockPiece],
        contents: Contents,
        watch: Watch<'_>,
    ) -> Result<GraftedRegion, GraftFailure> {
        let wanted = self.region(region, pieces)?;
        let _lock = Lock::take(self.pid, PATIENCE)?;
        self.clear(&wanted, watch)?;
        let since = Instant::now();
        let grafted = loop {
            let partners = sharing::partners(self, &wanted)?;
            match vmshm_graft::graft(self.pid, &wanted, contents, &partners, watch) {
                Err(GraftError::Refused(Refusal::Shared { .. })) if since.elapsed() < ATTACHING => {
                    std::thread::sleep(AGAIN);
                }
                other => break other?,
            }
        };
        match proof::compare(self.pid, &wanted, &grafted.file) {
            Ok(()) => {}
            Err(what) => {
                undo_locked(self.pid, &wanted.id, watch)?;
                return Err(GraftFailure::Unproved { what });
            }
        }
        Ok(described(
            self.pid,
            wanted.id,
            wanted.size,
            grafted,
            Proof::Mappings,
        ))
    }

    /// Makes a region's memory the VMM's own again, once the sessions of other processes that
    /// map its file have ended: for a moment, and while `goes_on`.
    pub(crate) fn take_back(
        &self,
        id: &str,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Pause, GraftFailure> {
        let _lock = Lock::take(self.pid, PATIENCE)?;
        sharing::leave_graft(self, id, goes_on);
        undo_locked(self.pid, id, &mut |_| ())
    }

    fn region(
        &self,
        region: u64,
        pieces: &[BlockPiece],
    ) -> Result<vmshm_graft::Region, GraftFailure> {
        let mut offset = 0_u64;
        let mut located = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let block = self.ram.block(piece.at.block);
            let at = block.and_then(|block| block.start.0.checked_add(piece.at.offset));
            let at = at.ok_or_else(|| {
                GraftFailure::Pages("a part of it lies in no RAM block".to_owned())
            })?;
            located.push(Piece {
                at: VmmVirtual(at),
                length: piece.length,
                offset,
            });
            offset = offset.saturating_add(piece.length);
        }
        Ok(vmshm_graft::Region {
            id: self.id(region),
            size: offset,
            pieces: located,
        })
    }

    /// Undoes what is left of other grafts at a region's places: those of regions that were
    /// removed, and of earlier boots of the guest.
    fn clear(&self, wanted: &vmshm_graft::Region, watch: Watch<'_>) -> Result<(), GraftFailure> {
        let overlaps = |one: &Piece, other: &Piece| {
            let end = |piece: &Piece| piece.at.0.saturating_add(piece.length);
            one.at.0 < end(other) && other.at.0 < end(one)
        };
        for old in standing(self.pid)? {
            let in_the_way = old.id != wanted.id
                && old
                    .pieces
                    .iter()
                    .any(|old| wanted.pieces.iter().any(|piece| overlaps(old, piece)));
            if in_the_way {
                tracing::info!(id = old.id, "an earlier graft is in the way and is undone");
                sharing::leave_graft(self, &old.id, &|| true);
                undo_locked(self.pid, &old.id, watch)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmshm_ram::FileIdentity;

    fn mapping(start: u64, length: u64, offset: u64, name: &str) -> MemoryMapping {
        MemoryMapping {
            start: VmmVirtual(start),
            length,
            readable: true,
            writable: true,
            executable: false,
            shared: true,
            file: Some(FileIdentity {
                device: (0, 1),
                inode: 7,
                offset,
            }),
            name: name.to_owned(),
        }
    }

    #[test]
    fn grafts_are_read_from_mappings() {
        let mappings = [
            mapping(0x1000, 0x1000, 0, "/memfd:ram (deleted)"),
            mapping(0x2000, 0x1000, 0x3000, "/memfd:vmshm-5.a (deleted)"),
            mapping(0x3000, 0x2000, 0, "/memfd:vmshm-6.a (deleted)"),
            mapping(0x8000, 0x1000, 0, "/memfd:vmshm-5.a (deleted)"),
        ];
        let found = of_mappings(&mappings);
        let ids: Vec<&str> = found.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids, ["5.a", "6.a"]);
        assert_eq!(found[0].length, 0x2000);
        let region = as_it_stands(&mappings, "5.a", &[]);
        assert_eq!(region.size, 0x4000);
        assert_eq!(region.pieces.len(), 2);
        let block = Origin {
            at: VmmVirtual(0x1000),
            length: 0x3000,
            name: String::new(),
            inode: 1,
            offset: 0,
        };
        let region = as_it_stands(&mappings, "6.a", &[block]);
        let places: Vec<(u64, u64, u64)> = region
            .pieces
            .iter()
            .map(|piece| (piece.at.0, piece.length, piece.offset))
            .collect();
        assert_eq!(places, [(0x3000, 0x1000, 0), (0x4000, 0x1000, 0x1000)]);
        assert_eq!(as_it_stands(&mappings, "9.a", &[]).pieces, []);
    }
}
