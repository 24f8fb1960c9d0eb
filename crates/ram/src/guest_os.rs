//! Tells the guest's operating system without an agent, by the banner that a Linux
//! kernel carries. A banner also lies in logs and in other kernels' images; the one in
//! the running kernel's own read-only data counts most. Bounded in time.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::address::BlockOffset;
use crate::guest_ram::{GuestRam, RamRead};
use crate::vmm::{Vmm, VmmKind};

const START: &[u8] = b"Linux version ";
/// Longest banner that is believed.
const LONGEST: usize = 512;
/// The kernel's read-only data starts on a huge page, and the banner near its start.
const HEAD: usize = 16 << 10;
const HUGE_PAGE: usize = 2 << 20;
const HEADS_AT_ONCE: usize = 64;
/// A banner in a kernel's image ends as the kernel's own source ends it; that weighs
/// more than any number of copies in logs.
const IMAGE_WEIGHT: u32 = 1000;

/// The guest's operating system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestOs {
    /// The kernel's release, as the guest's `uname -r` prints it.
    pub release: String,
    /// The kernel's whole banner.
    pub banner: String,
}

impl std::fmt::Display for GuestOs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Linux {}", self.release)
    }
}

/// Looks for the guest's kernel for at most about `budget`.
#[must_use]
pub fn guest_os(vmm: &Vmm, ram: &GuestRam, budget: Duration) -> Option<GuestOs> {
    let mut votes = Votes::default();
    if vmm.kind == VmmKind::Uml {
        // The kernel is the VMM's own program and does not lie in guest RAM.
        if let Ok(image) = std::fs::read(vmm.process().path("exe")) {
            votes.count(&image);
        }
        return votes.winner();
    }
    guest_os_in(ram, budget)
}

/// The same where there is nothing but memory: a stored dump.
#[must_use]
pub fn guest_os_in(ram: &GuestRam, budget: Duration) -> Option<GuestOs> {
    let mut votes = Votes::default();
    let deadline = Instant::now() + budget;
    look_at_heads(ram, deadline, &mut votes);
    if votes.is_empty() {
        look_everywhere(ram, deadline, &mut votes);
    }
    votes.winner()
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
                    votes.count(head);
                }
            }
            if Instant::now() > deadline {
                return;
            }
        }
    }
}

/// All pages that exist, until the time is over.
fn look_everywhere(ram: &GuestRam, deadline: Instant, votes: &mut Votes) {
    let lengths: Vec<u64> = ram.blocks().map(|block| block.length).collect();
    for (block, length) in lengths.into_iter().enumerate() {
        if !ram.is_reachable(block) {
            continue;
        }
        let flow = ram.read_resident(block, 0..length, LONGEST, &mut |buffer| {
            votes.count(buffer.bytes);
            if Instant::now() > deadline {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if !matches!(flow, Ok(ControlFlow::Continue(()))) {
            return;
        }
    }
}

/// How often and how credibly each release was seen, and its best banner.
#[derive(Debug, Default)]
struct Votes {
    releases: HashMap<String, Vote>,
}

#[derive(Debug, Default)]
struct Vote {
    weight: u32,
    banner: String,
}

impl Votes {
    fn is_empty(&self) -> bool {
        self.releases.is_empty()
    }

    /// Counts the banners in `bytes`.
    fn count(&mut self, bytes: &[u8]) {
        for at in memchr::memmem::find_iter(bytes, START) {
            let end = bytes.len().min(at + LONGEST);
            let Some(seen) = parse(&bytes[at..end]) else {
                continue;
            };
            let vote = self.releases.entry(seen.release.to_owned()).or_default();
            let weight = if seen.in_image { IMAGE_WEIGHT } else { 1 };
            vote.weight = vote.weight.saturating_add(weight);
            // An image may hold a second banner that lacks the build's number and date.
            if vote.banner.len() < seen.text.len() {
                vote.banner = seen.text.to_owned();
            }
        }
    }

    fn winner(self) -> Option<GuestOs> {
        let (release, vote) = self.releases.into_iter().max_by(|one, other| {
            let by_weight = one.1.weight.cmp(&other.1.weight);
            by_weight.then_with(|| other.0.cmp(&one.0))
        })?;
        Some(GuestOs {
            release,
            banner: vote.banner,
        })
    }
}

/// A complete banner.
struct Banner<'a> {
    text: &'a str,
    release: &'a str,
    /// Whether it ends as in a kernel's image.
    in_image: bool,
}

/// A complete banner at the start of `bytes`: `Linux version RELEASE (BUILDER)
/// (COMPILER) #…` to the end of the line. The build's number may be missing in an image.
fn parse(bytes: &[u8]) -> Option<Banner<'_>> {
    let end = bytes
        .iter()
        .position(|byte| !(b' '..=b'~').contains(byte))?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut words = text.split(' ').skip(2);
    let release = words.next()?;
    let builder = words.next()?;
    let looks_right = release.starts_with(|first: char| first.is_ascii_digit())
        && release.contains('.')
        && !release.contains('%')
        && builder.starts_with('(')
        && builder.ends_with(')')
        && words.next()?.starts_with('(');
    let (_, build) = text.split_once(") #")?;
    let number = build.split(' ').next()?;
    let in_image = bytes[end..].starts_with(b"\n\0");
    let numbered = number.bytes().all(|byte| byte.is_ascii_digit())
        && build.len() > number.len()
        && (!number.is_empty() || in_image);
    (looks_right && numbered).then_some(Banner {
        text,
        release,
        in_image,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &[u8] = b"Linux version 6.1.0-35-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.137-1 (2025-05-07)\n\0";
    const LOGGED: &[u8] =
        b"Linux version 5.10.0-1 (a@b) (gcc 10) #3 SMP Debian\n[    0.000000] Command line";

    #[test]
    fn the_image_outweighs_logs() {
        let mut votes = Votes::default();
        for _ in 0..20 {
            votes.count(LOGGED);
        }
        votes.count(DEBIAN);
        let found = votes.winner().expect("a banner");
        assert_eq!(found.release, "6.1.0-35-amd64");
        assert_eq!(found.to_string(), "Linux 6.1.0-35-amd64");
        assert!(found.banner.ends_with("(2025-05-07)"));
    }

    #[test]
    fn what_is_not_complete_does_not_count() {
        for text in [
            &b"Linux version %s (%s) (%s) #1 SMP\n\0"[..],
            b"Linux version 6.1.0\n",
            b"Linux version 6.1.0 is out (see) (news) now\n\0",
            b"Linux version 6.1.0 (a@b) (gcc) #x y\n\0",
            b"Linux version ",
            b"Linux version 6.1.0 (a@b) (gcc 12) #1 SM",
        ] {
            let mut votes = Votes::default();
            votes.count(text);
            assert!(votes.is_empty(), "{}", String::from_utf8_lossy(text));
        }
    }
}
