//! The search for VMs among the processes of this host. A process that cannot be read,
//! vanishes, or is a VMM's copy of itself is passed over in silence; one that may not be
//! looked at is listed with the reason.

use super::candidate::{Candidate, Draft, obstacle_of};
use super::{
    FindError, Machine, Vmm, VmmKind, bochs, cloud_hypervisor, firecracker, kvm, qemu, uml,
    virtualbox, vmware,
};
use crate::block;
use crate::os::{ProcRoot, ProcessError};

/// All VMs on this host, in the order of their process numbers.
///
/// # Errors
/// [`FindError::Processes`]; a process that cannot be read is no error.
pub fn find_all() -> Result<Vec<Vmm>, FindError> {
    find_all_in(&ProcRoot::system())
}

/// As [`find_all`], among the processes of another root.
///
/// # Errors
/// As [`find_all`].
pub fn find_all_in(root: &ProcRoot) -> Result<Vec<Vmm>, FindError> {
    let pids = root
        .pids()
        .map_err(|error| FindError::Processes(error.to_string()))?;
    Ok(find_among_in(root, pids))
}

/// The VMs among some processes of this host. A VMM's copies of itself are told only
/// where the VMM is among them, too.
#[must_use]
pub fn find_among(pids: Vec<u32>) -> Vec<Vmm> {
    find_among_in(&ProcRoot::system(), pids)
}

fn find_among_in(root: &ProcRoot, pids: Vec<u32>) -> Vec<Vmm> {
    let own = std::process::id();
    let mut found: Vec<(Candidate, Draft)> = Vec::new();
    for pid in pids.into_iter().filter(|pid| *pid != own) {
        let Ok(candidate) = Candidate::read(root, pid) else {
            continue;
        };
        if candidate.words.is_empty() {
            continue;
        }
        if let Some(draft) = recognise(&candidate)
            && candidate.is_consistent()
        {
            found.push((candidate, draft));
        }
    }
    let copies: Vec<bool> = found
        .iter()
        .map(|(candidate, draft)| {
            found.iter().any(|(other, other_draft)| {
                let related = candidate.status.parent == other.process.pid()
                    || candidate.status.tracer == other.process.pid();
                related
                    && draft.kind == other_draft.kind
                    && candidate.words == other.words
                    && candidate.executable == other.executable
            })
        })
        .collect();
    found
        .into_iter()
        .zip(copies)
        .filter(|(_, is_copy)| !is_copy)
        .map(|((candidate, draft), _)| draft.finish(candidate))
        .collect()
}

/// The VM of one process. A process that is no known VMM is taken as one of unknown
/// kind, with every mapping that could be guest RAM as a block.
///
/// # Errors
/// [`FindError`] where there is no such process or it may not be looked at.
pub fn find_by_pid(pid: u32) -> Result<Vmm, FindError> {
    find_by_pid_in(&ProcRoot::system(), pid)
}

/// As [`find_by_pid`], among the processes of another root.
///
/// # Errors
/// As [`find_by_pid`].
pub fn find_by_pid_in(root: &ProcRoot, pid: u32) -> Result<Vmm, FindError> {
    let candidate = Candidate::read(root, pid).map_err(|error| match error {
        ProcessError::Gone => FindError::NoProcess { pid },
        other => FindError::Refused {
            pid,
            obstacle: obstacle_of(pid, &other),
        },
    })?;
    if let Some(draft) = recognise(&candidate) {
        return Ok(draft.finish(candidate));
    }
    let blocks = match candidate.mappings() {
        Ok(mappings) => {
            let mut blocks = block::candidates(mappings);
            if let Ok(held) = candidate.sections() {
                blocks.extend(block::section_candidates(mappings, &held.sections));
                blocks.sort_by_key(|block| (std::cmp::Reverse(block.length), block.start));
            }
            blocks
        }
        Err(ProcessError::Gone) => return Err(FindError::NoProcess { pid }),
        Err(error) => {
            let obstacle = candidate.obstacle_of(error);
            return Err(FindError::Refused { pid, obstacle });
        }
    };
    let draft = Draft {
        kind: VmmKind::Unknown,
        name: None,
        ram_bytes: blocks.iter().map(|block| block.length).sum(),
        blocks,
        evidence: Vec::new(),
        machine: Machine::Counted,
        told_shared: false,
        barred: None,
    };
    Ok(draft.finish(candidate))
}

/// Asks each kind of VMM in turn.
fn recognise(candidate: &Candidate) -> Option<Draft> {
    // Any program with a KVM virtual machine comes last: most of the others have one, too.
    let draft = uml::recognise(candidate)
        .or_else(|| qemu::recognise(candidate))
        .or_else(|| bochs::recognise(candidate))
        .or_else(|| vmware::recognise(candidate))
        .or_else(|| virtualbox::recognise(candidate))
        .or_else(|| firecracker::recognise(candidate))
        .or_else(|| cloud_hypervisor::recognise(candidate))
        .or_else(|| kvm::recognise(candidate))?;
    tracing::debug!(pid = candidate.process.pid(), kind = %draft.kind, evidence = ?draft.evidence, "recognised");
    Some(draft)
}

#[cfg(all(test, target_os = "linux"))]
#[path = "find_tests.rs"]
pub(super) mod tests;

#[cfg(all(test, target_os = "linux"))]
#[path = "find_kinds_tests.rs"]
mod kinds_tests;
