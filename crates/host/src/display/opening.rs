//! Getting a screen watched over a session: choosing or plugging it in, holding and proving
//! its frames, and deciding on which way they go. It gives up when told so, and holds nothing
//! that it does not hand over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::control::{RefusalCode, Reply, Request};
use vmshm_link::frames::{FrameReader, Mode, Wants};
use vmshm_link::screens::{ScreenRequest, TEST_CARD};
use vmshm_ram::{Protection, View};

use super::asking::{Asking, Screen};
use super::error::{DisplayError, Doing};
use super::relay::{Relay, RelayError};
use crate::deadline::Deadline;
use crate::ending::SessionEnd;
use crate::region::{Region, unexpected};
use crate::session::{RequestError, Session};

/// Which screen is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The one at this place in the list.
    Listed(u64),
    /// The test card.
    TestCard,
    /// A new one of this mode.
    Added(Mode),
}

/// What a watch is to be.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) choice: Choice,
    /// The screen's name, once it is known: its place in the list may change.
    pub(super) name: Option<String>,
    /// The mode that it shall have.
    pub(super) mode: Option<Mode>,
    /// One picture is wanted: a new one, without the guest's pointer.
    pub(super) picture: bool,
    /// Relay even where the monitor could map.
    pub(super) relayed: bool,
    /// For answers of the agent alone.
    pub(super) patience: Duration,
    /// For answers that wait for the guest's desktop.
    pub(super) long_patience: Duration,
}

#[derive(Debug)]
pub(super) enum Way {
    /// The monitor maps the guest's pages. Here only the source's state is looked at.
    Mapped(FrameReader<Arc<View>>),
    /// What the guest shows is copied.
    Relayed(Box<Relay<Arc<View>, View>>),
}

/// A screen's frames, held and proved.
pub(super) struct Opened {
    pub(super) frames: Region,
    pub(super) reader: usize,
    pub(super) way: Way,
}

/// Finds the screen, or plugs it in, and gives it its mode.
pub(super) fn choose(
    session: &mut Session,
    wanted: &Wanted,
    stop: &AtomicBool,
) -> Result<Screen, DisplayError> {
    let mut asking = Asking {
        session,
        patience: wanted.patience,
        stop,
    };
    let screen = match (&wanted.choice, &wanted.name) {
        (Choice::Added(mode), _) => {
            asking.patience = wanted.long_patience;
            return asking.add(wanted.mode.unwrap_or(*mode));
        }
        (Choice::TestCard, _) => asking.describe(TEST_CARD)?,
        (Choice::Listed(number), None) => asking.describe(*number)?,
        (Choice::Listed(_), Some(name)) => {
            let listing = asking.list()?;
            let named = listing.screens.into_iter().find(|one| one.name == *name);
            named.ok_or_else(|| DisplayError::Gone { name: name.clone() })?
        }
    };
    match wanted.mode {
        Some(mode) if !is_same(&mode, &screen.mode) => {
            asking.patience = wanted.long_patience;
            asking.set_mode(screen.id, mode)
        }
        _ => Ok(screen),
    }
}

/// Whether a screen that has `now` need not be changed for `wanted`.
pub(super) const fn is_same(wanted: &Mode, now: &Mode) -> bool {
    wanted.width == now.width
        && wanted.height == now.height
        && (wanted.refresh_millihertz == 0 || wanted.refresh_millihertz == now.refresh_millihertz)
}

/// Holds and proves a screen's frames, and waits until its source has laid them out.
pub(super) fn hold(
    session: &mut Session,
    screen: u64,
    wanted: &Wanted,
    stop: &AtomicBool,
) -> Result<Opened, DisplayError> {
    let deadline = Deadline::after(wanted.long_patience);
    let source = session.source();
    let reader = session.slot_index().ok_or(SessionEnd::AgentLeft)?;
    let mut asking = Asking {
        session,
        patience: wanted.patience,
        stop,
    };
    let watch = Request::Screen(ScreenRequest::Watch { screen });
    let granted = loop {
        match asking.request(&watch) {
            Ok(Reply::Region(granted)) => break granted,
            Ok(_) => return Err(DisplayError::Request(unexpected().into())),
            // Somebody else is proving the same pages.
            Err(RequestError::Refused {
                code: RefusalCode::Proving,
                ..
            }) if !deadline.has_passed() && !stop.load(Ordering::Relaxed) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(asking.explained(error, Doing::Watching)),
        }
    };
    let ask = &mut |request: &Request| asking.request(request);
    let frames = source.lay_out(&granted, Protection::ReadWrite, wanted.patience, ask);
    let frames = frames.map_err(DisplayError::Request)?;
    session.watch_memory(&frames.memory);
    let wants = Wants {
        no_pointer: wanted.picture,
    };
    let state = loop {
        match FrameReader::new(Arc::clone(&frames.memory), reader, wants) {
            Ok(state) => break state,
            Err(LinkError::Violation { .. })
                if !deadline.has_passed() && !stop.load(Ordering::Relaxed) =>
            {
                session.keep()?;
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error @ LinkError::Violation { .. }) => {
                return Err(DisplayError::BadFrames(error.to_string()));
            }
            Err(error) => return Err(session.why_it_ended(error).into()),
        }
    };
    let runs = source.runs_of(&frames, Protection::ReadWrite);
    let can_be_mapped = !wanted.relayed && runs.is_some();
    let way = if can_be_mapped {
        Way::Mapped(state)
    } else {
        match Relay::new(state, wanted.picture) {
            Ok(relay) => Way::Relayed(Box::new(relay)),
            Err(RelayError::Link(error)) => return Err(session.why_it_ended(error).into()),
            Err(RelayError::System(error)) => {
                let doing = "making memory for pictures";
                return Err(DisplayError::System { doing, error });
            }
        }
    };
    Ok(Opened {
        frames,
        reader,
        way,
    })
}
