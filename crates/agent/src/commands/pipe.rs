//! `vmshm-agent pipe NAME`: standard input to the host, and what the host sends to
//! standard output. Either end may come first; waiting is said on standard error.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use vmshm_link::LinkError;
use vmshm_link::duplex::Side;
use vmshm_pipe::{Progress, Pump, PumpError};
use vmshm_shm::{MapError, Protection};

use super::ask::{self, AskError};
use crate::agent::local_protocol::{Answer, Wish};
use crate::window::Window;
use vmshm_channel::{Channel, ChannelError, timespec};

/// Time between two looks at the other end and at the agent.
const LOOK: Duration = Duration::from_millis(100);
/// After so long the user is told what is waited for.
const SAY_AFTER: Duration = Duration::from_secs(1);
/// A host's end that has not beaten for so long is called silent.
const SILENCE: Duration = Duration::from_millis(1500);

/// Why a pipe did not end in good order.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipeError {
    /// The agent did not give the pipe.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The agent is gone.
    #[error("vmshm-agent has died or was ended: the pipe is broken")]
    AgentGone,
    /// The user interrupted.
    #[error("interrupted")]
    Interrupted,
    /// The host's end.
    #[error(transparent)]
    Pump(#[from] PumpError),
    /// The memory could not be mapped.
    #[error("cannot map the pipe: {0}")]
    Map(#[from] MapError),
    /// The system failed.
    #[error("cannot {what}: {error}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl PipeError {
    /// What the user can do.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Ask(error) => error.hint(),
            Self::AgentGone => Some("start the agent again, then both ends".to_owned()),
            _ => None,
        }
    }
}

impl From<LinkError> for PipeError {
    fn from(error: LinkError) -> Self {
        Self::Pump(PumpError::Link(error))
    }
}

/// Runs until both directions have ended.
pub(crate) fn run(name: &str) -> Result<(), PipeError> {
    let system = |what| move |error| PipeError::System { what, error };
    let signals = catch_signals().map_err(system("handle signals"))?;
    let (input, output) =
        vmshm_pipe::take_standard_streams().map_err(system("take the standard streams"))?;

    let mut agent = ask::connect()?;
    ask::send(
        &mut agent,
        Wish::Pipe {
            name: name.to_owned(),
        },
    )?;
    let (size, file) = wait_until_ready(&mut agent, &signals, name)?;
    let memory = Window::open(file, 0, size, Protection::ReadWrite)?;
    memory.prefault(0, size);
    // The region's own file is held here: it stays ours whatever the agent does.
    let pump = Pump::start(Arc::new(memory), Side::Guest, || Ok(()), input, output)?;
    let mut watch = Watch {
        pump,
        agent,
        signals,
        said_waiting: false,
        since: Instant::now(),
        pulse: 0,
        beaten: Instant::now(),
        said_silent: false,
    };
    let result = watch.run(name);
    // Where the other end or the agent gave up first there is nobody to tell.
    if matches!(
        result,
        Err(PipeError::Interrupted | PipeError::Pump(PumpError::Io { .. }))
    ) {
        watch.pump.abort();
    }
    result
}

fn catch_signals() -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    for signal in [
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(receiver)
}

/// Waits for the agent's word that a host has proved the pipe's pages.
fn wait_until_ready(
    agent: &mut Channel,
    signals: &UnixStream,
    name: &str,
) -> Result<(u64, OwnedFd), PipeError> {
    let since = Instant::now();
    let mut said = false;
    loop {
        match ask::answer(agent, LOOK) {
            Ok((Answer::PipeReady { size }, Some(file))) => return Ok((size, file)),
            Ok(_) => return Err(AskError::Unexpected.into()),
            Err(AskError::Channel(ChannelError::Timeout(_))) => {}
            Err(AskError::Channel(ChannelError::Closed)) => return Err(PipeError::AgentGone),
            Err(error) => return Err(error.into()),
        }
        if interrupted(signals) {
            return Err(PipeError::Interrupted);
        }
        if !said && since.elapsed() > SAY_AFTER {
            said = true;
            say(&format!("waiting for the host's end of `{name}`"));
        }
    }
}

fn interrupted(signals: &UnixStream) -> bool {
    io::Read::read(&mut &*signals, &mut [0; 16]).is_ok_and(|count| count > 0)
}

/// A running pipe, and everybody it depends on.
struct Watch {
    pump: Pump<Arc<Window>>,
    agent: Channel,
    signals: UnixStream,
    said_waiting: bool,
    since: Instant,
    pulse: u64,
    beaten: Instant,
    said_silent: bool,
}

impl Watch {
    fn run(&mut self, name: &str) -> Result<(), PipeError> {
        loop {
            match self.pump.poll()? {
                Progress::Done => return Ok(()),
                Progress::WaitingForPeer => {
                    if !self.said_waiting && self.since.elapsed() > SAY_AFTER {
                        self.said_waiting = true;
                        say(&format!("waiting for the host's end of `{name}`"));
                    }
                }
                Progress::Running => self.listen()?,
            }
            if interrupted(&self.signals) {
                return Err(PipeError::Interrupted);
            }
            // The agent says nothing any more; what comes is its end.
            if !matches!(self.agent.receive::<Answer>(), Ok(None)) {
                return Err(PipeError::AgentGone);
            }
            let mut fds = [
                PollFd::new(&self.agent, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            // A failure here only makes the next look come earlier.
            let _ = rustix::event::poll(&mut fds, Some(&timespec(LOOK)));
        }
    }

    /// Says when the host's end falls silent, and when it is heard again.
    fn listen(&mut self) -> Result<(), PipeError> {
        let pulse = self.pump.peer_pulse()?;
        if pulse != self.pulse {
            self.pulse = pulse;
            self.beaten = Instant::now();
            if std::mem::take(&mut self.said_silent) {
                say("the host's end is back");
            }
        } else if !self.said_silent && self.beaten.elapsed() > SILENCE {
            self.said_silent = true;
            say("the host's end is silent: it is stopped, or the machine was paused; waiting");
        }
        Ok(())
    }
}

/// Tells the user something; nobody may listen.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
