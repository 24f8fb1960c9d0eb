//! `vmshm display`: a screen of the guest in a window, or as one picture. What it does is in
//! `vmshm-host`; what draws is `vmshm-monitor`, which is started here.

use std::time::{Duration, Instant};

use vmshm_channel::sink::{Sink, Stats};
use vmshm_host::display::{
    self, Choice, Display as Shown, DisplayError, DisplayOptions, Event, Target, mode_words,
    size_of,
};
use vmshm_ram::Method;

use super::display_arguments::Display;
use super::display_monitor::Monitor;
use super::display_words::{self as words, Own};
use crate::arguments::Global;
use crate::failure::Failure;
use crate::interruption::{Interruption, not_written};
use crate::os::processor_time;
use crate::output::{self, tell};
use crate::output_file::{OutputFile, Readers};
use crate::reaper::Reaper;

/// How long one picture is waited for where nothing else was said.
const PICTURE: Duration = Duration::from_secs(30);
/// How much longer than asked for a measurement may take.
const GRACE: Duration = Duration::from_secs(30);

/// Runs it.
pub(crate) fn run(display: &Display, global: &Global) -> Result<(), Failure> {
    if display.list {
        return list(display, global);
    }
    let interruption = Interruption::watch()?;
    let picture = match &display.screenshot {
        Some(path) => Some(OutputFile::open(path, Readers::Owner)?),
        None => None,
    };
    let options = options(display, global)?;
    let (reached, reaper) = super::reach(&display.vm, global, &options.attach)?;
    let (mut monitor, channel) = Monitor::start()?;
    let target = Target::reached(&display.vm, &reached);
    let session = reached.session;
    let file = picture.as_ref().map(OutputFile::descriptor);
    let mut shown = Shown::start(session, target, options, channel, file)?;
    let mut course = Course {
        display,
        global,
        reaper,
        method: Method::Auto,
        before: own(&shown),
        parts: Vec::new(),
        has_watched: false,
    };
    let result = course.follow(&mut shown, &interruption);
    let own = own(&shown);
    // First the guest is put right; whatever went wrong can be told after that.
    shown.close();
    match result {
        Err(DisplayError::MonitorGone) => {
            let how = monitor.how_it_ended();
            let message = DisplayError::MonitorGone.to_string();
            return Err(Failure::new(
                &how.map_or(message.clone(), |how| format!("{message}: {how}")),
                None,
            ));
        }
        Err(error) => return Err(error.into()),
        Ok(Ended::Interrupted) => {
            if let Some(path) = &display.screenshot {
                return Err(Failure::new(&not_written(path), None));
            }
        }
        Ok(Ended::Closed) => {}
        Ok(Ended::Measured) => {
            let stats = words::summed(&course.parts);
            let own = own.since(&course.before);
            output::print(&words::stats_json(&stats, &own, course.method))?;
        }
        Ok(Ended::PictureDone) => {
            if let (Some(picture), Some(path)) = (picture, &display.screenshot) {
                picture.finish().map_err(|error| {
                    Failure::from_error(&error, None)
                        .because(&format!("cannot write {}", path.display()))
                })?;
            }
        }
    }
    Ok(())
}

fn list(display: &Display, global: &Global) -> Result<(), Failure> {
    let (mut session, _reaper) = super::attach(&display.vm, global)?;
    let listing = display::list(&mut session, global.patience())?;
    if display.json {
        return output::print(&words::list_json(&listing));
    }
    if listing.screens.is_empty() {
        let remark = output::plain(&listing.remark).into_owned();
        let remark = if remark.is_empty() {
            "no screens".to_owned()
        } else {
            remark
        };
        tell(&remark, false);
        return Ok(());
    }
    output::print(&words::list_text(&listing))
}

fn options(display: &Display, global: &Global) -> Result<DisplayOptions, Failure> {
    let wanted = display.add.or(display.mode);
    let (sink, stats_every) = match (&display.screenshot, display.nowhere) {
        (Some(_), _) => {
            let size = wanted.as_ref().map(size_of);
            (Sink::Picture { size }, Duration::ZERO)
        }
        (None, Some(seconds)) => {
            let verify = display.verify;
            (Sink::Nowhere { verify }, seconds)
        }
        (None, None) => {
            let window = Sink::Window {
                fullscreen: display.fullscreen,
                scaling: display.scaling(),
                follow: display.follow,
            };
            let every = if display.stats { 1 } else { 0 };
            (window, Duration::from_secs(every))
        }
    };
    Ok(DisplayOptions {
        choice: display.choice(),
        mode: display.mode,
        sink,
        input: !display.no_input,
        stats_every: if display.stats {
            Duration::from_secs(1)
        } else {
            stats_every
        },
        stats_overlay: display.stats,
        relayed: display.relayed,
        attach: global.attach()?,
        picture_within: global.timeout.unwrap_or(PICTURE),
    })
}

/// How a display ended.
enum Ended {
    Interrupted,
    Closed,
    PictureDone,
    Measured,
}

/// One display, from its start to its end.
struct Course<'a> {
    display: &'a Display,
    global: &'a Global,
    reaper: Option<Reaper>,
    method: Method,
    before: Own,
    parts: Vec<Stats>,
    /// Whether the screen has been watched: what came before that is not counted.
    has_watched: bool,
}

impl Course<'_> {
    fn follow(
        &mut self,
        shown: &mut Shown,
        interruption: &Interruption,
    ) -> Result<Ended, DisplayError> {
        let start = Instant::now();
        loop {
            if interruption.came() {
                // What was measured until now was measured.
                let measures = self.display.nowhere.is_some();
                return Ok(if measures {
                    Ended::Measured
                } else {
                    Ended::Interrupted
                });
            }
            for event in shown.turn(interruption.descriptor())? {
                if let Some(ended) = self.take(event, shown) {
                    return Ok(ended);
                }
            }
            // A monitor that counts nothing must not be waited for.
            if let Some(seconds) = self.display.nowhere
                && start.elapsed() > seconds + GRACE
            {
                return Ok(Ended::Measured);
            }
        }
    }

    /// Tells the user what has happened; how it ended, if it has.
    fn take(&mut self, event: Event, shown: &Shown) -> Option<Ended> {
        let quiet = self.global.quiet;
        match event {
            Event::Ready { confinement } => {
                tracing::debug!("vmshm-monitor is ready: {}", output::plain(&confinement));
            }
            Event::Reattached(vmm) => {
                // The reaper of a VM that was started again watches another process.
                if self.reaper.is_some() {
                    self.reaper = Some(Reaper::start(&vmm, self.global));
                }
            }
            Event::Watching {
                screen,
                method,
                input,
            } => {
                self.method = method;
                if !std::mem::replace(&mut self.has_watched, true) {
                    self.before = own(shown);
                }
                tracing::debug!(
                    name = screen.name,
                    mode = mode_words(&screen.mode),
                    %method,
                    "the screen is watched"
                );
                if let Err(reason) = input
                    && self.takes_input()
                {
                    tell(&reason, quiet);
                }
            }
            Event::Trouble(message) => {
                tell(&format!("{}; waiting", output::plain(&message)), quiet);
            }
            Event::Running => tell("the picture is back", quiet),
            Event::ModeRefused(message) => {
                tell(&output::plain(&message), quiet);
            }
            Event::Stats(stats) => return self.count(*stats, shown),
            Event::PictureDone => return Some(Ended::PictureDone),
            Event::Closed => return Some(Ended::Closed),
        }
        None
    }

    /// Whether the user could have meant to type into it.
    fn takes_input(&self) -> bool {
        self.display.screenshot.is_none()
            && self.display.nowhere.is_none()
            && !self.display.no_input
            && self.display.choice() != Choice::TestCard
    }

    fn count(&mut self, stats: Stats, shown: &Shown) -> Option<Ended> {
        if self.display.stats {
            let now = own(shown);
            let line = words::stats_line(&stats, &now.since(&self.before));
            // Asked for, so it is said even where it is to be quiet.
            tell(&line, false);
            if self.display.nowhere.is_none() {
                self.before = now;
            }
        }
        let seconds = self.display.nowhere?;
        self.parts.push(stats);
        let over: u64 = self.parts.iter().map(|part| part.over_nanos).sum();
        // The monitor's timer may be early by a little.
        let enough = Duration::from_nanos(over) + Duration::from_millis(20) >= seconds;
        enough.then_some(Ended::Measured)
    }
}

fn own(shown: &Shown) -> Own {
    Own {
        processor: processor_time(),
        relay: shown.relay_counts(),
    }
}
