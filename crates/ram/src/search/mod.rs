//! Searches guest RAM for byte patterns by guest-physical address.
//!
//! Every match is told exactly once and in rising order, also where it crosses pages,
//! runs of existing pages that touch, RAM blocks or layout ranges whose addresses are
//! consecutive; none is told across a hole. Only pages that exist are looked at, and none
//! is brought into being. All cores work, and the first matches are told at once.
//!
//! The way: [`Patterns`] are made ready; `plan` cuts the layout into units; `in_order`
//! spreads these over the cores; `unit` reads and searches one.
//!
//! RAM is read with copying calls into buffers that stay in a core's own cache, not
//! through a mapping. Mapping pages of 4 KiB for one look costs as much as copying
//! them; and a page that the guest gives back meanwhile would be brought into being
//! again by a look at its mapping, or end the process if its file shrank.

mod in_order;
mod patterns;
mod plan;
mod unit;

pub use patterns::{PatternError, Patterns};

use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::ControlFlow;

use vmshm_link::GuestPhysical;

use crate::guest_ram::GuestRam;
use crate::layout::{Layout, LayoutError};
use crate::ram_error::RamError;
use unit::{Report, Subject};

/// A match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Found {
    /// Where it starts.
    pub address: GuestPhysical,
    /// Which of the patterns it is.
    pub pattern: usize,
}

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchOptions {
    /// What a match's guest-physical address must be a multiple of.
    pub alignment: NonZeroU64,
    /// After how many matches to end.
    pub limit: Option<NonZeroU64>,
    /// How many threads search; nothing: as many as there are cores to run on.
    pub threads: Option<NonZeroUsize>,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self {
            alignment: NonZeroU64::MIN,
            limit: None,
            threads: None,
        }
    }
}

/// Who is told of matches while the search goes on.
pub trait SearchSink {
    /// Takes the next matches, in rising order and at least one; says whether to go on.
    fn found(&mut self, matches: &[Found]) -> ControlFlow<()>;

    /// `addresses` more of the layout's have been dealt with, existing or not.
    fn passed(&mut self, addresses: u64) {
        let _ = addresses;
    }
}

/// What a search did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SearchStats {
    /// Bytes of existing pages that were searched.
    pub searched: u64,
    /// How many matches were told.
    pub found: u64,
    /// Bytes that could not be read or whose existence could not be told.
    pub unreadable: u64,
    /// Whether the limit or the sink ended it.
    pub ended_early: bool,
}

/// Why a search did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// It is not known where guest RAM lies.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The VM is gone, or nothing at all could be read.
    #[error(transparent)]
    Ram(#[from] RamError),
}

impl SearchError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Layout(error) => error.hint(),
            Self::Ram(_) => None,
        }
    }
}

/// How much is done in one go.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Bytes that are read at once.
    buffer: usize,
    /// Addresses that one thread deals with at a time.
    unit: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            buffer: 128 << 10,
            unit: 16 << 20,
        }
    }
}

impl GuestRam {
    /// Searches everything that `layout` says of this RAM and tells `sink` each match.
    ///
    /// # Errors
    /// [`SearchError`]. What was told until then was found.
    pub fn search(
        &self,
        layout: &Layout,
        patterns: &Patterns,
        options: &SearchOptions,
        sink: &mut dyn SearchSink,
    ) -> Result<SearchStats, SearchError> {
        self.search_at_pace(layout, patterns, options, Pace::default(), sink)
    }

    fn search_at_pace(
        &self,
        layout: &Layout,
        patterns: &Patterns,
        options: &SearchOptions,
        pace: Pace,
        sink: &mut dyn SearchSink,
    ) -> Result<SearchStats, SearchError> {
        if layout.ranges().is_empty() {
            return Err(LayoutError::Empty.into());
        }
        let threads = options
            .threads
            .or_else(|| std::thread::available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN);
        let subject = Subject {
            ram: self,
            existing: &plan::Existing::new(self, layout),
            patterns,
            alignment: options.alignment.get(),
            pace,
        };
        // What a unit reads beyond its end must not outweigh it.
        let unit_length = pace.unit.max(4 * patterns.reach() as u64);
        let mut left = options.limit.map_or(u64::MAX, NonZeroU64::get);
        let mut stats = SearchStats::default();
        let mut reason = None;
        let mut gone = false;
        let flow = in_order::in_order(
            threads,
            plan::units(layout, unit_length),
            |buffer, unit, outlet| unit::search(&subject, buffer, unit, outlet),
            |report| match report {
                Report::Found(mut matches) => {
                    matches.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    left -= matches.len() as u64;
                    stats.found += matches.len() as u64;
                    sink.found(&matches)?;
                    if left == 0 {
                        return ControlFlow::Break(());
                    }
                    ControlFlow::Continue(())
                }
                Report::Done(tally) => {
                    stats.searched += tally.searched;
                    stats.unreadable += tally.unreadable;
                    reason = reason.or(tally.reason);
                    sink.passed(tally.addresses);
                    ControlFlow::Continue(())
                }
                Report::Gone => {
                    gone = true;
                    ControlFlow::Break(())
                }
            },
        );
        if gone {
            return Err(RamError::Gone.into());
        }
        stats.ended_early = flow.is_break();
        tracing::debug!(?stats, ?threads, "searched");
        match reason {
            // To call this "not found" would be wrong.
            Some(reason) if stats.searched == 0 && !stats.ended_early => Err(reason.into()),
            _ => Ok(stats),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
