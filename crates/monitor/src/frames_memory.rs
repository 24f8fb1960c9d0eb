//! The memory that `vmshm display` hands over: runs of a file, mapped as one memory.
//!
//! It refuses more than [`MEMORY_LIMIT`] bytes or [`RUN_LIMIT`] runs, runs that are no whole
//! pages, and files that end before a run does: a page behind a file's end kills its reader. (Where
//! files of memory cannot shrink, the system refuses to map behind their ends.)

use std::io;

use vmshm_channel::Handed;
use vmshm_channel::sink::Run;
use vmshm_shm::{MapError, Mapping, PAGE_SIZE, Piece, Protection};

use crate::os::size_if_it_can_shrink;

/// The most bytes of one memory.
pub const MEMORY_LIMIT: u64 = 1 << 30;
/// The most runs of one memory.
pub const RUN_LIMIT: usize = 65536;
/// The most pixels regions that are mapped at a time: the one in use and the one to come.
const REGION_LIMIT: usize = 2;

/// Why memory is not mapped.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// More than [`RUN_LIMIT`].
    #[error("{0} runs of memory are too many")]
    TooManyRuns(usize),
    /// More than [`MEMORY_LIMIT`].
    #[error("a memory of more than {} MiB is too large", MEMORY_LIMIT >> 20)]
    TooLarge,
    /// Part of a page, or nothing.
    #[error("run {0} of the memory is not made of whole pages")]
    NotWholePages(usize),
    /// The file ends before a run does.
    #[error("run {run} of the memory ends at {end:#x}, behind the file's end at {size:#x}")]
    FileTooShort {
        /// Which.
        run: usize,
        /// Where it ends in the file.
        end: u64,
        /// The file's bytes.
        size: u64,
    },
    /// The descriptor is of no use.
    #[error("the memory's file cannot be asked for its size: {0}")]
    Unknown(io::Error),
    /// The system refused.
    #[error("{0}")]
    Map(#[from] MapError),
}

/// Maps runs of a file one behind the other.
///
/// # Errors
/// [`MemoryError`]; nothing is mapped then.
pub fn map(file: &Handed, runs: &[Run], protection: Protection) -> Result<Mapping, MemoryError> {
    if runs.len() > RUN_LIMIT {
        return Err(MemoryError::TooManyRuns(runs.len()));
    }
    let size = size_if_it_can_shrink(file).map_err(MemoryError::Unknown)?;
    let mut total = 0_u64;
    for (index, run) in runs.iter().enumerate() {
        let whole = run.length > 0
            && run.length.is_multiple_of(PAGE_SIZE)
            && run.offset.is_multiple_of(PAGE_SIZE);
        if !whole {
            return Err(MemoryError::NotWholePages(index));
        }
        let end = run.offset.saturating_add(run.length);
        if let Some(size) = size
            && end > size
        {
            return Err(MemoryError::FileTooShort {
                run: index,
                end,
                size,
            });
        }
        total = total.saturating_add(run.length);
        if total > MEMORY_LIMIT {
            return Err(MemoryError::TooLarge);
        }
    }
    let pieces: Vec<Piece> = runs
        .iter()
        .map(|run| Piece {
            offset: run.offset,
            length: run.length,
        })
        .collect();
    Ok(Mapping::new(file, &pieces, protection)?)
}

/// The pixels regions that are mapped, at most [`REGION_LIMIT`] of them.
#[derive(Debug, Default)]
pub struct PixelRegions {
    /// The newest last.
    regions: Vec<(u64, Mapping)>,
}

impl PixelRegions {
    /// A region's memory, if it is mapped.
    pub fn get(&self, region: u64) -> Option<&Mapping> {
        let found = self.regions.iter().find(|(number, _)| *number == region);
        found.map(|(_, memory)| memory)
    }

    /// Takes a region; those that must go for it are unmapped and returned.
    pub fn insert(&mut self, region: u64, memory: Mapping) -> Vec<u64> {
        self.regions.retain(|(number, _)| *number != region);
        let excess = (self.regions.len() + 1).saturating_sub(REGION_LIMIT);
        let gone = self.regions.drain(..excess).map(|(number, _)| number);
        let gone = gone.collect();
        self.regions.push((region, memory));
        gone
    }

    /// Unmaps all but one; those that went are returned.
    pub fn keep_only(&mut self, region: u64) -> Vec<u64> {
        let others = self.regions.extract_if(.., |(number, _)| *number != region);
        others.map(|(number, _)| number).collect()
    }

    /// Unmaps all.
    pub fn clear(&mut self) {
        self.regions.clear();
    }
}

#[cfg(test)]
mod tests {
    use vmshm_shm::SharedMemory;

    use super::*;
    use crate::os::trial::memory_file as file;

    fn run(offset: u64, length: u64) -> Run {
        Run { offset, length }
    }

    #[test]
    fn runs_follow_each_other() {
        let file = file(4 * PAGE_SIZE);
        let whole = Mapping::whole(&file, 4 * PAGE_SIZE, Protection::ReadWrite);
        let whole = whole.expect("succeeds");
        whole.write(3 * PAGE_SIZE, &[7; 8]).expect("succeeds");
        let runs = [run(3 * PAGE_SIZE, PAGE_SIZE), run(0, 2 * PAGE_SIZE)];
        let memory = map(&file, &runs, Protection::Read).expect("succeeds");
        assert_eq!(memory.size(), 3 * PAGE_SIZE);
        assert_eq!(
            memory.load_relaxed(0).expect("succeeds"),
            0x0707_0707_0707_0707
        );
        assert!(memory.store_relaxed(0, 1).is_err());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let file = file(2 * PAGE_SIZE);
        let refused = |runs: &[Run]| map(&file, runs, Protection::Read).expect_err("refused");
        let can_shrink = size_if_it_can_shrink(&file).expect("succeeds").is_some();
        for too_long in [
            run(0, 256 * PAGE_SIZE),
            run(u64::MAX - PAGE_SIZE + 1, PAGE_SIZE),
        ] {
            match refused(&[too_long]) {
                MemoryError::FileTooShort { run: 0, .. } => assert!(can_shrink),
                MemoryError::Map(_) => assert!(!can_shrink),
                other => panic!("{other}"),
            }
        }
        for bad in [run(8, PAGE_SIZE), run(0, 100), run(0, 0)] {
            assert!(matches!(refused(&[bad]), MemoryError::NotWholePages(0)));
        }
        let page = run(0, PAGE_SIZE);
        assert!(matches!(
            refused(&vec![page; RUN_LIMIT + 1]),
            MemoryError::TooManyRuns(_)
        ));
        let pages = run(0, 2 * PAGE_SIZE);
        assert!(matches!(refused(&[]), MemoryError::Map(_)));
        let huge = usize::try_from(MEMORY_LIMIT / pages.length).expect("fits") + 1;
        let refused = if huge > RUN_LIMIT {
            refused(&vec![pages; huge])
        } else {
            MemoryError::TooManyRuns(0)
        };
        assert!(matches!(refused, MemoryError::TooManyRuns(_)));
    }

    #[test]
    fn memory_beyond_the_limit_is_refused() {
        // Sparse: no page of it comes into being.
        let file = file(MEMORY_LIMIT + PAGE_SIZE);
        let runs = [run(0, MEMORY_LIMIT), run(0, PAGE_SIZE)];
        let refused = map(&file, &runs, Protection::Read).expect_err("refused");
        assert!(matches!(refused, MemoryError::TooLarge));
    }

    #[test]
    fn at_most_two_regions_are_mapped() {
        let memory = || map(&file(PAGE_SIZE), &[run(0, PAGE_SIZE)], Protection::Read);
        let memory = || memory().expect("succeeds");
        let mut regions = PixelRegions::default();
        assert!(regions.insert(1, memory()).is_empty());
        assert!(regions.insert(2, memory()).is_empty());
        assert!(regions.insert(2, memory()).is_empty());
        assert_eq!(regions.insert(3, memory()), [1]);
        assert!(regions.get(1).is_none() && regions.get(3).is_some());
        assert_eq!(regions.keep_only(3), [2]);
    }
}
