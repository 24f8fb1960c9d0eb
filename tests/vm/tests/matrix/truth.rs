//! What is true of a machine's memory, from its guest's kernel and its VMM's monitor.

use std::ops::Range;

use vmshm_vm_tests::bytes::RandomBytes;
use vmshm_vm_tests::machine::Machine;
use vmshm_vm_tests::qmp::Qmp;

pub const PAGE: u64 = 4096;
/// Random pages of each range that are looked at.
const RANDOM_PAGES: usize = 3;

/// A machine's memory as it is.
#[derive(Debug)]
pub struct Truth {
    /// The VMM's own word; user-mode Linux gives none.
    pub monitor: Option<Qmp>,
    /// What the guest's kernel uses as RAM, cut where the VMM's pieces of it meet.
    pub ranges: Vec<Range<u64>>,
    /// Where no RAM is.
    pub holes: Vec<u64>,
}

impl Truth {
    /// Asks the guest and the VMM.
    pub fn of(machine: &Machine) -> Self {
        if machine.kind.vmm() == "uml" {
            // Its RAM's file is longer than its RAM by a random gap.
            return Self {
                monitor: None,
                ranges: Vec::new(),
                holes: vec![machine.kind.ram_bytes() + (4 << 30)],
            };
        }
        let monitor = Qmp::of(&machine.name);
        let ram = monitor.ram();
        let used = used_ranges(&machine.guest.check("cat /proc/iomem"));
        let ranges = used.iter().flat_map(|used| {
            let parts = ram.iter().map(|ram| {
                let start = used.start.max(ram.start).next_multiple_of(PAGE);
                start..(used.end.min(ram.end) / PAGE * PAGE)
            });
            parts.filter(|part| part.start < part.end)
        });
        let ranges: Vec<Range<u64>> = ranges.collect();
        let holes = holes(&ram);
        assert!(!ranges.is_empty(), "the guest uses no RAM: {used:?}");
        Self {
            monitor: Some(monitor),
            ranges,
            holes,
        }
    }

    /// Pages to look at: of each range the first, the last and random ones.
    pub fn pages(&self) -> Vec<u64> {
        let mut random = RandomBytes::new(RandomBytes::fresh_seed());
        let mut pages = Vec::new();
        for range in &self.ranges {
            pages.extend([range.start, range.end - PAGE]);
            for _ in 0..RANDOM_PAGES {
                let bytes: [u8; 8] = random.take(8).try_into().expect("eight");
                let page = u64::from_le_bytes(bytes) % ((range.end - range.start) / PAGE);
                pages.push(range.start + page * PAGE);
            }
        }
        pages.sort_unstable();
        pages.dedup();
        pages
    }
}

/// Where the kernel says `System RAM`, from its own list. Page 0 is never used.
fn used_ranges(list: &str) -> Vec<Range<u64>> {
    let lines = list.lines().filter(|line| line.ends_with(" : System RAM"));
    let ranges = lines.filter_map(|line| {
        let (first, last) = line.split(' ').next()?.split_once('-')?;
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        Some(number(first)?..number(last)?.checked_add(1)?)
    });
    ranges.collect()
}

/// Graphics memory, the middle and both ends of the gap below 4 GiB, and what is past the end.
fn holes(ram: &[Range<u64>]) -> Vec<u64> {
    const FOUR_GIB: u64 = 4 << 30;
    let low = ram.iter().map(|piece| piece.end);
    let low = low.filter(|end| *end < FOUR_GIB).max().expect("low RAM");
    let end = ram.iter().map(|piece| piece.end).max().expect("RAM");
    let is_hole = |address: &u64| !ram.iter().any(|piece| piece.contains(address));
    let gap = [
        low,
        low + (FOUR_GIB - low) / 2 / PAGE * PAGE,
        FOUR_GIB - PAGE,
    ];
    let past = [end.max(FOUR_GIB), end.max(FOUR_GIB) + (1 << 30)];
    let elsewhere = gap.into_iter().chain(past).filter(is_hole);
    [0xa_0000, 0xb_f000].into_iter().chain(elsewhere).collect()
}
