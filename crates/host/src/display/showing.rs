//! One screen on its way from a guest to a monitor: what the monitor says is taken in, the
//! session is kept alive, and what was lost is looked for. One turn of it never waits longer
//! than the guest's agent may take for an answer.

use std::time::{Duration, Instant};

use vmshm_channel::sink::{Condition as Shown, FromMonitor, Sink, ToMonitor};
use vmshm_channel::{Channel, ChannelError, HandedRef};
use vmshm_link::control::{Reply, Request};
use vmshm_link::frames::Mode;
use vmshm_link::input::InputEvent;
use vmshm_link::screens::ScreenRequest;
use vmshm_ram::Vmm;

use super::asking::Screen;
use super::error::DisplayError;
use super::opening::{Choice, Wanted, is_same};
use super::outgoing::Outgoing;
use super::relay::RelayCounts;
use super::seeking::{Report, Search, Seeker, Target};
use super::watched::{Lost, Watched};
use super::{DisplayOptions, Event, mode_of, size_of};
use crate::attach::AttachOptions;
use crate::conversation::Question;
use crate::deadline::Deadline;
use crate::ending::Condition;
use crate::os;
use crate::session::{RequestError, Session, refusal_to_error};

/// How long a monitor may take until it can show something.
const MONITOR_READY: Duration = Duration::from_secs(30);
/// How long the guest's desktop may take for an answer: its processor may be emulated.
const DESKTOP: Duration = Duration::from_secs(20);
/// How long unplugging is waited for at the end.
const FAREWELL: Duration = Duration::from_secs(5);
/// The most messages of the monitor that one turn takes in.
const PER_TURN: usize = 256;

#[derive(Debug)]
enum Stage {
    /// Until the monitor is ready.
    Opening(Box<Session>),
    Seeking(Seeker),
    Watching(Box<Watched>),
    Over,
}

/// A mode that the guest was asked for.
#[derive(Debug)]
struct Setting {
    question: Question,
    mode: Mode,
    deadline: Deadline,
}

/// A screen of a guest and the monitor that shows it.
#[derive(Debug)]
pub struct Display {
    channel: Channel,
    stage: Stage,
    wanted: Wanted,
    target: Target,
    attach: AttachOptions,
    /// One picture is wanted; the first error ends it.
    once: bool,
    input: bool,
    follow: bool,
    keymap: Option<String>,
    outgoing: Outgoing,
    setting: Option<Setting>,
    next_mode: Option<Mode>,
    refused: Option<String>,
    shown: Option<Shown>,
    events: Vec<Event>,
    started: Instant,
    picture_within: Duration,
}

impl Display {
    /// Takes over a session, and the channel of a monitor that was just started. `picture`
    /// is the file for a sink that is one picture.
    ///
    /// # Errors
    /// [`DisplayError::Channel`].
    pub fn start(
        session: Session,
        target: Target,
        options: DisplayOptions,
        mut channel: Channel,
        picture: Option<HandedRef<'_>>,
    ) -> Result<Self, DisplayError> {
        let once = matches!(options.sink, Sink::Picture { .. });
        let follow = matches!(options.sink, Sink::Window { follow: true, .. });
        let every = options.stats_every.as_millis();
        let start = ToMonitor::Start {
            sink: options.sink,
            vm: session.name().to_owned(),
            stats_every_millis: u64::try_from(every).unwrap_or(u64::MAX),
            stats_overlay: options.stats_overlay,
        };
        channel.send(&start, picture)?;
        let patience = options.attach.timeout;
        Ok(Self {
            channel,
            stage: Stage::Opening(Box::new(session)),
            wanted: Wanted {
                choice: options.choice,
                name: None,
                mode: options.mode,
                picture: once,
                relayed: options.relayed,
                patience,
                long_patience: patience.max(DESKTOP),
            },
            target,
            attach: options.attach,
            once,
            input: options.input,
            follow,
            keymap: None,
            outgoing: Outgoing::default(),
            setting: None,
            next_mode: None,
            refused: None,
            shown: None,
            events: Vec::new(),
            started: Instant::now(),
            picture_within: options.picture_within,
        })
    }

    /// Waits until something is to be done, for some milliseconds or until `wake` is ready
    /// (where the system can wait for it, too), and does it. What has happened.
    ///
    /// # Errors
    /// [`DisplayError`]: the display is over.
    pub fn turn(&mut self, wake: HandedRef<'_>) -> Result<Vec<Event>, DisplayError> {
        self.wait(wake)?;
        self.channel.flush()?;
        for _ in 0..PER_TURN {
            match self.channel.receive::<FromMonitor>() {
                Ok(Some((message, _))) => self.take(message)?,
                Ok(None) => break,
                // Its last words come first; the end shows again in the next turn.
                Err(ChannelError::Closed) if !self.events.is_empty() => {
                    return Ok(std::mem::take(&mut self.events));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        self.stage = self.work(stage)?;
        self.check_time()?;
        Ok(std::mem::take(&mut self.events))
    }

    /// What the relay of the screen that is watched has done.
    #[must_use]
    pub fn relay_counts(&self) -> RelayCounts {
        match &self.stage {
            Stage::Watching(watched) => watched.relay_counts(),
            _ => RelayCounts::default(),
        }
    }

    /// Ends it: the monitor is told, and what was plugged in is unplugged.
    pub fn close(mut self) {
        let _ = self.channel.send(&ToMonitor::End, None);
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Watching(watched) => drop(watched.leave(FAREWELL)),
            // What they hold goes with their sessions.
            Stage::Opening(_) | Stage::Seeking(_) | Stage::Over => {}
        }
        // It ends anyway when the channel closes.
        let _ = self.channel.drain(Duration::from_millis(100));
    }

    fn wait(&self, wake: HandedRef<'_>) -> Result<(), DisplayError> {
        let pause = match &self.stage {
            Stage::Opening(_) | Stage::Over => Duration::from_millis(50),
            Stage::Seeking(_) => Duration::from_millis(10),
            Stage::Watching(_) if !self.outgoing.is_empty() => Duration::from_millis(1),
            Stage::Watching(_) if self.setting.is_some() => Duration::from_millis(5),
            Stage::Watching(watched) => watched.pause(),
        };
        os::wait_for_monitor(&self.channel, wake, pause).map_err(|error| DisplayError::System {
            doing: "waiting",
            error,
        })
    }

    /// Takes in what the monitor says.
    fn take(&mut self, message: FromMonitor) -> Result<(), DisplayError> {
        match message {
            FromMonitor::Ready {
                confinement,
                keymap,
            } => {
                self.keymap = keymap;
                self.events.push(Event::Ready { confinement });
                if let Stage::Opening(_) = &self.stage
                    && let Stage::Opening(session) = std::mem::replace(&mut self.stage, Stage::Over)
                {
                    self.stage = self.seek(Some(session), true)?;
                }
            }
            FromMonitor::WantPixels { region } => return self.want_pixels(region),
            FromMonitor::DroppedPixels { region } => {
                if let Stage::Watching(watched) = &mut self.stage {
                    // A session that has ended shows in the next turn.
                    let _ = watched.drop_pixels(region);
                }
            }
            FromMonitor::Input { events } => {
                let takes = match &self.stage {
                    Stage::Watching(watched) => self.input_state(&watched.screen).is_ok(),
                    _ => false,
                };
                if takes {
                    let events = events.into_iter().filter_map(InputEvent::from_words);
                    events.for_each(|event| self.outgoing.push(event));
                }
            }
            FromMonitor::Keymap { text } => {
                self.keymap = Some(text);
                if let Stage::Watching(watched) = &self.stage
                    && self.input_state(&watched.screen).is_ok()
                {
                    self.tell_keymap();
                }
            }
            FromMonitor::Resized { size } => {
                let mode = mode_of(size);
                if self.follow && mode.is_possible() {
                    self.next_mode = Some(mode);
                }
            }
            FromMonitor::Stats(stats) => self.events.push(Event::Stats(Box::new(stats))),
            FromMonitor::PictureDone => self.events.push(Event::PictureDone),
            FromMonitor::Closed => self.events.push(Event::Closed),
            FromMonitor::BadGuest { message } => {
                if let Stage::Watching(_) = &self.stage
                    && let Stage::Watching(watched) =
                        std::mem::replace(&mut self.stage, Stage::Over)
                {
                    let lost = Lost::Screen(DisplayError::BadFrames(message));
                    self.stage = self.lose(*watched, lost)?;
                }
            }
            FromMonitor::Failed { message, hint } => {
                return Err(DisplayError::Monitor { message, hint });
            }
        }
        Ok(())
    }

    fn want_pixels(&mut self, region: u64) -> Result<(), DisplayError> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Watching(mut watched) => {
                let sent = watched.send_pixels(region, &mut self.channel)?;
                self.stage = match sent {
                    Ok(()) => Stage::Watching(watched),
                    Err(lost) => self.lose(*watched, lost)?,
                };
            }
            other => {
                self.stage = other;
                self.channel.send(&ToMonitor::NoPixels { region }, None)?;
            }
        }
        Ok(())
    }

    /// Does what the stage asks for; the stage after that.
    fn work(&mut self, stage: Stage) -> Result<Stage, DisplayError> {
        match stage {
            Stage::Opening(mut session) => {
                session.keep()?;
                if self.started.elapsed() > MONITOR_READY {
                    return Err(DisplayError::MonitorSilent(MONITOR_READY.as_secs()));
                }
                Ok(Stage::Opening(session))
            }
            Stage::Seeking(seeker) => match seeker.report() {
                None => Ok(Stage::Seeking(seeker)),
                Some(Report::NotYet(error)) => {
                    self.show(Shown::Trouble {
                        message: error.to_string(),
                    })?;
                    Ok(Stage::Seeking(seeker))
                }
                Some(Report::Failed(error)) => Err(error),
                Some(Report::Found(watched, vmm)) => {
                    drop(seeker);
                    self.found(*watched, vmm)
                }
            },
            Stage::Watching(mut watched) => match self.watch(&mut watched) {
                Ok(()) => Ok(Stage::Watching(watched)),
                Err(Over::Lost(lost)) => self.lose(*watched, lost),
                Err(Over::Failed(error)) => Err(error),
            },
            Stage::Over => Ok(Stage::Over),
        }
    }

    fn found(&mut self, watched: Watched, vmm: Option<Box<Vmm>>) -> Result<Stage, DisplayError> {
        if let Some(vmm) = &vmm {
            self.target = self.target.moved_to(vmm);
        }
        if !matches!(self.wanted.choice, Choice::Added(_)) {
            self.wanted.name = Some(watched.screen.name.clone());
        }
        self.events.extend(vmm.map(Event::Reattached));
        self.events.push(Event::Watching {
            screen: watched.screen.clone(),
            method: watched.method(),
            input: self.input_state(&watched.screen),
        });
        self.tell_screen(&watched.screen)?;
        watched.send_frames(&mut self.channel)?;
        self.show(Shown::Running)?;
        self.outgoing.clear();
        self.setting = None;
        let takes_input = self.input_state(&watched.screen).is_ok();
        let stage = Stage::Watching(Box::new(watched));
        if takes_input {
            self.tell_keymap();
        }
        Ok(stage)
    }

    fn tell_keymap(&mut self) {
        if let Some(text) = &self.keymap
            && !self.outgoing.set_keymap(text)
        {
            tracing::warn!("the host's keymap is too long for the guest, which uses its own");
        }
    }

    /// Why no input goes to a screen, if none does.
    fn input_state(&self, screen: &Screen) -> Result<(), String> {
        let abilities = &screen.abilities;
        let reason = if !self.input {
            "input is off"
        } else if abilities.input_forbidden {
            "the guest forbids input"
        } else if abilities.input {
            return Ok(());
        } else {
            "this screen takes no input"
        };
        Err(reason.to_owned())
    }

    fn tell_screen(&mut self, screen: &Screen) -> Result<(), DisplayError> {
        let message = ToMonitor::Screen {
            name: screen.name.clone(),
            mode: size_of(&screen.mode),
            input: self.input_state(screen),
        };
        Ok(self.channel.send(&message, None)?)
    }

    /// Tells the monitor and the user how the guest is, when that has changed.
    fn show(&mut self, now: Shown) -> Result<(), DisplayError> {
        if self.shown.as_ref() == Some(&now) {
            return Ok(());
        }
        match &now {
            Shown::Trouble { message } => self.events.push(Event::Trouble(message.clone())),
            Shown::Running if self.shown.is_some() => self.events.push(Event::Running),
            Shown::Running => {}
        }
        self.channel
            .send(&ToMonitor::Condition(now.clone()), None)?;
        self.shown = Some(now);
        Ok(())
    }

    fn watch(&mut self, watched: &mut Watched) -> Result<(), Over> {
        let condition = watched.session.keep().map_err(Lost::Session)?;
        self.show(match condition {
            Condition::Running => Shown::Running,
            Condition::Stopped => Shown::Trouble {
                message: "the VM is paused: its process is stopped".to_owned(),
            },
            Condition::Silent => Shown::Trouble {
                message: "the guest is silent: paused, or very busy".to_owned(),
            },
        })?;
        watched.turn()?;
        // Before a keymap, which may fill the ring for a while.
        self.follow_window(watched)?;
        let screen = watched.screen.id;
        let sent = self.outgoing.send(&mut watched.session, screen);
        Ok(sent.map_err(Lost::Session)?)
    }

    /// Asks for the mode of the window's size, and takes in the answer.
    fn follow_window(&mut self, watched: &mut Watched) -> Result<(), Over> {
        if let Some(setting) = &self.setting {
            let answer = watched.session.answer(setting.question);
            let Some(reply) = answer.map_err(Lost::Session)? else {
                if setting.deadline.has_passed() {
                    watched.session.give_up(setting.question);
                    self.setting = None;
                }
                return Ok(());
            };
            let mode = setting.mode;
            self.setting = None;
            match refusal_to_error(reply) {
                Ok(Reply::Screen(reply)) => {
                    watched.screen.mode = reply.mode;
                    self.wanted.mode = Some(mode);
                    self.tell_screen(&watched.screen)?;
                }
                Err(RequestError::Refused { explanation, .. }) => {
                    // Told once: a window is dragged through many sizes.
                    if self.refused.as_ref() != Some(&explanation) {
                        self.events.push(Event::ModeRefused(explanation.clone()));
                        self.refused = Some(explanation);
                    }
                }
                Ok(_) | Err(_) => {}
            }
        }
        let Some(mode) = self.next_mode else {
            return Ok(());
        };
        if !watched.screen.abilities.set_mode || is_same(&mode, &watched.screen.mode) {
            self.next_mode = None;
            return Ok(());
        }
        let screen = watched.screen.id;
        let request = Request::Screen(ScreenRequest::SetMode { screen, mode });
        let question = watched.session.ask(&request).map_err(Lost::Session)?;
        if let Some(question) = question {
            self.next_mode = None;
            self.setting = Some(Setting {
                question,
                mode,
                deadline: Deadline::after(self.wanted.long_patience),
            });
        }
        Ok(())
    }

    /// The screen is not watched any more: say so, and look for it again.
    fn lose(&mut self, watched: Watched, lost: Lost) -> Result<Stage, DisplayError> {
        let (session, error) = match lost {
            // Its slot is given back only where it is still ours.
            Lost::Session(end) => (None, DisplayError::from(end)),
            Lost::Screen(error) => (Some(watched), error),
        };
        if self.once {
            return Err(error);
        }
        self.show(Shown::Trouble {
            message: error.to_string(),
        })?;
        self.outgoing.clear();
        self.setting = None;
        let session = session.map(|watched| watched.leave(Duration::from_secs(1)));
        self.seek(session, false)
    }

    fn seek(&mut self, session: Option<Box<Session>>, first: bool) -> Result<Stage, DisplayError> {
        let seeker = Seeker::start(Search {
            session,
            target: self.target.clone(),
            wanted: self.wanted.clone(),
            attach: self.attach.clone(),
            once: first || self.once,
        })?;
        Ok(Stage::Seeking(seeker))
    }

    /// Ends waiting for one picture when it takes too long.
    fn check_time(&self) -> Result<(), DisplayError> {
        if !self.once || self.started.elapsed() < self.picture_within {
            return Ok(());
        }
        let because = match (&self.shown, &self.stage) {
            (Some(Shown::Trouble { message }), _) => Some(message.clone()),
            (_, Stage::Watching(_)) => Some("the screen sends no frame".to_owned()),
            _ => None,
        };
        Err(DisplayError::NoPicture {
            waited: self.picture_within,
            because,
        })
    }
}

/// Why a turn of watching was the last.
enum Over {
    Lost(Lost),
    Failed(DisplayError),
}

impl From<Lost> for Over {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<DisplayError> for Over {
    fn from(error: DisplayError) -> Self {
        Self::Failed(error)
    }
}

impl From<ChannelError> for Over {
    fn from(error: ChannelError) -> Self {
        Self::Failed(error.into())
    }
}
