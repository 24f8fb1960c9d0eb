//! Which keys and buttons are down, and by whom: one that two readers hold is let go when the
//! last of them lets go.
//!
//! It refuses nothing; codes are checked by who knows the devices.

use std::collections::{BTreeMap, BTreeSet};

use super::devices::Which;

/// Keys and buttons that are down.
#[derive(Debug, Default)]
pub struct Held {
    /// By code: on which device, and by which readers.
    down: BTreeMap<u16, (Which, BTreeSet<usize>)>,
}

impl Held {
    /// A reader presses: on which device the code goes down now; nothing if it is down already.
    pub fn press(&mut self, reader: usize, code: u16, which: Which) -> Option<Which> {
        let new = !self.down.contains_key(&code);
        let (_, holders) = self
            .down
            .entry(code)
            .or_insert_with(|| (which, BTreeSet::new()));
        holders.insert(reader);
        new.then_some(which)
    }

    /// A reader lets go: on which device the code goes up now.
    pub fn release(&mut self, reader: usize, code: u16) -> Option<Which> {
        let (which, holders) = self.down.get_mut(&code)?;
        if !holders.remove(&reader) || !holders.is_empty() {
            return None;
        }
        let which = *which;
        self.down.remove(&code);
        Some(which)
    }

    /// All that goes up when these readers let go of everything.
    pub fn release_all(&mut self, gone: impl Fn(usize) -> bool) -> Vec<(Which, u16)> {
        let mut released = Vec::new();
        self.down.retain(|code, (which, holders)| {
            holders.retain(|reader| !gone(*reader));
            if holders.is_empty() {
                released.push((*which, *code));
            }
            !holders.is_empty()
        });
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_two_is_let_go_by_the_last() {
        let mut held = Held::default();
        assert_eq!(held.press(1, 30, Which::Keyboard), Some(Which::Keyboard));
        assert_eq!(held.press(2, 30, Which::Keyboard), None);
        assert_eq!(held.press(1, 30, Which::Keyboard), None);
        assert_eq!(held.release(1, 30), None);
        assert_eq!(held.release(1, 30), None);
        assert_eq!(held.release(2, 30), Some(Which::Keyboard));
        assert_eq!(held.release(2, 30), None);
    }

    #[test]
    fn a_reader_that_leaves_lets_go_of_what_only_it_held() {
        let mut held = Held::default();
        held.press(1, 30, Which::Keyboard);
        held.press(1, 0x110, Which::Absolute);
        held.press(2, 30, Which::Keyboard);
        let gone = held.release_all(|reader| reader == 1);
        assert_eq!(gone, [(Which::Absolute, 0x110)]);
        assert_eq!(held.release_all(|_| true), [(Which::Keyboard, 30)]);
        assert_eq!(held.release_all(|_| true), []);
    }

    #[test]
    fn a_button_goes_up_on_the_device_where_it_went_down() {
        let mut held = Held::default();
        held.press(1, 0x110, Which::Relative);
        assert_eq!(held.press(2, 0x110, Which::Absolute), None);
        held.release(1, 0x110);
        assert_eq!(held.release(2, 0x110), Some(Which::Relative));
    }
}
