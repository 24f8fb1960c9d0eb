//! To graft a region, and to undo it. Both look first at what is there, so that one
//! which died on its way is completed by the next; both go in rounds that each leave
//! the process with its memory whole.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vmshm_ram::MemoryMapping;

use crate::ahead::{self, Ahead};
use crate::chain::Call;
use crate::examine::{examine, no_right};
use crate::injected;
use crate::origin::{self, OpenOrigin, Origin, origin_of};
use crate::os::{FileView, Tracking};
use crate::pieces::{FileNumber, Piece, Standing, arrange, standing};
use crate::process::{self, Area};
use crate::refusal::{GraftError, Refusal};
use crate::region_file::{self, RegionFile};
use crate::step::{Step, Watch};
use crate::tracer::{Held, Tracer, Victim};

/// How many injected calls a round has at most: what the smallest stacks hold, and not
/// more than a few milliseconds' worth.
const CALLS: [usize; 3] = [96, 24, 4];

/// How often something is tried for which a busy machine had no time.
const ATTEMPTS: u32 = 10;

/// The priority that goes before all others.
const FIRST: i32 = -20;

/// How many rounds may change nothing before it is given up.
const IDLE_ROUNDS: usize = 3;

/// Whether anybody uses the pieces at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// The bytes stay the same, and every thread of the process stands still for the change.
    Keep,
    /// Nobody uses the pages: their bytes become zero, or stay what they are, and only one
    /// thread is borrowed.
    Forget,
}

/// What is to be grafted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// What tells it from all others of the VM: letters, digits and `-_.:`. The memory file
    /// is named `vmshm-<id>`.
    pub id: String,
    /// How long it is, in bytes.
    pub size: u64,
    /// Where it lies in the process.
    pub pieces: Vec<Piece>,
}

/// How long the process, or a part of it, stood still in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pause {
    /// From the first thread that was asked to stop until the last one stood.
    pub stopping: Duration,
    /// From then on until all ran again.
    pub standing: Duration,
}

/// A region that is grafted.
#[derive(Debug)]
pub struct Grafted {
    /// The sealed memory file that holds the region, all of it and nothing else.
    pub file: OwnedFd,
    /// Its number in the VMM's process.
    pub number: u32,
    /// The pauses, one for each round. Empty where it was grafted already.
    pub pauses: Vec<Pause>,
}

/// Puts a memory file in the place of a region's pieces. Grafting what is grafted
/// changes nothing; what was half done is completed. `partners` are processes that may
/// map the same memory, since they know of the change. `watch` is told of each step.
///
/// Lost is the advice that shared files cannot have (`MADV_MERGEABLE`), and a lock on
/// these pages alone (`mlock`).
///
/// # Errors
///
/// A [`Refusal`], or what came in between. The process runs on with its memory intact in
/// every case, and grafting again goes on with the rest.
pub fn graft(
    pid: u32,
    region: &Region,
    contents: Contents,
    partners: &[u32],
    watch: &mut (dyn FnMut(Step) + Send),
) -> Result<Grafted, GraftError> {
    let pieces = arrange(&region.pieces, region.size)?;
    let name = region_file::file_name(&region.id).ok_or(GraftError::System {
        what: "name the memory file",
        error: Errno::INVAL,
    })?;
    let found = region_file::find(pid, &name).map_err(|_| no_right(pid))?;
    let mappings = process::mappings(pid).map_err(|_| no_right(pid))?;
    let known = most_used(found, &pieces, &mappings);
    let before = standing(&pieces, &mappings, known.as_ref().map(|file| file.identity));
    if let Some(refusal) = examine(pid, &before.own, partners).into_iter().next() {
        return Err(refusal.into());
    }
    // What cannot be taken back is not begun.
    origin::open(pid, &origin::of(&mappings, &before.own))?;
    let mut pauses = Vec::new();
    if known.is_some() && !before.own.is_empty() {
        // Whoever began may have left threads that are not through yet.
        pauses.push(settle(pid, watch)?);
    }
    let mut file = match known {
        Some(file) => file,
        None => {
            check_filters(pid, &before.own, watch)?;
            create(pid, &name, watch, &mut pauses)?
        }
    };
    watch(Step::FileFound);
    region_file::settle(&mut file, region.size)?;
    let view =
        FileView::populated(&file.file, region.size).map_err(|error| GraftError::System {
            what: "fill the memory file with pages",
            error,
        })?;
    watch(Step::FileSealed);
    let own = standing(&pieces, &mappings, Some(file.identity)).own;
    let ahead = if contents == Contents::Keep {
        copy_ahead(pid, &own, &view, watch, &mut pauses)
    } else {
        None
    };
    let change = Change::Graft {
        view: &view,
        number: file.number,
        ahead: ahead.as_ref(),
    };
    rounds(
        pid,
        &pieces,
        file.identity,
        &change,
        contents,
        watch,
        &mut pauses,
    )?;
    Ok(Grafted {
        file: file.file,
        number: file.number,
        pauses,
    })
}

/// Makes a region's pieces private memory of the process again, and closes the memory
/// file there. What lay in a shared file before, and is named in `origins`, goes back there.
/// Holders of the file keep what was in it; what they write no longer
/// reaches the guest, and its mode, which is 0 from then on, says so.
///
/// # Errors
///
/// As [`graft`]; [`Refusal::NotGrafted`] where there is nothing to undo.
pub fn undo(
    pid: u32,
    region: &Region,
    contents: Contents,
    origins: &[Origin],
    watch: &mut (dyn FnMut(Step) + Send),
) -> Result<Vec<Pause>, GraftError> {
    let pieces = arrange(&region.pieces, region.size)?;
    let name = region_file::file_name(&region.id).ok_or(Refusal::NotGrafted)?;
    let found = region_file::find(pid, &name).map_err(|_| no_right(pid))?;
    if found.is_empty() {
        return Err(Refusal::NotGrafted.into());
    }
    let origins = origin::open(pid, origins)?;
    let mut pauses = vec![settle(pid, watch)?];
    for file in region_file::find(pid, &name)? {
        // Before its first byte moves, whoever has the file can see that it is no longer the
        // guest's.
        region_file::withdraw(&file)?;
        let change = Change::Undo {
            number: file.number,
            file: &file.file,
            origins: &origins,
        };
        rounds(
            pid,
            &pieces,
            file.identity,
            &change,
            contents,
            watch,
            &mut pauses,
        )?;
        let number = file.number;
        let victim = Victim::find(pid)?;
        let answer = attempt(&victim, watch, |tracer| {
            let held = tracer.stop_one(0, 1)?;
            tracer.call(&held, &[], |_| injected::close(number))
        })?;
        answered("close the memory file", answer)?;
    }
    Ok(pauses)
}

/// Which way pieces are changed.
enum Change<'a> {
    Graft {
        view: &'a FileView,
        number: u32,
        ahead: Option<&'a Ahead>,
    },
    Undo {
        number: u32,
        file: &'a OwnedFd,
        origins: &'a [OpenOrigin],
    },
}

impl Change<'_> {
    /// What of the pieces is still to be changed.
    fn left(&self, standing: Standing) -> Vec<Piece> {
        match self {
            Self::Graft { .. } => standing.own,
            Self::Undo { .. } => standing.replaced,
        }
    }

    /// What changes parts in rising order.
    fn calls(&self, parts: &[Part], contents: Contents) -> Vec<Call> {
        match self {
            Self::Graft { number, .. } => {
                let map = |part: &Part| injected::map_file(&part.piece, part.protection, *number);
                let mut calls: Vec<Call> = parts.iter().map(map).collect();
                calls.extend(advice_again(parts));
                calls
            }
            Self::Undo {
                number, origins, ..
            } => {
                let undo = |part| undoing(part, *number, origins, contents);
                parts.iter().flat_map(undo).collect()
            }
        }
    }
}

fn undoing(part: &Part, number: u32, origins: &[OpenOrigin], contents: Contents) -> Vec<Call> {
    let origin = origin_of(origins, &part.piece);
    let mut calls = vec![match origin {
        Some((origin, offset)) => {
            let there = Piece {
                offset,
                ..part.piece
            };
            injected::map_file(&there, part.protection, origin.number)
        }
        None => injected::map_private(&part.piece, part.protection),
    }];
    // Before the first page comes, so that huge pages can.
    let advice = part.advice.iter();
    calls.extend(advice.map(|advice| injected::advise(&part.piece, *advice)));
    if contents == Contents::Keep && origin.is_none() {
        calls.push(injected::read_back(&part.piece, number));
    }
    calls
}

/// The advice that parts in rising order had: one call for neighbours that had the same, since
/// each call lengthens the pause.
fn advice_again(parts: &[Part]) -> Vec<Call> {
    let mut calls = Vec::new();
    for (_, advice) in ADVICE {
        let mut runs: Vec<Piece> = Vec::new();
        for part in parts.iter().filter(|part| part.advice.contains(&advice)) {
            match runs.last_mut() {
                Some(run) if run.at.0 + run.length == part.piece.at.0 => {
                    run.length += part.piece.length;
                }
                _ => runs.push(part.piece),
            }
        }
        calls.extend(runs.iter().map(|run| injected::advise(run, advice)));
    }
    calls
}

/// A piece as the process has it mapped now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    piece: Piece,
    protection: u64,
    advice: Vec<u64>,
}

/// What was advised about memory is known by flags; these can be given again.
const ADVICE: [(&[u8; 2], u64); 4] = [(b"dc", 10), (b"dd", 16), (b"hg", 14), (b"nh", 15)];

/// Says how pieces are mapped; each lies in one mapping.
fn parts(
    pieces: Vec<Piece>,
    mappings: &[MemoryMapping],
    areas: &[Area],
) -> Result<Vec<Part>, GraftError> {
    let part = |piece: Piece| {
        let mapping = mappings
            .iter()
            .find(|mapping| mapping.start <= piece.at && piece.at < mapping.end())
            .ok_or(Refusal::NotMemory { at: piece.at })?;
        let bit = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
        let area = areas.iter().find(|area| area.start == mapping.start.0);
        let advised = |(flag, advice): &(&[u8; 2], u64)| {
            area.is_some_and(|area| area.has(flag)).then_some(*advice)
        };
        Ok(Part {
            piece,
            protection: bit(mapping.readable, 1)
                | bit(mapping.writable, 2)
                | bit(mapping.executable, 4),
            advice: ADVICE.iter().filter_map(advised).collect(),
        })
    };
    pieces.into_iter().map(part).collect()
}

/// Changes pieces, as many at a time as a chain holds, until none is left.
fn rounds(
    pid: u32,
    pieces: &[Piece],
    file: FileNumber,
    change: &Change<'_>,
    contents: Contents,
    watch: Watch<'_>,
    pauses: &mut Vec<Pause>,
) -> Result<(), GraftError> {
    let mut limits = CALLS.iter();
    let mut limit = limits.next().copied().unwrap_or(4);
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
        let areas = process::areas(pid).map_err(|_| Refusal::Gone { pid })?;
        let mut taken = Vec::new();
        let mut calls = Vec::new();
        for part in parts(left, &victim.mappings, &areas)? {
            taken.push(part);
            let more = change.calls(&taken, contents);
            if more.len() > limit && !calls.is_empty() {
                taken.pop();
                break;
            }
            calls = more;
        }
        let batch: Vec<Piece> = taken.into_iter().map(|part| part.piece).collect();
        match round(&victim, &batch, &calls, change, contents, watch) {
            Ok(pause) => pauses.push(pause),
            // A smaller round may still fit.
            Err(GraftError::Refused(Refusal::NoRoom)) => {
                limit = *limits.next().ok_or(Refusal::NoRoom)?;
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
    attempt(victim, watch, |tracer| {
        let began = Instant::now();
        let (borrowed, others) = match contents {
            Contents::Forget => {
                let held = tracer.stop_one(injected::WORD, calls.len() + 1)?;
                (held, Vec::new())
            }
            Contents::Keep => {
                let mut all = tracer.stop_all()?;
                let held = tracer.choose(&mut all, injected::WORD, calls.len() + 1)?;
                (held, all)
            }
        };
        let stood = Instant::now();
        let copy = || match change {
            Change::Graft { view, ahead, .. } if contents == Contents::Keep => {
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

/// Copies most bytes while the process runs; nothing where that is impossible, which only
/// makes the pause longer.
fn copy_ahead(
    pid: u32,
    pieces: &[Piece],
    view: &FileView,
    watch: Watch<'_>,
    pauses: &mut Vec<Pause>,
) -> Option<Ahead> {
    let victim = Victim::find(pid).ok()?;
    let files = process::open_files(pid).ok()?;
    if !ahead::is_worthwhile(pieces, &victim.mappings, &files) {
        return None;
    }
    let result = attempt(&victim, watch, |tracer| {
        let began = Instant::now();
        let held = tracer.stop_one(0, 2)?;
        let stood = Instant::now();
        let file = tracer.call_for_file(&held, injected::userfaultfd(), |answer| {
            let number = answered("make a userfaultfd", answer)?;
            let number = u32::try_from(number).map_err(|_| GraftError::Busy)?;
            region_file::fetch(pid, number)
        })?;
        pauses.push(Pause {
            stopping: stood - began,
            standing: stood.elapsed(),
        });
        Ok(file)
    });
    let ahead = result.and_then(|file| {
        let failed = |error| GraftError::System {
            what: "copy the region's bytes ahead",
            error,
        };
        let tracking = Tracking::new(pid, file).map_err(failed)?;
        let ahead = Ahead::watch(tracking, pieces).map_err(failed)?;
        watch(Step::Watched);
        pauses.push(settle(pid, watch)?);
        ahead.copy(view, pid, pieces).map_err(failed)?;
        Ok(ahead)
    });
    match ahead {
        Ok(ahead) => {
            watch(Step::CopiedAhead);
            Some(ahead)
        }
        Err(error) => {
            tracing::debug!(pid, %error, "all bytes are copied in the pause");
            None
        }
    }
}

/// Where calls are filtered, asks before anything is changed about every call that may
/// become necessary, undoing included. The descriptor's number is not known yet.
fn check_filters(pid: u32, pieces: &[Piece], watch: Watch<'_>) -> Result<(), GraftError> {
    const READ_WRITE: u64 = 3;
    const LIKELY: u32 = 64;
    let threads = process::threads(pid).map_err(|_| Refusal::Gone { pid })?;
    let filtered =
        |thread: &u32| process::status(pid, Some(*thread)).is_ok_and(|status| status.seccomp != 0);
    if !threads.iter().any(filtered) {
        return Ok(());
    }
    let mut calls = vec![
        injected::memfd_create(0, region_file::creation_flags()),
        injected::wait(0, 0, 0),
        injected::release(0),
        injected::close(LIKELY),
    ];
    for piece in pieces {
        calls.push(injected::map_file(piece, READ_WRITE, LIKELY));
        calls.push(injected::map_private(piece, READ_WRITE));
        calls.push(injected::read_back(piece, LIKELY));
        let advice = ADVICE.iter();
        calls.extend(advice.map(|(_, advice)| injected::advise(piece, *advice)));
    }
    let victim = Victim::find(pid)?;
    attempt(&victim, watch, |tracer| tracer.check_filters(&calls))
}

/// Lets the process make the region's file.
fn create(
    pid: u32,
    name: &str,
    watch: Watch<'_>,
    pauses: &mut Vec<Pause>,
) -> Result<RegionFile, GraftError> {
    let victim = Victim::find(pid)?;
    let flags = region_file::creation_flags();
    let mut data = name.as_bytes().to_vec();
    data.push(0);
    let answer = attempt(&victim, watch, |tracer| {
        let began = Instant::now();
        let held = tracer.stop_one(data.len(), 1)?;
        let stood = Instant::now();
        let answer = tracer.call(&held, &data, |name| injected::memfd_create(name, flags))?;
        pauses.push(Pause {
            stopping: stood - began,
            standing: stood.elapsed(),
        });
        Ok(answer)
    })?;
    let number = answered("make a memory file", answer)?;
    let number = u32::try_from(number).map_err(|_| GraftError::Busy)?;
    region_file::bring(pid, number)
}

/// Stops all and lets them go, to be sure that nobody is on an old chain any more.
fn settle(pid: u32, watch: Watch<'_>) -> Result<Pause, GraftError> {
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
fn attempt<T: Send>(
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

/// Of several files of one name, the one that is mapped most, else the largest.
fn most_used(
    found: Vec<RegionFile>,
    pieces: &[Piece],
    mappings: &[MemoryMapping],
) -> Option<RegionFile> {
    found.into_iter().max_by_key(|file| {
        let replaced = standing(pieces, mappings, Some(file.identity)).replaced;
        let bytes: u64 = replaced.iter().map(|piece| piece.length).sum();
        (bytes, file.size)
    })
}

/// What a system call answered, or its error.
fn answered(what: &'static str, answer: u64) -> Result<u64, GraftError> {
    const LARGEST_ERROR: i64 = 4095;
    let signed = answer.cast_signed();
    if (-LARGEST_ERROR..0).contains(&signed) {
        let code = i32::try_from(-signed).unwrap_or(0);
        return Err(GraftError::Call {
            what,
            error: Errno::from_raw_os_error(code),
        });
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_again_to_neighbours_together() {
        const HUGE: u64 = 14;
        const NOT_DUMPED: u64 = 16;
        let part = |page: u64, advice: &[u64]| Part {
            piece: Piece {
                at: vmshm_ram::VmmVirtual(page << 12),
                length: 4096,
                offset: 0,
            },
            protection: 3,
            advice: advice.to_vec(),
        };
        let parts = [
            part(1, &[HUGE]),
            part(2, &[HUGE, NOT_DUMPED]),
            part(3, &[]),
            part(4, &[HUGE]),
        ];
        let given: Vec<(u64, u64, u64)> = advice_again(&parts)
            .iter()
            .map(|call| {
                let [at, length, advice, ..] = call.arguments;
                (at >> 12, length >> 12, advice)
            })
            .collect();
        assert_eq!(given, [(2, 1, NOT_DUMPED), (1, 2, HUGE), (4, 1, HUGE)]);
    }

    #[test]
    fn errors_of_calls_are_told_from_answers() {
        assert_eq!(answered("x", 7), Ok(7));
        assert_eq!(
            answered("x", (-24_i64).cast_unsigned()),
            Err(GraftError::Call {
                what: "x",
                error: Errno::MFILE
            })
        );
        assert_eq!(answered("x", 0x7fff_0000_0000), Ok(0x7fff_0000_0000));
    }
}
