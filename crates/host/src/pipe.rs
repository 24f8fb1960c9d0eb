//! The host's end of a pipe: the pump of `vmshm-pipe` under a session's watch.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use vmshm_link::directory::RegionKind;
use vmshm_link::duplex::{DEFAULT_PIPE_SIZE, Side};
use vmshm_pipe::{Progress, Pump, PumpError};

use crate::ending::{Condition, SessionEnd};
use crate::session::{RequestError, Session};

/// How often the watching thread looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What happens to a pipe, told to the caller when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipeEvent {
    /// The guest's end is not there yet.
    WaitingForGuest,
    /// The guest's end is there.
    Connected,
    /// The guest has stopped running, or runs again.
    Guest(Condition),
}

/// Why a pipe ended before both directions had.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// The agent refused, or the session ended.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The other end or this program's input or output failed.
    #[error(transparent)]
    Pump(#[from] PumpError),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl PipeError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Request(error) => error.hint(),
            Self::Pump(PumpError::PeerDied | PumpError::PeerAborted) => {
                Some("run the command again, and `vmshm-agent pipe NAME` in the guest".to_owned())
            }
            Self::Pump(_) | Self::Interrupted => None,
        }
    }
}

impl From<SessionEnd> for PipeError {
    fn from(end: SessionEnd) -> Self {
        Self::Request(end.into())
    }
}

/// Runs the host's end of pipe `name` until both directions have ended. `timeout`
/// bounds the agent's answers, not the transfer; `interrupted` is asked many times a
/// second.
///
/// # Errors
/// [`PipeError`]. Threads that are blocked in `input` or `output` then go on until
/// those return; they touch the pipe no more.
pub fn run_pipe(
    mut session: Session,
    name: &str,
    timeout: Duration,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
    interrupted: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(PipeEvent),
) -> Result<(), PipeError> {
    let region = session.open_region(name, RegionKind::Pipe, DEFAULT_PIPE_SIZE, timeout)?;
    let memory = Arc::clone(&region.memory);
    let mut pump = Pump::start(memory, Side::Host, session.tenure(), input, output)
        .map_err(PumpError::from)?;
    match drive(&mut session, &mut pump, interrupted, tell) {
        Ok(()) => {
            session.close_region(&region, timeout)?;
            Ok(())
        }
        Err(error) => {
            pump.abort();
            Err(error)
        }
    }
}

fn drive(
    session: &mut Session,
    pump: &mut Pump<Arc<vmshm_ram::View>>,
    interrupted: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(PipeEvent),
) -> Result<(), PipeError> {
    let mut progress = None;
    let mut condition = Condition::Running;
    loop {
        // First who is there: a VM that is gone explains every other failure.
        let now = session.keep()?;
        if now != condition {
            condition = now;
            tell(PipeEvent::Guest(now));
        }
        let step = match pump.poll() {
            Ok(step) => step,
            Err(PumpError::Link(error)) => {
                return Err(session.why_it_ended(error).into());
            }
            Err(error) => return Err(error.into()),
        };
        if step == Progress::Done {
            // A guest that has ended its side has run since it was last looked at.
            if condition != Condition::Running {
                tell(PipeEvent::Guest(Condition::Running));
            }
            return Ok(());
        }
        if progress != Some(step) {
            progress = Some(step);
            tell(match step {
                Progress::WaitingForPeer => PipeEvent::WaitingForGuest,
                Progress::Running | Progress::Done => PipeEvent::Connected,
            });
        }
        if interrupted() {
            return Err(PipeError::Interrupted);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
