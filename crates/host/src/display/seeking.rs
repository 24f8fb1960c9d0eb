//! Getting a screen watched, beside the loop that listens to the monitor: for the first
//! time with a session that there is already, later by finding the VM again, as often as it
//! takes. Whoever drops a [`Seeker`] ends it; it heeds that soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use vmshm_ram::{Vmm, find_by_pid};

use super::error::DisplayError;
use super::opening::Wanted;
use super::watched::Watched;
use crate::attach::AttachOptions;
use crate::machines::{self, SelectError};
use crate::reaching::{ReachError, Reached, reach, reach_found};
use crate::session::Session;

/// Between two attempts.
const RETRY: Duration = Duration::from_secs(1);
/// How often a session that waits for its next attempt is kept alive.
const STEP: Duration = Duration::from_millis(50);
/// How long one attempt at attaching may take: whoever ends the display waits for it.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Which VM it is, however often it is started again.
#[derive(Debug, Clone)]
pub struct Target {
    selector: String,
    pid: u32,
    start_time: u64,
    /// As `vmm:name`; nothing for a VM without a name of its own.
    name: Option<String>,
}

impl Target {
    /// The VM that the user named by `selector`.
    #[must_use]
    pub fn new(selector: &str, vmm: &Vmm) -> Self {
        let is_made_up = vmm.name.ends_with(&format!("-{}", vmm.pid));
        Self {
            selector: selector.to_owned(),
            pid: vmm.pid,
            start_time: vmm.start_time,
            name: (!is_made_up).then(|| format!("{}:{}", vmm.kind, vmm.name)),
        }
    }

    /// The same VM, found again as this process.
    pub(super) fn moved_to(&self, vmm: &Vmm) -> Self {
        Self {
            pid: vmm.pid,
            start_time: vmm.start_time,
            ..self.clone()
        }
    }

    /// The VM that the user named by `selector`, of which there is a session.
    #[must_use]
    pub fn reached(selector: &str, reached: &Reached) -> Self {
        match &reached.vmm {
            Some(vmm) => Self::new(selector, vmm),
            // Only a broker sees it, and finds it again by what the user calls it.
            None => Self {
                selector: selector.to_owned(),
                pid: 0,
                start_time: 0,
                name: None,
            },
        }
    }

    /// A session with the VM, wherever it runs now.
    fn reach(&self, options: &AttachOptions) -> Result<Reached, ReachError> {
        match self.pid {
            0 => reach(&self.selector, options),
            _ => reach_found(self.find()?, options),
        }
    }

    /// The process, if it still is the one; else a VM of the same name.
    fn find(&self) -> Result<Vmm, SelectError> {
        let same = find_by_pid(self.pid);
        match (same, &self.name) {
            (Ok(vmm), _) if vmm.start_time == self.start_time => Ok(vmm),
            _ if self.selector.parse::<u32>().is_err() => machines::find(&self.selector),
            (_, Some(name)) => machines::find(name),
            (Err(error), None) => Err(error.into()),
            (Ok(_), None) => Err(SelectError::Unknown(self.selector.clone())),
        }
    }
}

/// What a seeker has to tell.
#[derive(Debug)]
pub(super) enum Report {
    /// The screen is watched; and the VM, where that was found again.
    Found(Box<Watched>, Option<Box<Vmm>>),
    /// Not yet, for this reason.
    NotYet(DisplayError),
    /// It was to be tried only once.
    Failed(DisplayError),
}

/// A thread that gets a screen watched.
#[derive(Debug)]
pub(super) struct Seeker {
    reports: Receiver<Report>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What it is to do.
pub(super) struct Search {
    /// The session, if there is one.
    pub(super) session: Option<Box<Session>>,
    pub(super) target: Target,
    pub(super) wanted: Wanted,
    pub(super) attach: AttachOptions,
    /// Whether the first failure is the last.
    pub(super) once: bool,
}

impl Seeker {
    /// Starts it.
    pub(super) fn start(search: Search) -> Result<Self, DisplayError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, reports) = channel();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("vmshm-display".to_owned())
            .spawn(move || search.run(&stopped, &sender))
            .map_err(|error| DisplayError::System {
                doing: "starting a thread",
                error,
            })?;
        Ok(Self {
            reports,
            stop,
            thread: Some(thread),
        })
    }

    /// What it has to tell now.
    pub(super) fn report(&self) -> Option<Report> {
        match self.reports.try_recv() {
            Ok(report) => Some(report),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Report::Failed(DisplayError::System {
                doing: "waiting for a thread",
                error: std::io::ErrorKind::BrokenPipe.into(),
            })),
        }
    }
}

impl Drop for Seeker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that panicked has nothing to tell, either.
            let _ = thread.join();
        }
    }
}

impl Search {
    fn run(mut self, stop: &AtomicBool, reports: &Sender<Report>) {
        if !self.once {
            // What was lost a moment ago is hardly back yet.
            self.rest(RETRY / 4, stop);
        }
        while !stop.load(Ordering::Relaxed) {
            let report = match self.attempt(stop) {
                Ok((watched, vmm)) => Report::Found(Box::new(watched), vmm.map(Box::new)),
                Err(error) if self.once => Report::Failed(error),
                Err(error) => Report::NotYet(error),
            };
            let is_last = !matches!(report, Report::NotYet(_));
            if reports.send(report).is_err() || is_last {
                return;
            }
            self.rest(RETRY, stop);
        }
    }

    fn attempt(&mut self, stop: &AtomicBool) -> Result<(Watched, Option<Vmm>), DisplayError> {
        let (session, vmm) = match self.session.take() {
            Some(session) => (session, None),
            None => {
                let options = AttachOptions {
                    timeout: self.attach.timeout.min(ATTEMPT),
                    ..self.attach.clone()
                };
                let reached = self.target.reach(&options)?;
                (Box::new(reached.session), reached.vmm)
            }
        };
        match Watched::open(session, &self.wanted, stop) {
            Ok(watched) => Ok((watched, vmm)),
            Err((session, error)) => {
                self.session = session;
                Err(error)
            }
        }
    }

    fn rest(&mut self, duration: Duration, stop: &AtomicBool) {
        let mut left = duration;
        while !left.is_zero() && !stop.load(Ordering::Relaxed) {
            let step = left.min(STEP);
            std::thread::sleep(step);
            left -= step;
            if self
                .session
                .as_mut()
                .is_some_and(|session| session.keep().is_err())
            {
                self.session = None;
            }
        }
    }
}
