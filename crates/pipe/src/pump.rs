//! The pump: one thread for each direction, and words that tell the other end how
//! this one is doing.
//!
//! Memory is bounded by the region and one buffer each way. A thread that is blocked
//! in its program's input or output is left behind when the pump is dropped; it holds
//! the memory mapped, writes nothing more, and ends when that call returns.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use vmshm_link::LinkError;
use vmshm_link::duplex::{self, EndState, EndWords, PipeEnd, Side};
use vmshm_link::stream::{Received, StreamReader, StreamWriter};
use vmshm_link::wait::Backoff;
use vmshm_shm::SharedMemory;

use crate::pause::pause;

const BUFFER: usize = 1 << 18;
/// Looks without a system call before yielding; few, since the peer may need this
/// very processor (a guest with one CPU, an emulator's thread).
const SPINS: u32 = 128;
/// The longest sleep between two looks at the other end's words: what an idle pipe costs
/// (fifty looks a second each way), and the longest that a first byte waits.
const LONGEST_SLEEP_MICROS: u32 = 20_000;

/// How far a pipe has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The other end is not there yet.
    WaitingForPeer,
    /// Bytes may flow.
    Running,
    /// Both directions have ended.
    Done,
}

/// Why a pipe ended before both directions had.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// The agent knows the other end's process to be dead.
    #[error("the other end of the pipe has died")]
    PeerDied,
    /// The other end gave up.
    #[error("the other end of the pipe was interrupted")]
    PeerAborted,
    /// What the memory or the peer did.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Reading the input or writing the output failed.
    #[error("{what} failed")]
    Io {
        /// "reading the input" or "writing the output".
        what: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A thread of the pump panicked: a bug.
    #[error("a thread of the pipe failed")]
    Thread,
}

#[derive(Debug, Default)]
struct Flags {
    stop: AtomicBool,
    output_closed: AtomicBool,
}

type Direction = JoinHandle<Result<(), PumpError>>;

/// A running pipe.
#[derive(Debug)]
pub struct Pump<M> {
    words: EndWords<M>,
    flags: Arc<Flags>,
    sender: Option<Direction>,
    receiver: Option<Direction>,
    said_stopped: bool,
    said_finished: bool,
}

impl<M: SharedMemory + Clone + Send + 'static> Pump<M> {
    /// Opens `side`'s end of the pipe in `memory`, and moves bytes from `input` to the
    /// other end and from the other end to `output` until both directions end.
    ///
    /// `tenure` is asked before each piece, an eighth of a direction's ring at most, and
    /// ends the pipe where the memory is not this side's any more.
    ///
    /// # Errors
    /// What the memory did.
    pub fn start(
        memory: M,
        side: Side,
        tenure: impl Fn() -> Result<(), LinkError> + Clone + Send + 'static,
        input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
    ) -> Result<Self, LinkError> {
        let flags = Arc::new(Flags::default());
        let end = PipeEnd::open(memory.clone(), side)?;
        let sender = Sender {
            memory,
            peer: side.other(),
            writer: end.writer,
            tenure: tenure.clone(),
            flags: Arc::clone(&flags),
        };
        let receiver = Receiver {
            reader: end.reader,
            tenure,
            flags: Arc::clone(&flags),
        };
        Ok(Self {
            words: end.words,
            flags,
            sender: Some(thread::spawn(move || sender.run(input))),
            receiver: Some(thread::spawn(move || receiver.run(output))),
            said_stopped: false,
            said_finished: false,
        })
    }

    /// Tells the other end that this one lives, and looks how both are doing. Call it
    /// several times a second.
    ///
    /// # Errors
    /// [`PumpError`]; the pipe is over then.
    pub fn poll(&mut self) -> Result<Progress, PumpError> {
        finish(&mut self.sender)?;
        finish(&mut self.receiver)?;
        self.words.verify()?;
        self.words.beat()?;
        if self.flags.output_closed.load(Ordering::Relaxed) && !self.said_stopped {
            self.said_stopped = true;
            self.words.say(EndState::StoppedReading)?;
        }
        if self.sender.is_none() && self.receiver.is_none() {
            // Whoever gave up may not have taken the last bytes.
            if self.words.peer_state()? == EndState::Aborted {
                return Err(PumpError::PeerAborted);
            }
            if !self.said_finished {
                self.said_finished = true;
                self.words.say(EndState::Finished)?;
            }
            return Ok(Progress::Done);
        }
        match self.words.peer_state()? {
            EndState::Absent => {}
            EndState::Aborted => return Err(PumpError::PeerAborted),
            EndState::Finished => return Ok(Progress::Running),
            EndState::Open | EndState::StoppedReading => {
                if self.words.peer_is_lost()? {
                    return Err(PumpError::PeerDied);
                }
                return Ok(Progress::Running);
            }
        }
        if self.words.peer_is_lost()? {
            return Err(PumpError::PeerDied);
        }
        Ok(Progress::WaitingForPeer)
    }

    /// Count of the other end's heartbeats.
    ///
    /// # Errors
    /// What the memory did.
    pub fn peer_pulse(&self) -> Result<u64, LinkError> {
        self.words.peer_pulse()
    }

    /// Tells the other end that this one gives up.
    pub fn abort(mut self) {
        // The memory may be gone; then there is nobody to tell.
        let _ = self.words.say(EndState::Aborted);
    }
}

impl<M> Drop for Pump<M> {
    fn drop(&mut self) {
        self.flags.stop.store(true, Ordering::Relaxed);
    }
}

/// Takes the result of a direction that has ended.
fn finish(direction: &mut Option<Direction>) -> Result<(), PumpError> {
    if direction.as_ref().is_some_and(JoinHandle::is_finished)
        && let Some(handle) = direction.take()
    {
        return handle.join().map_err(|_| PumpError::Thread)?;
    }
    Ok(())
}

struct Sender<M, T> {
    memory: M,
    peer: Side,
    writer: StreamWriter<M>,
    tenure: T,
    flags: Arc<Flags>,
}

impl<M, T> Sender<M, T>
where
    M: SharedMemory + Clone,
    T: Fn() -> Result<(), LinkError>,
{
    fn run(mut self, mut input: impl Read) -> Result<(), PumpError> {
        if !self.wait_for_peer()? {
            return Ok(());
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(PumpError::Io {
                        what: "reading the input",
                        source,
                    });
                }
            };
            if !self.send(buffer.get(..count).unwrap_or_default())? {
                break;
            }
        }
        let mut backoff = Backoff::new(SPINS, LONGEST_SLEEP_MICROS);
        // An end that has stopped reading still empties the ring, to see this end record.
        loop {
            (self.tenure)()?;
            if self.writer.try_end()? || self.peer_has_left()? {
                return Ok(());
            }
            pause(&mut backoff);
        }
    }

    /// Sends all of `bytes`; `false` when nobody takes them any more.
    fn send(&mut self, bytes: &[u8]) -> Result<bool, PumpError> {
        let mut left = bytes;
        let mut backoff = Backoff::new(SPINS, LONGEST_SLEEP_MICROS);
        while !left.is_empty() {
            let piece = left.len().min(self.writer.chunk());
            (self.tenure)()?;
            let count = self
                .writer
                .try_write(left.get(..piece).unwrap_or_default())?;
            left = left.get(count..).unwrap_or_default();
            if count > 0 {
                backoff.reset();
            } else if self.is_over()? {
                return Ok(false);
            } else {
                pause(&mut backoff);
            }
        }
        Ok(!self.is_over()?)
    }

    fn wait_for_peer(&self) -> Result<bool, PumpError> {
        let mut backoff = Backoff::new(SPINS, LONGEST_SLEEP_MICROS);
        while duplex::state_of(&self.memory, self.peer)? == EndState::Absent {
            if self.flags.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            pause(&mut backoff);
        }
        Ok(true)
    }

    /// Whether sending on makes no sense.
    fn is_over(&self) -> Result<bool, LinkError> {
        let peer = duplex::state_of(&self.memory, self.peer)?;
        Ok(peer == EndState::StoppedReading || self.peer_has_left()?)
    }

    fn peer_has_left(&self) -> Result<bool, LinkError> {
        let peer = duplex::state_of(&self.memory, self.peer)?;
        let left = matches!(peer, EndState::Finished | EndState::Aborted);
        Ok(left || self.flags.stop.load(Ordering::Relaxed))
    }
}

struct Receiver<M, T> {
    reader: StreamReader<M>,
    tenure: T,
    flags: Arc<Flags>,
}

impl<M, T> Receiver<M, T>
where
    M: SharedMemory + Clone,
    T: Fn() -> Result<(), LinkError>,
{
    fn run(mut self, mut output: impl Write) -> Result<(), PumpError> {
        let mut buffer = vec![0; BUFFER];
        let mut backoff = Backoff::new(SPINS, LONGEST_SLEEP_MICROS);
        let mut flushed = true;
        loop {
            if self.flags.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            (self.tenure)()?;
            match self.reader.try_read(&mut buffer)? {
                Received::Bytes(count) => {
                    backoff.reset();
                    flushed = false;
                    if !self.output_closed() {
                        let bytes = buffer.get(..count).unwrap_or_default();
                        self.accept(output.write_all(bytes))?;
                    }
                }
                Received::Nothing if !flushed => {
                    flushed = true;
                    self.accept(output.flush())?;
                }
                Received::Nothing => pause(&mut backoff),
                Received::End => {
                    return self.accept(output.flush());
                }
            }
        }
    }

    fn output_closed(&self) -> bool {
        self.flags.output_closed.load(Ordering::Relaxed)
    }

    /// A reader of ours that has left is no failure: the rest is thrown away, and the
    /// other end told.
    fn accept(&self, outcome: io::Result<()>) -> Result<(), PumpError> {
        match outcome {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.flags.output_closed.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(source) => Err(PumpError::Io {
                what: "writing the output",
                source,
            }),
        }
    }
}

#[cfg(test)]
#[path = "pump_tests.rs"]
mod tests;
