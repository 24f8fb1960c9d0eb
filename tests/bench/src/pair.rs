//! `one-way-64B-host`: 64 bytes from one process to another and back, through our ring of records, through iceoryx2's
//! publish-subscribe, and over the bare cache lines, in turns.
//!
//! The other process is this program again ([`answer`]). It stands ready for all three ways at once and answers by the
//! one whose turn it is. It ends with its parent, and what iceoryx2 keeps in files is removed in any case.

mod iceoryx;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vmshm_link::bench::{Answerer, Asker, BULK, MESSAGE, Turn};
use vmshm_shm::Mapping;

use crate::interruption;
use crate::latency::{Latency, time};
use crate::measurement::{Measurement, Plan, Round, rounds};
use crate::memory;
use crate::processors::pin;
use crate::waiting::Waiting;
use iceoryx::{Files, Topic};

/// The turn of the peer.
const PEER: Turn = Turn::Other(0x1ce);
/// Looks between two at the clock or at signals.
const LOOKS: u32 = 1 << 16;
/// An answer that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// The row.
pub fn measure(plan: &Plan) -> Result<Measurement> {
    let (file, memory) = memory::shared(BULK)?;
    let memory = Arc::new(memory);
    Asker::prepare(&memory)?;
    let files = Files::new()?;
    let topic = Topic::open(&files.config()?, true)?;
    let other = Other::start(file.as_raw_fd(), plan.processors.second, &files)?;
    pin(plan.processors.first)?;
    let mut ends = Ends {
        asker: Asker::start(memory)?,
        topic,
    };
    let messages = ends.messages(plan.part)?;
    let mut waiting = Waiting::of(vec![std::process::id(), other.child.id()]);
    let rounds = rounds(plan, &mut waiting, |number| {
        let (ours, floor, peer) = if number % 2 == 0 {
            (
                ends.ours(messages)?,
                ends.floor(messages)?,
                ends.peer(messages)?,
            )
        } else {
            let peer = ends.peer(messages)?;
            let floor = ends.floor(messages)?;
            (ends.ours(messages)?, floor, peer)
        };
        Ok(Round {
            ours: ours.p50,
            peer: Some(peer.p50),
            floor: Some(floor.p50),
            ours_p999: Some(ours.p999),
            peer_p999: Some(peer.p999),
            floor_p999: Some(floor.p999),
            waited: 0.0,
        })
    })?;
    let mut additional = serde_json::Map::new();
    additional.insert("messages_per_round".into(), messages.into());
    Ok(Measurement {
        name: "one-way-64B-host",
        unit: "ns",
        better: "lower",
        peer_name: Some("iceoryx2 publish-subscribe"),
        rounds,
        additional,
    })
}

/// The measuring process's ends of all three ways.
struct Ends {
    asker: Asker<Arc<Mapping>>,
    topic: Topic,
}

impl Ends {
    /// How many messages by the slowest way take about `part`.
    fn messages(&mut self, part: Duration) -> Result<usize> {
        const TRIAL: usize = 4000;
        let trial = self.peer(TRIAL)?;
        let wanted = part.as_secs_f64() * 1e9 / (trial.p50 * 2.0).max(1.0);
        Ok((wanted as usize).max(1000))
    }

    fn ours(&mut self, messages: usize) -> Result<Latency> {
        self.asker.turn_to(Turn::Records)?;
        time(messages, |number| {
            let (message, mut back) = (message(number), [0; MESSAGE]);
            until(|| Ok(self.asker.try_send_record(&message)?))?;
            until(|| Ok(self.asker.try_receive_record(&mut back)?))?;
            compare(&message, &back)
        })
    }

    fn floor(&mut self, messages: usize) -> Result<Latency> {
        self.asker.turn_to(Turn::Line)?;
        time(messages, |number| {
            let (message, mut back) = (message(number), [0; MESSAGE]);
            self.asker.send_line(&message)?;
            until(|| Ok(self.asker.try_receive_line(&mut back)?))?;
            compare(&message, &back)
        })
    }

    fn peer(&mut self, messages: usize) -> Result<Latency> {
        self.asker.turn_to(PEER)?;
        time(messages, |number| {
            let (message, mut back) = (message(number), [0; MESSAGE]);
            self.topic.send(&message)?;
            until(|| self.topic.try_receive(&mut back))?;
            compare(&message, &back)
        })
    }
}

fn message(number: u64) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    message[..8].copy_from_slice(&number.to_le_bytes());
    message
}

fn compare(sent: &[u8; MESSAGE], back: &[u8; MESSAGE]) -> Result<()> {
    ensure!(sent == back, "another message came back than was sent");
    Ok(())
}

/// Spins until `done`. Signals and the clock are looked at only when it takes long.
fn until(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let (mut looks, mut start) = (0, None);
    while !done()? {
        std::hint::spin_loop();
        looks += 1;
        if looks == LOOKS {
            looks = 0;
            interruption::check()?;
            if start.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                bail!("no answer within {} s", PATIENCE.as_secs());
            }
        }
    }
    Ok(())
}

/// The other process.
struct Other {
    child: Child,
}

impl Other {
    /// Starts it and waits until it is ready.
    fn start(file: i32, processor: usize, files: &Files) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([
            "--answer",
            &format!("/proc/{}/fd/{file}", std::process::id()),
        ]);
        command.args(["--processor", &processor.to_string()]);
        command.arg("--files").arg(files.directory());
        command.args(["--prefix", files.prefix()]);
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the other process")?;
        let mut other = Self { child };
        let mut line = String::new();
        if let Some(output) = other.child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        ensure!(line == "ready\n", "the other process did not start");
        Ok(other)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // The end of its input is how it is told to end, so that it removes what it made.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What the other process is told.
#[derive(clap::Args, Debug)]
pub struct Answer {
    /// The shared memory's file
    #[arg(long = "answer", hide = true, requires_all = ["processor", "files", "prefix"])]
    memory: Option<std::path::PathBuf>,
    /// Where to run
    #[arg(long, hide = true)]
    processor: Option<usize>,
    /// Where iceoryx2's files are
    #[arg(long, hide = true)]
    files: Option<std::path::PathBuf>,
    /// How its shared memory's names begin
    #[arg(long, hide = true)]
    prefix: Option<String>,
}

impl Answer {
    /// Whether this is the other process.
    pub fn is_asked(&self) -> bool {
        self.memory.is_some()
    }
}

/// The other process: answers until its input ends.
pub fn answer(answer: &Answer) -> Result<()> {
    let given = answer.memory.as_ref().zip(answer.processor);
    let files = answer.files.as_ref().zip(answer.prefix.as_ref());
    let (((memory, processor), (directory, prefix)), ended) =
        (given.zip(files).context("not all is said")?, input_end());
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(memory)
        .context("cannot open the shared memory")?;
    let memory = Arc::new(memory::map(&file, BULK)?);
    let mut topic = Topic::open(&iceoryx::config(directory, prefix)?, false)?;
    let mut answerer = Answerer::start(memory)?;
    pin(processor)?;
    let mut output = std::io::stdout();
    output.write_all(b"ready\n")?;
    output.flush()?;
    let mut looks = 0;
    let mut message = [0; MESSAGE];
    loop {
        if answerer.turn() == PEER && topic.try_receive(&mut message)? {
            topic.send(&message)?;
            continue;
        }
        if answerer.look()? {
            continue;
        }
        std::hint::spin_loop();
        looks += 1;
        if looks == LOOKS {
            looks = 0;
            if ended.is_finished() {
                return Ok(());
            }
        }
    }
}

/// Ends when standard input does.
fn input_end() -> std::thread::JoinHandle<()> {
    std::thread::spawn(|| drop(std::io::stdin().lock().read_to_end(&mut Vec::new())))
}
