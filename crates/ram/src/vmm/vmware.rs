//! Recognises VMware Workstation and Player: on Linux a process with their driver open that
//! runs a `.vmx` file, on Windows `vmware-vmx.exe`. On Linux guest RAM is a file that it maps
//! shared: named like the VM with the ending `.vmem`, or a deleted one without a name
//! (`mainMem.useNamedFile = "FALSE"`). On Windows it is a section (`vmware_sections.rs`). By
//! VMware's documentation, never seen running here; where RAM appears to the guest is known by
//! rule on Windows alone.

use std::path::Path;

use super::candidate::{Candidate, Draft};
use super::vmware_sections::{self, Chosen};
use super::{Evidence, Machine, VmmKind};
use crate::block::{self, Backing, RamBlock};
use crate::mapping::MemoryMapping;
use crate::os::{HAS_SECTIONS, HeldSections, program_name};

const DRIVER: &str = "/dev/vmmon";
const PROGRAM: &str = "vmware-vmx";
/// Where the hole for PCI devices starts if the settings do not say.
const HOLE_START: u64 = 3 << 30;

/// Judges one process.
pub(super) fn recognise(candidate: &Candidate) -> Option<Draft> {
    let configuration = candidate
        .words
        .iter()
        .skip(1)
        .rev()
        .find(|word| word.ends_with(".vmx"));
    let mut evidence = Vec::new();
    if configuration.is_some() {
        evidence.push(Evidence::CommandLine);
    } else if !HAS_SECTIONS {
        return None;
    }
    if candidate.holds(DRIVER) {
        evidence.push(Evidence::DriverDescriptor);
    } else if candidate.program_name().starts_with(PROGRAM) && candidate.is_called_what_it_says() {
        evidence.push(candidate.by_name());
    } else {
        return None;
    }
    let candidates = candidate.mappings().ok().map(files);
    // Without its RAM in sight it must at least hold the driver.
    let has_none = candidates.as_ref().is_some_and(Vec::is_empty);
    if has_none && !HAS_SECTIONS && !evidence.contains(&Evidence::DriverDescriptor) {
        return None;
    }
    // Its file is read last, when all else says that it is VMware.
    let text = configuration.and_then(|path| candidate.process.text_file(path.as_ref()));
    let setting = |key: &str| text.as_deref().and_then(|text| setting(text, key));
    let mebibytes = |key: &str| setting(key)?.parse::<u64>().ok()?.checked_mul(1 << 20);
    let told = mebibytes("memsize");
    let chosen = if HAS_SECTIONS {
        sections(candidate, told)
    } else {
        of_files(candidates.map_or_else(Vec::new, |files| ram(files, told)))
    };
    evidence.extend(chosen.evidence);
    // A file may be called after its directory's name on another system, too.
    let stem = configuration.map(|path| Path::new(program_name(path)));
    let stem = stem.and_then(|name| Some(name.file_stem()?.to_string_lossy().into_owned()));
    let found = if HAS_SECTIONS {
        chosen.blocks.first().map_or(0, |block| block.length)
    } else {
        chosen.blocks.iter().map(|block| block.length).sum()
    };
    let machine = if HAS_SECTIONS {
        Machine::Vmware {
            below_4g: mebibytes("pciHole.start")
                .filter(|start| (1 << 20..=1 << 32).contains(start))
                .unwrap_or(HOLE_START),
        }
    } else {
        Machine::Counted
    };
    Some(Draft {
        kind: VmmKind::Vmware,
        name: setting("displayname").or(stem),
        ram_bytes: told.unwrap_or(found),
        blocks: chosen.blocks,
        evidence,
        machine,
        told_shared: true,
        barred: chosen.obstacle,
    })
}

/// What the process holds of sections that may be its guest's RAM.
fn sections(candidate: &Candidate, told: Option<u64>) -> Chosen {
    let name = vmware_sections::name_of_ram(candidate.process.pid());
    let none = HeldSections::default();
    let held = candidate.sections();
    // A name may be opened where handles may not be copied.
    let named = candidate
        .process
        .named_section(&name, held.unwrap_or(&none));
    let mut chosen = vmware_sections::choose(held.unwrap_or(&none), &named, told);
    if let (Err(error), Some(_)) = (held, &chosen.obstacle) {
        chosen.obstacle = Some(candidate.obstacle_of(error));
    }
    chosen
}

fn of_files(blocks: Vec<RamBlock>) -> Chosen {
    Chosen {
        evidence: (!blocks.is_empty())
            .then_some(Evidence::RamMapping)
            .into_iter()
            .collect(),
        blocks,
        obstacle: None,
    }
}

/// Files that may be the VM's memory: those with the right name, else all deleted ones.
fn files(mappings: &[MemoryMapping]) -> Vec<RamBlock> {
    let mut blocks = block::shared_candidates(mappings);
    blocks.retain(|block| block.backing == Backing::SharedFile);
    if blocks.iter().any(is_named) {
        blocks.retain(is_named);
    } else {
        blocks.retain(|block| block.name.ends_with(" (deleted)"));
    }
    blocks
}

fn is_named(block: &RamBlock) -> bool {
    block.name.trim_end_matches(" (deleted)").ends_with(".vmem")
}

/// The file of the VM's memory; of several deleted ones the largest, or the one of the
/// right size.
fn ram(files: Vec<RamBlock>, told: Option<u64>) -> Vec<RamBlock> {
    if files.iter().any(is_named) {
        return files;
    }
    let best = files
        .iter()
        .find(|block| Some(block.length) == told)
        .or(files.first());
    best.cloned().into_iter().collect()
}

/// A value of a `.vmx` file: `key = "value"`, the key in any case.
fn setting(text: &str, key: &str) -> Option<String> {
    text.lines().rev().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        let value = value.trim().strip_prefix('"')?.strip_suffix('"')?;
        (name.trim().eq_ignore_ascii_case(key) && !value.is_empty()).then(|| value.to_owned())
    })
}
