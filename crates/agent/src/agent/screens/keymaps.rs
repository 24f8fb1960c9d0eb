//! Keymaps that hosts send in parts: put together, one a session, and kept for the source
//! process that comes after this one.

use std::collections::BTreeMap;

use vmshm_link::control::RefusalCode;
use vmshm_link::screens::MAX_KEYMAP;

use super::super::creation::Refusal;
use super::super::regions::Holder;

#[derive(Debug, Default)]
struct Keymap {
    screen: u64,
    /// What has come so far, and how much there will be.
    parts: Vec<u8>,
    total: u64,
    /// The last whole one.
    text: Option<String>,
}

/// The keymaps of all sessions.
#[derive(Debug, Default)]
pub(super) struct Keymaps {
    keymaps: BTreeMap<Holder, Keymap>,
}

impl Keymaps {
    /// Takes a part; whether the keymap is whole now.
    pub(super) fn take(
        &mut self,
        holder: Holder,
        screen: u64,
        (total, offset): (u64, u64),
        part: &[u8],
    ) -> Result<bool, Refusal> {
        let invalid = |message: &str| Refusal::new(RefusalCode::Invalid, message);
        if total == 0 || total > MAX_KEYMAP {
            return Err(invalid("a keymap of that length is not taken"));
        }
        let keymap = self.keymaps.entry(holder).or_default();
        if offset == 0 {
            keymap.parts.clear();
            keymap.total = total;
            if keymap.screen != screen {
                keymap.text = None;
            }
            keymap.screen = screen;
        }
        let fits = (keymap.screen, keymap.total) == (screen, total)
            && keymap.parts.len() as u64 == offset
            && !part.is_empty()
            && offset + part.len() as u64 <= total;
        if !fits {
            keymap.parts = Vec::new();
            keymap.total = 0;
            return Err(invalid("that part does not follow the one before"));
        }
        keymap.parts.extend_from_slice(part);
        if (keymap.parts.len() as u64) < total {
            return Ok(false);
        }
        keymap.total = 0;
        // libxkbcommon ends texts by a zero, which may have been sent along.
        let mut bytes = std::mem::take(&mut keymap.parts);
        if bytes.last() == Some(&0) {
            bytes.pop();
        }
        match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => {
                keymap.text = Some(text);
                Ok(true)
            }
            _ => Err(invalid("a keymap is text")),
        }
    }

    /// What a session's key codes mean at a screen.
    pub(super) fn get(&self, holder: Holder, screen: u64) -> Option<&str> {
        let keymap = self.keymaps.get(&holder)?;
        keymap.text.as_deref().filter(|_| keymap.screen == screen)
    }

    /// Forgets those of sessions that are over.
    pub(super) fn retain(&mut self, mut lives: impl FnMut(&Holder) -> bool) {
        self.keymaps.retain(|holder, _| lives(holder));
    }

    /// Forgets what a session sent for a screen.
    pub(super) fn forget(&mut self, holder: Holder, screen: u64) {
        self.keymaps
            .retain(|one, keymap| *one != holder || keymap.screen != screen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Holder = Holder {
        slot: 1,
        session: 5,
    };

    #[test]
    fn parts_make_a_keymap_only_in_their_order() {
        let mut keymaps = Keymaps::default();
        assert_eq!(keymaps.take(HOST, 3, (10, 0), b"xkb_"), Ok(false));
        assert_eq!(keymaps.get(HOST, 3), None);
        assert_eq!(keymaps.take(HOST, 3, (10, 4), b"keymap"), Ok(true));
        assert_eq!(keymaps.get(HOST, 3), Some("xkb_keymap"));
        assert_eq!(keymaps.get(HOST, 4), None);
        // A new one replaces it once it is whole.
        assert_eq!(keymaps.take(HOST, 3, (4, 0), b"ab"), Ok(false));
        assert_eq!(keymaps.get(HOST, 3), Some("xkb_keymap"));
        assert!(keymaps.take(HOST, 3, (4, 1), b"b").is_err());
        assert!(keymaps.take(HOST, 3, (4, 2), b"cd").is_err(), "begun anew");
        assert_eq!(keymaps.take(HOST, 3, (3, 0), b"ab\0"), Ok(true));
        assert_eq!(keymaps.get(HOST, 3), Some("ab"));
    }

    #[test]
    fn what_is_no_keymap_is_refused() {
        let mut keymaps = Keymaps::default();
        for (total, offset, part) in [
            (0, 0, &b""[..]),
            (MAX_KEYMAP + 1, 0, b"a"),
            (4, 2, b"ab"),
            (2, 0, b"abc"),
            (2, 0, b""),
            (u64::MAX, u64::MAX, b"a"),
            (2, 0, b"\xff\xfe"),
            (3, 0, b"a\0b"),
        ] {
            assert!(keymaps.take(HOST, 1, (total, offset), part).is_err());
        }
        assert_eq!(keymaps.take(HOST, 1, (1, 0), b"a"), Ok(true));
        keymaps.retain(|_| false);
        assert_eq!(keymaps.get(HOST, 1), None);
    }
}
