//! What is known of one screen: where it comes from, who watches it, and which memory it
//! has. It touches no memory and talks to nobody.

use std::collections::BTreeSet;

use vmshm_channel::Size;
use vmshm_channel::source::{PixelMemory, Screen as About};
use vmshm_link::fields::Text;
use vmshm_link::frames::Mode;
use vmshm_link::screens::{Abilities, ModeList, ScreenReply};

use super::super::regions::Holder;
use super::modes::ModeChange;
use super::source::{Key, SourceId};

/// The most modes that are kept of a screen.
const MAX_MODES: usize = 512;
/// The longest texts of sources that are kept, in bytes.
const MAX_TEXT: usize = 240;

/// A region for pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pixels {
    /// The region.
    pub region: u64,
    /// Whether the source has said that it is in use.
    pub used: bool,
}

/// A screen.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) source: SourceId,
    /// What its source is, also once that is gone.
    pub(super) key: Key,
    /// Its number within the source.
    pub(super) number: u64,
    /// Whether the source lists it now.
    pub(super) there: bool,
    /// It went with its source, not by itself.
    pub(super) lost_with_source: bool,
    /// As its source describes it.
    pub(super) about: About,
    /// Who plugged it in.
    pub(super) added_by: Option<Holder>,
    /// It is being unplugged.
    pub(super) leaving: bool,
    /// Who watches it.
    pub(super) watchers: BTreeSet<Holder>,
    /// The frames region, and whether it is just being made.
    pub(super) frames: Option<u64>,
    pub(super) making_frames: bool,
    /// Whether its source knows of the frames region, and which readers it knows.
    pub(super) told: Option<Vec<usize>>,
    pub(super) pixels: Vec<Pixels>,
    /// The request for pixels that memory is being made for, and one that came later.
    pub(super) making_pixels: Option<u64>,
    pub(super) wanted_pixels: Option<(u64, PixelMemory)>,
    /// How many pixels regions it has had.
    pub(super) pixels_count: u64,
    pub(super) mode_change: ModeChange,
}

impl Screen {
    /// A screen that its source has just listed.
    pub(super) fn new(source: SourceId, key: Key, about: About) -> Self {
        Self {
            source,
            key,
            number: about.screen,
            there: true,
            lost_with_source: false,
            about,
            added_by: None,
            leaving: false,
            watchers: BTreeSet::new(),
            frames: None,
            making_frames: false,
            told: None,
            pixels: Vec::new(),
            making_pixels: None,
            wanted_pixels: None,
            pixels_count: 0,
            mode_change: ModeChange::default(),
        }
    }

    /// Its source describes it anew.
    pub(super) fn describe(&mut self, about: About) {
        self.about = about;
        self.there = true;
        self.lost_with_source = false;
    }

    /// It is listed by another process than before.
    pub(super) fn return_to(&mut self, source: SourceId, about: About) {
        self.source = source;
        self.number = about.screen;
        self.leaving = false;
        self.told = None;
        self.describe(about);
    }

    /// Whether hosts find it.
    pub(super) const fn is_shown(&self) -> bool {
        self.there && !self.leaving
    }

    /// Whether this description is that of the same screen, seen through another process.
    pub(super) fn is_same(&self, key: &Key, about: &About) -> bool {
        self.key.is_like(key) && self.about.name == about.name
    }

    /// Whether somebody has a reason to keep its number.
    pub(super) fn is_needed(&self) -> bool {
        self.there
            || !self.watchers.is_empty()
            || self.frames.is_some()
            || self.making_frames
            || self.making_pixels.is_some()
    }

    /// As hosts get it.
    pub(super) fn to_reply(&self, id: u64, total: usize, input: bool) -> Option<ScreenReply> {
        let about = &self.about;
        Some(ScreenReply {
            screen: id,
            total: total as u64,
            mode: to_mode(about.mode)?,
            scale_thousandths: about.scale_thousandths,
            abilities: Abilities {
                input: about.input && input,
                input_forbidden: !input && (about.input || self.key != Key::TestCard),
                set_mode: about.set_mode,
                added: about.added,
                may_tear: about.may_tear,
            },
            name: Text::new(&about.name),
            source: Text::new(&about.source),
        })
    }

    /// Some of its modes.
    pub(super) fn to_modes(&self, first: u64) -> ModeList {
        let modes: Vec<Mode> = self
            .about
            .modes
            .iter()
            .filter_map(|m| to_mode(*m))
            .collect();
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let rest = modes.get(first..).unwrap_or_default();
        ModeList::new(modes.len() as u64, self.about.any_size, rest)
    }
}

/// As much of a description as is kept.
pub(super) fn trimmed(mut about: About) -> About {
    about.modes.truncate(MAX_MODES);
    about.modes.shrink_to_fit();
    about.name = printable(&about.name);
    about.source = printable(&about.source);
    about
}

/// What a desktop's user made up, fit for root's terminal.
pub(super) fn printable(text: &str) -> String {
    Text::<MAX_TEXT>::new(text).as_str().to_owned()
}

/// A mode that hosts can be told of.
pub(super) fn to_mode(size: Size) -> Option<Mode> {
    let mode = Mode {
        width: size.width,
        height: size.height,
        refresh_millihertz: size.refresh_millihertz,
    };
    mode.is_possible().then_some(mode)
}

/// A mode for a source.
pub(super) const fn to_size(mode: Mode) -> Size {
    Size {
        width: mode.width,
        height: mode.height,
        refresh_millihertz: mode.refresh_millihertz,
    }
}
