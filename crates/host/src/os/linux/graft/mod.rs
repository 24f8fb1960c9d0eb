//! Regions as files of their own: the pages of one region are replaced in the VMM's process
//! by a sealed memory file, which can be mapped here without copying, or handed to a program
//! that may see nothing else of the guest.
//!
//! [`graft`] does it to a region that is in use, [`undo`] takes it back, and
//! [`Method::Graft`](vmshm_ram::Method::Graft) does it to each region that a session opens.
//! It refuses, each cause by name ([`GraftFailure`]), where the VMM would be harmed
//! (`vmshm-graft` judges that) or where another process would go on using the old pages.
//!
//! Two processes that graft in one VM take turns, by a lock on a file that only they can
//! open; who opens a region waits for it, too. Other vmshm programs that have the region mapped
//! by the VM's memory, or copy it, are asked to leave their sessions first: they make new ones,
//! open it anew and find its file. A graft that was made by name stays (one that a broker has
//! lent is made anew when it is back); any other ends with the last session that uses it. One that is undone ends the sessions that use it.

mod failure;
mod laying;
mod lock;
mod making_way;
mod own;
mod places;
mod programs;
mod proof;
mod prospects;
mod sharing;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use vmshm_graft::{Contents, GraftError, Grafted};
use vmshm_link::beacon::Beacon;
use vmshm_link::control::{Request, Role};
use vmshm_link::directory::RegionKind;
use vmshm_ram::{MapError, ProcRoot, Protection, View};

use crate::ending::SessionEnd;
use crate::region::Region;
use crate::session::{RequestError, Session, region_name};

pub use failure::GraftFailure;
pub(crate) use laying::{graft_pages, lay_out_over_graft};
pub(crate) use making_way::{abandon, end_undoing, while_nobody_grafts};
pub(crate) use own::OwnGrafts;
pub(crate) use places::Ground;
pub use places::{Standing, standing};
pub use proof::Proof;
pub(crate) use prospects::{graft_obstacles, lasting_graft_obstacles};
pub use vmshm_graft::{Pause, Refusal, Step};

use lock::Lock;

/// How long is waited for another process that grafts in the same VM.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who is told of each step.
pub type Watch<'a> = &'a mut (dyn FnMut(Step) + Send);

/// A region that is a file of its own.
#[derive(Debug)]
pub struct GraftedRegion {
    /// The sealed memory file: the whole region, in its own order, and nothing else.
    pub file: OwnedFd,
    /// The region's size, in bytes.
    pub size: u64,
    /// The VMM's process.
    pub pid: u32,
    /// What tells the graft from all others of the VM; [`undo`] takes it.
    pub id: String,
    /// How long the VM, or one thread of it, stood still in all.
    pub pause: Pause,
    /// The same, one for each time. Empty where the region was grafted already.
    pub pauses: Vec<Pause>,
    /// What shows that the guest uses the file.
    pub proof: Proof,
}

impl GraftedRegion {
    /// The region as memory, to be used in the place of any earlier view of it.
    ///
    /// # Errors
    /// What the system says.
    pub fn memory(&self, protection: Protection) -> Result<Arc<View>, MapError> {
        let file = rustix::io::fcntl_dupfd_cloexec(&self.file, 0).map_err(MapError::System)?;
        let view = View::of_file(file, self.size, protection)?;
        Ok(Arc::new(view))
    }
}

/// What tells the graft of a guest's region from all others of its VM.
#[must_use]
pub fn id(beacon: &Beacon, region: u64) -> String {
    places::id(beacon.epoch, region)
}

/// Holds a region of whatever kind that can be held without taking an end of it, so that
/// it can be grafted.
///
/// # Errors
/// [`RequestError`]; regions of which somebody must have an end, and those of screens, are
/// grafted by who opens them with [`Method::Graft`](vmshm_ram::Method::Graft).
pub fn hold(session: &mut Session, name: &str, timeout: Duration) -> Result<Region, RequestError> {
    let named = region_name(name)?;
    let entries = session.regions(timeout)?;
    let entry = entries.iter().find(|entry| entry.name.as_str() == name);
    let (kind, record) = entry.map_or((RegionKind::Raw, 0), |entry| (entry.kind, entry.record));
    let request = match kind {
        RegionKind::Raw => return session.open_region(name, kind, 0, timeout),
        RegionKind::Ring | RegionKind::Latest | RegionKind::Stream => Request::Link {
            kind,
            size: 0,
            name: named,
            record,
            role: Role::Watch,
        },
        RegionKind::Frames | RegionKind::Pixels => {
            return Err(not_by_name(name, kind, "vmshm display --method graft"));
        }
        _ => return Err(not_by_name(name, kind, "vmshm pipe --method graft")),
    };
    let reply = session.request(&request, timeout)?;
    session.hold(reply, timeout)
}

fn not_by_name(name: &str, kind: RegionKind, instead: &str) -> RequestError {
    RequestError::Graft {
        cause: format!(
            "`{name}` is a {} region, which is grafted as it is opened",
            kind.name()
        ),
        hint: Some(format!("use `{instead}`")),
    }
}

/// Grafts a region that this session holds and that may be in use; what is grafted already
/// is found. All threads of the VMM stand still for a few milliseconds, and no byte of the
/// region changes. The session's own views of the region are of the old pages afterwards,
/// unless the VM's memory is copied: use [`GraftedRegion::memory`].
///
/// # Errors
/// [`GraftFailure`]; the VM runs on unharmed.
pub fn graft(session: &mut Session, region: &Region) -> Result<GraftedRegion, GraftFailure> {
    graft_watched(session, region, &mut |_| ())
}

/// The same; `watch` is told of each step that was made.
///
/// # Errors
/// As [`graft`].
pub fn graft_watched(
    session: &mut Session,
    region: &Region,
    watch: Watch<'_>,
) -> Result<GraftedRegion, GraftFailure> {
    session.look_now()?;
    let direct = session.direct().ok_or_else(|| {
        GraftFailure::Pages("a broker keeps the session, and grafts by itself".to_owned())
    })?;
    let ground = direct.ground();
    let pieces = ground
        .pieces(&region.extents)
        .map_err(|error| GraftFailure::Pages(error.to_string()))?;
    // Another one that grafts at the same time would wait for this session to make way.
    let apart = direct.stop_copying(region.id);
    apart.map_err(SessionEnd::from)?;
    let grafted = ground
        .graft
        .replace(region.id, &pieces, Contents::Keep, watch)?;
    own::mark_as_staying(&grafted)?;
    // The guest may have ended, or gone back to an earlier state, in between.
    session.look_now()?;
    Ok(grafted)
}

/// Makes a region's memory the VMM's own again, whether its guest still runs or not, and
/// closes the file there. `id` is [`GraftedRegion::id`], or one of [`standing`]. Whoever
/// has the file keeps it, and sees by its mode (see [`is_undone`]) that it is nobody's any
/// more.
///
/// Gives the pauses, one for each time.
///
/// # Errors
/// [`GraftFailure`]; the VM runs on unharmed.
pub fn undo(pid: u32, id: &str) -> Result<Vec<Pause>, GraftFailure> {
    undo_watched(pid, id, &mut |_| ())
}

/// As [`undo`], of a guest that runs: other programs that have the file mapped by a session of
/// theirs are asked to leave it first, so that nothing that they write is lost. They are waited
/// for at most a second; those to whom a broker has lent it have a moment to hear of it.
///
/// # Errors
/// [`GraftFailure`]; the VM runs on unharmed.
pub fn undo_in(session: &mut Session, id: &str) -> Result<Vec<Pause>, GraftFailure> {
    session.look_now()?;
    match session.direct() {
        Some(direct) => direct.ground().graft.take_back_by_name(id),
        None => Err(GraftFailure::NotGrafted),
    }
}

/// The same; `watch` is told of each step that was made.
///
/// # Errors
/// As [`undo`].
pub fn undo_watched(pid: u32, id: &str, watch: Watch<'_>) -> Result<Vec<Pause>, GraftFailure> {
    let _lock = Lock::take(pid, PATIENCE)?;
    undo_locked(pid, id, Contents::Keep, watch)
}

/// As [`undo`], at once: whoever has the file is not to have the guest's memory any longer.
pub(crate) fn undo_at_once(pid: u32, id: &str) -> Result<Vec<Pause>, GraftFailure> {
    let _lock = Lock::take(pid, PATIENCE)?;
    undo_locked(pid, id, Contents::KeepAtOnce, &mut |_| ())
}

fn undo_locked(
    pid: u32,
    id: &str,
    contents: Contents,
    watch: Watch<'_>,
) -> Result<Vec<Pause>, GraftFailure> {
    let mappings = ProcRoot::system().mappings(pid).unwrap_or_default();
    let origins = places::origins(pid);
    let region = places::as_it_stands(&mappings, id, &origins);
    let undone = vmshm_graft::undo(pid, &region, contents, &origins, watch);
    undone.map_err(|error| match error {
        GraftError::Refused(Refusal::NotGrafted) => GraftFailure::NotGrafted,
        other => GraftFailure::Undo(other),
    })
}

/// Whether a graft's file was taken away from its VM: what is written to it reaches no guest.
#[must_use]
pub fn is_undone(file: impl AsFd) -> bool {
    rustix::fs::fstat(file).is_ok_and(|status| status.st_mode & 0o777 == 0)
}

/// Pauses together.
#[must_use]
pub fn in_all(pauses: &[Pause]) -> Pause {
    pauses.iter().fold(Pause::default(), |sum, pause| Pause {
        stopping: sum.stopping + pause.stopping,
        standing: sum.standing + pause.standing,
    })
}

fn described(pid: u32, id: String, size: u64, grafted: Grafted, proof: Proof) -> GraftedRegion {
    GraftedRegion {
        file: grafted.file,
        size,
        pid,
        id,
        pause: in_all(&grafted.pauses),
        pauses: grafted.pauses,
        proof,
    }
}
