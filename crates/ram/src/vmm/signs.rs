//! Chooses what is guest RAM in a VMM of which no rule says how it allocates, by general
//! signs: large, writable, not code, no stack, no allocator's, no device's. What is much
//! smaller than the largest such memory is taken for the program's own.

use crate::block::{self, Backing, RamBlock};
use crate::mapping::MemoryMapping;

const MIB: u64 = 1 << 20;
/// Threads' stacks, which have an inaccessible page below them, are no longer than this.
const LARGEST_STACK: u64 = 64 * MIB;
/// A program's own variables come from its file, too, and are smaller than this.
const SMALLEST_PRIVATE_FILE: u64 = 16 * MIB;
/// What is smaller than this part of the largest block is no RAM.
const SMALLEST_PART: u64 = 64;

/// The blocks that look like guest RAM, the largest first.
pub(super) fn ram_like(mappings: &[MemoryMapping]) -> Vec<RamBlock> {
    let mut blocks = block::shared_candidates(mappings);
    blocks.extend(private_files(mappings));
    blocks.extend(anonymous(mappings, false));
    if blocks.iter().all(|block| block.length < MIB) {
        // RAM may have guard pages, too.
        blocks.extend(anonymous(mappings, true));
    }
    blocks.sort_by_key(|block| (std::cmp::Reverse(block.length), block.start));
    let largest = blocks.first().map_or(0, |block| block.length);
    let smallest = (largest / SMALLEST_PART).max(MIB).min(largest);
    blocks.retain(|block| block.length >= smallest);
    blocks
}

/// Large files that are mapped privately: a VM that was restored from a snapshot.
fn private_files(mappings: &[MemoryMapping]) -> Vec<RamBlock> {
    let mut blocks = block::file_blocks(mappings);
    blocks.retain(|block| {
        block.backing == Backing::PrivateFile
            && block.length >= SMALLEST_PRIVATE_FILE
            && !block.name.contains(".so")
    });
    blocks
}

/// Private anonymous memory that is no stack, or that looks like one. Neighbours are one
/// block, unless their lengths are those of RAM each by itself.
fn anonymous(mappings: &[MemoryMapping], guarded: bool) -> Vec<RamBlock> {
    let mut blocks: Vec<RamBlock> = Vec::new();
    let mut before: Option<&MemoryMapping> = None;
    for mapping in mappings {
        let touches = |other: &MemoryMapping| other.end() == mapping.start;
        let below = before.replace(mapping).filter(|below| touches(below));
        if !is_allocated(mapping) {
            continue;
        }
        let has_guard = below.is_some_and(|below| !below.readable && !below.writable);
        if has_guard && mapping.length <= LARGEST_STACK && !guarded {
            continue;
        }
        let whole = |length: u64| length.is_multiple_of(MIB);
        match blocks.last_mut() {
            Some(last)
                if last.start.0 + last.length == mapping.start.0
                    && !whole(last.length)
                    && !whole(mapping.length) =>
            {
                last.length += mapping.length;
            }
            _ => blocks.push(block::anonymous_block(mapping.start.0, mapping.length)),
        }
    }
    blocks.retain(|block| block.length >= MIB);
    blocks
}

/// Whether somebody may have allocated a mapping for large data.
fn is_allocated(mapping: &MemoryMapping) -> bool {
    let allocators = ["[heap]", "[anon:scudo", "[anon: glibc", "[anon:stack"];
    mapping.readable
        && mapping.writable
        && !mapping.executable
        && mapping.is_private_anonymous()
        && !allocators.iter().any(|name| mapping.name.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::VmmVirtual;

    fn mapping(start: u64, length: u64, access: &str) -> MemoryMapping {
        MemoryMapping {
            start: VmmVirtual(start),
            length,
            readable: access.contains('r'),
            writable: access.contains('w'),
            executable: access.contains('x'),
            shared: false,
            file: None,
            name: String::new(),
        }
    }

    fn lengths(mappings: &[MemoryMapping]) -> Vec<u64> {
        ram_like(mappings)
            .iter()
            .map(|block| block.length)
            .collect()
    }

    #[test]
    fn stacks_code_heaps_and_small_things_are_no_ram() {
        let mut heap = mapping(0x10_0000_0000, 600 * MIB, "rw");
        heap.name = "[heap]".to_owned();
        let mappings = [
            heap,
            mapping(0x20_0000_0000, 4096, ""),
            mapping(0x20_0000_1000, 8 * MIB, "rw"),
            mapping(0x30_0000_0000, 1024 * MIB, "rwx"),
            mapping(0x40_0000_0000, 512 * MIB, "rw"),
            mapping(0x50_0000_0000, 3 * MIB, "rw"),
        ];
        assert_eq!(lengths(&mappings), [512 * MIB]);
    }

    #[test]
    fn ram_may_have_guard_pages_and_be_in_parts() {
        let mappings = [
            mapping(0x20_0000_0000, 4096, ""),
            mapping(0x20_0000_1000, 32 * MIB, "rw"),
        ];
        assert_eq!(lengths(&mappings), [32 * MIB]);
        let parts = [
            mapping(0x40_0000_0000, 512 * MIB + 4096, "rw"),
            mapping(0x40_2000_1000, 8192, "rw"),
            mapping(0x60_0000_0000, 128 * MIB, "rw"),
            mapping(0x60_0800_0000, 256 * MIB, "rw"),
        ];
        assert_eq!(lengths(&parts), [512 * MIB + 12288, 256 * MIB, 128 * MIB]);
        assert_eq!(lengths(&[]), [0; 0]);
    }
}
