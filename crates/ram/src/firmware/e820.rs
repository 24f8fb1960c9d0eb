//! The firmware's memory map as Linux's boot protocol hands it over (E820, in
//! `boot_params`). The loader leaves it in the first 640 KiB, which the kernel keeps.
//! A map counts only beside the protocol's own marks, and if its entries are in order.
//! Offsets after Linux's `Documentation/arch/x86/zero-page.rst`.

use vmshm_link::{Extent, GuestPhysical};

/// Where in `boot_params` the header's mark stands.
const MARK_AT: usize = 0x202;
const MARK: &[u8; 4] = b"HdrS";
/// Where the boot sector's mark stands.
const BOOT_FLAG_AT: usize = 0x1fe;
const COUNT_AT: usize = 0x1e8;
const TABLE_AT: usize = 0x2d0;
const ENTRY: usize = 20;
const MOST_ENTRIES: usize = 128;
/// Usable memory.
const USABLE: u32 = 1;

/// The usable ranges of the first believable map in `bytes`, the first MiB of memory.
pub(super) fn find(bytes: &[u8]) -> Option<Vec<Extent>> {
    memchr::memmem::find_iter(bytes, MARK).find_map(|at| {
        let start = at.checked_sub(MARK_AT)?;
        parse(bytes.get(start..)?)
    })
}

fn parse(parameters: &[u8]) -> Option<Vec<Extent>> {
    if parameters.get(BOOT_FLAG_AT..BOOT_FLAG_AT + 2)? != [0x55, 0xaa] {
        return None;
    }
    let count = usize::from(*parameters.get(COUNT_AT)?);
    if count == 0 || count > MOST_ENTRIES {
        return None;
    }
    let table = parameters.get(TABLE_AT..TABLE_AT + count * ENTRY)?;
    let mut usable: Vec<Extent> = Vec::new();
    for entry in table.chunks_exact(ENTRY) {
        let start = GuestPhysical(u64::from_le_bytes(*entry.first_chunk()?));
        let length = u64::from_le_bytes(*entry.get(8..)?.first_chunk()?);
        let kind = u32::from_le_bytes(*entry.get(16..)?.first_chunk()?);
        let extent = Extent { start, length };
        extent.end()?;
        if kind == USABLE && length > 0 {
            usable.push(extent);
        }
    }
    usable.sort_unstable();
    let disjoint = usable
        .windows(2)
        .all(|pair| pair.first().and_then(Extent::end) <= pair.last().map(|extent| extent.start));
    (disjoint && !usable.is_empty()).then_some(usable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(entries: &[(u64, u64, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[BOOT_FLAG_AT..BOOT_FLAG_AT + 2].copy_from_slice(&[0x55, 0xaa]);
        bytes[MARK_AT..MARK_AT + 4].copy_from_slice(MARK);
        bytes[COUNT_AT] = u8::try_from(entries.len()).expect("few");
        for (index, (start, length, kind)) in entries.iter().enumerate() {
            let at = TABLE_AT + index * ENTRY;
            bytes[at..at + 8].copy_from_slice(&start.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&length.to_le_bytes());
            bytes[at + 16..at + 20].copy_from_slice(&kind.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn usable_ranges_are_found_behind_the_marks() {
        let map = parameters(&[
            (0x1_0000_0000, 0x8000_0000, 1),
            (0, 0x9_fc00, 1),
            (0xf_0000, 0x1_0000, 2),
        ]);
        let mut bytes = b"HdrS of a page cache".to_vec();
        bytes.resize(0x1_0010, 0);
        bytes.extend(map);
        let found = find(&bytes).expect("a map");
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].start, GuestPhysical(0x1_0000_0000));
    }

    #[test]
    fn what_overlaps_or_runs_over_or_is_cut_is_no_map() {
        for entries in [
            &[(0, 0x2000, 1), (0x1000, 0x2000, 1)][..],
            &[(u64::MAX, 2, 1)],
            &[(0, 0x1000, 2)],
            &[],
        ] {
            assert_eq!(find(&parameters(entries)), None, "{entries:?}");
        }
        let whole = parameters(&[(0, 0x1000, 1)]);
        assert!(find(&whole).is_some());
        assert_eq!(find(&whole[..TABLE_AT + 10]), None);
        let mut unmarked = whole;
        unmarked[BOOT_FLAG_AT] = 0;
        assert_eq!(find(&unmarked), None);
    }
}
