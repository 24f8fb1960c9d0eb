//! Recognises user-mode Linux: a kernel that runs as a process, with its RAM in a
//! deleted file that it maps shared. Its helpers and its guest's processes are copies
//! of it that map the same file; they are not VMs, and are refused even as orphans.

use super::candidate::{Candidate, Draft};
use super::{Evidence, Machine, VmmKind};
use crate::block::{self, Backing, RamBlock};
use crate::executable::ExecutableKind;

/// What the kernel takes without `mem=`.
const DEFAULT_RAM: u64 = 64 << 20;
/// The kernel's own process handles SIGTERM, its copies give the handler back.
const SIGTERM: u32 = 15;

/// Judges one process.
pub(super) fn recognise(candidate: &Candidate) -> Option<Draft> {
    let ram = last_value(&candidate.words, "mem=").and_then(parse_kernel_size);
    let name = last_value(&candidate.words, "umid=");
    let boots = ["root=", "ubd0=", "ubda=", "init=", "rootfstype=", "initrd="]
        .iter()
        .any(|key| last_value(&candidate.words, key).is_some());
    let mut evidence = Vec::new();
    match ExecutableKind::uml_or_other(&candidate.process.executable_file()) {
        ExecutableKind::UserModeLinux => evidence.push(Evidence::Executable),
        // What cannot be read must at least be started like a kernel.
        ExecutableKind::Unknown
            if ram.is_some() && (name.is_some() || boots) && candidate.is_called_what_it_says() => {
        }
        _ => return None,
    }
    if ram.is_some() || name.is_some() || boots {
        evidence.push(Evidence::CommandLine);
    }
    if candidate.status.caught_signals >> (SIGTERM - 1) & 1 == 0 {
        return None;
    }
    let ram_bytes = ram.unwrap_or(DEFAULT_RAM);
    let blocks = if let Ok(mappings) = candidate.mappings() {
        let block = block::file_blocks(mappings)
            .into_iter()
            .filter(|block| matches!(block.backing, Backing::SharedFile | Backing::Memfd))
            .max_by_key(|block| block.length)
            .filter(|block| is_ram(block, ram_bytes))?;
        evidence.push(Evidence::RamMapping);
        vec![block]
    } else {
        Vec::new()
    };
    Some(Draft {
        kind: VmmKind::Uml,
        name: name.filter(|name| !name.is_empty()).map(str::to_owned),
        ram_bytes,
        blocks,
        evidence,
        machine: Machine::Uml,
        told_shared: true,
        barred: None,
    })
}

/// The file is as long as `mem=` and a random gap; its first part, which the kernel's
/// own image takes the place of, is not mapped.
fn is_ram(block: &RamBlock, ram_bytes: u64) -> bool {
    let end = block.file_offset().saturating_add(block.length);
    end >= ram_bytes && block.name.ends_with("(deleted)")
}

/// The last value of a `key=value` word.
fn last_value<'a>(words: &'a [String], key: &str) -> Option<&'a str> {
    words
        .iter()
        .skip(1)
        .rev()
        .find_map(|word| word.strip_prefix(key))
}

/// A size as the kernel's `memparse` reads it; zero is no size.
fn parse_kernel_size(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(rest) => (rest, 16),
        None => (text, 10),
    };
    let end = digits
        .find(|character: char| !character.is_digit(radix))
        .unwrap_or(digits.len());
    let (digits, suffix) = digits.split_at(end);
    let shift = match suffix
        .chars()
        .next()
        .map(|letter| letter.to_ascii_uppercase())
    {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        Some('T') => 40,
        _ => 0,
    };
    u64::from_str_radix(digits, radix)
        .ok()?
        .checked_mul(1 << shift)
        .filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_the_kernel_reads_them() {
        assert_eq!(parse_kernel_size("512M"), Some(512 << 20));
        assert_eq!(parse_kernel_size("1g"), Some(1 << 30));
        assert_eq!(parse_kernel_size("0x10000000"), Some(256 << 20));
        assert_eq!(parse_kernel_size("1048576"), Some(1 << 20));
        assert_eq!(parse_kernel_size("M"), None);
        assert_eq!(parse_kernel_size("99999999999999999999"), None);
    }
}
