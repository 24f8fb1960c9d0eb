//! The host's end of a pipe, `vmshm pipe`, fed with random bytes, and what comes out of it compared with them.

use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::bytes::{RandomBytes, hexadecimal};
use crate::patience::{LATER, wait_for_growth};
use crate::program::{Outcome, Running, vmshm};

/// How many bytes are written and read at once.
const CHUNK: usize = 1 << 16;

/// Bytes until the pipe is asked to finish, or ends.
pub const ENDLESS: u64 = u64::MAX;

/// A host's end that runs.
#[derive(Debug)]
pub struct HostPipe {
    running: Running,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<String>,
    receiver: JoinHandle<(String, Option<u64>)>,
    open: Option<Sender<()>>,
}

/// What a pipe's end has moved, and how it ended.
#[derive(Debug)]
pub struct Transfer {
    /// The end of `vmshm pipe` itself.
    pub outcome: Outcome,
    /// How many bytes went in.
    pub sent: u64,
    /// Their sha256.
    pub sent_hash: String,
    /// How many bytes came out.
    pub received: u64,
    /// Their sha256.
    pub received_hash: String,
    /// The first byte that came out and is not the one that went in at that place.
    pub first_difference: Option<u64>,
}

impl HostPipe {
    /// Starts the host's end of VM/NAME, and sends it so many random bytes. Its input stays open then, until
    /// [`HostPipe::finish`].
    #[must_use]
    pub fn start(path: &str, bytes: u64) -> Self {
        Self::start_over("auto", path, bytes)
    }

    /// The same, by one way of reaching the guest's memory.
    #[must_use]
    pub fn start_over(method: &str, path: &str, bytes: u64) -> Self {
        let mut running = vmshm(["pipe", path, "--method", method]).start();
        let input = running.stdin.take().expect("not taken yet");
        let output = running.stdout.take().expect("not taken yet");
        let (sent, received) = (Arc::default(), Arc::default());
        let (open, closed) = channel();
        let source = RandomBytes::new(RandomBytes::fresh_seed());
        let sender = {
            let (source, sent) = (source.clone(), Arc::clone(&sent));
            std::thread::spawn(move || send(input, source, bytes, &sent, &closed))
        };
        let receiver = {
            let received = Arc::clone(&received);
            std::thread::spawn(move || receive(output, source, &received))
        };
        Self {
            running,
            sent,
            received,
            sender,
            receiver,
            open: Some(open),
        }
    }

    /// The process itself.
    #[must_use]
    pub const fn process(&self) -> &Running {
        &self.running
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.running.is_running()
    }

    /// How many bytes have gone in.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How many bytes have come out.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until so many bytes have come out.
    ///
    /// # Panics
    /// When they do not come.
    pub fn wait_for_received(&self, bytes: u64) {
        wait_for_growth("bytes out of the pipe", LATER, bytes, || self.received());
    }

    /// Waits until so many bytes have gone in.
    ///
    /// # Panics
    /// When they do not.
    pub fn wait_for_sent(&self, bytes: u64) {
        wait_for_growth("bytes into the pipe", LATER, bytes, || self.sent());
    }

    /// Closes the input when all is sent (at once if it is endless), and waits for the end.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    #[must_use]
    pub fn finish(mut self, limit: Duration) -> Transfer {
        drop(self.open.take());
        self.end(limit)
    }

    /// Waits for the end, and sends until then.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    #[must_use]
    pub fn end(mut self, limit: Duration) -> Transfer {
        let outcome = self.running.wait(limit);
        drop(self.open.take());
        let sent_hash = self.sender.join().expect("the sender does not panic");
        let (received_hash, first_difference) =
            self.receiver.join().expect("the receiver does not panic");
        Transfer {
            outcome,
            sent: self.sent.load(Ordering::Relaxed),
            sent_hash,
            received: self.received.load(Ordering::Relaxed),
            received_hash,
            first_difference,
        }
    }
}

fn send(
    mut input: ChildStdin,
    mut source: RandomBytes,
    bytes: u64,
    sent: &AtomicU64,
    closed: &Receiver<()>,
) -> String {
    let mut hash = Sha256::new();
    let mut left = bytes;
    while left > 0 {
        if bytes == ENDLESS && closed.try_recv() != Err(TryRecvError::Empty) {
            break;
        }
        let count = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        let chunk = source.take(count);
        // A pipe that has ended takes nothing more.
        if input.write_all(&chunk).is_err() {
            break;
        }
        hash.update(&chunk);
        left -= count as u64;
        sent.fetch_add(count as u64, Ordering::Relaxed);
    }
    // Until nobody holds the other end.
    let _ = closed.recv();
    hexadecimal(&hash.finalize())
}

fn receive(
    mut output: ChildStdout,
    mut expected: RandomBytes,
    received: &AtomicU64,
) -> (String, Option<u64>) {
    let mut hash = Sha256::new();
    let mut first_difference = None;
    let mut buffer = vec![0; CHUNK];
    let mut ahead = Vec::new();
    while let Ok(count @ 1..) = output.read(&mut buffer) {
        let bytes = &buffer[..count];
        hash.update(bytes);
        while ahead.len() < count {
            ahead.extend(expected.take(CHUNK));
        }
        let differs = bytes
            .iter()
            .zip(&ahead)
            .position(|(one, other)| one != other);
        let before = received.fetch_add(count as u64, Ordering::Relaxed);
        if first_difference.is_none() {
            first_difference = differs.map(|place| before + place as u64);
        }
        ahead.drain(..count);
    }
    (hexadecimal(&hash.finalize()), first_difference)
}

impl Transfer {
    /// Checks that every byte came back, and that the pipe ended in good order.
    ///
    /// # Panics
    /// When not.
    #[track_caller]
    pub fn came_back(&self, bytes: u64) {
        assert_eq!(self.outcome.code, Some(0), "{}", self.outcome.errors);
        assert_eq!(self.first_difference, None, "the first wrong byte");
        assert_eq!((self.sent, self.received), (bytes, bytes));
        assert_eq!(self.sent_hash, self.received_hash);
    }

    /// Checks that what came back before the end is right.
    ///
    /// # Panics
    /// When not.
    #[track_caller]
    pub fn is_right_so_far(&self) {
        assert_eq!(self.first_difference, None, "the first wrong byte");
    }
}
