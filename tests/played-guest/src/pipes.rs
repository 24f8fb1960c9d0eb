//! The played guest's ends of pipes: each sends as many bytes as it was told, and hashes what it gets.
//!
//! Orders: `NAME send BYTES` waits for the host's end; `NAME state` says `waiting`, `running`, `failed …`, or
//! `done received=N hash=… sent=N hash=…` with SHA-256 in hex.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use sha2::{Digest, Sha256};
use vmshm_link::directory::RegionKind;
use vmshm_link::duplex::Side;
use vmshm_pipe::{Progress, Pump};

use crate::guest::Guest;
use crate::ram::{GuestMemory, Window};

/// All ends that were ordered.
pub(crate) struct Pipes<M>(Vec<End<M>>);

impl<M> Default for Pipes<M> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

struct End<M> {
    name: String,
    send: u64,
    sent: Counted,
    received: Counted,
    state: State<M>,
}

enum State<M> {
    Waiting,
    Running(Pump<Window<M>>),
    Done,
    Failed(String),
}

impl<M: GuestMemory> Pipes<M> {
    /// The guest has started again: its programs are gone.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }

    /// Carries out an order.
    pub(crate) fn obey(&mut self, order: &str) -> String {
        let words: Vec<&str> = order.split(' ').collect();
        match words[..] {
            [name, "send", bytes] => {
                self.0.retain(|end| end.name != name);
                self.0.push(End {
                    name: name.to_owned(),
                    send: bytes.parse().expect("a number of bytes"),
                    sent: Counted::default(),
                    received: Counted::default(),
                    state: State::Waiting,
                });
                String::new()
            }
            [name, "state"] => match self.0.iter().find(|end| end.name == name) {
                Some(end) => end.say(),
                None => "nobody".to_owned(),
            },
            _ => panic!("what is pipe {order:?}?"),
        }
    }
}

impl<M> End<M> {
    fn say(&self) -> String {
        match &self.state {
            State::Waiting => "waiting".to_owned(),
            State::Running(_) => "running".to_owned(),
            State::Failed(why) => format!("failed {why}"),
            State::Done => {
                let [received, sent] = [&self.received, &self.sent].map(Counted::say);
                format!("done received={received} sent={sent}")
            }
        }
    }
}

impl<M: GuestMemory> Guest<M> {
    /// Starts ends whose region is ready, and looks how the others are doing.
    pub(crate) fn pump(&mut self) {
        let mut pipes = std::mem::take(&mut self.pipes);
        for end in &mut pipes.0 {
            match &mut end.state {
                State::Waiting => {
                    let found = self.find(&end.name).map(|index| &self.regions[index]);
                    let ready = found.filter(|one| one.ready && one.kind == RegionKind::Pipe);
                    let Some(region) = ready else {
                        continue;
                    };
                    let input = Source {
                        left: end.send,
                        random: 1,
                        counted: end.sent.clone(),
                    };
                    let memory = self.memory(region);
                    let output = end.received.clone();
                    end.state = match Pump::start(memory, Side::Guest, || Ok(()), input, output) {
                        Ok(pump) => State::Running(pump),
                        Err(error) => State::Failed(error.to_string()),
                    };
                }
                State::Running(pump) => match pump.poll() {
                    Ok(Progress::Done) => end.state = State::Done,
                    Ok(_) => {}
                    Err(error) => end.state = State::Failed(error.to_string()),
                },
                State::Done | State::Failed(_) => {}
            }
        }
        self.pipes = pipes;
    }
}

/// Bytes that were counted and hashed.
#[derive(Clone, Default)]
struct Counted(Arc<Mutex<(u64, Sha256)>>);

impl Counted {
    fn lock(&self) -> MutexGuard<'_, (u64, Sha256)> {
        self.0.lock().expect("nobody panics with it")
    }

    fn add(&self, bytes: &[u8]) {
        let mut all = self.lock();
        all.0 += bytes.len() as u64;
        all.1.update(bytes);
    }

    fn say(&self) -> String {
        let all = self.lock();
        let mut text = format!("{} hash=", all.0);
        for byte in all.1.clone().finalize() {
            write!(text, "{byte:02x}").expect("a string takes it");
        }
        text
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that do not repeat soon.
struct Source {
    left: u64,
    random: u64,
    counted: Counted,
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let count = into.len().min(most);
        for word in into[..count].chunks_mut(8) {
            self.random = self
                .random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(99);
            let value = (self.random ^ self.random >> 29).to_le_bytes();
            word.copy_from_slice(&value[..word.len()]);
        }
        self.counted.add(&into[..count]);
        self.left -= count as u64;
        Ok(count)
    }
}
