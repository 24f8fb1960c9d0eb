//! The loop of a source process for one compositor: the agent's words on one side, the
//! compositor's on the other.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use signal_hook::consts::SIGTERM;
use vmshm_channel::source::{FromSource, Screen, ToSource};
use vmshm_channel::{Channel, ChannelError, timespec};
use vmshm_link::input::InputEvent;
use wayland_client::QueueHandle;
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_frame_v1::ZwlrScreencopyFrameV1;

use super::capture::{FrameEvent, Spec, Tag};
use super::desk::Desk;
use super::hands::Hands;
use super::keyboard::Pollable;
use super::line::{Line, LineError, connect};
use super::outputs::{Abilities, Probe};
use super::plugging::Plugging;
use super::watched::{Context, Watched};
use crate::SourceError;
use crate::outlet::OutletError;

/// How long a compositor may take to say what it has.
const START: Duration = Duration::from_secs(20);
/// Messages of the agent in a row before others are seen to.
const MESSAGES: usize = 256;

/// Delivers the outputs of the compositor at `socket`.
///
/// # Errors
/// [`SourceError`]: the channel has ended, or the compositor has, or it is none that can be shown.
pub fn serve(
    channel: &mut Channel,
    socket: &str,
    environment: &[(String, String)],
    input: bool,
) -> Result<(), SourceError> {
    let mut source = Source::connect(socket, environment, input)?;
    let served = source.run(channel);
    source.end(channel);
    served
}

struct Source {
    line: Line<Desk>,
    desk: Desk,
    /// What the compositor is, in words.
    name: String,
    input: bool,
    watched: BTreeMap<u64, Watched>,
    plugging: Plugging,
    hands: Hands,
    probes: Vec<(u64, ZwlrScreencopyFrameV1)>,
    listed: Option<(Vec<Screen>, bool)>,
    /// Modes of the screens that are watched, to notice changes.
    modes: BTreeMap<u64, (u32, u32)>,
    numbers: u64,
    out: Vec<FromSource>,
    /// Answers, which come after the list of screens that they are about.
    answers: Vec<FromSource>,
    terminated: UnixStream,
    started: Instant,
}

fn failed(error: LineError) -> SourceError {
    SourceError::Failed {
        message: error.to_string(),
        hint: None,
    }
}

impl Source {
    fn connect(
        socket: &str,
        environment: &[(String, String)],
        input: bool,
    ) -> Result<Self, SourceError> {
        let stream = connect(socket).map_err(failed)?;
        let name = program(&stream).unwrap_or_else(|| "compositor".to_owned());
        let line: Line<Desk> = Line::new(stream).map_err(failed)?;
        let display = line.connection().display();
        display.get_registry(&line.handle(), ());
        display.sync(&line.handle(), ());
        let sway = environment.iter().find(|(key, _)| key == "SWAYSOCK");
        let (terminated, signalled) =
            UnixStream::pair().map_err(|error| failed(LineError::Ended(error.to_string())))?;
        signal_hook::low_level::pipe::register(SIGTERM, signalled)
            .and_then(|_| terminated.set_nonblocking(true))
            .map_err(|error| failed(LineError::Ended(error.to_string())))?;
        Ok(Self {
            line,
            desk: Desk::default(),
            name: format!("{name} (wlroots)"),
            input,
            watched: BTreeMap::new(),
            plugging: Plugging::new(sway.map(|(_, path)| path.clone())),
            hands: Hands::new(socket),
            probes: Vec::new(),
            listed: None,
            modes: BTreeMap::new(),
            numbers: 0,
            out: Vec::new(),
            answers: Vec::new(),
            terminated,
            started: Instant::now(),
        })
    }

    fn run(&mut self, channel: &mut Channel) -> Result<(), SourceError> {
        loop {
            let wait = self.turn(channel)?;
            if self.is_terminated() {
                return Ok(());
            }
            self.poll(channel, wait);
        }
    }

    /// Does all that can be done now. When to do so again at the latest.
    fn turn(&mut self, channel: &mut Channel) -> Result<Option<Duration>, SourceError> {
        self.line.dispatch(&mut self.desk).map_err(failed)?;
        for _ in 0..MESSAGES {
            let Some((message, descriptor)) = channel.receive()? else {
                break;
            };
            self.obey(message, descriptor);
        }
        let handle = self.line.handle();
        self.hear_frames(&handle);
        let mut waits = vec![self.see_outputs(&handle)?];
        waits.push(
            self.plugging
                .step(&mut self.desk, &handle, &mut self.answers),
        );
        self.desk.outcomes.clear();
        waits.extend(self.watch(&handle));
        // Pointers before keyboards, which have connections of their own.
        self.line.flush().map_err(failed)?;
        waits.push(self.hands.step(&mut self.out));
        self.list();
        for message in self.out.drain(..).chain(self.answers.drain(..)) {
            channel.send(&message, None)?;
        }
        channel.flush()?;
        self.line.flush().map_err(failed)?;
        Ok(waits.into_iter().flatten().min())
    }

    fn poll(&self, channel: &Channel, wait: Option<Duration>) {
        let mut fds = vec![
            PollFd::new(channel, channel.interest()),
            PollFd::new(&self.line, self.line.interest()),
            PollFd::new(&self.terminated, PollFlags::IN),
        ];
        fds.extend(
            self.plugging
                .interest()
                .map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)),
        );
        for keyboard in self.hands.keyboards() {
            let line = keyboard.line();
            fds.push(PollFd::from_borrowed_fd(line.as_fd(), line.interest()));
        }
        // A blocked compositor is looked at now and then, to notice that it stays so.
        let wait = if self.line.is_blocked() {
            Some(wait.unwrap_or(START).min(Duration::from_secs(1)))
        } else {
            wait
        };
        let wait = wait.map(timespec);
        // An interrupted or failed poll is a turn too many.
        let _ = rustix::event::poll(&mut fds, wait.as_ref());
    }

    fn is_terminated(&self) -> bool {
        let mut byte = [0];
        let read = rustix::io::read(&self.terminated, &mut byte);
        read.is_ok_and(|count| count > 0)
    }

    /// The first steps: what the compositor is able to do. Then what is new of its outputs.
    fn see_outputs(&mut self, handle: &QueueHandle<Desk>) -> Result<Option<Duration>, SourceError> {
        if self.desk.syncs == 0 {
            if self.started.elapsed() > START {
                return Err(SourceError::Failed {
                    message: format!("{} does not answer", self.name),
                    hint: None,
                });
            }
            return Ok(Some(Duration::from_secs(1)));
        }
        let (Some(screencopy), Some(_)) = (&self.desk.screencopy, &self.desk.shm) else {
            return Err(SourceError::Failed {
                message: format!("{} offers no wlr-screencopy (version 2)", self.name),
                hint: Some("compositors that do: sway, labwc, wayfire, river, Hyprland".to_owned()),
            });
        };
        for output in &mut self.desk.outputs {
            if output.is_told() && output.probe == Probe::Due {
                self.numbers += 1;
                let tag = Tag {
                    screen: output.screen,
                    number: self.numbers,
                };
                let frame = screencopy.capture_output(0, &output.proxy, handle, tag);
                self.probes.push((self.numbers, frame));
                output.probe = Probe::Asked;
            }
        }
        for screen in std::mem::take(&mut self.desk.gone) {
            if let Some(mut watched) = self.watched.remove(&screen) {
                watched.set_gone();
            }
            self.modes.remove(&screen);
            self.hands.set_readers(screen, &[]);
        }
        // Until the first list there may be outputs that never tell of themselves.
        Ok(self.listed.is_none().then_some(Duration::from_secs(1)))
    }

    fn hear_frames(&mut self, handle: &QueueHandle<Desk>) {
        for (tag, event) in std::mem::take(&mut self.desk.frames) {
            if let Some(index) = self.probes.iter().position(|one| one.0 == tag.number) {
                self.hear_probe(index, tag.screen, event);
                continue;
            }
            let mut context = Context {
                desk: &self.desk,
                handle,
                numbers: &mut self.numbers,
                out: &mut self.out,
            };
            let heard = self
                .watched
                .get_mut(&tag.screen)
                .map(|watched| watched.hear(tag.number, event, &mut context));
            if let Some(Err(error)) = heard {
                self.stop(tag.screen, &error);
            }
        }
    }

    /// A capture that was asked for only to learn what pictures look like.
    fn hear_probe(&mut self, index: usize, screen: u64, event: FrameEvent) {
        let verdict = match event {
            FrameEvent::Buffer(spec) => verdict(&spec),
            // Captures fail now and then, as when the mode changes: later ones may not.
            FrameEvent::Failed => Probe::Good,
            _ => return,
        };
        let (_, frame) = self.probes.swap_remove(index);
        frame.destroy();
        let output = self
            .desk
            .outputs
            .iter_mut()
            .find(|output| output.screen == screen);
        let Some(output) = output else {
            return;
        };
        if let Probe::Bad(why) = &verdict {
            self.out.push(FromSource::Note {
                message: format!("{} cannot be shown: {why}", output.name),
            });
        } else if output.turned {
            self.out.push(FromSource::Note {
                message: format!(
                    "{} is turned or mirrored in the guest; it is shown as its panel has it",
                    output.name
                ),
            });
        }
        output.probe = verdict;
    }

    /// Lets every watched screen go on.
    fn watch(&mut self, handle: &QueueHandle<Desk>) -> Vec<Option<Duration>> {
        let mut waits = Vec::new();
        let mut stopped = Vec::new();
        for (screen, watched) in &mut self.watched {
            let output = self.desk.output(*screen);
            if let Some(output) = output.filter(|output| output.told) {
                let now = (output.mode.width, output.mode.height);
                let before = self.modes.insert(*screen, now);
                if before.is_some_and(|before| before != now) {
                    watched.refresh();
                }
            }
            let mut context = Context {
                desk: &self.desk,
                handle,
                numbers: &mut self.numbers,
                out: &mut self.out,
            };
            match watched.step(&mut context) {
                Ok(wait) => waits.push(wait),
                Err(error) => stopped.push((*screen, error)),
            }
        }
        for (screen, error) in stopped {
            self.stop(screen, &error);
        }
        waits
    }

    /// A screen's frames cannot go on.
    fn stop(&mut self, screen: u64, error: &OutletError) {
        let Some(mut watched) = self.watched.remove(&screen) else {
            return;
        };
        if error.is_taken_back() {
            return;
        }
        watched.set_gone();
        let message = error.to_string();
        self.out.push(FromSource::Note { message });
    }

    /// Tells which screens there are, if that has changed.
    fn list(&mut self) {
        let settled = |probe: &Probe| matches!(probe, Probe::Good | Probe::Bad(_));
        let is_settled = self.desk.syncs > 0
            && (self.desk.outputs.iter().all(|one| settled(&one.probe))
                || self.started.elapsed() > START);
        if self.listed.is_none() && !is_settled {
            return;
        }
        if self.listed.is_none() {
            self.plugging.reclaim(&self.desk);
        }
        let set_mode = self.plugging.can_set_mode(&self.desk);
        let input = self.input && self.desk.pointers.is_some() && self.desk.keyboards;
        let listed = self.desk.outputs.iter().filter(|one| one.is_listed());
        let screens: Vec<Screen> = listed
            .map(|output| {
                let abilities = Abilities {
                    input,
                    set_mode,
                    added: self.plugging.is_plugged(&output.name),
                };
                output.screen(&self.desk.heads, &self.name, abilities)
            })
            .collect();
        let can_add = self.plugging.can_add();
        if self
            .listed
            .as_ref()
            .is_some_and(|listed| listed.0 == screens && listed.1 == can_add)
        {
            return;
        }
        self.out.push(FromSource::Screens {
            screens: screens.clone(),
            can_add,
        });
        self.listed = Some((screens, can_add));
    }

    fn obey(&mut self, message: ToSource, descriptor: Option<OwnedFd>) {
        match message {
            ToSource::Start { .. } => {}
            ToSource::Watch { screen, size } => {
                let Some(frames) = descriptor else {
                    return;
                };
                match Watched::open(screen, frames, size) {
                    Ok(mut watched) => {
                        if self.desk.output(screen).is_none() {
                            watched.set_gone();
                            return;
                        }
                        self.watched.insert(screen, watched);
                    }
                    Err(error) => self.stop(screen, &error),
                }
            }
            ToSource::Pixels {
                screen,
                request,
                region,
                size,
            } => {
                let watched = self.watched.get_mut(&screen).zip(descriptor);
                let taken =
                    watched.map(|(watched, file)| watched.take_pixels(request, region, size, file));
                if let Some(Err(error)) = taken {
                    let message = error.to_string();
                    self.out.push(FromSource::Note { message });
                }
            }
            ToSource::NoPixels {
                screen,
                request,
                message,
            } => {
                if let Some(watched) = self.watched.get_mut(&screen) {
                    watched.no_pixels(request);
                    self.out.push(FromSource::Note { message });
                }
            }
            ToSource::Readers { screen, readers } => {
                if let Some(watched) = self.watched.get_mut(&screen) {
                    watched.set_readers(&readers);
                }
                self.hands.set_readers(screen, &readers);
            }
            ToSource::Unwatch { screen } => {
                self.watched.remove(&screen);
                self.modes.remove(&screen);
                self.hands.set_readers(screen, &[]);
            }
            ToSource::Add { request, mode } => {
                self.plugging.add(request, mode, &mut self.answers);
            }
            ToSource::Remove { screen } => {
                if let Some(output) = self.desk.output(screen) {
                    self.plugging.remove(&output.name);
                }
            }
            ToSource::SetMode {
                request,
                screen,
                mode,
            } => {
                let desk = &self.desk;
                self.plugging
                    .set_mode(request, screen, mode, desk, &mut self.answers);
            }
            ToSource::Input {
                screen,
                reader,
                events,
            } => self.take_input((screen, reader), &events),
            ToSource::Keymap {
                screen,
                reader,
                text,
            } => {
                if self.input {
                    self.hands
                        .set_keymap((screen, reader), &text, &mut self.out);
                }
            }
        }
    }

    fn take_input(&mut self, who: (u64, usize), events: &[[u64; 3]]) {
        if !self.input || self.desk.output(who.0).is_none() {
            return;
        }
        let handle = self.line.handle();
        let blocked = self.line.is_blocked();
        for event in events.iter().copied().filter_map(InputEvent::from_words) {
            self.hands.take(who, event, &self.desk, &handle, blocked);
        }
    }

    /// Lets go of all that is held, and unplugs what was plugged in.
    fn end(&mut self, channel: &mut Channel) {
        for watched in self.watched.values_mut() {
            watched.set_gone();
        }
        self.watched.clear();
        self.hands.end();
        let _ = self.line.flush();
        self.plugging.end();
        match channel.drain(Duration::from_millis(100)) {
            Ok(()) | Err(ChannelError::Closed) => {}
            Err(error) => tracing::debug!("last words were not heard: {error}"),
        }
    }
}

fn verdict(spec: &Spec) -> Probe {
    match (spec.pixel_format(), spec.slot_bytes()) {
        (Err(name), _) => Probe::Bad(format!(
            "its pictures come as {name}, which is not supported"
        )),
        (_, None) => Probe::Bad(format!(
            "it offers impossible pictures: {}x{} with {} bytes a row",
            spec.width, spec.height, spec.stride
        )),
        _ => Probe::Good,
    }
}

/// The program that listens on a socket.
fn program(stream: &UnixStream) -> Option<String> {
    let peer = rustix::net::sockopt::socket_peercred(stream).ok()?;
    let path = format!("/proc/{}/comm", peer.pid.as_raw_nonzero());
    match std::fs::read_to_string(path) {
        Ok(name) => Some(super::outputs::tidy_name(name.trim_end())).filter(|one| !one.is_empty()),
        Err(_) => None,
    }
}
