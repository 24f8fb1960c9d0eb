//! Recognises Cloud Hypervisor: its executable, its options, and mappings of the RAM that
//! `--memory` asks for. Memory zones of the user's own have no known layout.

use super::candidate::{Candidate, Draft};
use super::qemu_options::{get, parse_size, split_options};
use super::{Evidence, Machine, VmmKind, signs};
use crate::block::{self, RamBlock, WantedBlock};
use crate::mapping::MemoryMapping;

/// Its name, as it stands in its help.
const TEXT: &[u8] = b"cloud-hypervisor";
const OPTIONS: [&str; 6] = [
    "--memory",
    "--kernel",
    "--firmware",
    "--api-socket",
    "--disk",
    "--restore",
];
/// What it takes without `--memory`.
const DEFAULT_RAM: u64 = 512 << 20;
/// RAM below 4 GiB ends here.
const LOW_END: u64 = 3 << 30;

/// Judges one process.
pub(super) fn recognise(candidate: &Candidate) -> Option<Draft> {
    let is_option = |word: &String| OPTIONS.iter().any(|option| word.starts_with(option));
    let has_options = candidate.words.iter().skip(1).any(is_option);
    let holds_kvm = candidate.holds_kvm();
    if !has_options && !holds_kvm {
        return None;
    }
    let mut evidence = vec![candidate.is_program(TEXT, "cloud-hyperviso")?];
    if has_options {
        evidence.push(Evidence::CommandLine);
    }
    let options = candidate
        .option("--memory")
        .map(|value| split_options(value, "size"))
        .unwrap_or_default();
    let asked = get(&options, "size").and_then(|size| parse_size(size, 1));
    let zones = candidate.option("--memory-zone").is_some();
    let told = asked.filter(|size| *size > 0).unwrap_or(DEFAULT_RAM);
    let (blocks, exact) = match candidate.mappings() {
        // Its helper programs have no machine.
        Ok(_) if !holds_kvm => return None,
        Ok(mappings) => match configured(mappings, told) {
            Some(blocks) if !zones => (blocks, true),
            // Over the API other sizes can be told.
            _ => (signs::ram_like(mappings), false),
        },
        Err(_) => (Vec::new(), true),
    };
    if holds_kvm {
        evidence.push(Evidence::KvmDescriptor);
    }
    if exact && !blocks.is_empty() {
        evidence.push(Evidence::RamMapping);
    }
    let found = blocks.iter().map(|block| block.length).sum();
    let shared = ["shared", "hugepages"].map(|key| get(&options, key));
    Some(Draft {
        kind: VmmKind::CloudHypervisor,
        name: None,
        ram_bytes: if exact { told } else { found },
        blocks,
        evidence,
        machine: if zones {
            Machine::Unknown
        } else {
            Machine::CloudHypervisor
        },
        told_shared: shared.contains(&Some("on")),
        barred: None,
    })
}

/// The blocks of `ram_bytes` of RAM: one, or one below 4 GiB and one above.
fn configured(mappings: &[MemoryMapping], ram_bytes: u64) -> Option<Vec<RamBlock>> {
    let low = ram_bytes.min(LOW_END);
    let sizes = [low, ram_bytes - low];
    let wanted: Vec<WantedBlock> = sizes
        .into_iter()
        .filter(|size| *size > 0)
        .enumerate()
        .map(|(turn, size)| WantedBlock {
            size,
            file_backed: None,
            path: None,
            turn,
        })
        .collect();
    let blocks = block::choose(mappings, &wanted);
    (blocks.len() == wanted.len()).then_some(blocks)
}
