//! Which processors the two measured ends run on: two of one machine that share no core, where there are such.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// One processor for each end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processors {
    /// The end that measures.
    pub first: usize,
    /// The other.
    pub second: usize,
}

impl Processors {
    /// The first allowed processor, and the next one that is not of the same core.
    pub fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("cannot ask for the processors")?;
        let allowed: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|processor| allowed.is_set(*processor))
            .collect();
        let first = *allowed.first().context("no processor is allowed")?;
        let path = format!("/sys/devices/system/cpu/cpu{first}/topology/thread_siblings_list");
        let siblings = list(&std::fs::read_to_string(path).unwrap_or_default());
        let second = allowed
            .iter()
            .find(|processor| **processor != first && !siblings.contains(processor))
            .or_else(|| allowed.get(1))
            .context("two ends need two processors")?;
        Ok(Self {
            first,
            second: *second,
        })
    }
}

/// Keeps the calling thread on one processor.
pub fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on processor {processor}"))
}

/// The numbers of a list like `0-1,4`.
fn list(text: &str) -> Vec<usize> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.parse::<usize>(), to.parse::<usize>()) {
            numbers.extend((from..=to).take(CpuSet::MAX_CPU));
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        assert_eq!(list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(list("7"), [7]);
        assert!(list("").is_empty());
    }
}
