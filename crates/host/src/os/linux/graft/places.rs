//! Where a region lies in the VMM's process, by the layout before it is grafted and by the
//! VMM's own mappings afterwards; and putting the file there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vmshm_graft::{Contents, GraftError, Origin, Piece, Refusal};
use vmshm_ram::{BlockPiece, GuestRam, MemoryMapping, ProcRoot, RamBlock, VmmVirtual};

use super::failure::GraftFailure;
use super::lock::Lock;
use super::own::{self, OwnGrafts};
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

/// Whether all of a region lies in its file.
pub(super) fn is_whole(mappings: &[MemoryMapping], region: &vmshm_graft::Region) -> bool {
    let grafted = of_mappings(mappings);
    let grafted = grafted.iter().find(|one| one.id == region.id);
    grafted.is_some_and(|one| one.length == region.size)
}

/// What tells a graft from all others of a VM.
pub(super) fn id(epoch: u64, region: u64) -> String {
    format!("{region}.{epoch:016x}")
}

/// The number of the region whose graft that is, if it is one of this epoch's.
pub(super) fn region_of(graft: &str, epoch: u64) -> Option<u64> {
    let (region, _) = graft.split_once('.')?;
    let region = region.parse().ok()?;
    (id(epoch, region) == graft).then_some(region)
}

/// How long is waited for who maps the VM's memory to be known by a slot: a vmshm program that
/// is just attaching has none yet.
const ATTACHING: Duration = Duration::from_secs(1);
/// How long whoever has a file that is withdrawn has for hearing of it: its broker looks about
/// twenty times a second, and itself ten times.
const HEARING: Duration = Duration::from_millis(300);
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
    /// What its session made.
    pub(super) own: Arc<OwnGrafts>,
}

impl Ground {
    pub(crate) fn new(
        pid: u32,
        epoch: u64,
        ram: Arc<GuestRam>,
        directory: Arc<Directory>,
        own: Arc<OwnGrafts>,
    ) -> Self {
        Self {
            pid,
            epoch,
            ram,
            directory,
            own,
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
        self.replace_region(region, wanted, (contents, true), watch)
    }

    /// The same for who has the lock; where it does not `wait`, whoever uses the region is in the
    /// way at once.
    fn replace_region(
        &self,
        region: u64,
        wanted: vmshm_graft::Region,
        (contents, waits): (Contents, bool),
        watch: Watch<'_>,
    ) -> Result<GraftedRegion, GraftFailure> {
        self.clear(&wanted, watch)?;
        // Those to whom such a file was lent may have kept it: this graft gets another one.
        self.end_undoing_locked(watch);
        let attaching = if waits { ATTACHING } else { Duration::ZERO };
        let since = Instant::now();
        let grafted = loop {
            let partners = sharing::partners(self, region, &wanted, waits)?;
            match vmshm_graft::graft(self.pid, &wanted, contents, &partners, watch) {
                Err(GraftError::Refused(Refusal::Shared { .. })) if since.elapsed() < attaching => {
                    std::thread::sleep(AGAIN);
                }
                other => break other?,
            }
        };
        self.own.note(&wanted.id, &grafted.file);
        match proof::compare(self.pid, &wanted, &grafted.file) {
            Ok(()) => {}
            Err(what) => {
                undo_locked(self.pid, &wanted.id, Contents::Keep, watch)?;
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

    /// Makes a region's memory the VMM's own again that was lent, once the sessions of other processes
    /// that map its file have ended: for a moment, and while `goes_on`. A graft that was made by name is made
    /// anew with another file: whoever keeps the old one has nothing of the guest.
    pub(crate) fn take_back_lent(
        &self,
        id: &str,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<(), GraftFailure> {
        let _lock = Lock::take(self.pid, PATIENCE)?;
        let by_name = self.standing_by_name(id);
        self.take_back_locked(id, goes_on)?;
        let Some((number, wanted)) = by_name.filter(|(number, _)| goes_on() && self.has(*number))
        else {
            return Ok(());
        };
        let made = self.replace_region(number, wanted, (Contents::Keep, false), &mut |_| ());
        let Err(error) = made.and_then(|made| own::mark_as_staying(&made)) else {
            return Ok(());
        };
        tracing::warn!(pid = self.pid, id, %error, "a graft that was made by name is gone");
        match undo_locked(self.pid, id, Contents::Keep, &mut |_| ()) {
            Ok(_) | Err(GraftFailure::NotGrafted) => Ok(()),
            Err(half) => Err(half),
        }
    }

    /// Ends what somebody who died has begun to undo. What goes wrong is told, and is the next
    /// one's to try. The caller has the lock.
    pub(super) fn end_undoing_locked(&self, watch: Watch<'_>) {
        for id in own::withdrawn_in(self.pid) {
            if sharing::is_held(self, &id) {
                std::thread::sleep(HEARING);
            }
            match undo_locked(self.pid, &id, Contents::Keep, watch) {
                Ok(_) | Err(GraftFailure::NotGrafted) => {}
                Err(error) => tracing::warn!(pid = self.pid, id, %error, "a graft is half undone"),
            }
        }
    }

    /// Whether the guest still has a region.
    fn has(&self, number: u64) -> bool {
        let mut regions = self.directory.regions().filter_map(Result::ok);
        regions.any(|entry| entry.id == number)
    }

    /// The region of a graft that was made by name, as it stands.
    fn standing_by_name(&self, id: &str) -> Option<(u64, vmshm_graft::Region)> {
        let number = region_of(id, self.epoch)?;
        if !own::stays_in(self.pid, id) {
            return None;
        }
        let mappings = ProcRoot::system().mappings(self.pid).ok()?;
        let region = as_it_stands(&mappings, id, &origins(self.pid));
        (!region.pieces.is_empty()).then_some((number, region))
    }

    /// Makes a region's memory the VMM's own again, once the sessions of other processes that
    /// map its file have ended: for a moment, and while `goes_on`. The caller has the lock.
    pub(super) fn take_back_locked(
        &self,
        id: &str,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Vec<Pause>, GraftFailure> {
        sharing::leave_graft(self, id, goes_on);
        undo_locked(self.pid, id, Contents::Keep, &mut |_| ())
    }

    /// The same, whoever has the file: those without a slot hear of it by its mode, and have a
    /// moment to stop using it, so that what they have read is right and counted.
    pub(super) fn take_back_by_name(&self, id: &str) -> Result<Vec<Pause>, GraftFailure> {
        let _lock = Lock::take(self.pid, PATIENCE)?;
        sharing::leave_graft(self, id, &|| true);
        if sharing::is_held(self, id) {
            vmshm_graft::withdraw(self.pid, id).map_err(|error| match error {
                GraftError::Refused(Refusal::NotGrafted) => GraftFailure::NotGrafted,
                other => GraftFailure::Undo(other),
            })?;
            std::thread::sleep(HEARING);
        }
        undo_locked(self.pid, id, Contents::Keep, &mut |_| ())
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
                undo_locked(self.pid, &old.id, Contents::Keep, watch)?;
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
