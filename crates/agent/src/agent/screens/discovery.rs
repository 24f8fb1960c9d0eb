//! Finding desktops and devices: a look at all processes, which may take long in a slow
//! guest, so a thread of its own does it. The thread sleeps unless it is asked.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, thread};

use tracing::warn;
use vmshm_screens::wlroots::Found;

use crate::waker::Waker;

/// What a survey has found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    /// Compositors whose outputs can be shown.
    pub compositors: Vec<Found>,
    /// Desktops that cannot be shown, in words.
    pub others: Vec<String>,
    /// Framebuffer devices.
    pub framebuffers: Vec<String>,
}

/// Looks at this guest.
pub(super) fn survey() -> Findings {
    Findings {
        compositors: vmshm_screens::wlroots::find(),
        others: vmshm_screens::wlroots::others(),
        framebuffers: vmshm_screens::framebuffer::find(),
    }
}

type Survey = Box<dyn FnMut() -> Findings + Send>;

/// The thread, once it is needed.
pub(super) struct Discovery {
    /// What the thread will run, until it does.
    survey: Option<Survey>,
    asks: Option<SyncSender<()>>,
    found: Arc<Mutex<Option<Findings>>>,
    done: Arc<Waker>,
}

impl fmt::Debug for Discovery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Discovery").finish_non_exhaustive()
    }
}

impl Discovery {
    pub(super) fn new(survey: Survey) -> io::Result<Self> {
        Ok(Self {
            survey: Some(survey),
            asks: None,
            found: Arc::default(),
            done: Arc::new(Waker::new()?),
        })
    }

    /// Asks for a survey. One that runs already is answer enough.
    pub(super) fn ask(&mut self) {
        if let Some(survey) = self.survey.take() {
            let (asks, asked) = sync_channel(1);
            let found = Arc::clone(&self.found);
            let done = Arc::clone(&self.done);
            let thread = thread::Builder::new()
                .name("vmshm-survey".to_owned())
                .spawn(move || run(survey, &asked, &found, &done));
            match thread {
                Ok(_) => self.asks = Some(asks),
                Err(error) => warn!(%error, "desktops are not looked for"),
            }
        }
        if let Some(asks) = &self.asks
            && let Err(TrySendError::Disconnected(())) = asks.try_send(())
        {
            warn!("desktops are not looked for any more");
            self.asks = None;
        }
    }

    /// What was found since the last time this was asked.
    pub(super) fn take(&mut self) -> Option<Findings> {
        let found = self
            .found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if found.is_some() {
            self.done.clear();
        }
        found
    }
}

impl AsFd for Discovery {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }
}

fn run(mut survey: Survey, asked: &Receiver<()>, found: &Mutex<Option<Findings>>, done: &Waker) {
    while asked.recv().is_ok() {
        let findings = survey();
        *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(findings);
        done.wake();
    }
}
