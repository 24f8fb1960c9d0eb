//! A keymap: XKB text, understood well enough to know the modifiers that each key press leaves.
//!
//! A compositor does not work modifiers out for virtual keyboards; whoever has one says them. The
//! text is parsed by `kbvm`, with no include files and a bounded effort, so that a text that does
//! not parse never reaches the compositor, which would end the connection.

use std::path::Path;

use kbvm::state_machine::{Direction, Event, State, StateMachine};
use kbvm::xkb::diagnostic::{Diagnostic, DiagnosticHandler};
use kbvm::xkb::keymap::Action;
use kbvm::xkb::{Context, Keymap};
use kbvm::{Components, Keycode, ModifierMask};

/// Layout `us`, for seats that have no keyboard.
pub const US: &str = include_str!("us.xkb");

const CAPS: u32 = 1;
const NUM: u32 = 2;
const SCROLL: u32 = 4;

/// What a compositor is told of modifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modifiers {
    /// Held down.
    pub depressed: u32,
    /// Until the next key.
    pub latched: u32,
    /// Until they are switched off.
    pub locked: u32,
    /// The layout in use.
    pub group: u32,
}

/// What a compositor is told, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// A key.
    Key {
        /// Its evdev code.
        code: u32,
        /// Whether it is down now.
        pressed: bool,
    },
    /// The modifiers are these now.
    Modifiers(Modifiers),
}

/// A keymap in use on one keyboard.
#[derive(Debug)]
pub struct Typist {
    machine: StateMachine,
    state: State,
    components: Components,
    /// The keys that switch Caps Lock, Num Lock and Scroll Lock, with the modifiers that they lock.
    locks: Vec<(u32, Keycode, u32)>,
    /// The layout that was asked for last.
    group: Option<u32>,
}

struct Silence;

impl DiagnosticHandler for Silence {
    fn filter(&self, _: kbvm::xkb::diagnostic::DiagnosticKind, _: bool) -> bool {
        false
    }

    fn handle(&mut self, _: Diagnostic) {}
}

/// Parses a keymap.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(text: &str) -> Result<Keymap, String> {
    let parsed = std::panic::catch_unwind(|| {
        let mut context = Context::builder();
        context.enable_default_includes(false);
        context.enable_environment(false);
        context.max_includes(0);
        let context = context.build();
        let keymap = context.keymap_from_bytes(Silence, None::<&Path>, text);
        let keymap = keymap.map_err(|wrong| wrong.to_string())?;
        // What cannot be used is found out here as well.
        Typist::new(&keymap).key(30, true);
        Ok(keymap)
    });
    // The text is the host's, and the parser is large: a fault in it costs the keymap only.
    parsed.unwrap_or_else(|_| Err("its parser failed".to_owned()))
}

impl Typist {
    /// Starts with no key down and no lock on.
    pub fn new(keymap: &Keymap) -> Self {
        let machine = keymap.to_builder().build_state_machine();
        let mut locks = Vec::new();
        let virtual_mask = |name: &str| {
            let found = keymap.virtual_modifiers().find(|one| one.name() == name);
            found.map_or(0, |one| one.mask().0)
        };
        for (lock, mask) in [
            (CAPS, ModifierMask::LOCK.0),
            (NUM, virtual_mask("NumLock")),
            (SCROLL, virtual_mask("ScrollLock")),
        ] {
            let key = keymap.keys().find(|key| {
                let first = key.groups().next().flatten();
                let first = first.and_then(|group| group.levels().next());
                let actions = first.iter().flat_map(|level| level.actions());
                mask != 0
                    && actions.into_iter().any(
                        |action| matches!(action, Action::ModsLock(lock) if lock.mask().0 == mask),
                    )
            });
            locks.extend(key.map(|key| (lock, key.keycode(), mask)));
        }
        Self {
            state: machine.create_state(),
            machine,
            components: Components::default(),
            locks,
            group: None,
        }
    }

    /// What is to be told when a key goes down or up.
    pub fn key(&mut self, code: u32, pressed: bool) -> Vec<Told> {
        let before = self.modifiers();
        let mut told = Vec::new();
        let mut said = before;
        for event in self.act(Keycode::from_evdev(code), pressed) {
            if let Event::GroupLocked(_) = event {
                self.group = None;
            }
            self.components.apply_event(event);
            let (key, pressed) = match event {
                Event::KeyDown(key) => (key, true),
                Event::KeyUp(key) => (key, false),
                _ => continue,
            };
            self.say_modifiers(&mut said, &mut told);
            let code = key.to_evdev();
            told.push(Told::Key { code, pressed });
        }
        self.say_modifiers(&mut said, &mut told);
        told
    }

    /// Switches locks as they are at the reader: bit 0 Caps Lock, bit 1 Num Lock, bit 2 Scroll
    /// Lock; and the layout.
    pub fn set_locks(&mut self, locks: u32, group: u32) -> Vec<Told> {
        let mut said = self.modifiers();
        for (lock, key, mask) in self.locks.clone() {
            let wanted = locks & lock != 0;
            if (self.components.mods_locked.0 & mask != 0) == wanted {
                continue;
            }
            // Only what the key does counts; nobody has pressed it.
            for pressed in [true, false] {
                for event in self.act(key, pressed) {
                    self.components.apply_event(event);
                }
            }
        }
        self.group = Some(group);
        let mut told = Vec::new();
        self.say_modifiers(&mut said, &mut told);
        told
    }

    /// The modifiers now.
    pub fn modifiers(&self) -> Modifiers {
        Modifiers {
            depressed: self.components.mods_pressed.0,
            latched: self.components.mods_latched.0,
            locked: self.components.mods_locked.0,
            group: self.group.unwrap_or(self.components.group_locked.0),
        }
    }

    fn act(&mut self, key: Keycode, pressed: bool) -> Vec<Event> {
        let mut events = Vec::new();
        let direction = if pressed {
            Direction::Down
        } else {
            Direction::Up
        };
        self.machine
            .handle_key(&mut self.state, &mut events, key, direction);
        events
    }

    fn say_modifiers(&self, said: &mut Modifiers, told: &mut Vec<Told>) {
        let now = self.modifiers();
        if now != *said {
            *said = now;
            told.push(Told::Modifiers(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u32 = 30;
    const LEFT_SHIFT: u32 = 42;
    const LEFT_CONTROL: u32 = 29;
    const CAPS_LOCK: u32 = 58;
    const NUM_LOCK: u32 = 69;
    const RIGHT_ALT: u32 = 100;
    const LEFT_META: u32 = 125;

    fn us() -> Typist {
        Typist::new(&parse(US).expect("parses"))
    }

    fn depressed(typist: &mut Typist, code: u32) -> u32 {
        typist.key(code, true);
        let mask = typist.modifiers().depressed;
        typist.key(code, false);
        assert_eq!(typist.modifiers(), Modifiers::default());
        mask
    }

    #[test]
    fn modifiers_are_the_eight_real_ones() {
        let mut typist = us();
        assert_eq!(depressed(&mut typist, LEFT_SHIFT), 1);
        assert_eq!(depressed(&mut typist, LEFT_CONTROL), 4);
        assert_eq!(depressed(&mut typist, RIGHT_ALT), 8);
        assert_eq!(depressed(&mut typist, LEFT_META), 64);
        assert_eq!(depressed(&mut typist, A), 0);
    }

    #[test]
    fn alt_gr_is_what_the_keymap_makes_of_it() {
        let third = "key <RALT> { [ ISO_Level3_Shift ] };";
        let start = US.find("key <RALT>").expect("is there");
        let end = start + US[start..].find("};").expect("is there") + 2;
        let text = format!("{}{third}{}", &US[..start], &US[end..]);
        let text = text.replace("<LALT>, <RALT>,", "<LALT>,");
        let mut typist = Typist::new(&parse(&text).expect("parses"));
        assert_eq!(depressed(&mut typist, RIGHT_ALT), 128);
    }

    #[test]
    fn a_capital_is_told_as_keys_and_modifiers_in_order() {
        let mut typist = us();
        let shifted = Told::Modifiers(Modifiers {
            depressed: 1,
            ..Modifiers::default()
        });
        let key = |code, pressed| Told::Key { code, pressed };
        assert_eq!(
            typist.key(LEFT_SHIFT, true),
            [key(LEFT_SHIFT, true), shifted]
        );
        assert_eq!(typist.key(A, true), [key(A, true)]);
        assert_eq!(typist.key(A, false), [key(A, false)]);
        assert_eq!(
            typist.key(LEFT_SHIFT, false),
            [
                key(LEFT_SHIFT, false),
                Told::Modifiers(Modifiers::default())
            ]
        );
    }

    #[test]
    fn locks_follow_the_reader_and_the_keys() {
        let mut typist = us();
        typist.set_locks(CAPS | NUM, 1);
        let modifiers = typist.modifiers();
        assert_eq!((modifiers.locked, modifiers.group), (2 | 16, 1));
        assert_eq!(typist.set_locks(CAPS | NUM, 1), []);
        typist.key(CAPS_LOCK, true);
        typist.key(CAPS_LOCK, false);
        assert_eq!(typist.modifiers().locked, 16);
        typist.key(NUM_LOCK, true);
        typist.key(NUM_LOCK, false);
        assert_eq!(typist.modifiers().locked, 0);
        typist.set_locks(0, 0);
        assert_eq!(typist.modifiers(), Modifiers::default());
    }

    #[test]
    fn keys_beyond_the_keymap_change_nothing() {
        let mut typist = us();
        for code in [0, 247, 700, 100_000] {
            typist.key(code, true);
            typist.key(code, false);
        }
        assert_eq!(typist.modifiers(), Modifiers::default());
    }

    #[test]
    fn damaged_keymaps_are_refused_or_usable() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % below as u64).expect("fits")
        };
        let words: Vec<&str> = US.split_inclusive([' ', '\n', '\t']).collect();
        for _ in 0..rounds() {
            let mut words = words.clone();
            for _ in 0..=next(6) {
                let (one, other) = (next(words.len()), next(words.len()));
                match next(3) {
                    0 => words.swap(one, other),
                    1 => words[one] = words[other],
                    _ => words.truncate(one.max(40)),
                }
            }
            if let Ok(keymap) = parse(&words.concat()) {
                let mut typist = Typist::new(&keymap);
                for code in [LEFT_SHIFT, RIGHT_ALT, A, CAPS_LOCK] {
                    typist.key(code, true);
                    typist.key(code, false);
                }
                typist.set_locks(7, 3);
            }
        }
    }

    /// More than a test takes, when asked for.
    fn rounds() -> usize {
        let asked = std::env::var("KEYMAP_ROUNDS").ok();
        asked.and_then(|asked| asked.parse().ok()).unwrap_or(40)
    }

    #[test]
    fn what_is_no_keymap_is_refused() {
        for text in [
            "",
            "xkb_keymap {",
            "hello",
            "xkb_keymap { include \"us\" };",
            "\0",
        ] {
            if let Ok(keymap) = parse(text) {
                let mut typist = Typist::new(&keymap);
                typist.key(A, true);
            }
        }
        assert!(parse("").is_err());
        assert!(parse("hello").is_err());
    }
}
