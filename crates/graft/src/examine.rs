//! May a process be grafted? All that can be told before anything of it is stopped.
//! What can only be seen on a stopped thread (its filters of system calls, room on its
//! stack) is looked at by `tracer`, and refused there the same way.
//!
//! Other namespaces do not matter as such: the process is named by our own number for
//! it, makes its memory file itself, and the file comes here by descriptor. A process
//! of another user namespace that may not be traced shows as `NoRight`.

use std::io;

use vmshm_ram::{MemoryMapping, VmmVirtual};

use crate::os;
use crate::pieces::Piece;
use crate::process::{self, Area, OpenFile, Status};
use crate::refusal::Refusal;

/// Mappings that are left free for the process's own needs.
const SPARE_MAPPINGS: usize = 256;

/// How many other processes a refusal names.
const NAMED: usize = 8;

/// Looks at a process and at those of its pieces that are to be replaced, and lists
/// every reason against it, the strongest first. An empty list is consent. Processes in
/// `partners` may map the same memory: they know of the change.
#[must_use]
pub fn examine(pid: u32, pieces: &[Piece], partners: &[u32]) -> Vec<Refusal> {
    match look(pid, pieces, partners) {
        Ok(refusals) => refusals,
        Err(refusal) => vec![refusal],
    }
}

fn look(pid: u32, pieces: &[Piece], partners: &[u32]) -> Result<Vec<Refusal>, Refusal> {
    let unreadable = |error: io::Error| cannot_look(pid, &error);
    let status = process::status(pid, None).map_err(unreadable)?;
    let mut refusals = state(pid, &status);
    // These files are readable exactly for who may trace the process.
    let mappings = process::mappings(pid).map_err(unreadable)?;
    let areas = process::areas(pid).map_err(unreadable)?;
    let files = process::open_files(pid).map_err(unreadable)?;
    if mappings.is_empty() {
        return Err(Refusal::Gone { pid });
    }
    refusals.extend(devices(&files));
    let buffers = |file: &&OpenFile| {
        file.target == "anon_inode:[io_uring]"
            && registers_buffers(&process::about_file(pid, file.number))
    };
    if files.iter().any(|file| buffers(&file)) {
        refusals.push(Refusal::RegisteredBuffers);
    }
    refusals.extend(memory(pieces, &mappings, &areas));
    let most = process::setting("vm/max_map_count").unwrap_or(65_530);
    refusals.extend(room(mappings.len(), pieces.len(), most));
    refusals.extend(sharers(pid, pieces, &mappings, partners));
    if let Some(other) = same_memory(pid) {
        refusals.push(Refusal::SameMemory { other });
    }
    Ok(refusals)
}

/// Why a process's files could not be read.
fn cannot_look(pid: u32, error: &io::Error) -> Refusal {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return Refusal::Gone { pid };
    }
    no_right(pid)
}

/// Says why this user may not trace a process.
pub(crate) fn no_right(pid: u32) -> Refusal {
    let Ok(status) = process::status(pid, None) else {
        return Refusal::Gone { pid };
    };
    if status.tracer != 0 {
        return Refusal::Traced {
            tracer: status.tracer,
        };
    }
    let owner = status.users.get(1).copied().unwrap_or(u32::MAX);
    let user = rustix::process::geteuid().as_raw();
    if owner == user && user != 0 && process::files_owner(pid) == Some(0) {
        return Refusal::NotDumpable { pid };
    }
    let scope = process::setting("kernel/yama/ptrace_scope").unwrap_or(0);
    Refusal::NoRight {
        pid,
        owner,
        user,
        scope: u32::try_from(scope).unwrap_or(u32::MAX),
    }
}

fn state(pid: u32, status: &Status) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if matches!(status.state, b'Z' | b'X') {
        refusals.push(Refusal::Gone { pid });
    }
    if status.tracer != 0 {
        refusals.push(Refusal::Traced {
            tracer: status.tracer,
        });
    }
    if status.state == b'T' {
        refusals.push(Refusal::StoppedBySignal { pid });
    }
    if status.seccomp == 1 {
        refusals.push(Refusal::StrictCallFilter);
    }
    if status.seccomp == 2 && !rustix::process::geteuid().is_root() {
        refusals.push(Refusal::UnreadableCallFilter);
    }
    if status.shadow_stack {
        refusals.push(Refusal::ShadowStack);
    }
    refusals
}

/// Files that mean that pages are pinned or out of reach.
fn devices(files: &[OpenFile]) -> Option<Refusal> {
    let pins = |target: &str| {
        // /dev/vfio/vfio alone is the empty container.
        let group = target
            .strip_prefix("/dev/vfio/")
            .is_some_and(|name| name != "vfio");
        group
            || target == "/dev/iommu"
            || target.starts_with("anon_inode:[vfio-device]")
            || target.starts_with("anon_inode:kvm-vfio")
            || target.starts_with("/dev/vhost-vdpa")
            || target.starts_with("/dev/infiniband/uverbs")
    };
    if files.iter().any(|file| file.target.contains("kvm-gmem")) {
        return Some(Refusal::Confidential);
    }
    let file = files.iter().find(|file| pins(&file.target))?;
    Some(Refusal::DevicePinned {
        what: file.target.clone(),
    })
}

/// Whether io_uring's words about itself name registered buffers.
fn registers_buffers(about: &str) -> bool {
    about
        .lines()
        .filter_map(|line| line.strip_prefix("UserBufs:"))
        .any(|count| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
}

/// What lies at the pieces must be memory that can be replaced.
fn memory(pieces: &[Piece], mappings: &[MemoryMapping], areas: &[Area]) -> Option<Refusal> {
    for piece in pieces {
        let end = piece.at.0.saturating_add(piece.length);
        let mut at = piece.at;
        while at.0 < end {
            let here = mappings
                .iter()
                .find(|mapping| mapping.start <= at && at < mapping.end());
            let Some(mapping) = here.filter(|here| here.readable && here.writable) else {
                return Some(Refusal::NotMemory { at });
            };
            let area = areas
                .iter()
                .find(|area| area.place.start == mapping.start.0);
            if let Some(what) = area.and_then(special).or_else(|| special_name(mapping)) {
                return Some(Refusal::SpecialMemory { at, what });
            }
            at = VmmVirtual(mapping.end().0);
        }
    }
    None
}

fn special(area: &Area) -> Option<&'static str> {
    let kinds: [(&[u8; 2], &str); 6] = [
        (b"ht", "made of huge pages of the reserved kind"),
        (b"io", "a device's"),
        (b"pf", "a device's"),
        (b"um", "watched by userfaultfd"),
        (b"uw", "watched by userfaultfd"),
        (b"ui", "watched by userfaultfd"),
    ];
    let (_, what) = kinds.iter().find(|(flag, _)| area.has(flag))?;
    Some(what)
}

fn special_name(mapping: &MemoryMapping) -> Option<&'static str> {
    let own = ["[stack]", "[vdso]", "[vvar]", "[vsyscall]", "[heap]"];
    own.contains(&mapping.name.as_str())
        .then_some("the program's own")
}

/// Each replaced piece may split a mapping in three.
fn room(present: usize, pieces: usize, most: usize) -> Option<Refusal> {
    let needed = pieces.saturating_mul(2);
    let total = present
        .saturating_add(needed)
        .saturating_add(SPARE_MAPPINGS);
    (needed > 0 && total > most).then_some(Refusal::TooManyMappings {
        present,
        needed,
        most,
    })
}

/// Other processes that map a file which lies, shared, at one of the pieces. Private
/// mappings of a file do not show others what is written, and nobody sees a change.
fn sharers(
    pid: u32,
    pieces: &[Piece],
    mappings: &[MemoryMapping],
    partners: &[u32],
) -> Option<Refusal> {
    let touched = |mapping: &&MemoryMapping| {
        pieces.iter().any(|piece| {
            piece.at < mapping.end() && mapping.start.0 < piece.at.0.saturating_add(piece.length)
        })
    };
    let files: Vec<_> = mappings
        .iter()
        .filter(|mapping| mapping.shared)
        .filter(touched)
        .filter_map(|mapping| mapping.file)
        .collect();
    if files.is_empty() {
        return None;
    }
    let own = std::process::id();
    let others = process::processes().unwrap_or_default().into_iter();
    let pids: Vec<u32> = others
        .filter(|other| *other != pid && *other != own && !partners.contains(other))
        .filter(|other| {
            let theirs = process::mappings(*other).unwrap_or_default();
            theirs
                .iter()
                .filter_map(|mapping| mapping.file)
                .any(|theirs| files.iter().any(|file| file.same_file(&theirs)))
        })
        .take(NAMED)
        .collect();
    (!pids.is_empty()).then_some(Refusal::Shared { pids })
}

/// Another process with the very same memory (made by `vfork` or `CLONE_VM`).
fn same_memory(pid: u32) -> Option<u32> {
    let others = process::processes().unwrap_or_default().into_iter();
    others
        .filter(|other| *other != pid)
        .find(|other| os::shares_memory(pid, *other) == Some(true))
}

#[cfg(test)]
#[path = "examine_tests.rs"]
mod tests;
