//! Bells that wait to be rung: one for each region at most, and not more than
//! [`MOST_BELLS`] in all, however many a peer sends.
//!
//! A bell says no more than *look again*, so two of one region are as good as one, and one
//! that has no room is lost: every sleeper looks again by itself.

/// The most regions of which a bell is remembered.
pub const MOST_BELLS: usize = 64;

/// Regions that are to be rung, in the order in which they came.
#[derive(Debug, Clone)]
pub struct Bells {
    regions: [u64; MOST_BELLS],
    count: usize,
}

impl Default for Bells {
    fn default() -> Self {
        Self {
            regions: [0; MOST_BELLS],
            count: 0,
        }
    }
}

impl Bells {
    /// Remembers a region's bell. Whether it is remembered now, for the first time or not.
    pub fn add(&mut self, region: u64) -> bool {
        let waiting = self.regions.get(..self.count).unwrap_or_default();
        if waiting.contains(&region) {
            return true;
        }
        match self.regions.get_mut(self.count) {
            Some(place) => {
                *place = region;
                self.count += 1;
                true
            }
            None => false,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes the one that has waited longest.
    pub fn take(&mut self) -> Option<u64> {
        let first = *self.regions.get(..self.count)?.first()?;
        self.regions.copy_within(1..self.count, 0);
        self.count -= 1;
        Some(first)
    }

    /// Forgets all of them.
    pub const fn clear(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_waits_once_and_the_first_goes_first() {
        let mut bells = Bells::default();
        for region in [7, 8, 7, u64::MAX, 8] {
            assert!(bells.add(region));
        }
        assert_eq!(bells.take(), Some(7));
        assert!(bells.add(7));
        let rest = std::iter::from_fn(|| bells.take());
        assert!([8, u64::MAX, 7].into_iter().eq(rest));
    }

    #[test]
    fn more_than_are_remembered_are_lost() {
        let mut bells = Bells::default();
        let all = 0..2 * MOST_BELLS as u64;
        let kept = all.filter(|region| bells.add(*region)).count();
        assert_eq!(kept, MOST_BELLS);
        assert!(bells.add(3), "it waits already");
        assert_eq!(std::iter::from_fn(|| bells.take()).count(), MOST_BELLS);
        assert!(bells.is_empty() && bells.take().is_none());
        assert!(bells.add(1));
        bells.clear();
        assert!(bells.is_empty());
    }
}
