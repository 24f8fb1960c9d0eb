//! Two anonymous pipes as a connection that never blocks. Such pipes can neither be waited for nor
//! be asked whether they take more; so a thread of its own reads the one, and another writes
//! the other, each started when it is first needed.
//!
//! A thread that waits for the peer stays behind when the connection is dropped, until the
//! peer reads, writes or ends: whoever starts a process also ends it.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::windows::io::{BorrowedHandle, OwnedHandle};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::handing::{HANDED_BYTES, Handing};
use crate::os::{Received, Sent};

const READ_SIZE: usize = 64 << 10;
/// The most bytes that are read before anybody takes them in.
const MOST_UNREAD: usize = 1 << 20;
/// Waits for events end with the system's clock, which ticks 64 times a second; shorter ones
/// sleep, since `std::thread::sleep` has timers that are finer.
const TICK: Duration = Duration::from_millis(16);

/// What the threads and the connection share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    incoming: Vec<u8>,
    /// How reading has ended: in good order, or not.
    ended: Option<Option<io::Error>>,
    outgoing: VecDeque<Vec<u8>>,
    unsent: usize,
    /// Nobody reads any more.
    gone: bool,
    /// The connection was dropped.
    dropped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as long as `blocks` says so.
    fn while_blocked(&self, mut blocks: impl FnMut(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while blocks(&state) {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state
    }
}

/// Both pipes.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    handing: Handing,
    /// Until their threads are started.
    source: Mutex<Option<PipeReader>>,
    target: Mutex<Option<PipeWriter>>,
}

impl Connection {
    /// Over the pipe that the peer writes, and the one that it reads.
    pub(crate) fn new(source: PipeReader, target: PipeWriter, handing: Handing) -> Self {
        Self {
            shared: Arc::default(),
            handing,
            source: Mutex::new(Some(source)),
            target: Mutex::new(Some(target)),
        }
    }

    /// Bytes that were taken but not written yet.
    pub(crate) fn unsent(&self) -> usize {
        self.shared.lock().unsent
    }

    /// What is to be kept until its frame is sent (nothing), and what the frame says of it.
    pub(crate) fn hand_over(
        &self,
        handed: BorrowedHandle<'_>,
    ) -> io::Result<(Option<OwnedHandle>, [u8; HANDED_BYTES])> {
        Ok((None, self.handing.hand_over(handed)?))
    }

    /// The handle that came with a frame.
    pub(crate) fn take_handed(&self, description: &[u8]) -> Option<OwnedHandle> {
        self.handing.take(description)
    }

    /// Takes all of it, for the thread that writes.
    pub(crate) fn send_some(&self, bytes: &[u8], _: Option<&OwnedHandle>) -> io::Result<Sent> {
        self.start_writing()?;
        let mut state = self.shared.lock();
        if state.gone {
            return Ok(Sent::Gone);
        }
        state.unsent += bytes.len();
        state.outgoing.push_back(bytes.to_vec());
        drop(state);
        self.shared.changed.notify_all();
        Ok(Sent::Bytes(bytes.len()))
    }

    /// Takes in what was read.
    pub(crate) fn receive_some(&self, into: &mut Vec<u8>) -> io::Result<Received> {
        self.start_reading()?;
        let mut state = self.shared.lock();
        if !state.incoming.is_empty() {
            into.append(&mut state.incoming);
            drop(state);
            self.shared.changed.notify_all();
            return Ok(Received::Bytes);
        }
        match &mut state.ended {
            None => Ok(Received::Nothing),
            Some(None) => Ok(Received::End),
            Some(error) => Err(error.take().unwrap_or_else(|| io::ErrorKind::Other.into())),
        }
    }

    /// Waits for something to receive (`news`), or until all is sent (`room`). Whether there is
    /// something to receive. Waits shorter than a [`TICK`] only look at their ends.
    pub(crate) fn wait(&self, news: bool, room: bool, longest: Duration) -> io::Result<bool> {
        if news {
            self.start_reading()?;
        }
        let has_news = |state: &State| !state.incoming.is_empty() || state.ended.is_some();
        let is_over = |state: &State| (news && has_news(state)) || (room && state.unsent == 0);
        let deadline = Instant::now() + longest;
        let mut state = self.shared.lock();
        while !is_over(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if left < TICK {
                drop(state);
                std::thread::sleep(left);
                state = self.shared.lock();
                break;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(has_news(&state))
    }

    fn start_reading(&self) -> io::Result<()> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(source) = source.take() else {
            return Ok(());
        };
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new()
            .name("channel-in".to_owned())
            .spawn(move || read_all(source, &shared))
            .map(drop)
    }

    fn start_writing(&self) -> io::Result<()> {
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(target) = target.take() else {
            return Ok(());
        };
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new()
            .name("channel-out".to_owned())
            .spawn(move || write_all(target, &shared))
            .map(drop)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.lock().dropped = true;
        self.shared.changed.notify_all();
    }
}

fn read_all(mut source: PipeReader, shared: &Shared) {
    let mut bytes = vec![0; READ_SIZE];
    loop {
        let is_full = |state: &State| state.incoming.len() >= MOST_UNREAD;
        if shared
            .while_blocked(|state| is_full(state) && !state.dropped)
            .dropped
        {
            return;
        }
        let read = source.read(&mut bytes);
        let mut state = shared.lock();
        match read {
            Ok(0) => state.ended = Some(None),
            Ok(count) => state
                .incoming
                .extend_from_slice(bytes.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => state.ended = Some(Some(error)),
        }
        let is_over = state.ended.is_some();
        drop(state);
        shared.changed.notify_all();
        if is_over {
            return;
        }
    }
}

/// Writes until the peer is gone, or the connection is dropped and all is written.
fn write_all(mut target: PipeWriter, shared: &Shared) {
    loop {
        let mut state = shared.while_blocked(|state| state.outgoing.is_empty() && !state.dropped);
        let Some(bytes) = state.outgoing.pop_front() else {
            return;
        };
        drop(state);
        for part in bytes.chunks(READ_SIZE) {
            let written = target.write_all(part);
            let mut state = shared.lock();
            if written.is_err() {
                state.gone = true;
                state.outgoing.clear();
                state.unsent = 0;
            } else {
                state.unsent -= part.len();
            }
            drop(state);
            shared.changed.notify_all();
            if written.is_err() {
                return;
            }
        }
    }
}
