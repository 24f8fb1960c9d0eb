//! What is known of outputs and heads, and the screens that they make.
//!
//! An output (`wl_output`) is what can be captured; a head (wlr-output-management) is the same
//! thing for who arranges outputs, with all its modes. They meet by name.

use vmshm_channel::Size;
use vmshm_channel::source::Screen;
use vmshm_link::frames::{MAX_REFRESH, MAX_SIDE};
use wayland_client::protocol::wl_output::{Transform, WlOutput};
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_head_v1::ZwlrOutputHeadV1;
use wayland_protocols_wlr::output_management::v1::client::zwlr_output_mode_v1::ZwlrOutputModeV1;

/// The most modes of one output that are listed.
const MODES: usize = 256;
/// Longest name in bytes; longer ones are cut.
const NAME: usize = 48;

/// Whether pictures of an output can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Not asked yet.
    Due,
    /// Asked.
    Asked,
    /// Yes.
    Good,
    /// No, and why.
    Bad(String),
}

/// An output.
#[derive(Debug)]
pub struct Output {
    /// Its screen's number.
    pub screen: u64,
    /// The global's number.
    pub global: u32,
    /// The object.
    pub proxy: WlOutput,
    /// Its name; empty until the compositor has said it.
    pub name: String,
    /// Its mode; zero until the compositor has said it.
    pub mode: Size,
    /// Modes that the compositor has told of.
    pub modes: Vec<Size>,
    /// 1000 times its scale.
    pub scale_thousandths: u64,
    /// Whether it is turned or mirrored.
    pub turned: bool,
    /// Whether the compositor has told everything at least once.
    pub told: bool,
    /// Whether pictures can be had.
    pub probe: Probe,
}

/// A head.
#[derive(Debug)]
pub struct Head {
    /// The object.
    pub proxy: ZwlrOutputHeadV1,
    /// The output's name.
    pub name: String,
    /// Whether it is in use.
    pub enabled: bool,
    /// 1000 times its scale; zero: not said.
    pub scale_thousandths: u64,
    /// Its modes.
    pub modes: Vec<HeadMode>,
}

/// A mode of a head.
#[derive(Debug)]
pub struct HeadMode {
    /// The object.
    pub proxy: ZwlrOutputModeV1,
    /// The mode.
    pub size: Size,
}

/// A size that is none yet.
pub const NOTHING: Size = Size {
    width: 0,
    height: 0,
    refresh_millihertz: 0,
};

/// A size as compositors say it; nothing for an impossible one.
pub fn size(width: i32, height: i32, refresh: i32) -> Option<Size> {
    let side = |side: i32| {
        let side = u32::try_from(side).ok()?;
        (1..=MAX_SIDE).contains(&side).then_some(side)
    };
    Some(Size {
        width: side(width)?,
        height: side(height)?,
        refresh_millihertz: u32::try_from(refresh).unwrap_or(0).min(MAX_REFRESH),
    })
}

/// A name as it may be shown and compared.
pub fn tidy_name(name: &str) -> String {
    let plain = name.chars().filter(|c| !c.is_control());
    let mut tidy = String::new();
    for c in plain {
        if tidy.len() + c.len_utf8() > NAME {
            break;
        }
        tidy.push(c);
    }
    tidy
}

/// Adds a mode to a list.
pub fn note_mode(modes: &mut Vec<Size>, mode: Size) {
    if modes.len() < MODES && !modes.contains(&mode) {
        modes.push(mode);
    }
}

/// Whether an output of this name has no monitor behind it, and so takes every mode.
pub fn is_virtual(name: &str) -> bool {
    ["HEADLESS-", "WL-", "X11-", "NOOP-"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Modes in words: `1920x1080, 1280x720`.
pub fn in_words(modes: &[Size]) -> String {
    let mut sizes: Vec<(u32, u32)> = Vec::new();
    for mode in modes {
        let size = (mode.width, mode.height);
        if !sizes.contains(&size) {
            sizes.push(size);
        }
    }
    let words: Vec<String> = sizes
        .iter()
        .take(12)
        .map(|(width, height)| format!("{width}x{height}"))
        .collect();
    let rest = sizes.len() - words.len();
    if rest > 0 {
        format!("{} and {rest} more", words.join(", "))
    } else {
        words.join(", ")
    }
}

impl Output {
    /// An output of which nothing is known yet.
    pub fn new(screen: u64, global: u32, proxy: WlOutput) -> Self {
        Self {
            screen,
            global,
            proxy,
            name: String::new(),
            mode: NOTHING,
            modes: Vec::new(),
            scale_thousandths: 1000,
            turned: false,
            told: false,
            probe: Probe::Due,
        }
    }

    /// Whether enough is known to ask for pictures.
    pub fn is_told(&self) -> bool {
        self.told && !self.name.is_empty() && self.mode != NOTHING
    }

    /// Whether it is listed.
    pub fn is_listed(&self) -> bool {
        self.is_told() && self.probe == Probe::Good
    }

    /// Notes how it is turned.
    pub fn set_transform(&mut self, transform: Option<Transform>) {
        self.turned = transform != Some(Transform::Normal);
    }

    /// All its modes, the current one first.
    pub fn all_modes(&self, heads: &[Head]) -> Vec<Size> {
        let mut modes = Vec::new();
        note_mode(&mut modes, self.mode);
        let head = heads.iter().find(|head| head.name == self.name);
        for mode in head.iter().flat_map(|head| &head.modes) {
            if mode.size != NOTHING {
                note_mode(&mut modes, mode.size);
            }
        }
        self.modes
            .iter()
            .for_each(|mode| note_mode(&mut modes, *mode));
        modes
    }

    /// As the agent is told of it.
    pub fn screen(&self, heads: &[Head], source: &str, abilities: Abilities) -> Screen {
        let head = heads.iter().find(|head| head.name == self.name);
        let head_scale = head.map_or(0, |head| head.scale_thousandths);
        Screen {
            screen: self.screen,
            name: self.name.clone(),
            source: source.to_owned(),
            mode: self.mode,
            modes: self.all_modes(heads),
            any_size: abilities.set_mode && is_virtual(&self.name),
            scale_thousandths: if head_scale > 0 {
                head_scale
            } else {
                self.scale_thousandths
            },
            input: abilities.input,
            set_mode: abilities.set_mode,
            added: abilities.added,
            may_tear: false,
        }
    }
}

/// What a screen can do beside being shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// It takes input.
    pub input: bool,
    /// Its mode can be set.
    pub set_mode: bool,
    /// It was plugged in here.
    pub added: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_sizes_are_no_sizes() {
        for (width, height) in [(0, 1), (1, 0), (-1, 5), (16385, 1), (1, i32::MAX)] {
            assert_eq!(size(width, height, 60_000), None);
        }
        let odd = size(1920, 1080, -1).expect("is possible");
        assert_eq!(odd.refresh_millihertz, 0);
        let fast = size(1920, 1080, i32::MAX).expect("is possible");
        assert_eq!(fast.refresh_millihertz, MAX_REFRESH);
    }

    #[test]
    fn names_are_cut_and_cleaned() {
        assert_eq!(tidy_name("HEADLESS-1"), "HEADLESS-1");
        assert_eq!(tidy_name("a\u{1b}[2Jb\n"), "a[2Jb");
        assert_eq!(tidy_name(&"é".repeat(100)).len(), NAME);
    }

    #[test]
    fn modes_are_listed_once_and_not_without_end() {
        let mut modes = Vec::new();
        for round in 0..3 {
            for width in 1..1000 {
                let mode = size(width, 100, 60_000 + round).expect("is possible");
                note_mode(&mut modes, mode);
                note_mode(&mut modes, mode);
            }
        }
        assert_eq!(modes.len(), MODES);
        let words = in_words(&modes);
        assert!(words.starts_with("1x100, 2x100") && words.ends_with("12x100 and 244 more"));
        assert_eq!(in_words(&modes[..1]), "1x100");
    }

    #[test]
    fn outputs_without_a_monitor_take_every_mode() {
        assert!(is_virtual("HEADLESS-1") && is_virtual("X11-1"));
        assert!(!is_virtual("DP-1") && !is_virtual("eDP-1"));
    }
}
