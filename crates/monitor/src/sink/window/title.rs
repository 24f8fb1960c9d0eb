//! What the window says in words: its title, the note over the picture, the figures.

use std::fmt::Write;

use vmshm_channel::Size;
use vmshm_channel::sink::{Condition, Stats};

/// The longest name of a VM or a screen in a title, in characters.
const LONGEST_NAME: usize = 64;

/// What is known of the VM and its screen.
#[derive(Debug)]
pub struct Facts {
    /// The VM's name.
    pub vm: String,
    /// The screen's name and mode.
    pub screen: Option<(String, Size)>,
    /// Whether input is taken; if not, why.
    pub input: Result<(), String>,
    /// How the guest is.
    pub condition: Condition,
    /// Whether the screen has gone.
    pub is_gone: bool,
    /// Whether there is a picture.
    pub has_picture: bool,
}

impl Facts {
    /// Nothing but the VM's name.
    pub fn new(vm: &str) -> Self {
        Self {
            vm: plain(vm),
            screen: None,
            input: Err("not ready yet".to_owned()),
            condition: Condition::Running,
            is_gone: false,
            has_picture: false,
        }
    }

    /// The window's title.
    pub fn title(&self) -> String {
        let mut title = self.vm.clone();
        // Writing to a string cannot fail.
        if let Some((name, mode)) = &self.screen {
            let _ = write!(title, " - {} {}x{}", plain(name), mode.width, mode.height);
        }
        let state = match self.trouble() {
            Some(trouble) => plain(&trouble),
            None if self.has_picture => "running".to_owned(),
            None => "waiting for the first picture".to_owned(),
        };
        let _ = write!(title, " - {state}");
        if let (Some(_), Err(reason)) = (&self.screen, &self.input) {
            let _ = write!(title, " [input off: {}]", plain(reason));
        }
        title
    }

    /// What stands over the last picture, if anything.
    pub fn trouble(&self) -> Option<String> {
        match &self.condition {
            Condition::Trouble { message } => Some(message.clone()),
            Condition::Running if self.is_gone => Some("the screen has gone".to_owned()),
            Condition::Running => None,
        }
    }
}

/// A name that the guest has chosen, fit for a title: no control characters, not too long.
fn plain(text: &str) -> String {
    let printable = text
        .chars()
        .map(|one| if one.is_control() { ' ' } else { one });
    printable.take(LONGEST_NAME).collect()
}

/// The figures as the lines of a note.
pub fn figures(stats: &Stats) -> String {
    let seconds = (stats.over_nanos as f64 / 1e9).max(1e-3);
    let per_second = |count: u64| count as f64 / seconds;
    let megabytes = |bytes: u64| per_second(bytes) / 1e6;
    let times = |(median, high): (u64, u64)| {
        format!(
            "{:.2} ms (99%: {:.2})",
            median as f64 / 1e6,
            high as f64 / 1e6
        )
    };
    let mut text = format!(
        "{:.1} frames/s, {} skipped, {} taken again\n",
        per_second(stats.frames),
        stats.skipped,
        stats.retaken
    );
    let _ = write!(
        text,
        "capture {}\ncopy    {}\npresent {}\nacknowledged {}\n",
        times(stats.capture),
        times(stats.copy),
        times(stats.present),
        times(stats.acknowledged)
    );
    let _ = write!(
        text,
        "damage {:.1} MB/s, copied {:.1}, source {:.1}\nprocessor {:.1} %",
        megabytes(stats.damage_bytes),
        megabytes(stats.copied_bytes),
        megabytes(stats.source_bytes),
        stats.cpu_nanos as f64 / stats.over_nanos.max(1) as f64 * 100.0
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_say_what_is_shown_and_why_not() {
        let mut facts = Facts::new("debian\u{1b}[31m");
        assert_eq!(facts.title(), "debian [31m - waiting for the first picture");
        facts.screen = Some((
            "HEADLESS-1".to_owned(),
            Size {
                width: 1920,
                height: 1080,
                refresh_millihertz: 60_000,
            },
        ));
        facts.has_picture = true;
        facts.input = Ok(());
        assert_eq!(
            facts.title(),
            "debian [31m - HEADLESS-1 1920x1080 - running"
        );
        facts.input = Err("the guest forbids input".to_owned());
        facts.condition = Condition::Trouble {
            message: "the VM is paused".to_owned(),
        };
        assert!(
            facts
                .title()
                .ends_with(" - the VM is paused [input off: the guest forbids input]")
        );
        assert_eq!(facts.trouble().as_deref(), Some("the VM is paused"));
    }

    #[test]
    fn figures_of_nothing_are_no_division_by_zero() {
        assert!(figures(&Stats::default()).contains("0.0 frames/s"));
    }
}
