//! The rounds in which pieces are changed: each stops the process, or one thread of it, runs one
//! chain of calls there, and leaves the process with its memory whole.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::ahead;
use crate::chain::Call;
use crate::change::{Change, Contents, parts};
use crate::injected;
use crate::origin::{self, OpenOrigin, origin_of};
use crate::pieces::{FileNumber, Piece, standing};
use crate::process;
use crate::refusal::{GraftError, Refusal};
use crate::step::Watch;
use crate::tracer::{Held, Tracer, Victim};

/// How many injected calls a round has at most: what the smallest stacks hold, and not
/// more than a few milliseconds' worth.
const CALLS: [usize; 3] = [96, 24, 4];

/// The same where one thread is borrowed while the others run: it shall not miss them for more
/// than about half a millisecond at a time, and nobody sees the pieces in between.
const CALLS_BESIDE_OTHERS: [usize; 2] = [16, 4];

/// How often something is tried for which a busy machine had no time.
const ATTEMPTS: u32 = 10;

/// The priority that goes before all others.
const FIRST: i32 = -20;

/// How many rounds may change nothing before it is given up.
const IDLE_ROUNDS: usize = 3;

/// How long the process, or a part of it, stood still in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pause {
    /// From the first thread that was asked to stop until the last one stood.
    pub stopping: Duration,
    /// From then on until all ran again.
    pub standing: Duration,
}

/// Changes pieces, as many at a time as a chain holds, until none is left.
pub(crate) fn rounds(
    pid: u32,
    pieces: &[Piece],
    file: FileNumber,
    change: &Change<'_>,
    contents: Contents,
    watch: Watch<'_>,
    pauses: &mut Vec<Pause>,
) -> Result<(), GraftError> {
    let limits: &[usize] = match contents {
        Contents::Keep | Contents::KeepAtOnce => &CALLS,
        Contents::Forget => &CALLS_BESIDE_OTHERS,
    };
    let mut limits = limits.iter().copied();
    let mut limit = limits.next().unwrap_or(4);
    // Reading them takes long. What the rounds have not changed keeps its flags.
    let mut areas = None;
    let mut idle = 0;
    let mut before = usize::MAX;
    loop {
        let victim = Victim::find(pid)?;
        let left = change.left(standing(pieces, &victim.mappings, Some(file)));
        if left.is_empty() {
            return Ok(());
        }
        idle = if left.len() < before { 0 } else { idle + 1 };
        before = left.len();
        if idle > IDLE_ROUNDS {
            return Err(GraftError::Incomplete {
                left: left.len(),
                all: pieces.len(),
            });
        }
        let areas = match &mut areas {
            Some(areas) => areas,
            none => none.insert(process::areas(pid).map_err(|_| Refusal::Gone { pid })?),
        };
        let mut taken = Vec::new();
        let mut calls = Vec::new();
        let mut room = change.most_bytes(contents);
        for part in parts(left, &victim.mappings, areas)? {
            let length = part.piece.length;
            taken.push(part);
            let more = change.calls(&taken, contents);
            if (more.len() > limit || length > room) && !calls.is_empty() {
                taken.pop();
                break;
            }
            room = room.saturating_sub(length);
            calls = more;
        }
        let batch: Vec<Piece> = taken.into_iter().map(|part| part.piece).collect();
        match round(&victim, &batch, &calls, change, contents, watch) {
            Ok(pause) => pauses.push(pause),
            // A smaller round may still fit.
            Err(GraftError::Refused(Refusal::NoRoom)) => {
                limit = limits.next().ok_or(Refusal::NoRoom)?;
            }
            // What was let go goes on by itself; the next round looks at what came of it.
            Err(GraftError::Busy) => {}
            Err(other) => return Err(other),
        }
    }
}

/// One chain of calls.
fn round(
    victim: &Victim,
    batch: &[Piece],
    calls: &[Call],
    change: &Change<'_>,
    contents: Contents,
    watch: Watch<'_>,
) -> Result<Pause, GraftError> {
    let threads = match contents {
        Contents::Forget => victim.threads_to_borrow()?,
        Contents::Keep | Contents::KeepAtOnce => Vec::new(),
    };
    attempt(victim, watch, |tracer| {
        let began = Instant::now();
        let (borrowed, others) = match contents {
            Contents::Forget => {
                let held = tracer.stop_one(&threads, injected::WORD, calls.len() + 1)?;
                (held, Vec::new())
            }
            Contents::Keep | Contents::KeepAtOnce => {
                let mut all = tracer.stop_all()?;
                let held = tracer.choose(&mut all, injected::WORD, calls.len() + 1)?;
                (held, all)
            }
        };
        let stood = Instant::now();
        let copy = || match change {
            Change::Graft { view, ahead, .. } if contents.are_kept() => {
                let pid = victim.pid;
                ahead::complete(*ahead, view, pid, batch).map_err(|error| GraftError::System {
                    what: "copy the region's bytes",
                    error,
                })
            }
            Change::Undo { file, origins, .. } => copy_back(file, batch, origins),
            _ => Ok(()),
        };
        tracer.run(&borrowed, &others, calls.to_vec(), copy)?;
        Ok(Pause {
            stopping: stood - began,
            standing: stood.elapsed(),
        })
    })
}

/// Copies what belongs into files of shared memory back there.
fn copy_back(file: &OwnedFd, batch: &[Piece], origins: &[OpenOrigin]) -> Result<(), GraftError> {
    for piece in batch {
        if let Some(place) = origin_of(origins, piece) {
            origin::copy_back(file, piece, place).map_err(|error| GraftError::System {
                what: "copy the bytes back",
                error,
            })?;
        }
    }
    Ok(())
}

/// Stops all and lets them go, to be sure that nobody is on an old chain any more.
pub(crate) fn settle(pid: u32, watch: Watch<'_>) -> Result<Pause, GraftError> {
    let victim = Victim::find(pid)?;
    attempt(&victim, watch, |tracer| {
        let began = Instant::now();
        let held: Vec<Held> = tracer.stop_all()?;
        let stood = Instant::now();
        tracer.release(&held)?;
        Ok(Pause {
            stopping: stood - began,
            standing: stood.elapsed(),
        })
    })
}

/// Does something on a thread of its own, whose end releases what is traced, and again
/// where the machine had no time.
pub(crate) fn attempt<T: Send>(
    victim: &Victim,
    watch: Watch<'_>,
    mut work: impl FnMut(&mut Tracer<'_>) -> Result<T, GraftError> + Send,
) -> Result<T, GraftError> {
    let mut tried = 0;
    loop {
        let result = thread::scope(|scope| {
            let traced = || {
                // The VM may wait for this thread: others shall not make it longer. Only some
                // may ask for that.
                let _ = rustix::process::setpriority_process(None, FIRST);
                work(&mut Tracer::new(victim, &mut *watch))
            };
            let thread = thread::Builder::new()
                .name("vmshm-graft".to_owned())
                .spawn_scoped(scope, traced)
                .map_err(|_| GraftError::System {
                    what: "start a thread",
                    error: Errno::AGAIN,
                })?;
            thread.join().map_err(|_| GraftError::System {
                what: "trace the process",
                error: Errno::CANCELED,
            })?
        });
        match result {
            Err(GraftError::TooSlow { .. } | GraftError::Busy) if tried < ATTEMPTS => {
                tracing::debug!(pid = victim.pid, tried, "the process is busy; trying again");
                thread::sleep(Duration::from_millis(1 << tried.min(8)));
                tried += 1;
            }
            other => return other,
        }
    }
}
