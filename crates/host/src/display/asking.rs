//! Asking an agent about screens, for whoever may stop waiting at any moment. Every wait
//! has an end, and a stop is heeded within a millisecond or so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vmshm_link::control::{RefusalCode, Reply, Request};
use vmshm_link::frames::Mode;
use vmshm_link::screens::{Abilities, ScreenReply, ScreenRequest};
use vmshm_link::wait::Backoff;
use vmshm_pipe::pause;

use super::error::{DisplayError, Doing};
use crate::deadline::Deadline;
use crate::region::unexpected;
use crate::session::{RequestError, Session, refusal_to_error};

/// No list is read further than this: a guest may count without an end.
const MOST_SCREENS: u64 = 256;
/// The most modes that are told.
const MOST_MODES: u64 = 512;

/// A screen as its guest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screen {
    /// Its number for requests.
    pub(super) id: u64,
    /// Its name in the guest.
    pub name: String,
    /// Its mode.
    pub mode: Mode,
    /// 1000 times the guest's scale of it.
    pub scale_thousandths: u64,
    /// What delivers its frames, in words.
    pub source: String,
    /// What it can do.
    pub abilities: Abilities,
}

impl Screen {
    fn new(reply: &ScreenReply) -> Self {
        Self {
            id: reply.screen,
            name: reply.name.as_str().to_owned(),
            mode: reply.mode,
            scale_thousandths: reply.scale_thousandths,
            source: reply.source.as_str().to_owned(),
            abilities: reply.abilities,
        }
    }
}

/// The screens of a guest, in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The screens, without the test card.
    pub screens: Vec<Screen>,
    /// What the agent said behind the last one: what it has looked for.
    pub remark: String,
}

/// Lists a guest's screens.
///
/// # Errors
/// [`DisplayError`].
pub fn list(session: &mut Session, timeout: Duration) -> Result<Listing, DisplayError> {
    Asking {
        session,
        patience: timeout,
        stop: &AtomicBool::new(false),
    }
    .list()
}

/// A session, and how long it is asked.
pub(super) struct Asking<'a> {
    pub(super) session: &'a mut Session,
    pub(super) patience: Duration,
    pub(super) stop: &'a AtomicBool,
}

impl Asking<'_> {
    /// Asks and waits for the answer.
    pub(super) fn request(&mut self, request: &Request) -> Result<Reply, RequestError> {
        let deadline = Deadline::after(self.patience);
        let mut question = None;
        let mut backoff = Backoff::new(64, 1000);
        loop {
            match question {
                None => question = self.session.ask(request)?,
                Some(asked) => {
                    if let Some(reply) = self.session.answer(asked)? {
                        return refusal_to_error(reply);
                    }
                }
            }
            let condition = self.session.keep()?;
            if deadline.has_passed() || self.stop.load(Ordering::Relaxed) {
                if let Some(asked) = question {
                    self.session.give_up(asked);
                }
                return Err(RequestError::NoAnswer {
                    seconds: self.patience.as_secs(),
                    condition,
                });
            }
            pause(&mut backoff);
        }
    }

    fn screen(&mut self, request: ScreenRequest, doing: Doing) -> Result<Screen, DisplayError> {
        let reply = self.request(&Request::Screen(request));
        match reply.map_err(|error| self.explained(error, doing))? {
            Reply::Screen(reply) => Ok(Screen::new(&reply)),
            _ => Err(DisplayError::Request(unexpected().into())),
        }
    }

    pub(super) fn explained(&self, error: RequestError, doing: Doing) -> DisplayError {
        DisplayError::from_request(error, doing, self.session.name())
    }

    /// The screen at a place in the list, or the test card.
    pub(super) fn describe(&mut self, number: u64) -> Result<Screen, DisplayError> {
        self.screen(ScreenRequest::Describe { number }, Doing::Choosing)
    }

    pub(super) fn list(&mut self) -> Result<Listing, DisplayError> {
        let deadline = Deadline::after(self.patience);
        let mut screens = Vec::new();
        for number in 0..MOST_SCREENS {
            if deadline.has_passed() && number > 0 {
                break;
            }
            match self.describe(number) {
                Ok(screen) => screens.push(screen),
                Err(DisplayError::Refused {
                    code: RefusalCode::NotFound,
                    explanation: remark,
                    ..
                }) => return Ok(Listing { screens, remark }),
                Err(error) => return Err(error),
            }
        }
        let remark = String::new();
        Ok(Listing { screens, remark })
    }

    /// Plugs one in.
    pub(super) fn add(&mut self, mode: Mode) -> Result<Screen, DisplayError> {
        self.screen(ScreenRequest::Add { mode }, Doing::Adding)
    }

    /// Gives a screen a mode. A refusal says which modes there are.
    pub(super) fn set_mode(&mut self, screen: u64, mode: Mode) -> Result<Screen, DisplayError> {
        let set = ScreenRequest::SetMode { screen, mode };
        let result = self.screen(set, Doing::SettingMode);
        match result {
            Err(DisplayError::Refused {
                doing,
                code,
                explanation,
                ..
            }) => Err(DisplayError::Refused {
                doing,
                code,
                explanation,
                modes: self.modes(screen).ok().flatten(),
            }),
            other => other,
        }
    }

    /// The modes that a screen can have, in words; nothing where it names none.
    fn modes(&mut self, screen: u64) -> Result<Option<String>, DisplayError> {
        let mut modes: Vec<Mode> = Vec::new();
        let mut any_size = false;
        loop {
            let first = modes.len() as u64;
            let request = Request::Screen(ScreenRequest::Modes { screen, first });
            let reply = self.request(&request);
            let reply = reply.map_err(|error| self.explained(error, Doing::SettingMode))?;
            let Reply::Modes(part) = reply else {
                return Err(DisplayError::Request(unexpected().into()));
            };
            any_size |= part.any_size;
            modes.extend(part.modes());
            if part.modes().is_empty() || modes.len() as u64 >= part.total.min(MOST_MODES) {
                break;
            }
        }
        let mut words: Vec<String> = Vec::new();
        for mode in &modes {
            let word = mode_words(mode);
            if !words.contains(&word) {
                words.push(word);
            }
        }
        if any_size {
            words.push("other sizes".to_owned());
        }
        Ok((!words.is_empty()).then(|| words.join(", ")))
    }
}

/// A mode as users write it: `1920x1080@60`.
#[must_use]
pub fn mode_words(mode: &Mode) -> String {
    let (width, height) = (mode.width, mode.height);
    match mode.refresh_millihertz {
        0 => format!("{width}x{height}"),
        refresh => {
            let hertz = f64::from(refresh) / 1000.0;
            format!("{width}x{height}@{hertz}")
        }
    }
}
