//! Recognises VMware Workstation and Player: a process with their driver open that runs a
//! `.vmx` file. Guest RAM is a file that it maps shared: named like the VM with the ending
//! `.vmem`, or a deleted one without a name (`mainMem.useNamedFile = "FALSE"`). By VMware's
//! documentation, never seen running here; where RAM appears to the guest is not known.

use std::path::Path;

use super::candidate::{Candidate, Draft};
use super::{Evidence, Machine, VmmKind};
use crate::block::{self, Backing, RamBlock};
use crate::mapping::MemoryMapping;

const DRIVER: &str = "/dev/vmmon";
const PROGRAM: &str = "vmware-vmx";

/// Judges one process.
pub(super) fn recognise(candidate: &Candidate) -> Option<Draft> {
    let configuration = candidate
        .words
        .iter()
        .skip(1)
        .rev()
        .find(|word| word.ends_with(".vmx"))?;
    let mut evidence = vec![Evidence::CommandLine];
    if candidate.holds(DRIVER) {
        evidence.push(Evidence::DriverDescriptor);
    } else if candidate.program_name().starts_with(PROGRAM) && candidate.is_called_what_it_says() {
        evidence.push(Evidence::ExecutableName);
    } else {
        return None;
    }
    let candidates = candidate.mappings().ok().map(files);
    // Without its RAM in sight it must at least hold the driver.
    let has_none = candidates.as_ref().is_some_and(Vec::is_empty);
    if has_none && !evidence.contains(&Evidence::DriverDescriptor) {
        return None;
    }
    // Its file is read last, when all else says that it is VMware.
    let text = candidate.process.text_file(configuration.as_ref());
    let setting = |key: &str| text.as_deref().and_then(|text| setting(text, key));
    let told = setting("memsize")
        .and_then(|size| size.parse::<u64>().ok())
        .and_then(|mebibytes| mebibytes.checked_mul(1 << 20));
    let blocks = candidates.map_or_else(Vec::new, |files| ram(files, told));
    if !blocks.is_empty() {
        evidence.push(Evidence::RamMapping);
    }
    let stem = Path::new(configuration).file_stem();
    let stem = stem.map(|stem| stem.to_string_lossy().into_owned());
    let found = blocks.iter().map(|block| block.length).sum();
    Some(Draft {
        kind: VmmKind::Vmware,
        name: setting("displayname").or(stem),
        ram_bytes: told.unwrap_or(found),
        blocks,
        evidence,
        machine: Machine::Counted,
        told_shared: true,
        barred: None,
    })
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
