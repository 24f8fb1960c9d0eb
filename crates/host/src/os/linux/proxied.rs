//! A session that a broker keeps for one of its clients: the client's requests under the
//! client's own tags, and the memory of what the agent grants as files.
//!
//! It asks no rules and counts no holds; the broker does.

use std::os::fd::OwnedFd;
use std::time::Duration;

use vmshm_link::control::{EndCause, RegionReply, Reply, Request};
use vmshm_link::directory::{REGIONS, RegionEntry, read_region};
use vmshm_ram::{Method, Protection, Vmm};

use crate::attach::{AttachError, AttachOptions, attach};
use crate::conversation::Question;
use crate::ending::{Condition, SessionEnd};
use crate::graft::{self, GraftFailure, GraftedRegion};
use crate::guard::Guard;
use crate::machines::{self, SelectError};
use crate::session::{RequestError, Session};
use crate::sighting::Where;

/// How many looks in a row may not find a region's entry: the agent writes it in one go, but
/// the guest's processor can be taken away in the middle.
const MOST_DOUBTS: u32 = 20;

/// A session of a client.
#[derive(Debug)]
pub struct Proxied {
    session: Session,
    open: Vec<(u64, Question)>,
}

/// Finds the VM that a client names.
///
/// # Errors
/// [`SelectError`].
pub fn find(selector: &str) -> Result<Vmm, SelectError> {
    machines::find(selector)
}

/// Whether the process is still the one that started then.
#[must_use]
pub fn still_runs(pid: u32, start_time: u64) -> bool {
    crate::identity::start_time(u64::from(pid)) == Some(start_time)
}

/// Why regions of a VM cannot be grafted, and will not be soon; nothing where nothing is known
/// to stand in the way. It looks at all of the process's memory, so the answer is to be kept.
#[must_use]
pub fn why_not_grafted(vmm: &Vmm) -> Option<String> {
    let causes = graft::lasting_graft_obstacles(vmm, &vmm.examine());
    causes.into_iter().next().map(|cause| cause.what)
}

impl Proxied {
    /// Attaches for a client.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(vmm: &Vmm, patience: Duration) -> Result<Self, AttachError> {
        let options = AttachOptions {
            // Each region is laid out in a file of its own.
            method: Method::Graft,
            place: Where::Scan,
            timeout: patience,
            broker: None,
        };
        let session = attach(vmm, &options)?;
        if let Some(direct) = session.direct() {
            // The broker knows when its last client has let go.
            direct.leave_grafts();
        }
        Ok(Self {
            session,
            open: Vec::new(),
        })
    }

    /// The slot's index among the guest's.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.session.slot_index().unwrap_or_default()
    }

    /// What tells this boot of the guest's keeper from all others.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        let direct = self.session.direct();
        direct.map_or(0, |direct| direct.beacon().epoch)
    }

    /// A guard over the guest, for the thread that takes back.
    #[must_use]
    pub fn guard(&self) -> Option<Guard> {
        self.session.direct().map(crate::direct::Direct::guard)
    }

    /// What takes back what is lent of the guest, while it lives.
    #[must_use]
    pub fn lender(&self) -> Option<Lender> {
        let direct = self.session.direct()?;
        let ground = direct.ground().graft;
        Some(Lender { ground })
    }

    /// Keeps the session alive; to be called several times a second.
    ///
    /// # Errors
    /// [`SessionEnd`] when it is over.
    pub fn keep(&mut self) -> Result<Condition, SessionEnd> {
        self.session.keep().map_err(|end| self.explained(end))
    }

    /// Asks under the client's tag; no when there is no room for it now. What is never
    /// answered is said with [`tell`](Self::tell).
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub fn ask(&mut self, tag: u64, request: &Request) -> Result<bool, SessionEnd> {
        let asked = self.session.ask(request);
        let question = asked.map_err(|end| self.explained(end))?;
        self.open.extend(question.map(|question| (tag, question)));
        Ok(question.is_some())
    }

    /// Says something that is never answered; whether there was room for it.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub fn tell(&mut self, request: &Request) -> Result<bool, SessionEnd> {
        self.session
            .tell(request)
            .map_err(|end| self.explained(end))
    }

    /// Asks for something whose answer nobody waits for.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub fn ask_and_forget(&mut self, request: &Request) -> Result<bool, SessionEnd> {
        let asked = self.session.ask(request);
        let question = asked.map_err(|end| self.explained(end))?;
        if let Some(question) = question {
            self.session.give_up(question);
        }
        Ok(question.is_some())
    }

    /// The answers that have come, each with the client's tag.
    ///
    /// # Errors
    /// [`SessionEnd`].
    pub fn answers(&mut self) -> Result<Vec<(u64, Reply)>, SessionEnd> {
        let mut answered = Vec::new();
        let mut left = Vec::new();
        for (tag, question) in std::mem::take(&mut self.open) {
            let answer = self.session.answer(question);
            match answer.map_err(|end| self.explained(end))? {
                Some(reply) => answered.push((tag, reply)),
                None => left.push((tag, question)),
            }
        }
        self.open = left;
        Ok(answered)
    }

    /// How many questions have no answer yet.
    #[must_use]
    pub fn open_questions(&self) -> usize {
        self.open.len()
    }

    /// What a granted region's graft is called in its VM.
    #[must_use]
    pub fn graft_id(&self, region: u64) -> Option<String> {
        let direct = self.session.direct()?;
        Some(graft::id(direct.beacon(), region))
    }

    /// Proves a granted region and makes it a file of its own.
    ///
    /// # Errors
    /// [`RequestError`]; the agent still counts the region as held then.
    pub fn graft(
        &mut self,
        granted: &RegionReply,
        patience: Duration,
    ) -> Result<OwnedFd, RequestError> {
        let source = self.session.source();
        let mut ask = |request: &Request| self.session.request(request, patience);
        let region = source.lay_out(granted, Protection::ReadWrite, patience, &mut ask)?;
        let file = region
            .memory
            .graft()
            .ok_or_else(|| RequestError::Pages("it is not grafted".to_owned()))?;
        file.try_clone_to_owned()
            .map_err(|error| RequestError::Pages(error.to_string()))
    }

    /// Makes a granted region that hosts only read, and that is never proved, a file of its
    /// own. No byte of it changes.
    ///
    /// # Errors
    /// As [`graft`](Self::graft).
    pub fn graft_unproved(
        &mut self,
        granted: &RegionReply,
        patience: Duration,
    ) -> Result<OwnedFd, RequestError> {
        let direct = self.session.direct();
        let ground = direct.map(crate::direct::Direct::ground);
        let ground = ground.ok_or_else(|| RequestError::Pages("it is brokered".to_owned()))?;
        let mut ask = |request: &Request| self.session.request(request, patience);
        let pieces = ground.locate(granted, patience, &mut ask)?;
        let kept = vmshm_graft::Contents::Keep;
        let grafted: GraftedRegion =
            ground
                .graft
                .replace(granted.region, &pieces, kept, &mut |_| ())?;
        Ok(grafted.file)
    }

    /// The regions that the guest lists.
    ///
    /// # Errors
    /// [`SessionEnd`] when the table is damaged.
    pub fn regions(&mut self) -> Result<Vec<RegionEntry>, SessionEnd> {
        let listed = self.session.direct().map(crate::direct::Direct::regions);
        let listed = listed.transpose();
        let listed = listed.map_err(|error| self.session.why_it_ended(error))?;
        Ok(listed.unwrap_or_default())
    }

    /// A session that ends says why: a guest that is gone explains every other failure.
    fn explained(&mut self, end: SessionEnd) -> SessionEnd {
        match end {
            SessionEnd::Link(error) => self.session.why_it_ended(error),
            other => other,
        }
    }
}

/// Looks for regions that are over although their session goes on.
#[derive(Debug, Default)]
pub struct Standings {
    /// Regions, where their entries were last, and how often they were not found.
    held: Vec<(u64, Option<usize>, u32)>,
}

impl Standings {
    /// From now on this region is looked for.
    pub fn add(&mut self, region: u64) {
        if !self.held.iter().any(|(one, ..)| *one == region) {
            self.held.push((region, None, 0));
        }
    }

    /// It is not held any more.
    pub fn remove(&mut self, region: u64) {
        self.held.retain(|(one, ..)| *one != region);
    }

    /// Those that are over by what the guest's table says, each once. The caller has made sure
    /// that the guest is the same.
    pub fn look(&mut self, proxied: &Proxied) -> Vec<(u64, EndCause)> {
        let Some(direct) = proxied.session.direct() else {
            return Vec::new();
        };
        let table = &direct.directory().memory;
        let mut over = Vec::new();
        self.held.retain_mut(|(region, place, doubts)| {
            let at = |index| read_region(table, index).ok().flatten();
            let is_it = |entry: &RegionEntry| entry.id == *region;
            let there = place.and_then(at).filter(is_it);
            let found = there.or_else(|| {
                (0..REGIONS).find_map(|index| {
                    let entry = at(index).filter(is_it)?;
                    *place = Some(index);
                    Some(entry)
                })
            });
            let ended = match found {
                Some(entry) => {
                    *doubts = 0;
                    entry.ended
                }
                None => {
                    *doubts += 1;
                    (*doubts >= MOST_DOUBTS).then_some(EndCause::Removed)
                }
            };
            over.extend(ended.map(|cause| (*region, cause)));
            ended.is_none()
        });
        over
    }
}

/// Takes back what was lent of a guest that lives.
#[derive(Debug, Clone)]
pub struct Lender {
    ground: crate::os::GraftGround,
}

impl Lender {
    /// As [`take_back`]; programs of this host that have attached directly and map the region's
    /// file are asked to make way first, so that nothing that they write is lost. They are
    /// waited for at most a second, and only while `goes_on`. A graft that was made by name stays,
    /// as another file: what was lent is worth nothing to whoever keeps it.
    ///
    /// # Errors
    /// As [`take_back`].
    pub fn take_back(
        &self,
        start_time: u64,
        id: &str,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<(), GraftFailure> {
        let pid = self.ground.pid;
        if !still_runs(pid, start_time) {
            return Ok(());
        }
        judged(pid, start_time, self.ground.take_back_lent(id, goes_on))
    }
}

/// Makes a region's memory the VMM's own again, at once and whoever made it; what is not grafted
/// any more is well, too.
///
/// # Errors
/// [`GraftFailure`]: it is to be tried again.
pub fn take_back(pid: u32, start_time: u64, id: &str) -> Result<(), GraftFailure> {
    if !still_runs(pid, start_time) {
        return Ok(());
    }
    judged(pid, start_time, graft::undo_at_once(pid, id).map(drop))
}

fn judged(pid: u32, start_time: u64, undone: Result<(), GraftFailure>) -> Result<(), GraftFailure> {
    match undone {
        Err(GraftFailure::NotGrafted) => Ok(()),
        Err(_) if !still_runs(pid, start_time) => Ok(()),
        other => other,
    }
}

/// Whether a holder of a region's file has taken pages out of it: it has fewer bytes of memory
/// than it is long.
#[must_use]
pub fn has_holes(file: &OwnedFd) -> bool {
    rustix::fs::fstat(file)
        .is_ok_and(|status| status.st_blocks.saturating_mul(512) < status.st_size)
}

/// A descriptor of a region's file through which it can only be read: its mode lets nobody
/// open it again but the VMM's own user.
///
/// # Errors
/// What the system says.
pub fn only_to_read(file: &OwnedFd) -> std::io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_grafted_is_taken_back_already() {
        let own = std::process::id();
        let started = crate::identity::start_time(u64::from(own)).expect("it runs");
        let id = "1.00000000000000ab";
        let undone = graft::undo(own, id);
        assert!(
            matches!(undone, Err(GraftFailure::NotGrafted)),
            "{undone:?}"
        );
        take_back(own, started, id).expect("nothing is left to be done");
        take_back(own, started + 1, id).expect("another process by now");
    }
}
