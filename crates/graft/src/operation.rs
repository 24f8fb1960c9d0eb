//! To graft a region, and to undo it. Both look first at what is there, so that one
//! which died on its way is completed by the next; both go in rounds that each leave
//! the process with its memory whole.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::Errno;
use vmshm_ram::MemoryMapping;

use crate::ahead::{self, Ahead};
use crate::change::{ADVICE, Change, Contents};
use crate::examine::{examine, no_right};
use crate::injected::{self, answered};
use crate::origin::{self, Origin};
use crate::os::{FileView, Tracking};
use crate::pieces::{Piece, arrange, standing};
use crate::process;
use crate::refusal::{GraftError, Refusal};
use crate::region_file::{self, RegionFile};
use crate::rounds::{Pause, attempt, rounds, settle};
use crate::step::{Step, Watch};
use crate::tracer::Victim;

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
    let ahead = if contents.are_kept() {
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
/// Some megabytes go back at a time, and the region's start goes first.
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
        let threads = victim.threads_to_borrow()?;
        let answer = attempt(&victim, watch, |tracer| {
            let held = tracer.stop_one(&threads, 0, 1)?;
            tracer.call(&held, &[], |_| injected::close(number))
        })?;
        answered("close the memory file", answer)?;
    }
    Ok(pauses)
}

/// Tells whoever has a region's file that it is about to be undone: by its mode, as
/// [`undo`] does before its first byte moves. Nothing else changes, and grafting again lets it
/// serve again.
///
/// # Errors
///
/// As [`undo`].
pub fn withdraw(pid: u32, id: &str) -> Result<(), GraftError> {
    let name = region_file::file_name(id).ok_or(Refusal::NotGrafted)?;
    let found = region_file::find(pid, &name).map_err(|_| no_right(pid))?;
    if found.is_empty() {
        return Err(Refusal::NotGrafted.into());
    }
    found.iter().try_for_each(region_file::withdraw)
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
    let threads = victim.threads_to_borrow().ok()?;
    let result = attempt(&victim, watch, |tracer| {
        let began = Instant::now();
        let held = tracer.stop_one(&threads, 0, 2)?;
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
    let threads = victim.threads_to_borrow()?;
    let answer = attempt(&victim, watch, |tracer| {
        let began = Instant::now();
        let held = tracer.stop_one(&threads, data.len(), 1)?;
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
