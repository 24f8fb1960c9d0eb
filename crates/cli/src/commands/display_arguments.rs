//! What may be typed after `vmshm display`. Parsing does no work and touches no VM.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use vmshm_channel::sink::Scaling;
use vmshm_host::display::Choice;
use vmshm_link::frames::{MAX_SIDE, Mode};

/// Examples and words below the options.
pub(crate) const AFTER_HELP: &str = "The window closes with its button, Ctrl-C here, or SIGTERM; what --add plugged in is unplugged then.\nThe display goes on by itself when the VM, its agent or its desktop has restarted.\n\nExamples:\n  vmshm display web --list                        the guest's screens\n  vmshm display web --add 1920x1080               a second monitor for the guest's desktop\n  vmshm display web --screen 0 --scaling smooth\n  vmshm display web --add 2560x1440@60 --follow   its mode follows the window's size\n  vmshm display web --screen 0 --screenshot shot.png\n  vmshm display web --screen test-card --stats";

#[derive(Debug, Args)]
pub(crate) struct Display {
    /// Process number, name, or vmm:name
    pub(crate) vm: String,
    /// Plug a monitor into the guest's desktop, and show it
    #[arg(long, value_name = "WxH[@HZ]", value_parser = parse_mode, conflicts_with_all = ["screen", "mode", "list"])]
    pub(crate) add: Option<Mode>,
    /// Show this screen, as --list numbers them, or `test-card` [default: 0]
    #[arg(long, value_name = "N|test-card", value_parser = parse_screen, conflicts_with = "list")]
    pub(crate) screen: Option<Choice>,
    /// Give the screen this mode first
    #[arg(long, value_name = "WxH[@HZ]", value_parser = parse_mode, conflicts_with = "list")]
    pub(crate) mode: Option<Mode>,
    /// List the guest's screens
    #[arg(long, conflicts_with_all = ["screenshot", "stats", "fullscreen", "follow", "no_input", "scaling", "nowhere"])]
    pub(crate) list: bool,
    /// With --list, print a JSON array
    #[arg(long, requires = "list")]
    pub(crate) json: bool,
    /// Write one picture of the screen, without the pointer, and end; needs no display
    #[arg(long, value_name = "FILE.png", conflicts_with_all = ["stats", "fullscreen", "follow", "no_input", "scaling", "nowhere"])]
    pub(crate) screenshot: Option<PathBuf>,
    /// Count frames, ages, bytes and processor time: a line a second on stderr, and over the picture
    #[arg(long)]
    pub(crate) stats: bool,
    /// Start in fullscreen
    #[arg(long)]
    pub(crate) fullscreen: bool,
    /// How pictures fill a window of another size
    #[arg(long, value_enum)]
    pub(crate) scaling: Option<ScalingArgument>,
    /// Let the screen's mode follow the window's size
    #[arg(long)]
    pub(crate) follow: bool,
    /// Send no keys and no pointer to the guest
    #[arg(long)]
    pub(crate) no_input: bool,
    /// Show nothing for so many seconds, and print a JSON object of what that took; for measuring.
    #[arg(long, hide = true, value_name = "SECONDS", value_parser = crate::arguments::parse_seconds, conflicts_with_all = ["fullscreen", "follow", "scaling"])]
    pub(crate) nowhere: Option<Duration>,
    /// With --nowhere, verify each frame as a test card.
    #[arg(long, hide = true, requires = "nowhere")]
    pub(crate) verify: bool,
    /// Copy frames even where the monitor could map them; for measuring.
    #[arg(long, hide = true)]
    pub(crate) relayed: bool,
}

/// As [`Scaling`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScalingArgument {
    /// By whole numbers, with a border [default]
    Integer,
    /// As large as fits
    Smooth,
}

impl Display {
    /// Which screen is meant.
    pub(crate) fn choice(&self) -> Choice {
        match (&self.add, &self.screen) {
            (Some(mode), _) => Choice::Added(*mode),
            (None, Some(choice)) => choice.clone(),
            (None, None) => Choice::Listed(0),
        }
    }

    /// How pictures fill the window.
    pub(crate) const fn scaling(&self) -> Scaling {
        match self.scaling {
            Some(ScalingArgument::Smooth) => Scaling::Smooth,
            Some(ScalingArgument::Integer) | None => Scaling::Integer,
        }
    }
}

fn parse_screen(text: &str) -> Result<Choice, String> {
    if text == "test-card" {
        return Ok(Choice::TestCard);
    }
    text.parse::<u32>()
        .map(|number| Choice::Listed(u64::from(number)))
        .map_err(|_| "expected a number such as 0, or test-card".to_owned())
}

/// A mode as users write it: `1920x1080`, `2560x1440@59.94`.
fn parse_mode(text: &str) -> Result<Mode, String> {
    let expected = || "expected a mode such as 1920x1080 or 2560x1440@60".to_owned();
    let (size, refresh) = match text.split_once('@') {
        Some((size, refresh)) => (size, Some(refresh)),
        None => (text, None),
    };
    let (width, height) = size.split_once(['x', 'X']).ok_or_else(expected)?;
    let side = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>()
            .ok()
            .filter(|_| digits)
            .ok_or_else(expected)
    };
    let mode = Mode {
        width: side(width)?,
        height: side(height)?,
        refresh_millihertz: refresh.map_or(Ok(0), millihertz).map_err(|()| expected())?,
    };
    if mode.is_possible() {
        Ok(mode)
    } else {
        Err(format!(
            "a screen has 1 to {MAX_SIDE} pixels in each direction, and at most 1000 Hz"
        ))
    }
}

/// Frames per 1000 seconds from hertz with up to three decimals.
fn millihertz(text: &str) -> Result<u32, ()> {
    let text = text.strip_suffix("Hz").unwrap_or(text);
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |part: &str| {
        (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !is_number(whole) || !is_number(decimals) || decimals.len() > 3 {
        return Err(());
    }
    let thousandths: u32 = format!("{decimals:0<3}").parse().map_err(|_| ())?;
    let whole: u32 = whole.parse().map_err(|_| ())?;
    let sum = whole * 1000 + thousandths;
    // Zero would leave it to the guest, which nobody means by it.
    if sum == 0 { Err(()) } else { Ok(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_users_write_them() {
        let mode = |width, height, refresh_millihertz| {
            Ok(Mode {
                width,
                height,
                refresh_millihertz,
            })
        };
        assert_eq!(parse_mode("1920x1080"), mode(1920, 1080, 0));
        assert_eq!(parse_mode("2560X1440@60"), mode(2560, 1440, 60_000));
        assert_eq!(parse_mode("640x480@59.94"), mode(640, 480, 59_940));
        assert_eq!(parse_mode("1x1@0.5Hz"), mode(1, 1, 500));
        assert_eq!(
            parse_mode("16384x16384@1000"),
            mode(16384, 16384, 1_000_000)
        );
        for text in [
            "",
            "1920",
            "x",
            "1920x",
            "x1080",
            "0x5",
            "5x0",
            "-5x5",
            "+5x5",
            "16385x1",
            "99999999999x5",
            "5x5@",
            "5x5@x",
            "5x5@0",
            "5x5@-1",
            "5x5@1001",
            "5x5@1.2345",
            "5x5@.5",
            "5x5@1e3",
            "5x5x5",
            "5 x 5",
            "5x5@nan",
        ] {
            assert!(parse_mode(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn screens_are_numbers_or_the_test_card() {
        assert_eq!(parse_screen("3"), Ok(Choice::Listed(3)));
        assert_eq!(parse_screen("test-card"), Ok(Choice::TestCard));
        for text in ["", "-1", "4294967296", "HEADLESS-1", "testcard"] {
            assert!(parse_screen(text).is_err(), "{text:?}");
        }
    }
}
