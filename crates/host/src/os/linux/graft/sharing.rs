//! Who else uses what is about to be replaced.
//!
//! Other vmshm processes are known by their slots. Those that have the very region mapped, or
//! write it by copying, are asked, through the slot, to end their sessions; attaching anew they
//! wait for the graft, and find its file. The old pages are replaced only when the kernel's lists
//! of their mappings show that they have let go, and those that copy have left their slots or said
//! so there. Who does not in time is named.
//! Those that map other parts of the VM's memory are no hindrance, since they look for grafts
//! whenever they open a region. Anybody else is for the engine to refuse.
//!
//! What stands in a slot is the guest's word. A guest can make us ask a session to end, which it
//! can end itself; it cannot make us pass over a process that has the region mapped, since that
//! is read from the kernel. Of one that copies it can, and loses bytes of its own region. A
//! stranger that it passes off as a vmshm program would have to map the region after that look,
//! and would then see old bytes of this guest and no others.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use vmshm_graft::{GraftError, Refusal, Region};
use vmshm_link::directory::{Header, SLOTS, slot_offset};
use vmshm_link::slot::{SlotView, ask_to_leave};
use vmshm_ram::{FileIdentity, MemoryMapping, ProcRoot};

use super::failure::GraftFailure;
use super::places::{self, Ground};
use super::programs::{Program, programs};
use crate::ending::SessionEnd;
use crate::identity::{own_identity, start_time};

/// How long others have for leaving their sessions: they look about ten times a second, and then
/// have to come round to it.
const LEAVING: Duration = Duration::from_secs(2);
/// The same for a graft that is undone: whoever it was lent to may be waiting, and what is lost
/// of a session that does not leave is told.
const LEAVING_GRAFT: Duration = Duration::from_secs(1);
/// How often is looked whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A run of a file.
#[derive(Debug, Clone, Copy)]
struct Run {
    file: FileIdentity,
    length: u64,
}

impl Run {
    fn of(mapping: &MemoryMapping) -> Option<Self> {
        Some(Self {
            file: mapping.file?,
            length: mapping.length,
        })
    }

    fn overlaps(&self, other: &Self) -> bool {
        let end = |run: &Self| run.file.offset.saturating_add(run.length);
        self.file.same_file(&other.file)
            && self.file.offset < end(other)
            && other.file.offset < end(self)
    }
}

/// What is about to be replaced.
#[derive(Debug, Clone)]
struct Replaced {
    /// Its number in the guest, if it is still a region there.
    region: Option<u64>,
    /// The files' runs that lie there.
    runs: Vec<Run>,
}

/// The session of another living process of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Seat {
    index: usize,
    token: u64,
    pid: u32,
}

/// Waits until no vmshm process uses a region's old pages any more, for as long as that may take
/// where somebody `waits`, and gives those that may have other parts of the same files mapped.
pub(super) fn partners(
    ground: &Ground,
    number: u64,
    region: &Region,
    waits: bool,
) -> Result<Vec<u32>, GraftFailure> {
    let mappings = ProcRoot::system().mappings(ground.pid).unwrap_or_default();
    if places::is_whole(&mappings, region) {
        // Nothing is replaced.
        return Ok(Vec::new());
    }
    let replaced = Replaced {
        region: Some(number),
        runs: runs_at(&mappings, region),
    };
    let mut deadline = None;
    let mut others = Others::default();
    loop {
        // What this program's like has started looks after sessions, and has no slot.
        let found = others.look(ground, &replaced, |program| program.is_own)?;
        if found.users.is_empty() {
            return Ok(others.ours.into_iter().collect());
        }
        let deadline = match deadline {
            Some(deadline) => deadline,
            None => {
                // Nobody leaves for a graft that is refused.
                consent(ground.pid, region)?;
                *deadline.insert(Instant::now() + LEAVING)
            }
        };
        if waits {
            others.ask(ground, found.sessions)?;
        }
        if !waits || Instant::now() >= deadline {
            let pids = found.users.into_iter().collect();
            return Err(GraftFailure::InUse { pids });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Waits until no session of another process uses a graft's file, so that nothing is written to
/// it after it was undone: for a moment only, and while `goes_on`. Those that are left
/// find out by the file's mode.
pub(super) fn leave_graft(ground: &Ground, id: &str, goes_on: &dyn Fn() -> bool) {
    let mappings = ProcRoot::system().mappings(ground.pid).unwrap_or_default();
    let name = format!("vmshm-{id}");
    let file = |mapping: &&MemoryMapping| mapping.memfd_name() == Some(&name);
    let replaced = Replaced {
        region: places::region_of(id, ground.epoch),
        runs: mappings.iter().filter(file).filter_map(Run::of).collect(),
    };
    let deadline = Instant::now() + LEAVING_GRAFT;
    let mut others = Others::default();
    while !replaced.runs.is_empty() && goes_on() && Instant::now() < deadline {
        // A guest that is gone has no sessions.
        match others.look(ground, &replaced, |_| false) {
            Ok(found) if !found.users.is_empty() => {
                if others.ask(ground, found.sessions).is_err() {
                    return;
                }
                std::thread::sleep(LOOK_EVERY);
            }
            _ => return,
        }
    }
}

/// Whether another process than the VMM and this one has a graft's file mapped, a broker's client
/// too, which has no slot.
pub(super) fn is_held(ground: &Ground, id: &str) -> bool {
    let name = format!("vmshm-{id}");
    let maps_it = |pid: u32| {
        let mappings = ProcRoot::system().mappings(pid).unwrap_or_default();
        let mut names = mappings.iter().map(MemoryMapping::memfd_name);
        names.any(|found| found == Some(&name))
    };
    let mut others = programs().into_iter().map(|program| program.pid);
    others.any(|pid| pid != ground.pid && maps_it(pid))
}

/// The processes beside the VMM that map a graft's file, this one among them; and those with a
/// session that may not be looked into.
pub(super) fn users(ground: &Ground, id: &str) -> Vec<u32> {
    let name = format!("vmshm-{id}");
    let seats = seats(ground, None).map_or_else(|_| Vec::new(), |(seats, _)| seats);
    let uses_it = |pid: u32| match ProcRoot::system().mappings(pid) {
        Ok(mappings) => mappings
            .iter()
            .any(|mapping| mapping.memfd_name() == Some(&name)),
        Err(_) => seats.iter().any(|seat| seat.pid == pid),
    };
    let others = programs().into_iter().map(|program| program.pid);
    let all = others.chain([std::process::id()]);
    all.filter(|pid| *pid != ground.pid && uses_it(*pid))
        .collect()
}

/// Whether the VMM may be grafted, whoever else uses the region.
fn consent(pid: u32, region: &Region) -> Result<(), GraftFailure> {
    let refusals = vmshm_graft::examine(pid, &region.pieces, &[]).into_iter();
    let mut refusals = refusals.filter(|refusal| !matches!(refusal, Refusal::Shared { .. }));
    refusals.next().map_or(Ok(()), |refusal| {
        Err(GraftFailure::Graft(GraftError::Refused(refusal)))
    })
}

/// Who still uses what is replaced.
#[derive(Debug)]
struct Found {
    users: BTreeSet<u32>,
    /// Their sessions that have not been asked yet.
    sessions: Vec<Seat>,
}

/// Other vmshm processes, and those that were asked to make way.
#[derive(Debug, Default)]
struct Others {
    /// Who had a session once is still one of us when it has left it and is making a new one.
    seated: BTreeSet<u32>,
    /// Those, and what they have started beside them.
    ours: BTreeSet<u32>,
    asked: BTreeSet<Seat>,
    /// The sessions of the first look. Later ones map nothing as long as this process grafts.
    first: Option<BTreeSet<Seat>>,
}

impl Others {
    /// Looks once who uses what is replaced. Processes beside those that have a session, or
    /// were started by one, are `also` known.
    fn look(
        &mut self,
        ground: &Ground,
        replaced: &Replaced,
        also: impl Fn(&Program) -> bool,
    ) -> Result<Found, GraftFailure> {
        let own = std::process::id();
        let (seats, copying) = seats(ground, replaced.region)?;
        let runs = &replaced.runs;
        // What is nobody's file nobody maps.
        let programs = if runs.is_empty() {
            Vec::new()
        } else {
            programs()
        };
        self.seated.extend(seats.iter().map(|seat| seat.pid));
        self.ours.extend(&self.seated);
        for program in &programs {
            let parent = program.parent;
            if parent == own || self.seated.contains(&parent) || also(program) {
                self.ours.insert(program.pid);
            }
        }
        // A program may have started the VM, too.
        self.ours.retain(|pid| ![own, ground.pid].contains(pid));
        let first = self
            .first
            .get_or_insert_with(|| seats.iter().copied().collect());
        // Whose mappings may not be read is believed to have let go when it has left its slot.
        let sits = |pid: u32| {
            seats
                .iter()
                .any(|seat| seat.pid == pid && first.contains(seat))
        };
        let ours = self.ours.iter().copied();
        let mapping: BTreeSet<u32> = ours
            .filter(|pid| maps(*pid, runs).unwrap_or_else(|| sits(*pid)))
            .collect();
        let parents: BTreeSet<u32> = programs
            .iter()
            .filter(|program| mapping.contains(&program.pid))
            .map(|program| program.parent)
            .collect();
        // Whoever makes a new session meanwhile copies nothing as long as this process grafts.
        let copying: Vec<&Seat> = copying.iter().filter(|seat| first.contains(seat)).collect();
        let is_meant = |seat: &Seat| {
            copying.contains(&seat) || mapping.contains(&seat.pid) || parents.contains(&seat.pid)
        };
        let sessions = seats.iter().filter(|seat| is_meant(seat)).copied();
        let sessions = sessions.filter(|seat| !self.asked.contains(seat)).collect();
        let users = mapping.iter().copied();
        let users = users.chain(copying.iter().map(|seat| seat.pid)).collect();
        Ok(Found { users, sessions })
    }

    /// Asks sessions to end.
    fn ask(&mut self, ground: &Ground, sessions: Vec<Seat>) -> Result<(), GraftFailure> {
        for seat in sessions {
            if ask(ground, &seat)? {
                tracing::debug!(pid = seat.pid, "a vmshm program is asked to make way");
                self.asked.insert(seat);
            }
        }
        Ok(())
    }
}

/// Asks a session to end; not yet where its slot's page has not shown that it is alive.
fn ask(ground: &Ground, seat: &Seat) -> Result<bool, GraftFailure> {
    let directory = &ground.directory;
    let is_live = directory.slot_is_live(seat.index);
    if !is_live.map_err(SessionEnd::from)? {
        return Ok(false);
    }
    let asked = ask_to_leave(&directory.memory, slot_offset(seat.index), seat.token);
    asked.map_err(SessionEnd::from)?;
    Ok(true)
}

/// Whether a process has a run mapped; nothing where that may not be seen.
fn maps(pid: u32, runs: &[Run]) -> Option<bool> {
    if runs.is_empty() {
        return Some(false);
    }
    let theirs = ProcRoot::system().mappings(pid).ok()?;
    let mut theirs = theirs.iter().filter_map(Run::of);
    Some(theirs.any(|their| runs.iter().any(|run| run.overlaps(&their))))
}

/// The runs of shared files that lie at a region's places and are not its own file.
fn runs_at(mappings: &[MemoryMapping], region: &Region) -> Vec<Run> {
    let own = format!("vmshm-{}", region.id);
    let mut runs = Vec::new();
    for piece in &region.pieces {
        let end = piece.at.0.saturating_add(piece.length);
        for mapping in mappings.iter().filter(|mapping| mapping.shared) {
            let first = mapping.start.0.max(piece.at.0);
            let last = mapping.end().0.min(end);
            if first >= last || mapping.memfd_name() == Some(&own) {
                continue;
            }
            if let Some(file) = mapping.file {
                runs.push(Run {
                    file: FileIdentity {
                        offset: file.offset.saturating_add(first - mapping.start.0),
                        ..file
                    },
                    length: last - first,
                });
            }
        }
    }
    runs
}

/// The sessions of other living processes of this host, and those of them that may write a
/// region by copying.
fn seats(ground: &Ground, region: Option<u64>) -> Result<(Vec<Seat>, Vec<Seat>), GraftFailure> {
    let memory = &ground.directory.memory;
    let header = Header::read(memory).map_err(SessionEnd::from)?;
    if header.epoch != ground.epoch {
        return Err(SessionEnd::GuestRestarted.into());
    }
    let own = own_identity();
    let (mut seats, mut copying) = (Vec::new(), Vec::new());
    for index in 0..SLOTS {
        let view = SlotView::read(memory, slot_offset(index)).map_err(SessionEnd::from)?;
        let owner = view.owner.filter(|_| view.is_held());
        let Some(owner) = owner else { continue };
        let here = owner.boot_id == own.boot_id && owner.pid_namespace == own.pid_namespace;
        // Only a process that is what the slot says counts.
        let lives = owner.start_time != 0 && start_time(owner.pid) == Some(owner.start_time);
        if here
            && lives
            && owner.pid != own.pid
            && let Ok(pid) = u32::try_from(owner.pid)
        {
            let token = view.token;
            let seat = Seat { index, token, pid };
            seats.push(seat);
            if region.is_some_and(|region| view.copied.may_have(region)) {
                copying.push(seat);
            }
        }
    }
    Ok((seats, copying))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmshm_graft::Piece;
    use vmshm_ram::VmmVirtual;

    fn ram(start: u64, length: u64, offset: u64) -> MemoryMapping {
        MemoryMapping {
            start: VmmVirtual(start),
            length,
            readable: true,
            writable: true,
            executable: false,
            shared: true,
            file: Some(FileIdentity {
                device: (0, 1),
                inode: 9,
                offset,
            }),
            name: "/memfd:ram (deleted)".to_owned(),
        }
    }

    #[test]
    fn only_the_regions_own_runs_count() {
        let region = Region {
            id: "1.a".to_owned(),
            size: 0x1000,
            pieces: vec![Piece {
                at: VmmVirtual(0x5000),
                length: 0x1000,
                offset: 0,
            }],
        };
        let vmm = [ram(0x4000, 0x4000, 0x10000)];
        let runs = runs_at(&vmm, &region);
        assert_eq!(runs.len(), 1);
        assert_eq!((runs[0].file.offset, runs[0].length), (0x11000, 0x1000));
        let there = |mapping: MemoryMapping| {
            let theirs = Run::of(&mapping).expect("a file");
            runs[0].overlaps(&theirs)
        };
        assert!(there(ram(0x9000, 0x1000, 0x11000)));
        assert!(!there(ram(0x9000, 0x8000, 0)));
        assert!(there(ram(0x9000, 0x11001, 0)));
        assert!(!there(ram(0x9000, 0x1000, 0x12000)));
    }
}
