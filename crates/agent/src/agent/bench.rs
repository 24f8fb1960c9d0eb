//! The guest's side of `vmshm bench`: a thread that spins on a bench region while the
//! host measures. It ends when the host says so, when the session is over, or when
//! nothing has happened for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vmshm_link::LinkError;
use vmshm_link::bench::{self, Answerer, Mode, PATIENCE_MILLIS, PING, PONG, STOP};
use vmshm_link::own_word::OwnWord;
use vmshm_link::ring::{Consumer, Producer};
use vmshm_shm::SharedMemory;

use crate::window::Window;

/// Looks between two glances at the clock, which under user-mode Linux is a system
/// call.
const LOOKS_PER_GLANCE: u32 = 1 << 16;

/// A running bench.
#[derive(Debug)]
pub(crate) struct Bench {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bench {
    /// Starts answering in `memory`. When this returns, the host may begin.
    pub(crate) fn start(memory: Arc<Window>, mode: Mode) -> Result<Self, LinkError> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let patience = Patience::new(flag, memory.load_relaxed(STOP)?);
        let thread = match mode {
            Mode::PingPong => {
                // What stands there has been answered.
                let ping = memory.load_relaxed(PING)?;
                let pong = OwnWord::start(&memory, PONG, ping, "bench's answer")?;
                thread::spawn(move || {
                    let _ = answer_pings(&*memory, pong, patience);
                })
            }
            Mode::Echo => {
                let (to_host, to_guest) = bench::rings(memory.size())?;
                let producer = Producer::start(Arc::clone(&memory), to_host)?;
                let consumer = Consumer::start(Arc::clone(&memory), to_guest)?;
                thread::spawn(move || {
                    let _ = echo_records(&memory, producer, consumer, patience);
                })
            }
            Mode::Turns => {
                let answerer = Answerer::start(Arc::clone(&memory))?;
                thread::spawn(move || {
                    let _ = answer_turns(&memory, answerer, patience);
                })
            }
        };
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Whether it has ended by itself.
    pub(crate) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It looks at the flag all the time.
            let _ = thread.join();
        }
    }
}

/// When to give up. The clock is looked at seldom, and never while things happen.
struct Patience {
    stop: Arc<AtomicBool>,
    /// What the host's word said at the start.
    host_stop: u64,
    last: Option<Instant>,
    looks: u32,
}

impl Patience {
    const fn new(stop: Arc<AtomicBool>, host_stop: u64) -> Self {
        Self {
            stop,
            host_stop,
            last: None,
            looks: 0,
        }
    }

    /// Something has happened.
    const fn happened(&mut self) {
        self.last = None;
        self.looks = 0;
    }

    fn is_over<M: SharedMemory>(&mut self, memory: &M) -> Result<bool, LinkError> {
        if self.stop.load(Ordering::Relaxed) || memory.load_relaxed(STOP)? != self.host_stop {
            return Ok(true);
        }
        self.looks += 1;
        if self.looks < LOOKS_PER_GLANCE {
            return Ok(false);
        }
        self.looks = 0;
        let since = *self.last.get_or_insert_with(Instant::now);
        Ok(since.elapsed() > Duration::from_millis(PATIENCE_MILLIS))
    }
}

fn answer_pings<M: SharedMemory>(
    memory: &M,
    mut pong: OwnWord,
    mut patience: Patience,
) -> Result<(), LinkError> {
    loop {
        // acquire: bench-ping
        let ping = memory.load_acquire(PING)?;
        if ping != pong.get() {
            // release: bench-pong
            pong.publish(memory, ping)?;
            patience.happened();
        } else if patience.is_over(memory)? {
            return Ok(());
        } else {
            std::hint::spin_loop();
        }
    }
}

fn echo_records(
    memory: &Arc<Window>,
    mut producer: Producer<Arc<Window>>,
    mut consumer: Consumer<Arc<Window>>,
    mut patience: Patience,
) -> Result<(), LinkError> {
    let mut buffer = Vec::new();
    loop {
        let Some(record) = consumer.peek()? else {
            if patience.is_over(memory)? {
                return Ok(());
            }
            std::hint::spin_loop();
            continue;
        };
        let length = usize::try_from(record.length).unwrap_or_default();
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        consumer.read(record, 0, &mut buffer[..length])?;
        consumer.release(record)?;
        patience.happened();
        while !producer.try_push(record.kind, &buffer[..length])? {
            if patience.is_over(memory)? {
                return Ok(());
            }
            std::hint::spin_loop();
        }
    }
}

fn answer_turns(
    memory: &Arc<Window>,
    mut answerer: Answerer<Arc<Window>>,
    mut patience: Patience,
) -> Result<(), LinkError> {
    loop {
        if answerer.look()? {
            patience.happened();
        } else if patience.is_over(memory)? {
            return Ok(());
        } else {
            std::hint::spin_loop();
        }
    }
}
