//! Plugging outputs in and out, and setting modes: one job after another, none of them waited for.
//!
//! Sway does all of it by its IPC. Other compositors set modes by wlr-output-management, and
//! cannot add outputs. Before 1.8 sway cannot remove one either: such an output is switched off,
//! and used again by the next job that adds one.
//!
//! ```text
//! steps    what comes after what
//! modes    which modes can be, and how they are asked for
//! end      unplugging when the source ends
//! ledger   what was plugged in, for the next source
//! ```

mod end;
mod ledger;
mod modes;
mod steps;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use vmshm_channel::Size;
use vmshm_channel::source::FromSource;
use wayland_client::QueueHandle;

use super::desk::Desk;
use super::outputs::NOTHING;
use super::sway::{Ipc, IpcError, RUN_COMMAND, done};
use ledger::Ledger;
use modes::{impossible, missing};

/// How long one job may take: under emulation everything is slow.
const PATIENCE: Duration = Duration::from_secs(20);
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
    /// All of them, and those that an earlier source left.
    ledger: Ledger,
    numbers: u64,
}

impl Plugging {
    /// With sway's IPC socket, if the compositor is sway.
    pub fn new(sway: Option<String>) -> Self {
        Self {
            ledger: Ledger::open(sway.as_deref()),
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

    /// Unplugs what an earlier source left.
    pub fn reclaim(&mut self, desk: &Desk) {
        for name in self.ledger.names() {
            if desk.output_named(&name).is_some() {
                self.jobs.push_back(Job::Remove { name });
            } else {
                self.ledger.forget(&name);
            }
        }
    }

    fn plug(&mut self, name: &str) {
        if !self.is_plugged(name) {
            self.plugged.push(name.to_owned());
            self.ledger.note(name);
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

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Size = Size {
        width: 1920,
        height: 1080,
        refresh_millihertz: 0,
    };

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
}
