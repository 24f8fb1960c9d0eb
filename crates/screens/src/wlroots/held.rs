//! Which keys or buttons are held, and by whom: one is down while anybody holds it.

use std::collections::{BTreeMap, BTreeSet};

/// Who holds something: a screen, and a reader of it.
pub type Who = (u64, usize);

/// The most that can be held at once; what is pressed beyond that does not count.
const LIMIT: usize = 64;

/// What is held.
#[derive(Debug, Default)]
pub struct Held {
    holders: BTreeMap<u32, BTreeSet<Who>>,
}

impl Held {
    /// Somebody presses. Whether it goes down by that.
    pub fn press(&mut self, who: Who, code: u32) -> bool {
        if self.holders.len() >= LIMIT && !self.holders.contains_key(&code) {
            return false;
        }
        let holders = self.holders.entry(code).or_default();
        let first = holders.is_empty();
        holders.insert(who);
        first
    }

    /// Somebody lets go. Whether it comes up by that.
    pub fn release(&mut self, who: Who, code: u32) -> bool {
        let Some(holders) = self.holders.get_mut(&code) else {
            return false;
        };
        holders.remove(&who);
        if !holders.is_empty() {
            return false;
        }
        self.holders.remove(&code);
        true
    }

    /// All whom `goes` names let go. What comes up by that.
    pub fn release_all(&mut self, mut goes: impl FnMut(Who) -> bool) -> Vec<u32> {
        let mut up = Vec::new();
        self.holders.retain(|code, holders| {
            holders.retain(|who| !goes(*who));
            if holders.is_empty() {
                up.push(*code);
            }
            !holders.is_empty()
        });
        up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_down_while_anybody_holds_it() {
        let mut held = Held::default();
        assert!(held.press((1, 0), 30));
        assert!(!held.press((1, 2), 30));
        assert!(!held.press((1, 2), 30));
        assert!(!held.release((1, 0), 30));
        assert!(held.release((1, 2), 30));
        assert!(!held.release((1, 2), 30));
        assert!(!held.release((7, 7), 31));
    }

    #[test]
    fn who_leaves_lets_go_of_everything() {
        let mut held = Held::default();
        for code in [42, 30, 56] {
            held.press((1, 0), code);
        }
        held.press((1, 1), 56);
        assert_eq!(held.release_all(|who| who == (1, 0)), [30, 42]);
        assert_eq!(held.release_all(|who| who.0 == 1), [56]);
        assert!(held.release_all(|_| true).is_empty());
    }

    #[test]
    fn nobody_holds_without_bound() {
        let mut held = Held::default();
        let down = (0..1000).filter(|code| held.press((1, 0), *code)).count();
        assert_eq!(down, LIMIT);
        assert!(!held.press((2, 0), 3));
        assert_eq!(held.release_all(|_| true).len(), LIMIT);
    }
}
