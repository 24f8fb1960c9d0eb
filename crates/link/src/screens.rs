//! Requests about screens, and their answers; part of [`control`](crate::control).
//!
//! ```text
//!  host                                    agent
//!   │ Describe 0, 1, … ───────────────────▶ │ Screen …, until NotFound
//!   │ Add 1920x1080 ──────────────────────▶ │ Screen (a new output of the desktop)
//!   │ Watch ──────────────────────────────▶ │ Region: its frames; proved like any other
//!   │ look at frames: they name a pixels region
//!   │ Pixels region ──────────────────────▶ │ Region, to be read only: never proved
//!   │ SetMode, Input, … ──────────────────▶ │
//!   │ Leave ──────────────────────────────▶ │ unplugs it, if this session added it
//! ```
//!
//! The reader's line in the frames is the one of the session slot's index. What a session
//! added or held ends with it.

use crate::control::{Message, text_at};
use crate::error::LinkError;
use crate::fields::{Text, word_at};
use crate::frames::Mode;
use crate::input::{EVENT_BYTES, InputEvent};

/// The number that stands for the test card, which lists do not show.
pub const TEST_CARD: u64 = 1 << 32;
/// The most events of one request.
pub const EVENTS_PER_REQUEST: usize = 18;
/// The most modes of one reply.
pub const MODES_PER_REPLY: usize = 28;
/// Bytes of a keymap that one request carries.
pub const KEYMAP_PART: usize = 400;
/// The longest keymap in bytes.
pub const MAX_KEYMAP: u64 = 256 << 10;
/// Longest name of a screen.
pub const MAX_SCREEN_NAME: usize = 64;

const FIRST_NUMBER: u16 = 16;

/// What a host asks about screens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScreenRequest {
    /// Describe the screen at this place in the list, from 0, or [`TEST_CARD`]. `NotFound`
    /// behind the last.
    Describe {
        /// Its place.
        number: u64,
    },
    /// Plug a screen in. It is unplugged when this session leaves it or ends. Only
    /// `mode.width` and `mode.height` must be stated.
    Add {
        /// The mode that it shall have.
        mode: Mode,
    },
    /// Hold a screen's frames.
    Watch {
        /// The screen.
        screen: u64,
    },
    /// Hold a region that a frame of a watched screen names.
    Pixels {
        /// The region.
        region: u64,
    },
    /// Give a screen another mode. Answered with what it has now.
    SetMode {
        /// The screen.
        screen: u64,
        /// The mode.
        mode: Mode,
    },
    /// Which modes a screen has, from number `first` on.
    Modes {
        /// The screen.
        screen: u64,
        /// The first one wanted.
        first: u64,
    },
    /// A user did this at a screen. Never answered.
    Input {
        /// The screen.
        screen: u64,
        /// What.
        events: Events,
    },
    /// A part of the keymap (XKB text) for key codes that follow. The last part makes it count;
    /// answered.
    Keymap {
        /// The screen.
        screen: u64,
        /// Bytes of the whole text; at most [`MAX_KEYMAP`].
        total: u64,
        /// Where this part begins.
        offset: u64,
        /// The part.
        part: KeymapPart,
    },
    /// Watch it no longer; unplug it if this session added it.
    Leave {
        /// The screen.
        screen: u64,
    },
}

/// Some events, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events {
    events: [InputEvent; EVENTS_PER_REQUEST],
    count: usize,
}

impl Events {
    /// Takes as many as one request carries.
    #[must_use]
    pub fn new(events: &[InputEvent]) -> Self {
        let mut taken = Self {
            events: [InputEvent::ReleaseAll; EVENTS_PER_REQUEST],
            count: events.len().min(EVENTS_PER_REQUEST),
        };
        taken.events[..taken.count].copy_from_slice(&events[..taken.count]);
        taken
    }

    /// The events.
    #[must_use]
    pub fn as_slice(&self) -> &[InputEvent] {
        self.events.get(..self.count).unwrap_or_default()
    }
}

/// Some bytes of a keymap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeymapPart {
    bytes: [u8; KEYMAP_PART],
    count: usize,
}

impl KeymapPart {
    /// Takes as many as one request carries.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut taken = Self {
            bytes: [0; KEYMAP_PART],
            count: bytes.len().min(KEYMAP_PART),
        };
        taken.bytes[..taken.count].copy_from_slice(&bytes[..taken.count]);
        taken
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.count).unwrap_or_default()
    }
}

impl ScreenRequest {
    pub(crate) fn to_message(self, tag: u64) -> Message {
        let (number, words) = match &self {
            Self::Describe { number } => (0, [*number, 0, 0]),
            Self::Add { mode } => (1, [mode.to_words()[0], mode.to_words()[1], 0]),
            Self::Watch { screen } => (2, [*screen, 0, 0]),
            Self::Pixels { region } => (3, [*region, 0, 0]),
            Self::SetMode { screen, mode } => {
                (4, [*screen, mode.to_words()[0], mode.to_words()[1]])
            }
            Self::Modes { screen, first } => (5, [*screen, *first, 0]),
            Self::Input { screen, events } => (6, [*screen, events.count as u64, 0]),
            Self::Keymap {
                screen,
                total,
                offset,
                ..
            } => (7, [*screen, *total, *offset]),
            Self::Leave { screen } => (8, [*screen, 0, 0]),
        };
        let mut message = Message::new(FIRST_NUMBER + number, tag);
        words.into_iter().for_each(|word| message.word(word));
        match &self {
            Self::Input { events, .. } => events
                .as_slice()
                .iter()
                .flat_map(|event| event.to_words())
                .for_each(|word| message.word(word)),
            Self::Keymap { part, .. } => {
                message.word(part.count as u64);
                message.bytes(part.as_bytes());
            }
            _ => {}
        }
        message
    }

    /// Nothing for a request that this version does not know, or that no host sends.
    pub(crate) fn from_payload(number: u16, payload: &[u8]) -> Option<Self> {
        let [first, second, third] = [8, 16, 24].map(|at| word_at(payload, at));
        let rest = payload.get(32..).unwrap_or_default();
        Some(match number.checked_sub(FIRST_NUMBER)? {
            0 => Self::Describe { number: first },
            1 => Self::Add {
                mode: Mode::from_words([first, second]).ok()?,
            },
            2 => Self::Watch { screen: first },
            3 => Self::Pixels { region: first },
            4 => Self::SetMode {
                screen: first,
                mode: Mode::from_words([second, third]).ok()?,
            },
            5 => Self::Modes {
                screen: first,
                first: second,
            },
            6 => {
                let mut events = Events::new(&[]);
                let count = usize::try_from(second).unwrap_or(usize::MAX);
                let whole = rest.chunks_exact(EVENT_BYTES).take(count);
                // Events of a newer minor version are left out.
                for event in whole.filter_map(InputEvent::from_bytes) {
                    if let Some(place) = events.events.get_mut(events.count) {
                        *place = event;
                        events.count += 1;
                    }
                }
                Self::Input {
                    screen: first,
                    events,
                }
            }
            7 => {
                let count = usize::try_from(word_at(rest, 0)).ok()?;
                let part = rest.get(8..8_usize.checked_add(count)?)?;
                if part.len() > KEYMAP_PART {
                    return None;
                }
                Self::Keymap {
                    screen: first,
                    total: second,
                    offset: third,
                    part: KeymapPart::new(part),
                }
            }
            8 => Self::Leave { screen: first },
            _ => return None,
        })
    }
}

/// A screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScreenReply {
    /// Its number for requests; no other screen of this epoch has or had it.
    pub screen: u64,
    /// How many screens the guest lists.
    pub total: u64,
    /// Its mode now.
    pub mode: Mode,
    /// 1000 times the guest's scale of it.
    pub scale_thousandths: u64,
    /// What it can do.
    pub abilities: Abilities,
    /// Its name in the guest: `HEADLESS-1`, `fb0`.
    pub name: Text<MAX_SCREEN_NAME>,
    /// What delivers its frames, in words: `sway (wlroots)`, `framebuffer vfb`.
    pub source: Text<MAX_SCREEN_NAME>,
}

/// What a screen can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    /// It takes input, and the guest allows it.
    pub input: bool,
    /// It would take input, but the guest was told not to.
    pub input_forbidden: bool,
    /// Its mode can be set.
    pub set_mode: bool,
    /// It was plugged in by a host.
    pub added: bool,
    /// The guest draws into the very memory that the host sees, with nothing to keep pictures
    /// apart: a frame may show two pictures.
    pub may_tear: bool,
}

impl Abilities {
    const fn to_word(self) -> u64 {
        self.input as u64
            | (self.input_forbidden as u64) << 1
            | (self.set_mode as u64) << 2
            | (self.added as u64) << 3
            | (self.may_tear as u64) << 4
    }

    const fn from_word(word: u64) -> Self {
        Self {
            input: word & 1 != 0,
            input_forbidden: word & 2 != 0,
            set_mode: word & 4 != 0,
            added: word & 8 != 0,
            may_tear: word & 16 != 0,
        }
    }
}

impl ScreenReply {
    pub(crate) fn to_message(self, tag: u64) -> Message {
        let mut message = Message::new(7, tag);
        let [size, refresh] = self.mode.to_words();
        for word in [
            self.screen,
            self.total,
            size,
            refresh,
            self.scale_thousandths,
            self.abilities.to_word(),
        ] {
            message.word(word);
        }
        message.text(&self.name);
        message.text(&self.source);
        message
    }

    pub(crate) fn from_payload(payload: &[u8]) -> Result<Self, LinkError> {
        let word = |index: usize| word_at(payload, 8 * index);
        Ok(Self {
            screen: word(1),
            total: word(2),
            mode: Mode::from_words([word(3), word(4)])?,
            scale_thousandths: word(5),
            abilities: Abilities::from_word(word(6)),
            name: text_at(payload, 56),
            source: text_at(payload, 56 + MAX_SCREEN_NAME),
        })
    }
}

/// Some of a screen's modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeList {
    /// How many there are in all.
    pub total: u64,
    /// Whether other sizes can be had, too.
    pub any_size: bool,
    modes: [Mode; MODES_PER_REPLY],
    count: usize,
}

impl ModeList {
    /// Takes as many of the modes that follow as one reply carries.
    #[must_use]
    pub fn new(total: u64, any_size: bool, modes: &[Mode]) -> Self {
        let nothing = Mode {
            width: 1,
            height: 1,
            refresh_millihertz: 0,
        };
        let mut list = Self {
            total,
            any_size,
            modes: [nothing; MODES_PER_REPLY],
            count: modes.len().min(MODES_PER_REPLY),
        };
        list.modes[..list.count].copy_from_slice(&modes[..list.count]);
        list
    }

    /// The modes.
    #[must_use]
    pub fn modes(&self) -> &[Mode] {
        self.modes.get(..self.count).unwrap_or_default()
    }

    pub(crate) fn to_message(self, tag: u64) -> Message {
        let mut message = Message::new(8, tag);
        message.word(self.total);
        message.word(u64::from(self.any_size));
        message.word(self.count as u64);
        for mode in self.modes() {
            mode.to_words()
                .into_iter()
                .for_each(|word| message.word(word));
        }
        message
    }

    pub(crate) fn from_payload(payload: &[u8]) -> Result<Self, LinkError> {
        let word = |index: usize| word_at(payload, 8 * index);
        let count = usize::try_from(word(3))
            .ok()
            .filter(|count| *count <= MODES_PER_REPLY)
            .ok_or(LinkError::Violation {
                what: "the number of modes in a reply",
                value: word(3),
            })?;
        let mut list = Self::new(word(1), word(2) == 1, &[]);
        for index in 0..count {
            list.modes[index] = Mode::from_words([word(4 + 2 * index), word(5 + 2 * index)])?;
        }
        list.count = count;
        Ok(list)
    }
}

const _: () = assert!(32 + EVENT_BYTES * EVENTS_PER_REQUEST <= crate::control::MAX_MESSAGE);
const _: () = assert!(40 + KEYMAP_PART <= crate::control::MAX_MESSAGE);
const _: () = assert!(32 + 16 * MODES_PER_REPLY <= crate::control::MAX_MESSAGE);
const _: () = assert!(56 + 2 * MAX_SCREEN_NAME <= crate::control::MAX_MESSAGE);
