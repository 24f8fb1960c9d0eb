//! The played guest's side of `vmshm bench`: a thread that answers in a bench region until the host has measured enough,
//! or the region is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use vmshm_link::LinkError;
use vmshm_link::bench::{self, Answerer, Mode, PING, PONG, STOP};
use vmshm_link::own_word::OwnWord;
use vmshm_link::ring::{Consumer, Producer};
use vmshm_shm::SharedMemory;

use crate::ram::{GuestMemory, Window};

/// A bench that runs; it is ended when this is dropped.
pub(crate) struct Bench {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bench {
    /// Starts answering. When this returns the host may begin.
    pub(crate) fn start<M: GuestMemory>(memory: Window<M>, mode: Mode) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let before = memory.load_relaxed(STOP).expect("inside");
        let watched = memory.clone();
        let is_over = move || {
            let now = watched.load_relaxed(STOP).expect("inside");
            std::hint::spin_loop();
            flag.load(Ordering::Relaxed) || now != before
        };
        let thread = match mode {
            Mode::PingPong => {
                let ping = memory.load_relaxed(PING).expect("inside");
                let pong = OwnWord::start(&memory, PONG, ping, "bench's answer");
                let mut pong = pong.expect("inside");
                std::thread::spawn(move || {
                    while !is_over() {
                        // acquire: bench-ping
                        let ping = memory.load_acquire(PING).expect("inside");
                        if ping != pong.get() {
                            // release: bench-pong
                            pong.publish(&memory, ping).expect("only we write it");
                        }
                    }
                })
            }
            Mode::Echo => {
                let (to_host, to_guest) = bench::rings(memory.size()).expect("large enough");
                let producer = Producer::start(memory.clone(), to_host).expect("inside");
                let consumer = Consumer::start(memory, to_guest).expect("inside");
                std::thread::spawn(move || echo(producer, consumer, is_over).expect("a good host"))
            }
            Mode::Turns => {
                let mut answerer = Answerer::start(memory).expect("inside");
                std::thread::spawn(move || {
                    while !is_over() {
                        while answerer.look().expect("a good host") {}
                    }
                })
            }
        };
        Self {
            stop,
            thread: Some(thread),
        }
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

fn echo<M: GuestMemory>(
    mut producer: Producer<Window<M>>,
    mut consumer: Consumer<Window<M>>,
    is_over: impl Fn() -> bool,
) -> Result<(), LinkError> {
    let mut buffer = vec![0; 4096];
    while !is_over() {
        let Some((kind, length)) = consumer.try_pop(&mut buffer)? else {
            continue;
        };
        while !producer.try_push(kind, &buffer[..length])? {
            if is_over() {
                return Ok(());
            }
        }
    }
    Ok(())
}
