//! Chooses guest RAM among the sections of a VMware process on Windows. Up to VMware 4 it was
//! the section `VMwareMem<PID>Memory`; later ones have no name, and are told by their size.
//! Where several fit, all are candidates: what the guest wrote into one of them decides. It
//! refuses a section that the process does not hold, whatever its name, and one that is smaller
//! than the RAM that was configured. Neither form was ever seen on a real VMware here.

use super::Evidence;
use crate::access::Obstacle;
use crate::block::{self, RamBlock};
use crate::os::{HeldSection, HeldSections, NamedSection};

/// VMware gives no guest less RAM.
const SMALLEST_RAM: u64 = 4 << 20;

/// What was chosen, what speaks for it, and why nothing was if nothing was.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) blocks: Vec<RamBlock>,
    pub(super) evidence: Vec<Evidence>,
    pub(super) obstacle: Option<Obstacle>,
}

/// The name that VMware gives to the RAM of a guest whose process has this number.
pub(super) fn name_of_ram(pid: u32) -> String {
    format!("VMwareMem{pid}Memory")
}

/// Chooses among what the process holds; `told` is the RAM that was configured, in bytes.
pub(super) fn choose(held: &HeldSections, named: &NamedSection, told: Option<u64>) -> Chosen {
    let mut chosen = Chosen::default();
    match named {
        NamedSection::Held(section) if section.length >= told.unwrap_or(SMALLEST_RAM) => {
            chosen.evidence.push(Evidence::NamedSection);
            if told == Some(section.length) {
                chosen.evidence.push(Evidence::SectionOfSize);
            }
            chosen.blocks.push(block::of_section(section));
            return chosen;
        }
        NamedSection::Foreign => chosen.evidence.push(Evidence::ForeignSection),
        NamedSection::Unclear { .. } => chosen.evidence.push(Evidence::UnclearSection),
        NamedSection::Held(_) | NamedSection::Absent => {}
    }
    let smallest = told.unwrap_or(SMALLEST_RAM);
    let mut large: Vec<&HeldSection> = held
        .sections
        .iter()
        .filter(|section| section.length >= smallest)
        .collect();
    if large.iter().any(|section| Some(section.length) == told) {
        large.retain(|section| Some(section.length) == told);
        chosen.evidence.push(Evidence::SectionOfSize);
    } else if !large.is_empty() {
        chosen.evidence.push(Evidence::LargeSections);
    }
    if large.len() > 1 {
        chosen.evidence.push(Evidence::SeveralSections);
    }
    // What is nearest to what was told comes first; where nothing was told, the largest.
    if told.is_some() {
        large.sort_by_key(|section| section.length);
    } else {
        large.sort_by_key(|section| std::cmp::Reverse(section.length));
    }
    chosen.blocks = large.into_iter().map(block::of_section).collect();
    if chosen.blocks.is_empty() {
        chosen.obstacle = Some(why_none(held, told));
    }
    chosen
}

fn why_none(held: &HeldSections, told: Option<u64>) -> Obstacle {
    let largest = held.sections.iter().map(|section| section.length).max();
    match (held.refused, largest, told) {
        (Some((count, code)), ..) => Obstacle::SectionsRefused { count, code },
        (None, Some(largest), Some(told)) if largest >= SMALLEST_RAM => {
            Obstacle::SectionsTooSmall { largest, told }
        }
        _ => Obstacle::NoBlock,
    }
}

#[cfg(test)]
#[path = "vmware_sections_tests.rs"]
mod tests;
