//! Who else maps what is about to be replaced. Other vmshm processes are known by their
//! slots: those that map other parts of the VM's memory than the region are no hindrance,
//! since they look for grafts whenever they open a region; those that have this very region
//! mapped are named. Anybody else is for the engine to refuse.

use std::os::unix::fs::MetadataExt;

use vmshm_graft::Region;
use vmshm_link::directory::{SLOTS, slot_offset};
use vmshm_link::slot::SlotView;
use vmshm_ram::{FileIdentity, MemoryMapping, ProcRoot};

use super::failure::GraftFailure;
use super::places::Ground;
use crate::ending::SessionEnd;
use crate::identity::{own_identity, start_time};

/// A run of a file.
#[derive(Debug, Clone, Copy)]
struct Run {
    file: FileIdentity,
    length: u64,
}

impl Run {
    fn of(mapping: &MemoryMapping) -> Option<Self> {
        Some(Self {
            file: mapping.file?,
            length: mapping.length,
        })
    }

    fn overlaps(&self, other: &Self) -> bool {
        let end = |run: &Self| run.file.offset.saturating_add(run.length);
        self.file.same_file(&other.file)
            && self.file.offset < end(other)
            && other.file.offset < end(self)
    }
}

/// The vmshm processes that may have the same file mapped.
pub(super) fn partners(ground: &Ground, region: &Region) -> Result<Vec<u32>, GraftFailure> {
    let mappings = ProcRoot::system().mappings(ground.pid).unwrap_or_default();
    let runs = replaced(&mappings, region);
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let mut partners = Vec::new();
    let mut users = Vec::new();
    let mut others = hosts(ground)?;
    // What this program has started beside it looks after sessions, and has no slot.
    others.extend(same_program());
    others.sort_unstable();
    others.dedup();
    for pid in others {
        let theirs = ProcRoot::system().mappings(pid).unwrap_or_default();
        let mut theirs = theirs.iter().filter_map(Run::of);
        if theirs.any(|their| runs.iter().any(|run| run.overlaps(&their))) {
            users.push(pid);
        } else {
            partners.push(pid);
        }
    }
    if users.is_empty() {
        Ok(partners)
    } else {
        Err(GraftFailure::InUse { pids: users })
    }
}

/// The runs of shared files that lie at a region's places and are not its own file.
fn replaced(mappings: &[MemoryMapping], region: &Region) -> Vec<Run> {
    let own = format!("vmshm-{}", region.id);
    let mut runs = Vec::new();
    for piece in &region.pieces {
        let end = piece.at.0.saturating_add(piece.length);
        for mapping in mappings.iter().filter(|mapping| mapping.shared) {
            let first = mapping.start.0.max(piece.at.0);
            let last = mapping.end().0.min(end);
            if first >= last || mapping.memfd_name() == Some(&own) {
                continue;
            }
            if let Some(file) = mapping.file {
                runs.push(Run {
                    file: FileIdentity {
                        offset: file.offset.saturating_add(first - mapping.start.0),
                        ..file
                    },
                    length: last - first,
                });
            }
        }
    }
    runs
}

/// The other living processes of this host that have a session with the guest.
fn hosts(ground: &Ground) -> Result<Vec<u32>, GraftFailure> {
    let own = own_identity();
    let mut pids = Vec::new();
    for index in 0..SLOTS {
        let view =
            SlotView::read(&ground.directory, slot_offset(index)).map_err(SessionEnd::from)?;
        let owner = view.owner.filter(|_| view.is_held());
        let Some(owner) = owner else { continue };
        let here = owner.boot_id == own.boot_id && owner.pid_namespace == own.pid_namespace;
        // What stands in a slot is read from guest RAM: only a process that is what the slot
        // says counts.
        let lives = owner.start_time != 0 && start_time(owner.pid) == Some(owner.start_time);
        if here
            && lives
            && owner.pid != own.pid
            && let Ok(pid) = u32::try_from(owner.pid)
        {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// The other processes that run this very program.
fn same_program() -> Vec<u32> {
    let program = |pid: &str| {
        let file = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some((file.dev(), file.ino()))
    };
    let own = program("self");
    let is_other = |pid: &u32| *pid != std::process::id() && own.is_some();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_other)
        .filter(|pid| program(&pid.to_string()) == own)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmshm_graft::Piece;
    use vmshm_ram::VmmVirtual;

    fn ram(start: u64, length: u64, offset: u64) -> MemoryMapping {
        MemoryMapping {
            start: VmmVirtual(start),
            length,
            readable: true,
            writable: true,
            executable: false,
            shared: true,
            file: Some(FileIdentity {
                device: (0, 1),
                inode: 9,
                offset,
            }),
            name: "/memfd:ram (deleted)".to_owned(),
        }
    }

    #[test]
    fn only_the_regions_own_runs_count() {
        let region = Region {
            id: "1.a".to_owned(),
            size: 0x1000,
            pieces: vec![Piece {
                at: VmmVirtual(0x5000),
                length: 0x1000,
                offset: 0,
            }],
        };
        let vmm = [ram(0x4000, 0x4000, 0x10000)];
        let runs = replaced(&vmm, &region);
        assert_eq!(runs.len(), 1);
        assert_eq!((runs[0].file.offset, runs[0].length), (0x11000, 0x1000));
        let there = |mapping: MemoryMapping| {
            let theirs = Run::of(&mapping).expect("a file");
            runs[0].overlaps(&theirs)
        };
        assert!(there(ram(0x9000, 0x1000, 0x11000)));
        assert!(!there(ram(0x9000, 0x8000, 0)));
        assert!(there(ram(0x9000, 0x11001, 0)));
        assert!(!there(ram(0x9000, 0x1000, 0x12000)));
    }
}
