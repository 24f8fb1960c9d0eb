//! Plugging outputs in and out, and setting modes: one job after another, none of them waited for.
//!
//! Sway does all of it by its IPC. Other compositors set modes by wlr-output-management, and
//! cannot add outputs. Before 1.8 sway cannot remove one either: such an output is switched off,
//! and used again by the next job that adds one.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use serde_json::Value;
use vmshm_channel::Size;
use vmshm_channel::source::FromSource;
use vmshm_link::frames::Mode;
use wayland_client::QueueHandle;

use super::desk::{Desk, Outcome};
use super::outputs::{NOTHING, Output, in_words, is_virtual};
use super::sway::{GET_OUTPUTS, Ipc, IpcError, RUN_COMMAND, done, is_plain};

/// How long one job may take: under emulation everything is slow.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a mode that was granted may take to show.
const SETTLING: Duration = Duration::from_secs(10);
/// How long unplugging may take at the end.
const END: Duration = Duration::from_secs(3);
/// How often what comes without a descriptor is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// The most jobs that wait.
const JOBS: usize = 64;

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Job {
    Add {
        request: u64,
        mode: Size,
    },
    SetMode {
        request: u64,
        screen: u64,
        mode: Size,
    },
    Remove {
        name: String,
    },
}

/// How far a job is.
#[derive(Debug)]
enum Step {
    /// Sway makes an output; these were there before.
    Creating { known: Vec<String> },
    /// It is to appear: one that is not among these, or this one.
    Appearing {
        known: Vec<String>,
        again: Option<String>,
    },
    /// Sway sets the mode.
    Asking { name: String },
    /// The compositor tries a configuration.
    Configuring {
        name: String,
        number: u64,
        tries: u32,
    },
    /// The mode is to show.
    Settling { name: String, until: Instant },
    /// Sway removes it.
    Unplugging { name: String },
    /// Sway switches it off.
    SwitchingOff { name: String },
}

#[derive(Debug)]
struct Active {
    job: Job,
    step: Step,
    ipc: Option<Ipc>,
    until: Instant,
}

/// All jobs, and what was plugged in.
#[derive(Debug, Default)]
pub struct Plugging {
    sway: Option<String>,
    jobs: VecDeque<Job>,
    active: Option<Active>,
    plugged: Vec<String>,
    /// Switched off, since they could not be removed.
    spare: Vec<String>,
    numbers: u64,
}

impl Plugging {
    /// With sway's IPC socket, if the compositor is sway.
    pub fn new(sway: Option<String>) -> Self {
        Self {
            sway,
            ..Self::default()
        }
    }

    /// Whether outputs can be added.
    pub const fn can_add(&self) -> bool {
        self.sway.is_some()
    }

    /// Whether modes can be set.
    pub const fn can_set_mode(&self, desk: &Desk) -> bool {
        self.sway.is_some() || desk.manager.is_some()
    }

    /// Whether an output was plugged in here.
    pub fn is_plugged(&self, name: &str) -> bool {
        self.plugged.iter().any(|one| one == name)
    }

    /// Plugs an output in.
    pub fn add(&mut self, request: u64, mode: Size, out: &mut Vec<FromSource>) {
        let why = if !self.can_add() {
            Some("only sway can add a monitor".to_owned())
        } else {
            impossible(mode)
        };
        match why {
            Some(message) => out.push(FromSource::Refused { request, message }),
            None => self.queue(Job::Add { request, mode }, request, out),
        }
    }

    /// Sets a mode.
    pub fn set_mode(
        &mut self,
        request: u64,
        screen: u64,
        mode: Size,
        desk: &Desk,
        out: &mut Vec<FromSource>,
    ) {
        let output = desk.output(screen).filter(|output| output.is_listed());
        let why = match output {
            None => Some("the screen is gone".to_owned()),
            Some(_) if !self.can_set_mode(desk) => {
                Some("this compositor does not let others set modes".to_owned())
            }
            Some(output) => impossible(mode).or_else(|| missing(output, mode, desk)),
        };
        let job = Job::SetMode {
            request,
            screen,
            mode,
        };
        match why {
            Some(message) => out.push(FromSource::Refused { request, message }),
            None => self.queue(job, request, out),
        }
    }

    /// Unplugs an output, if it was plugged in here.
    pub fn remove(&mut self, name: &str) {
        if let Some(index) = self.plugged.iter().position(|one| one == name) {
            let name = self.plugged.swap_remove(index);
            self.jobs.push_back(Job::Remove { name });
        }
    }

    fn queue(&mut self, job: Job, request: u64, out: &mut Vec<FromSource>) {
        if self.jobs.len() < JOBS {
            self.jobs.push_back(job);
        } else {
            let message = "too many requests at once".to_owned();
            out.push(FromSource::Refused { request, message });
        }
    }

    /// What to poll for.
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let ipc = self.active.as_ref()?.ipc.as_ref()?;
        Some((ipc.as_fd(), ipc.interest()))
    }

    /// Goes as far as it goes now. When to look again, if there is anything to do. Answers come
    /// after the list of screens that they are about.
    pub fn step(
        &mut self,
        desk: &mut Desk,
        handle: &QueueHandle<Desk>,
        out: &mut Vec<FromSource>,
    ) -> Option<Duration> {
        loop {
            if self.active.is_none() {
                let job = self.jobs.pop_front()?;
                self.start(job, desk, handle, out);
            } else if !self.advance(desk, handle, out) {
                return self.active.is_some().then_some(LOOK);
            }
        }
    }

    fn start(
        &mut self,
        job: Job,
        desk: &Desk,
        handle: &QueueHandle<Desk>,
        out: &mut Vec<FromSource>,
    ) {
        let begun = match &job {
            Job::Add { .. } => self.start_adding(desk),
            Job::SetMode { screen, mode, .. } => match desk.output(*screen) {
                None => Err("the screen is gone".to_owned()),
                Some(output) => {
                    let name = output.name.clone();
                    if is_it(output, *mode) {
                        let until = Instant::now() + SETTLING;
                        Ok((None, Step::Settling { name, until }))
                    } else {
                        self.start_setting(&name, *mode, desk, handle, 0)
                    }
                }
            },
            Job::Remove { name } => {
                let command = format!("output {name} unplug");
                self.command(&command)
                    .map(|ipc| (Some(ipc), Step::Unplugging { name: name.clone() }))
                    .map_err(|error| error.to_string())
            }
        };
        match begun {
            Ok((ipc, step)) => {
                self.active = Some(Active {
                    job,
                    step,
                    ipc,
                    until: Instant::now() + PATIENCE,
                });
            }
            Err(message) => refuse(&job, message, out),
        }
    }

    fn start_adding(&mut self, desk: &Desk) -> Result<(Option<Ipc>, Step), String> {
        let known = desk.outputs.iter().map(|one| one.name.clone()).collect();
        let again = self.spare.last().cloned();
        let command = match &again {
            Some(name) => format!("output {name} enable"),
            None => "create_output".to_owned(),
        };
        let ipc = self.command(&command).map_err(|error| error.to_string())?;
        let step = match again {
            Some(name) => {
                self.spare.pop();
                self.plugged.push(name.clone());
                let again = Some(name);
                Step::Appearing { known, again }
            }
            None => Step::Creating { known },
        };
        Ok((Some(ipc), step))
    }

    fn start_setting(
        &mut self,
        name: &str,
        mode: Size,
        desk: &Desk,
        handle: &QueueHandle<Desk>,
        tries: u32,
    ) -> Result<(Option<Ipc>, Step), String> {
        let name = name.to_owned();
        if self.sway.is_some() {
            let command = mode_command(&name, mode)?;
            let ipc = self.command(&command).map_err(|error| error.to_string())?;
            return Ok((Some(ipc), Step::Asking { name }));
        }
        self.numbers += 1;
        let number = self.numbers;
        configure(&name, mode, desk, handle, number)?;
        let step = Step::Configuring {
            name,
            number,
            tries,
        };
        Ok((None, step))
    }

    fn command(&self, command: &str) -> Result<Ipc, IpcError> {
        let path = self.sway.as_deref().unwrap_or_default();
        let mut ipc = Ipc::connect(path)?;
        ipc.send(RUN_COMMAND, command)?;
        Ok(ipc)
    }

    /// Whether there was anything to do.
    fn advance(
        &mut self,
        desk: &mut Desk,
        handle: &QueueHandle<Desk>,
        out: &mut Vec<FromSource>,
    ) -> bool {
        let Some(mut active) = self.active.take() else {
            return false;
        };
        let answer = active.ipc.as_mut().and_then(|ipc| ipc.answer().transpose());
        let answer = answer.map(|answer| answer.and_then(|answer| done(&answer)));
        if answer.is_some() {
            active.ipc = None;
        }
        let late = Instant::now() > active.until;
        match self.next_step(&mut active, answer, late, desk, handle, out) {
            Next::Waits => {
                self.active = Some(active);
                false
            }
            Next::Goes(ipc, step) => {
                active.ipc = ipc;
                active.step = step;
                self.active = Some(active);
                true
            }
            Next::Refused(message) => {
                refuse(&active.job, message, out);
                if let Job::Add { .. } = active.job
                    && let Some(name) = active.step.name()
                {
                    self.remove(&name);
                }
                true
            }
            Next::Done => true,
        }
    }

    fn next_step(
        &mut self,
        active: &mut Active,
        answer: Option<Result<(), IpcError>>,
        late: bool,
        desk: &mut Desk,
        handle: &QueueHandle<Desk>,
        out: &mut Vec<FromSource>,
    ) -> Next {
        if late {
            return Next::Refused("the compositor does not answer".to_owned());
        }
        let mode = active.job.mode();
        match &active.step {
            Step::Creating { known } => match answer {
                None => Next::Waits,
                Some(Err(error)) => Next::Refused(format!("no monitor can be added: {error}")),
                Some(Ok(())) => {
                    let known = known.clone();
                    Next::Goes(None, Step::Appearing { known, again: None })
                }
            },
            Step::Appearing { known, again } => {
                if let Some(Err(error)) = answer {
                    return Next::Refused(error.to_string());
                }
                if active.ipc.is_some() {
                    return Next::Waits;
                }
                let is_new = |output: &&Output| match again {
                    Some(name) => output.name == *name,
                    None => is_virtual(&output.name) && !known.contains(&output.name),
                };
                let found = desk.outputs.iter().filter(|one| one.is_told());
                let Some(output) = found.into_iter().find(is_new) else {
                    return Next::Waits;
                };
                let name = output.name.clone();
                if !self.is_plugged(&name) {
                    self.plugged.push(name.clone());
                }
                match self.start_setting(&name, mode, desk, handle, 0) {
                    Ok((ipc, step)) => Next::Goes(ipc, step),
                    Err(message) => {
                        active.step = Step::Asking { name };
                        Next::Refused(message)
                    }
                }
            }
            Step::Asking { name } => match answer {
                None => Next::Waits,
                Some(Err(error)) => Next::Refused(not_so(name, mode, &error.to_string(), desk)),
                Some(Ok(())) => settle(name),
            },
            Step::Configuring {
                name,
                number,
                tries,
            } => {
                let outcome = desk.outcomes.iter().find(|one| one.0 == *number);
                let outcome = outcome.map(|one| one.1);
                match outcome {
                    None => Next::Waits,
                    Some(Outcome::Succeeded) => settle(name),
                    Some(Outcome::Cancelled) if *tries < 5 => {
                        match self.start_setting(name, mode, desk, handle, tries + 1) {
                            Ok((ipc, step)) => Next::Goes(ipc, step),
                            Err(message) => Next::Refused(message),
                        }
                    }
                    Some(_) => Next::Refused(not_so(name, mode, "the compositor refuses", desk)),
                }
            }
            Step::Settling { name, until } => match desk.output_named(name) {
                Some(output) if output.is_listed() && is_it(output, mode) => {
                    out.push(match active.job {
                        Job::Add { request, .. } => FromSource::Added {
                            request,
                            screen: output.screen,
                        },
                        Job::SetMode { request, .. } => FromSource::ModeSet { request },
                        Job::Remove { .. } => return Next::Done,
                    });
                    Next::Done
                }
                Some(output) if Instant::now() > *until => {
                    let (width, height) = (output.mode.width, output.mode.height);
                    let still = format!("it stays at {width}x{height}");
                    Next::Refused(not_so(name, mode, &still, desk))
                }
                None if Instant::now() > *until => Next::Refused("the screen is gone".to_owned()),
                _ => Next::Waits,
            },
            Step::Unplugging { name } => match answer {
                None => Next::Waits,
                Some(Ok(())) => Next::Done,
                Some(Err(_)) if desk.output_named(name).is_none() => Next::Done,
                Some(Err(error)) => {
                    let name = name.clone();
                    out.push(FromSource::Note {
                        message: format!(
                            "{name} cannot be removed ({error}); it stays, switched off if the compositor can do that, and is used again by the next monitor that is added"
                        ),
                    });
                    match self.command(&format!("output {name} disable")) {
                        Ok(ipc) => Next::Goes(Some(ipc), Step::SwitchingOff { name }),
                        Err(error) => Next::Refused(error.to_string()),
                    }
                }
            },
            Step::SwitchingOff { name } => match answer {
                None => Next::Waits,
                Some(Ok(())) => {
                    self.spare.push(name.clone());
                    Next::Done
                }
                Some(Err(error)) => Next::Refused(error.to_string()),
            },
        }
    }

    /// Unplugs all that was plugged in: the source ends. Waits for sway, but not for long.
    pub fn end(&mut self) {
        let Some(path) = self.sway.clone() else {
            return;
        };
        let deadline = Instant::now() + END;
        let mut names = std::mem::take(&mut self.plugged);
        let active = self.active.take();
        let halfway = match &active {
            Some(Active {
                step: Step::Creating { known } | Step::Appearing { known, again: None },
                ..
            }) => Some(known.clone()),
            _ => None,
        };
        let jobs = self.jobs.drain(..).chain(active.map(|active| active.job));
        names.extend(jobs.filter_map(|job| match job {
            Job::Remove { name } => Some(name),
            _ => None,
        }));
        if names.is_empty() && halfway.is_none() {
            return;
        }
        let mut ipc = match Ipc::connect(&path) {
            Ok(ipc) => ipc,
            Err(error) => {
                tracing::warn!("monitors that were added stay: {error}");
                return;
            }
        };
        if let Some(known) = halfway
            && let Ok(outputs) = ipc.ask(GET_OUTPUTS, "", deadline)
        {
            let new = outputs_in(&outputs).filter(|name| is_virtual(name) && !known.contains(name));
            names.extend(new);
        }
        for name in names.iter().filter(|name| is_plain(name)) {
            let unplugged = ipc
                .ask(RUN_COMMAND, &format!("output {name} unplug"), deadline)
                .and_then(|answer| done(&answer));
            if let Err(error) = unplugged {
                tracing::warn!("{name} cannot be removed: {error}");
                let _ = ipc.ask(RUN_COMMAND, &format!("output {name} disable"), deadline);
            }
        }
    }
}

/// What comes after a step.
enum Next {
    Waits,
    Goes(Option<Ipc>, Step),
    Refused(String),
    Done,
}

impl Job {
    const fn mode(&self) -> Size {
        match self {
            Self::Add { mode, .. } | Self::SetMode { mode, .. } => *mode,
            Self::Remove { .. } => NOTHING,
        }
    }
}

impl Step {
    /// The output that it is about, once that is known.
    fn name(&self) -> Option<String> {
        match self {
            Self::Creating { .. } => None,
            Self::Appearing { again, .. } => again.clone(),
            Self::Asking { name }
            | Self::Configuring { name, .. }
            | Self::Settling { name, .. }
            | Self::Unplugging { name }
            | Self::SwitchingOff { name } => Some(name.clone()),
        }
    }
}

fn settle(name: &str) -> Next {
    let step = Step::Settling {
        name: name.to_owned(),
        until: Instant::now() + SETTLING,
    };
    Next::Goes(None, step)
}

fn refuse(job: &Job, message: String, out: &mut Vec<FromSource>) {
    out.push(match job {
        Job::Add { request, .. } | Job::SetMode { request, .. } => FromSource::Refused {
            request: *request,
            message,
        },
        Job::Remove { name } => FromSource::Note {
            message: format!("{name} stays: {message}"),
        },
    });
}

fn is_it(output: &Output, mode: Size) -> bool {
    output.mode.width == mode.width && output.mode.height == mode.height
}

fn impossible(mode: Size) -> Option<String> {
    let possible = Mode {
        width: mode.width,
        height: mode.height,
        refresh_millihertz: mode.refresh_millihertz,
    }
    .is_possible();
    let Size { width, height, .. } = mode;
    (!possible).then(|| format!("no screen can have {width}x{height}"))
}

fn missing(output: &Output, mode: Size, desk: &Desk) -> Option<String> {
    let modes = output.all_modes(&desk.heads);
    let has = |one: &Size| one.width == mode.width && one.height == mode.height;
    let fits = is_virtual(&output.name) || modes.iter().any(has);
    let Size { width, height, .. } = mode;
    (!fits).then(|| {
        format!(
            "{} has no mode {width}x{height}; it has {}",
            output.name,
            in_words(&modes)
        )
    })
}

fn not_so(name: &str, mode: Size, why: &str, desk: &Desk) -> String {
    let Size { width, height, .. } = mode;
    let output = desk.output_named(name);
    let modes = output.map(|output| in_words(&output.all_modes(&desk.heads)));
    let modes = modes.map_or_else(String::new, |modes| format!("; it has {modes}"));
    format!("{name} cannot be {width}x{height}: {why}{modes}")
}

/// Sway's command for a mode.
fn mode_command(name: &str, mode: Size) -> Result<String, String> {
    if !is_plain(name) {
        return Err(format!("{name:?} is no name for a command"));
    }
    let custom = if is_virtual(name) { "--custom " } else { "" };
    let Size {
        width,
        height,
        refresh_millihertz,
    } = mode;
    let refresh = match refresh_millihertz {
        0 => String::new(),
        some => format!("@{}.{:03}Hz", some / 1000, some % 1000),
    };
    Ok(format!(
        "output {name} mode {custom}{width}x{height}{refresh}"
    ))
}

/// Has the compositor try a configuration in which one head has another mode.
fn configure(
    name: &str,
    mode: Size,
    desk: &Desk,
    handle: &QueueHandle<Desk>,
    number: u64,
) -> Result<(), String> {
    let ready = desk.manager.as_ref().zip(desk.serial);
    let Some((manager, serial)) = ready else {
        return Err("this compositor does not let others set modes".to_owned());
    };
    if !desk.heads.iter().any(|head| head.name == name) {
        return Err(format!("{name} cannot be arranged"));
    }
    let configuration = manager.create_configuration(serial, handle, number);
    for head in &desk.heads {
        if head.name != name && !head.enabled {
            configuration.disable_head(&head.proxy);
            continue;
        }
        let one = configuration.enable_head(&head.proxy, handle, ());
        if head.name != name {
            continue;
        }
        let wanted = |size: &Size| {
            let refresh = [size.refresh_millihertz, 0];
            size.width == mode.width
                && size.height == mode.height
                && refresh.contains(&mode.refresh_millihertz)
        };
        let signed = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        match head.modes.iter().find(|mode| wanted(&mode.size)) {
            Some(known) => one.set_mode(&known.proxy),
            None => one.set_custom_mode(
                signed(mode.width),
                signed(mode.height),
                signed(mode.refresh_millihertz),
            ),
        }
    }
    configuration.apply();
    Ok(())
}

/// The names in sway's list of outputs.
fn outputs_in(answer: &Value) -> impl Iterator<Item = String> + '_ {
    let outputs = answer.as_array().into_iter().flatten();
    outputs.filter_map(|one| Some(one.get("name")?.as_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Size = Size {
        width: 1920,
        height: 1080,
        refresh_millihertz: 0,
    };

    #[test]
    fn commands_are_as_sway_takes_them() {
        let command = |name, mode| mode_command(name, mode).expect("is plain");
        assert_eq!(
            command("HEADLESS-2", FULL),
            "output HEADLESS-2 mode --custom 1920x1080"
        );
        let fast = Size {
            refresh_millihertz: 59_940,
            ..FULL
        };
        assert_eq!(command("DP-1", fast), "output DP-1 mode 1920x1080@59.940Hz");
        assert!(mode_command("a; exit", FULL).is_err());
    }

    #[test]
    fn what_cannot_be_is_refused_at_once() {
        let mut out = Vec::new();
        let mut plugging = Plugging::new(None);
        plugging.add(1, FULL, &mut out);
        let mut plugging = Plugging::new(Some("/nonexistent/sway.sock".to_owned()));
        plugging.add(2, Size { width: 0, ..FULL }, &mut out);
        plugging.set_mode(3, 9, FULL, &Desk::default(), &mut out);
        let refused = |number| {
            out.iter()
                .any(|one| matches!(one, FromSource::Refused { request, .. } if *request == number))
        };
        assert!(refused(1) && refused(2) && refused(3));
        assert!(plugging.jobs.is_empty());
    }

    #[test]
    fn jobs_do_not_pile_up_without_bound() {
        let mut out = Vec::new();
        let mut plugging = Plugging::new(Some("/nonexistent/sway.sock".to_owned()));
        for request in 0..1000 {
            plugging.add(request, FULL, &mut out);
        }
        assert_eq!(plugging.jobs.len(), JOBS);
        assert_eq!(out.len(), 1000 - JOBS);
    }

    #[test]
    fn new_outputs_are_read_from_sways_list() {
        let list = serde_json::json!([{"name": "HEADLESS-1"}, {"name": 7}, {}, {"name": "DP-1"}]);
        let names: Vec<String> = outputs_in(&list).collect();
        assert_eq!(names, ["HEADLESS-1", "DP-1"]);
        assert_eq!(outputs_in(&Value::Null).count(), 0);
    }
}
