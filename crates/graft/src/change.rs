//! What is changed in the process, and in which order: which pieces are left, and the calls that
//! put the memory file in their place or bring them back. Nothing here touches the process.

use std::os::fd::OwnedFd;

use vmshm_ram::MemoryMapping;

use crate::ahead::Ahead;
use crate::chain::Call;
use crate::injected;
use crate::origin::{OpenOrigin, origin_of};
use crate::os::FileView;
use crate::pieces::{Piece, Standing, cut};
use crate::process::Area;
use crate::refusal::{GraftError, Refusal};

/// How many bytes a round brings back at most, since all threads wait for their copying: some
/// milliseconds' worth. Whole huge pages.
const BROUGHT_BACK: u64 = 4 << 20;

/// Whether anybody uses the pieces at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// The bytes stay the same, and every thread of the process stands still for the change.
    Keep,
    /// The same, and what goes back goes at once: whoever has the file must lose the guest's memory
    /// soon, and that counts for more than a short pause.
    KeepAtOnce,
    /// Nobody uses the pages: their bytes become zero, or stay what they are, and only one
    /// thread is borrowed.
    Forget,
}

impl Contents {
    pub(crate) fn are_kept(self) -> bool {
        self != Self::Forget
    }
}

/// Which way pieces are changed.
pub(crate) enum Change<'a> {
    Graft {
        view: &'a FileView,
        number: u32,
        ahead: Option<&'a Ahead>,
    },
    Undo {
        number: u32,
        file: &'a OwnedFd,
        origins: &'a [OpenOrigin],
    },
}

impl Change<'_> {
    /// What of the pieces is still to be changed, in this order.
    pub(crate) fn left(&self, standing: Standing) -> Vec<Piece> {
        match self {
            Self::Graft { .. } => standing.own,
            Self::Undo { .. } => from_the_start(standing.replaced),
        }
    }

    /// How many bytes a round may change.
    pub(crate) const fn most_bytes(&self, contents: Contents) -> u64 {
        match (self, contents) {
            (Self::Undo { .. }, Contents::Keep) => BROUGHT_BACK,
            _ => u64::MAX,
        }
    }

    /// What changes parts in rising order.
    pub(crate) fn calls(&self, parts: &[Part], contents: Contents) -> Vec<Call> {
        match self {
            Self::Graft { number, .. } => {
                let map = |part: &Part| injected::map_file(&part.piece, part.protection, *number);
                let mut calls: Vec<Call> = parts.iter().map(map).collect();
                calls.extend(advice_again(parts));
                calls
            }
            Self::Undo {
                number, origins, ..
            } => {
                let undo = |part| undoing(part, *number, origins, contents);
                parts.iter().flat_map(undo).collect()
            }
        }
    }
}

/// What is brought back, the region's start first: whatever lies there, such as the words that
/// say which records are written, changes no more for whoever still has the file. So nobody
/// takes bytes there for new that the guest writes elsewhere by then, nor the guest those that
/// somebody writes there.
fn from_the_start(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut parts = cut(pieces, BROUGHT_BACK);
    parts.sort_by_key(|piece| piece.offset);
    parts
}

fn undoing(part: &Part, number: u32, origins: &[OpenOrigin], contents: Contents) -> Vec<Call> {
    let origin = origin_of(origins, &part.piece);
    let mut calls = vec![match origin {
        Some((origin, offset)) => {
            let there = Piece {
                offset,
                ..part.piece
            };
            injected::map_file(&there, part.protection, origin.number)
        }
        None => injected::map_private(&part.piece, part.protection),
    }];
    // Before the first page comes, so that huge pages can.
    let advice = part.advice.iter();
    calls.extend(advice.map(|advice| injected::advise(&part.piece, *advice)));
    if contents.are_kept() && origin.is_none() {
        calls.push(injected::read_back(&part.piece, number));
    }
    calls
}

/// The advice that parts in rising order had: one call for neighbours that had the same, since
/// each call lengthens the pause.
fn advice_again(parts: &[Part]) -> Vec<Call> {
    let mut calls = Vec::new();
    for (_, advice) in ADVICE {
        let mut runs: Vec<Piece> = Vec::new();
        for part in parts.iter().filter(|part| part.advice.contains(&advice)) {
            match runs.last_mut() {
                Some(run) if run.at.0 + run.length == part.piece.at.0 => {
                    run.length += part.piece.length;
                }
                _ => runs.push(part.piece),
            }
        }
        calls.extend(runs.iter().map(|run| injected::advise(run, advice)));
    }
    calls
}

/// A piece as the process has it mapped now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) piece: Piece,
    protection: u64,
    advice: Vec<u64>,
}

/// What was advised about memory is known by flags; these can be given again.
pub(crate) const ADVICE: [(&[u8; 2], u64); 4] =
    [(b"dc", 10), (b"dd", 16), (b"hg", 14), (b"nh", 15)];

/// Says how pieces are mapped; each lies in one mapping.
pub(crate) fn parts(
    pieces: Vec<Piece>,
    mappings: &[MemoryMapping],
    areas: &[Area],
) -> Result<Vec<Part>, GraftError> {
    let part = |piece: Piece| {
        let mapping = mappings
            .iter()
            .find(|mapping| mapping.start <= piece.at && piece.at < mapping.end())
            .ok_or(Refusal::NotMemory { at: piece.at })?;
        let bit = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
        let area = areas.iter().find(|area| area.place.contains(&piece.at.0));
        let advised = |(flag, advice): &(&[u8; 2], u64)| {
            area.is_some_and(|area| area.has(flag)).then_some(*advice)
        };
        Ok(Part {
            piece,
            protection: bit(mapping.readable, 1)
                | bit(mapping.writable, 2)
                | bit(mapping.executable, 4),
            advice: ADVICE.iter().filter_map(advised).collect(),
        })
    };
    pieces.into_iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_again_to_neighbours_together() {
        const HUGE: u64 = 14;
        const NOT_DUMPED: u64 = 16;
        let part = |page: u64, advice: &[u64]| Part {
            piece: Piece {
                at: vmshm_ram::VmmVirtual(page << 12),
                length: 4096,
                offset: 0,
            },
            protection: 3,
            advice: advice.to_vec(),
        };
        let parts = [
            part(1, &[HUGE]),
            part(2, &[HUGE, NOT_DUMPED]),
            part(3, &[]),
            part(4, &[HUGE]),
        ];
        let given: Vec<(u64, u64, u64)> = advice_again(&parts)
            .iter()
            .map(|call| {
                let [at, length, advice, ..] = call.arguments;
                (at >> 12, length >> 12, advice)
            })
            .collect();
        assert_eq!(given, [(2, 1, NOT_DUMPED), (1, 2, HUGE), (4, 1, HUGE)]);
    }

    #[test]
    fn what_goes_back_goes_from_the_regions_start_in_small_parts() {
        const MIB: u64 = 1 << 20;
        let piece = |at: u64, length: u64, offset: u64| Piece {
            at: vmshm_ram::VmmVirtual(at),
            length,
            offset,
        };
        // Sorted by place, as pieces are; the region begins in the second one.
        let pieces = vec![
            piece(7 * MIB, 6 * MIB, MIB),
            piece(16 * MIB, MIB, 0),
            piece(32 * MIB, 4 * MIB, 7 * MIB),
        ];
        let parts: Vec<(u64, u64, u64)> = from_the_start(pieces)
            .iter()
            .map(|part| (part.offset / MIB, part.length / MIB, part.at.0 / MIB))
            .collect();
        let wanted = [(0, 1, 16), (1, 1, 7), (2, 4, 8), (6, 1, 12), (7, 4, 32)];
        assert_eq!(parts, wanted);
    }
}
