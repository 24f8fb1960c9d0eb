//! Whether regions of a VM could be grafted, as far as that can be told without a region: what
//! `doctor` says, and for whom a broker has nothing. It only looks.

use std::mem::discriminant;

use vmshm_graft::{Piece, Refusal, examine};
use vmshm_ram::{Examination, Obstacle, ProcRoot, RamBlock, Vmm, VmmKind};

use super::programs::{self, Program};
use crate::diagnosis::Cause;

/// What stands in the way; nothing if nothing is known to.
pub(crate) fn graft_obstacles(vmm: &Vmm, examination: &Examination) -> Vec<Cause> {
    let refusals = fewest(vmm, Some);
    let mut causes = causes(vmm, examination, &refusals);
    // Filters are read on stopped threads only. QEMU's list is of what it forbids.
    let names_what_is_allowed = examination.filters_calls && vmm.kind != VmmKind::Qemu;
    if names_what_is_allowed && !refusals.contains(&Refusal::UnreadableCallFilter) {
        causes.push(Cause::new(
            "the process filters its system calls, most likely by a list of what it allows",
            Some("Firecracker's --no-seccomp and the like leave the filter out"),
        ));
    }
    causes
}

/// What stands in the way for as long as the VM runs; what passes is left out (a debugger, a VM
/// that is paused, a vmshm program that has a part of the memory mapped), and what is a guess.
pub(crate) fn lasting_graft_obstacles(vmm: &Vmm, examination: &Examination) -> Vec<Cause> {
    let programs = programs::programs();
    let half = |block: &RamBlock| block.length / 2;
    let half = vmm.blocks.iter().map(half).max().unwrap_or_default();
    // A program of vmshm's maps regions, and a little more while it looks for the beacon.
    let stays = |pid: u32| {
        descends(pid, vmm.pid, &programs) || mapped_of(pid, vmm).is_some_and(|bytes| bytes > half)
    };
    causes(
        vmm,
        examination,
        &fewest(vmm, |refusal| lasting(refusal, stays)),
    )
}

fn causes(vmm: &Vmm, examination: &Examination, refusals: &[Refusal]) -> Vec<Cause> {
    let mut causes: Vec<Cause> = refusals
        .iter()
        .map(|refusal| Cause {
            what: refusal.to_string(),
            hint: hint(refusal, vmm.is_shared(), vmm.reach.copy.as_ref().err()),
        })
        .collect();
    if causes.is_empty() && vmm.blocks.is_empty() {
        causes.push(Cause::new("no RAM of the VM is in sight", None));
    }
    causes.extend(
        examination
            .confidential
            .map(|kind| Cause::new(format!("the guest's memory is confidential ({kind})"), None)),
    );
    causes
}

/// What the user can do about a refusal; whose rights are missing is told as where the memory
/// is to be copied, which knows the users.
fn hint(refusal: &Refusal, is_shared: bool, copy: Option<&Obstacle>) -> Option<String> {
    let hint = match (refusal, copy) {
        (Refusal::NoRight { scope: 0, .. }, Some(obstacle @ Obstacle::OtherUser { .. })) => {
            return obstacle.hint();
        }
        _ if is_shared => refusal.hint_where_shared(),
        _ => refusal.hint(),
    };
    hint.map(str::to_owned)
}

/// What the engine refuses of the RAM block that has the least against it: a region may lie there.
/// Only what is `kept` of a refusal counts.
fn fewest(vmm: &Vmm, kept: impl Fn(Refusal) -> Option<Refusal>) -> Vec<Refusal> {
    let partners = programs::own_programs();
    let judged = |pieces: &[Piece]| -> Vec<Refusal> {
        let refusals = examine(vmm.pid, pieces, &partners).into_iter();
        refusals.filter_map(&kept).collect()
    };
    let whole = |block: &RamBlock| {
        judged(&[Piece {
            at: block.start,
            length: block.length,
            offset: 0,
        }])
    };
    let fewest = vmm.blocks.iter().map(whole).min_by_key(Vec::len);
    let mut refusals = fewest.unwrap_or_else(|| judged(&[]));
    refusals.dedup_by_key(|refusal| discriminant(refusal));
    refusals
}

/// What of a refusal is there for long; `stays` says it of another process that maps the memory.
fn lasting(refusal: Refusal, stays: impl Fn(u32) -> bool) -> Option<Refusal> {
    match refusal {
        Refusal::Shared { mut pids } => {
            pids.retain(|pid| stays(*pid));
            (!pids.is_empty()).then_some(Refusal::Shared { pids })
        }
        // Memory that comes and goes, and that somebody tracks while it moves or is grafted.
        Refusal::Gone { .. }
        | Refusal::Traced { .. }
        | Refusal::StoppedBySignal { .. }
        | Refusal::NotMemory { .. }
        | Refusal::SpecialMemory {
            what: "watched by userfaultfd",
            ..
        } => None,
        other => Some(other),
    }
}

/// Whether a process was started by another one, or by one that was.
fn descends(pid: u32, from: u32, programs: &[Program]) -> bool {
    let parent = |pid: u32| {
        let own = programs.iter().find(|program| program.pid == pid);
        own.map(|program| program.parent)
    };
    let line = std::iter::successors(parent(pid), |pid| parent(*pid));
    // Numbers that were used again could make a ring.
    line.take(programs.len()).any(|ancestor| ancestor == from)
}

/// How many bytes of the files of a VM's RAM a process maps; nothing where that may not be seen.
fn mapped_of(pid: u32, vmm: &Vmm) -> Option<u64> {
    let mappings = ProcRoot::system().mappings(pid).ok()?;
    let of_ram = mappings.iter().filter(|mapping| {
        let file = mapping.file.as_ref();
        let mut files = vmm.blocks.iter().filter_map(|block| block.file.as_ref());
        file.is_some_and(|file| files.any(|ram| ram.same_file(file)))
    });
    Some(of_ram.map(|mapping| mapping.length).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(pid: u32, parent: u32) -> Program {
        Program {
            pid,
            parent,
            is_own: false,
        }
    }

    #[test]
    fn what_passes_hides_no_vm_for_long() {
        let nobody = |_: u32| false;
        for passing in [
            Refusal::Traced { tracer: 7 },
            Refusal::StoppedBySignal { pid: 7 },
            Refusal::Gone { pid: 7 },
            Refusal::Shared { pids: vec![8, 9] },
        ] {
            assert_eq!(lasting(passing, nobody), None);
        }
        let pinned = Refusal::DevicePinned {
            what: "/dev/vfio/7".to_owned(),
        };
        assert_eq!(lasting(pinned.clone(), nobody), Some(pinned));
        let shared = Refusal::Shared { pids: vec![8, 9] };
        let stays = Refusal::Shared { pids: vec![9] };
        assert_eq!(lasting(shared, |pid| pid == 9), Some(stays));
    }

    #[test]
    fn what_helps_is_what_the_vm_does_not_have_yet() {
        let shares = Refusal::SameMemory { other: 7 };
        let advised = hint(&shares, false, None).expect("shared memory would help");
        assert!(advised.contains("start the VM with shared memory"));
        let advised = hint(&shares, true, None).expect("it can be mapped");
        assert!(!advised.contains("start the VM"), "{advised}");
    }

    #[test]
    fn who_may_graft_is_told_as_who_may_copy() {
        let (owner, user) = (4242, 1000);
        let refusal = Refusal::NoRight {
            pid: 7,
            owner,
            user,
            scope: 0,
        };
        let obstacle = Obstacle::OtherUser { owner, own: user };
        assert_eq!(hint(&refusal, false, Some(&obstacle)), obstacle.hint());
        assert!(obstacle.hint().is_some_and(|hint| hint.contains("4242")));
    }

    #[test]
    fn what_a_vmm_has_started_shares_its_memory_for_as_long_as_it_runs() {
        let programs = [
            program(1, 0),
            program(20, 1),
            program(30, 20),
            program(40, 30),
        ];
        assert!(descends(40, 20, &programs));
        assert!(descends(30, 20, &programs));
        assert!(!descends(20, 20, &programs));
        assert!(!descends(99, 20, &programs));
        let ring = [program(5, 6), program(6, 5)];
        assert!(!descends(5, 20, &ring));
    }
}
