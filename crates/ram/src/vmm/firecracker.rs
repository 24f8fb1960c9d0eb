//! Recognises Firecracker: its KVM virtual machine and its executable, or, where these
//! cannot be seen, its name and its options. The RAM's size is usually told over its API
//! socket, so the RAM is chosen by general signs.

use serde_json::Value;

use super::candidate::{Candidate, Draft};
use super::{Evidence, Machine, VmmKind, signs};
use crate::block::RamBlock;

/// Part of what it logs when it starts.
const TEXT: &[u8] = b"Running Firecracker";
const OPTIONS: [&str; 4] = ["--api-sock", "--config-file", "--no-api", "--id"];
const GIB: u64 = 1 << 30;

/// Judges one process.
pub(super) fn recognise(candidate: &Candidate) -> Option<Draft> {
    let has_options = OPTIONS
        .iter()
        .any(|option| candidate.words.iter().any(|word| word.starts_with(option)));
    let holds_kvm = candidate.holds_kvm();
    // A jailed one is started with few options; the machine speaks for it.
    if !has_options && !holds_kvm {
        return None;
    }
    let program = candidate.is_program(TEXT, "firecracker")?;
    let mut evidence = vec![program];
    if has_options {
        evidence.push(Evidence::CommandLine);
    }
    let blocks = match candidate.mappings() {
        // Before it is told to boot it has no machine.
        Ok(_) if !holds_kvm => return None,
        Ok(mappings) => ordered(signs::ram_like(mappings)),
        Err(_) => Vec::new(),
    };
    if holds_kvm {
        evidence.push(Evidence::KvmDescriptor);
    }
    let found = blocks.iter().map(|block| block.length).sum();
    Some(Draft {
        kind: VmmKind::Firecracker,
        name: candidate.option("--id").map(str::to_owned),
        ram_bytes: configured(candidate).unwrap_or(found),
        blocks,
        evidence,
        machine: Machine::Firecracker,
        told_shared: false,
        barred: None,
    })
}

/// The RAM that the configuration file asks for, if there is one.
fn configured(candidate: &Candidate) -> Option<u64> {
    let path = candidate.option("--config-file")?;
    let text = candidate.process.text_file(path.as_ref())?;
    let configuration: Value = serde_json::from_str(&text).ok()?;
    let mebibytes = configuration["machine-config"]["mem_size_mib"].as_u64()?;
    mebibytes.checked_mul(1 << 20)
}

/// The low part, which is as long as the hole leaves it, first.
fn ordered(mut blocks: Vec<RamBlock>) -> Vec<RamBlock> {
    let is_low = |block: &RamBlock| [3 * GIB, 4 * GIB - (768 << 20)].contains(&block.length);
    // Of two such the one at the higher address was allocated first.
    blocks.sort_by_key(|block| (!is_low(block), std::cmp::Reverse(block.start)));
    blocks
}
