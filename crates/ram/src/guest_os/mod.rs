//! Tells the guest's operating system without an agent, by what its kernel carries: its
//! banner, for Linux also its crash notes, for others their own version strings. Such
//! texts also lie in logs and in other kernels' images; the one in the running kernel's
//! own read-only data counts most. Bounded in time.

mod linux;
mod others;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::address::BlockOffset;
use crate::guest_ram::{GuestRam, RamRead};
use crate::vmm::{Vmm, VmmKind};

/// Longest text that is believed.
const LONGEST: usize = 512;
/// A kernel's read-only data starts on a huge page, and Linux's banner near its start.
const HEAD: usize = 16 << 10;
const HUGE_PAGE: usize = 2 << 20;
const HEADS_AT_ONCE: usize = 64;
/// A text that stands as it does in a kernel's image weighs more than any number of
/// copies in logs.
const IMAGE_WEIGHT: u32 = 1000;

/// The guest's operating system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestOs {
    /// The system's name, such as `Linux`; `no OS` where only firmware was found.
    pub system: &'static str,
    /// The kernel's release, for Linux as the guest's `uname -r` prints it.
    pub release: String,
    /// The text that says so.
    pub banner: String,
}

impl std::fmt::Display for GuestOs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.system == others::NO_SYSTEM {
            write!(f, "{} ({})", self.system, self.release)
        } else {
            write!(f, "{} {}", self.system, self.release)
        }
    }
}

/// Looks for the guest's kernel for at most about `budget`.
#[must_use]
pub fn guest_os(vmm: &Vmm, ram: &GuestRam, budget: Duration) -> Option<GuestOs> {
    let mut votes = Votes::default();
    if vmm.kind == VmmKind::Uml {
        // The kernel is the VMM's own program and does not lie in guest RAM.
        if let Ok(image) = std::fs::read(vmm.process().executable_file()) {
            linux::count(&image, &mut votes);
        }
        return votes.winner(false);
    }
    guest_os_in(ram, budget)
}

/// The same where there is nothing but memory: a stored dump.
#[must_use]
pub fn guest_os_in(ram: &GuestRam, budget: Duration) -> Option<GuestOs> {
    let mut votes = Votes::default();
    let deadline = Instant::now() + budget;
    look_at_heads(ram, deadline, &mut votes);
    let looked_at_all = votes.is_empty() && look_everywhere(ram, deadline, &mut votes);
    votes.winner(looked_at_all)
}

/// The first pages of each huge page that exists.
fn look_at_heads(ram: &GuestRam, deadline: Instant, votes: &mut Votes) {
    let lengths: Vec<u64> = ram.blocks().map(|block| block.length).collect();
    let mut buffer = vec![0_u8; HEADS_AT_ONCE * HEAD];
    for (block, length) in lengths.into_iter().enumerate() {
        if !ram.is_reachable(block) {
            continue;
        }
        let starts = (0..length.saturating_sub(HEAD as u64)).step_by(HUGE_PAGE);
        let heads = ram.existing(block, starts.collect());
        for batch in heads.chunks(HEADS_AT_ONCE) {
            let mut reads: Vec<RamRead<'_>> = buffer
                .chunks_exact_mut(HEAD)
                .zip(batch)
                .map(|(into, &offset)| RamRead {
                    at: BlockOffset { block, offset },
                    into,
                })
                .collect();
            let mut unread = [false; HEADS_AT_ONCE];
            if ram
                .read_many(&mut reads, &mut |index, _| unread[index] = true)
                .is_err()
            {
                return;
            }
            for (head, unread) in buffer.chunks_exact(HEAD).zip(unread).take(batch.len()) {
                if !unread {
                    linux::count(head, votes);
                }
            }
            if Instant::now() > deadline {
                return;
            }
        }
    }
}

/// All pages that exist, until the time is over; whether that was enough.
fn look_everywhere(ram: &GuestRam, deadline: Instant, votes: &mut Votes) -> bool {
    let finders = others::finders();
    let lengths: Vec<u64> = ram.blocks().map(|block| block.length).collect();
    for (block, length) in lengths.into_iter().enumerate() {
        if !ram.is_reachable(block) {
            continue;
        }
        let flow = ram.read_resident(block, 0..length, LONGEST, &mut |buffer| {
            linux::count(buffer.bytes, votes);
            others::count(&finders, buffer.bytes, votes);
            if Instant::now() > deadline {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if !matches!(flow, Ok(ControlFlow::Continue(()))) {
            return false;
        }
    }
    true
}

/// How often and how credibly each system was seen, and its best text.
#[derive(Debug, Default)]
struct Votes {
    systems: HashMap<(&'static str, String), Vote>,
    /// Firmware alone is no system; it is named where there is none.
    firmware: Option<String>,
}

#[derive(Debug, Default)]
struct Vote {
    weight: u32,
    banner: String,
}

impl Votes {
    fn is_empty(&self) -> bool {
        self.systems.is_empty()
    }

    /// Counts one text.
    fn add(&mut self, system: &'static str, release: &str, weight: u32, banner: &str) {
        let vote = self
            .systems
            .entry((system, release.to_owned()))
            .or_default();
        vote.weight = vote.weight.saturating_add(weight);
        // An image may hold a second banner that lacks the build's number and date.
        if vote.banner.len() < banner.len() {
            banner.clone_into(&mut vote.banner);
        }
    }

    /// What most speaks for; where all was looked at and nothing found, the firmware.
    fn winner(self, looked_at_all: bool) -> Option<GuestOs> {
        let best = self.systems.into_iter().max_by(|one, other| {
            let by_weight = one.1.weight.cmp(&other.1.weight);
            by_weight.then_with(|| other.0.cmp(&one.0))
        });
        match (best, self.firmware) {
            (Some(((system, release), vote)), _) => Some(GuestOs {
                system,
                release,
                banner: vote.banner,
            }),
            (None, Some(firmware)) if looked_at_all => Some(GuestOs {
                system: others::NO_SYSTEM,
                banner: firmware.clone(),
                release: firmware,
            }),
            _ => None,
        }
    }
}

/// The printable text at the start of `bytes`, and what follows it. Nothing where it
/// does not end within what is there.
fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let bytes = bytes.get(..LONGEST.min(bytes.len()))?;
    let end = bytes
        .iter()
        .position(|byte| !(b' '..=b'~').contains(byte))?;
    let text = std::str::from_utf8(bytes.get(..end)?).ok()?;
    Some((text, bytes.get(end..)?))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
