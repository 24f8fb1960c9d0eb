//! Recognises Bochs: its executable, and private memory that is large enough for the RAM
//! that its configuration asks for. It hands out that memory in pieces of 128 KiB in the
//! order in which the guest first touches them (`memory/misc_mem.cc`), so no rule says where
//! an address lies; points that are seen do ([`Layout::prove_granules`]).
//!
//! [`Layout::prove_granules`]: crate::layout::Layout::prove_granules

use super::candidate::{Candidate, Draft};
use super::{Evidence, Machine, VmmKind};
use crate::block::{self, RamBlock};
use crate::mapping::MemoryMapping;

const TEXT: &[u8] = b"Bochs x86 Emulator";
const MIB: u64 = 1 << 20;
/// What it takes where nothing is configured.
const DEFAULT_RAM: u64 = 32 * MIB;
/// With the RAM go room for firmware (2 MiB), for other ROMs (128 KiB), one page for
/// accesses that lead nowhere, and the allocator's own bytes and rounding.
const BESIDES: u64 = 2 * MIB + (128 << 10) + 3 * 4096;
/// The RAM starts a page after the allocation.
const LEAD: u64 = 4096;

/// Judges one process.
pub(super) fn recognise(candidate: &Candidate) -> Option<Draft> {
    let named = candidate.program_name().starts_with("bochs");
    let words = candidate.words.get(1..).unwrap_or_default();
    let has_options = words
        .iter()
        .any(|word| matches!(word.as_str(), "-q" | "-f" | "-n" | "-rc" | "-unlock"));
    if !named && !has_options {
        return None;
    }
    let mappings = candidate.mappings().ok();
    if mappings.is_some_and(|mappings| ram(mappings, MIB).is_empty()) {
        return None;
    }
    let mut evidence = vec![candidate.is_program(TEXT, "bochs")?];
    // Other programs have such options, too: only what is Bochs has its file read.
    let told = configured(candidate).unwrap_or(Memory {
        guest: DEFAULT_RAM,
        host: DEFAULT_RAM,
    });
    let blocks = mappings.map_or_else(Vec::new, |mappings| ram(mappings, told.host));
    if mappings.is_some() && blocks.is_empty() {
        return None;
    }
    if has_options {
        evidence.push(Evidence::CommandLine);
    }
    if !blocks.is_empty() {
        evidence.push(Evidence::RamMapping);
    }
    Some(Draft {
        kind: VmmKind::Bochs,
        name: None,
        ram_bytes: told.guest,
        blocks,
        evidence,
        machine: Machine::Scattered,
        told_shared: false,
        barred: None,
    })
}

/// Where the RAM is: a mapping of exactly the right size, else every run of memory that has
/// room for it. The system joins Bochs's other allocations to the same mapping, and no rule
/// says where in it the RAM begins.
fn ram(mappings: &[MemoryMapping], ram_bytes: u64) -> Vec<RamBlock> {
    let whole = ram_bytes.saturating_add(BESIDES);
    let exact = mappings.iter().rev().find(|mapping| {
        mapping.is_private_anonymous() && mapping.writable && mapping.length == whole
    });
    if let Some(exact) = exact {
        return vec![block::anonymous_block(exact.start.0 + LEAD, ram_bytes)];
    }
    let mut runs = block::anonymous_candidates(mappings, whole);
    // The program's own heap grows; large allocations are outside of it.
    runs.retain(|run| {
        !mappings.iter().any(|mapping| {
            mapping.name == "[heap]" && mapping.start <= run.start && run.start < mapping.end()
        })
    });
    runs
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    /// What the guest has.
    guest: u64,
    /// What is allocated at once; what the guest has more is swapped by Bochs itself.
    host: u64,
}

/// The RAM that the command line or the configuration file asks for.
fn configured(candidate: &Candidate) -> Option<Memory> {
    let words = candidate.words.get(1..).unwrap_or_default();
    let file = words
        .windows(2)
        .rev()
        .find(|pair| pair[0] == "-f")
        .map(|pair| pair[1].as_str());
    let text = file.and_then(|file| candidate.process.text_file(file.as_ref()));
    let lines = text.iter().flat_map(|text| text.lines());
    // The command line comes after the file and wins.
    lines
        .chain(words.iter().map(String::as_str))
        .filter_map(memory)
        .next_back()
}

/// `megs: N` or `memory: guest=N, host=N`.
fn memory(line: &str) -> Option<Memory> {
    let (key, value) = line.split_once(':')?;
    let size = |text: &str| {
        let mebibytes: u64 = text.trim().parse().ok()?;
        mebibytes.checked_mul(MIB).filter(|size| *size > 0)
    };
    match key.trim() {
        "megs" => size(value).map(|size| Memory {
            guest: size,
            host: size,
        }),
        "memory" => {
            let part = |name: &str| {
                let mut fields = value.split(',').filter_map(|field| field.split_once('='));
                size(fields.find(|(key, _)| key.trim() == name)?.1)
            };
            let guest = part("guest").or_else(|| part("host"))?;
            Some(Memory {
                guest,
                host: part("host").unwrap_or(guest).min(guest),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_read_as_bochs_reads_it() {
        let sizes = |line| memory(line).map(|memory| (memory.guest / MIB, memory.host / MIB));
        assert_eq!(sizes("megs: 32"), Some((32, 32)));
        assert_eq!(sizes("memory: guest=512, host=256"), Some((512, 256)));
        assert_eq!(sizes("memory: host=256"), Some((256, 256)));
        assert_eq!(sizes("# megs: 1"), None);
        assert_eq!(sizes("megs: 99999999999999999"), None);
        assert_eq!(sizes("megs"), None);
    }
}
