//! The byte patterns of one search, made ready once: one alone by `memmem`, several by
//! an automaton over how they begin. Matches may overlap, and all of them count. Refuses
//! patterns that would match everywhere or that no guest could hold.

use std::ops::{ControlFlow, Range};

use aho_corasick::{AhoCorasick, Input, MatchKind};
use memchr::memmem;

/// The longest pattern that is taken.
const LONGEST: usize = 16 << 20;
/// How much of each pattern the automaton knows; the rest is compared where it matched.
/// Without such a bound a few long patterns would make it larger than its caches.
const PREFIX: usize = 32;
/// From this alignment on, looking at each aligned place costs less than looking at
/// every byte.
const SPARSE: u64 = 64;

/// Why some patterns cannot be searched for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// No pattern at all.
    #[error("there is nothing to search for")]
    None,
    /// One has no bytes.
    #[error("pattern {} is empty: it would be found everywhere", .index + 1)]
    Empty {
        /// Which one, counted from 0.
        index: usize,
    },
    /// One is longer than what is held in memory at once.
    #[error("pattern {} has {length} bytes; at most {LONGEST} can be searched for", .index + 1)]
    TooLong {
        /// Which one, counted from 0.
        index: usize,
        /// Its length.
        length: usize,
    },
    /// They are too many or too different for the automaton.
    #[error("the patterns cannot be searched for together: {0}")]
    TooMany(String),
}

/// What is searched for.
#[derive(Debug)]
pub struct Patterns {
    bytes: Vec<Vec<u8>>,
    longest: usize,
    /// Which patterns begin with each byte.
    by_first_byte: Vec<Vec<usize>>,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    One {
        finder: Box<memmem::Finder<'static>>,
        /// The smallest distance at which the pattern can overlap itself.
        period: usize,
    },
    Many(Box<AhoCorasick>),
}

/// What is told of each match: where it starts in the bytes, and which pattern it is.
pub(super) type MatchVisitor<'a> = dyn FnMut(usize, usize) -> ControlFlow<()> + 'a;

/// Bytes of guest RAM and which of them a match may start at.
#[derive(Debug, Clone)]
pub(super) struct Haystack<'a> {
    pub(super) bytes: &'a [u8],
    /// The guest-physical address of the first byte.
    pub(super) address: u64,
    /// Matches that start elsewhere are another haystack's.
    pub(super) starts: Range<usize>,
    /// What a match's address must be a multiple of; not 0.
    pub(super) alignment: u64,
}

impl Patterns {
    /// Makes patterns ready. Each is told by its index in this list; equal ones are all
    /// told.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn new(bytes: Vec<Vec<u8>>) -> Result<Self, PatternError> {
        for (index, pattern) in bytes.iter().enumerate() {
            let length = pattern.len();
            if length == 0 {
                return Err(PatternError::Empty { index });
            }
            if length > LONGEST {
                return Err(PatternError::TooLong { index, length });
            }
        }
        let mut by_first_byte = vec![Vec::new(); 256];
        for (index, pattern) in bytes.iter().enumerate() {
            if let Some(with_byte) = pattern
                .first()
                .and_then(|first| by_first_byte.get_mut(usize::from(*first)))
            {
                with_byte.push(index);
            }
        }
        let engine = match bytes.as_slice() {
            [] => return Err(PatternError::None),
            [only] => Engine::One {
                finder: Box::new(memmem::Finder::new(only).into_owned()),
                period: period(only),
            },
            several => {
                let prefixes = several
                    .iter()
                    .map(|pattern| pattern.get(..PREFIX).unwrap_or(pattern));
                // The leftmost match alone is asked for: only so can vector instructions
                // be used. What else starts there is compared.
                let automaton = AhoCorasick::builder()
                    .match_kind(MatchKind::LeftmostFirst)
                    .build(prefixes)
                    .map_err(|error| PatternError::TooMany(error.to_string()))?;
                Engine::Many(Box::new(automaton))
            }
        };
        Ok(Self {
            longest: bytes.iter().map(Vec::len).max().unwrap_or(0),
            bytes,
            by_first_byte,
            engine,
        })
    }

    /// How many there are; at least one.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.bytes.len()
    }

    /// How many bytes beyond its first one the longest pattern needs.
    pub(super) const fn reach(&self) -> usize {
        self.longest - 1
    }

    /// Tells all matches in a haystack, in rising order of their starts and then of the
    /// patterns, until `visit` says no.
    pub(super) fn find(
        &self,
        haystack: &Haystack<'_>,
        visit: &mut MatchVisitor<'_>,
    ) -> ControlFlow<()> {
        // Nothing behind this can be part of a match that counts.
        let end = haystack
            .starts
            .end
            .saturating_add(self.reach())
            .min(haystack.bytes.len());
        let bytes = haystack.bytes.get(..end).unwrap_or_default();
        let from = haystack.starts.start;
        if haystack.alignment >= SPARSE {
            return self.at_places(bytes, haystack, visit);
        }
        let mut visit_aligned = |start: usize, pattern: usize| {
            let address = haystack.address + start as u64;
            if address.is_multiple_of(haystack.alignment) {
                visit(start, pattern)
            } else {
                ControlFlow::Continue(())
            }
        };
        match &self.engine {
            Engine::One { finder, period } => one(finder, *period, bytes, from, &mut visit_aligned),
            Engine::Many(automaton) => {
                let starts = haystack.starts.clone();
                self.many(automaton, bytes, starts, &mut visit_aligned)
            }
        }
    }

    /// Looks at the aligned places only.
    fn at_places(
        &self,
        bytes: &[u8],
        haystack: &Haystack<'_>,
        visit: &mut MatchVisitor<'_>,
    ) -> ControlFlow<()> {
        let from = haystack
            .address
            .saturating_add(haystack.starts.start as u64);
        let Some(first) = from.checked_next_multiple_of(haystack.alignment) else {
            return ControlFlow::Continue(());
        };
        let mut at = first - haystack.address;
        while let Ok(start) = usize::try_from(at)
            && start < haystack.starts.end
        {
            self.all_at(bytes, start, visit)?;
            let Some(next) = at.checked_add(haystack.alignment) else {
                break;
            };
            at = next;
        }
        ControlFlow::Continue(())
    }

    fn many(
        &self,
        automaton: &AhoCorasick,
        bytes: &[u8],
        starts: Range<usize>,
        visit: &mut MatchVisitor<'_>,
    ) -> ControlFlow<()> {
        let mut from = starts.start;
        while from < bytes.len() {
            let Some(found) = automaton.find(Input::new(bytes).range(from..)) else {
                break;
            };
            // A short pattern may lie wholly in what only the longest one needs.
            if found.start() >= starts.end {
                break;
            }
            self.all_at(bytes, found.start(), visit)?;
            from = found.start() + 1;
        }
        ControlFlow::Continue(())
    }

    /// Tells every pattern that matches at `start`.
    fn all_at(&self, bytes: &[u8], start: usize, visit: &mut MatchVisitor<'_>) -> ControlFlow<()> {
        let rest = bytes.get(start..).unwrap_or_default();
        let with_byte = rest
            .first()
            .and_then(|first| self.by_first_byte.get(usize::from(*first)));
        for &index in with_byte.into_iter().flatten() {
            if self
                .bytes
                .get(index)
                .is_some_and(|pattern| rest.starts_with(pattern))
            {
                visit(start, index)?;
            }
        }
        ControlFlow::Continue(())
    }
}

/// Tells all matches of one pattern from `from` on, also those that overlap.
fn one(
    finder: &memmem::Finder<'_>,
    period: usize,
    bytes: &[u8],
    mut from: usize,
    visit: &mut MatchVisitor<'_>,
) -> ControlFlow<()> {
    let pattern = finder.needle();
    let tail = pattern.get(pattern.len() - period..).unwrap_or_default();
    while let Some(found) = bytes.get(from..).and_then(|rest| finder.find(rest)) {
        let mut start = from + found;
        visit(start, 0)?;
        // The next match is one period on or further. There all but the last bytes are
        // known to be right: memory full of one byte does not make this slow.
        loop {
            start += period;
            let end = start + pattern.len();
            if bytes.get(end - period..end) != Some(tail) {
                break;
            }
            visit(start, 0)?;
        }
        from = start + 1;
    }
    ControlFlow::Continue(())
}

/// The smallest distance, not 0, at which a pattern can overlap itself; its length
/// where it cannot.
fn period(pattern: &[u8]) -> usize {
    // The longest border of each prefix, as in Knuth, Morris and Pratt's search.
    let mut borders = vec![0_usize; pattern.len()];
    let mut border = 0;
    for index in 1..pattern.len() {
        while border > 0 && pattern[index] != pattern[border] {
            border = borders[border - 1];
        }
        if pattern[index] == pattern[border] {
            border += 1;
        }
        borders[index] = border;
    }
    pattern.len() - border
}

#[cfg(test)]
#[path = "patterns_tests.rs"]
mod tests;
