//! What programs of this guest ask for, each by the rules for its user. A program may use
//! only regions that it holds, gets nothing but links and raw memory, and never learns of a
//! region that the rules do not name for it.

use std::os::fd::AsFd;

use vmshm_link::Version;
use vmshm_link::control::{EndCause, RefusalCode, RegionReply, Reply, Request};
use vmshm_link::directory::RegionKind;
use vmshm_link::local::{self, HELLO};

use super::creation::{Origin, Refusal};
use super::links::{LinkWish, Opened, check_name};
use super::local_protocol::{HeldInfo, ProgramInfo};
use super::openers::{Opener, ProgramId};
use super::programs::Waiting;
use super::regions::Region;
use super::service::{Service, ServiceError};

/// The most that one connection holds and waits for.
const HOLD_LIMIT: usize = 16;
/// Datagrams of one program, and of all, that are served before the hosts get their turn.
const PER_PROGRAM: usize = 8;
const PER_TURN: usize = 64;

/// Places of the table that programs of other users than root do not fill.
const PLACES_KEPT_BACK: usize = 15;

/// What becomes of a request that is not refused.
enum Outcome {
    Done,
    /// Its answer comes later, or never.
    Nothing,
}

impl Service {
    /// Serves the programs; whether anything happened. Called every round where something
    /// may have come.
    pub(super) fn poll_programs(&mut self) -> Result<bool, ServiceError> {
        self.programs.begin_round();
        let came = self.programs.accept();
        let mut served = 0;
        let mut is_cut_short = false;
        let count = self.programs.len();
        for turn in 0..count {
            let index = (self.programs.first + turn) % count;
            let Some(id) = self.programs.at(index).map(|program| program.id) else {
                continue;
            };
            for received in 1..=PER_PROGRAM {
                let Some(datagram) = self.programs.receive(index) else {
                    break;
                };
                served += 1;
                is_cut_short |= received == PER_PROGRAM;
                self.serve_datagram(id, datagram.bytes())?;
            }
            if served >= PER_TURN {
                self.programs.first = index + 1;
                is_cut_short = true;
                break;
            }
        }
        if is_cut_short {
            self.programs.look_again();
        }
        for region in std::mem::take(&mut self.programs.rung) {
            self.ring_host(region);
        }
        Ok(came || served > 0)
    }

    fn serve_datagram(&mut self, id: ProgramId, datagram: &[u8]) -> Result<(), ServiceError> {
        let greeted = self.programs.get(id).is_some_and(|one| one.greeted);
        match local::parse(datagram) {
            Ok((HELLO, payload)) if !greeted => self.greet(id, local::hello_version(payload)),
            Ok((kind, payload)) if greeted && kind != HELLO => {
                let (tag, request) = Request::from_payload(kind, payload);
                match self.serve_program(id, tag, request)? {
                    Ok(Outcome::Done) => self.programs.send(id, tag, &Reply::Done, None),
                    Ok(Outcome::Nothing) => {}
                    Err(refusal) => self.programs.send(id, tag, &refusal.to_reply(), None),
                }
            }
            _ => self.programs.hang_up(id),
        }
        Ok(())
    }

    fn greet(&mut self, id: ProgramId, version: Version) {
        match Version::accept(version) {
            Ok(()) => {
                if let Some(program) = self.programs.get_mut(id) {
                    program.greeted = true;
                }
                self.programs.send(id, 0, &Reply::Done, None);
            }
            Err(error) => {
                let refusal = Refusal::new(RefusalCode::Unsupported, error.to_string());
                self.programs.send(id, 0, &refusal.to_reply(), None);
                self.programs.hang_up(id);
            }
        }
    }

    fn serve_program(
        &mut self,
        id: ProgramId,
        tag: u64,
        request: Option<Request>,
    ) -> Result<Result<Outcome, Refusal>, ServiceError> {
        match request {
            Some(request @ Request::Link { .. }) => {
                let wish = LinkWish::of(&request);
                Ok(match wish.map(|wish| self.admit_wish(id, tag, wish)) {
                    Some(Err(refusal)) => Err(refusal),
                    _ => Ok(Outcome::Nothing),
                })
            }
            Some(Request::Close { region: 0 }) => {
                if !self.cancel(id, tag) {
                    let message = "nothing waits under this tag";
                    return Ok(Err(Refusal::new(RefusalCode::NotFound, message)));
                }
                self.settle()?;
                Ok(Ok(Outcome::Done))
            }
            Some(Request::Close { region }) => {
                if !self.holds(id, region) || !self.close_for_program(id, region) {
                    let message = format!("this connection holds no region {region}");
                    return Ok(Err(Refusal::new(RefusalCode::NotFound, message)));
                }
                self.settle()?;
                Ok(Ok(Outcome::Done))
            }
            Some(Request::Remove { name }) => {
                let removed = self.remove_for_program(id, name.as_str());
                self.settle()?;
                Ok(removed.map(|()| Outcome::Done))
            }
            Some(Request::Bell { region }) => {
                if self.holds(id, region) {
                    self.programs.rung.insert(region);
                }
                Ok(Ok(Outcome::Nothing))
            }
            _ => Ok(Err(Refusal::new(
                RefusalCode::Unsupported,
                "this agent does not know that request of a program",
            ))),
        }
    }

    /// Whether a program has got a region, and not only waits for it.
    fn holds(&self, id: ProgramId, region: u64) -> bool {
        let open = self.regions.get(region);
        let is_open = open.is_some_and(|one| one.openers.count(Opener::Program(id)) > 0);
        let waits = self.programs.get(id).is_some_and(|program| {
            let mut waiting = program.waiting.iter();
            waiting.any(|one| one.region == Some(region))
        });
        is_open && !waits
    }

    /// Lets a wish wait, if it may be granted at all.
    fn admit_wish(&mut self, id: ProgramId, tag: u64, wish: LinkWish) -> Result<(), Refusal> {
        check_name(&wish.name)?;
        let Some(program) = self.programs.get(id) else {
            return Ok(());
        };
        let rules = &self.programs.rules;
        rules.may_open(&program.user, &wish.name).map_err(denied)?;
        if self.hugetlb && !program.user.is_root() {
            return Err(Refusal::new(
                RefusalCode::CannotPin,
                "this guest pins by huge pages, which only root's programs get: taking pages out of such a file would give the host others' memory (allow io_uring or AF_XDP)",
            ));
        }
        let opener = Opener::Program(id);
        let open = self.regions.iter().map(|one| one.openers.count(opener));
        let held = usize::try_from(open.sum::<u32>()).unwrap_or(usize::MAX);
        let waiting = program.waiting.iter().filter(|one| one.region.is_none());
        if held.saturating_add(waiting.count()) >= HOLD_LIMIT {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!("this connection has {HOLD_LIMIT} regions open, which is the most"),
            ));
        }
        if let Some(program) = self.programs.get_mut(id) {
            program.waiting.push(Waiting {
                tag,
                wish,
                region: None,
            });
        }
        Ok(())
    }

    /// Forgets what waits under a tag; whether anything did. A region that was made for it
    /// goes, if nobody else waits for it.
    fn cancel(&mut self, id: ProgramId, tag: u64) -> bool {
        let Some(program) = self.programs.get_mut(id) else {
            return false;
        };
        let found = program.waiting.iter().position(|one| one.tag == tag);
        let Some(waiting) = found.map(|index| program.waiting.remove(index)) else {
            return false;
        };
        if let Some(region) = waiting.region {
            self.close_for_program(id, region);
        }
        true
    }

    /// Grants what waits and can be had now, and lets go of what those held whose
    /// connections are over. Called after everything that may have changed a region.
    pub(super) fn serve_waiting(&mut self) -> Result<(), ServiceError> {
        // An end is free at once for whoever comes after one that was killed.
        self.bury_programs()?;
        let ids: Vec<ProgramId> = self
            .programs
            .iter()
            .filter(|program| !program.waiting.is_empty())
            .map(|program| program.id)
            .collect();
        for id in ids {
            let waiting = match self.programs.get_mut(id) {
                Some(program) => std::mem::take(&mut program.waiting),
                None => continue,
            };
            let mut left = Vec::new();
            for mut one in waiting {
                match self.try_waiting(id, &mut one)? {
                    Ok(false) => left.push(one),
                    Ok(true) => {}
                    Err(refusal) => self.programs.send(id, one.tag, &refusal.to_reply(), None),
                }
            }
            if let Some(program) = self.programs.get_mut(id) {
                program.waiting.splice(0..0, left);
            }
        }
        self.bury_programs()
    }

    /// Lets go of what programs held whose connections are over.
    fn bury_programs(&mut self) -> Result<(), ServiceError> {
        let gone = self.programs.take_over_ones();
        for id in &gone {
            self.forget_program(*id);
        }
        if gone.is_empty() {
            Ok(())
        } else {
            self.settle()
        }
    }

    /// Whether a wish is granted now.
    fn try_waiting(
        &mut self,
        id: ProgramId,
        waiting: &mut Waiting,
    ) -> Result<Result<bool, Refusal>, ServiceError> {
        let region = match waiting.region {
            Some(region) => region,
            None => match self.open_link(Opener::Program(id), &waiting.wish) {
                Err(refusal) => return Ok(Err(refusal)),
                Ok(Opened::Later) => return Ok(Ok(false)),
                Ok(Opened::Missing) => {
                    let made = self.make_for_program(id, waiting.tag, &waiting.wish)?;
                    return Ok(made.map(|()| false));
                }
                Ok(Opened::Held(region)) => *waiting.region.insert(region),
            },
        };
        let Some(found) = self.regions.get(region) else {
            return Ok(Err(Refusal::new(
                RefusalCode::NotFound,
                format!("region `{}` is gone", waiting.wish.name),
            )));
        };
        if !found.description.ready {
            return Ok(Ok(false));
        }
        let reply = reply_to_program(found);
        if let Some(file) = self.files.get(&region) {
            self.programs
                .send(id, waiting.tag, &reply, Some(file.as_fd()));
        }
        Ok(Ok(true))
    }

    fn make_for_program(
        &mut self,
        id: ProgramId,
        tag: u64,
        wish: &LinkWish,
    ) -> Result<Result<(), Refusal>, ServiceError> {
        let Some(program) = self.programs.get(id) else {
            return Ok(Ok(()));
        };
        let rules = &self.programs.rules;
        if let Err(reason) = rules.may_make(&program.user, &wish.name, wish.size) {
            // Somebody else may make it at any moment. One that is too large nobody waits for.
            let code = if rules.makes(&program.user, &wish.name) {
                RefusalCode::Denied
            } else {
                RefusalCode::NotFound
            };
            return Ok(Err(Refusal::new(code, reason)));
        }
        let origin = Origin::Program { program: id, tag };
        self.create_link(wish, origin)
    }

    /// How many places of the table are not for this program.
    pub(super) fn places_kept_from(&self, id: ProgramId) -> usize {
        let is_root = self.programs.get(id).is_some_and(|one| one.user.is_root());
        if is_root { 0 } else { PLACES_KEPT_BACK }
    }

    fn remove_for_program(&mut self, id: ProgramId, name: &str) -> Result<(), Refusal> {
        check_name(name)?;
        let Some(program) = self.programs.get(id) else {
            return Ok(());
        };
        let rules = &self.programs.rules;
        rules.may_open(&program.user, name).map_err(denied)?;
        rules.may_remove(&program.user, name).map_err(denied)?;
        let by = format!("user {} removed it", program.user.uid);
        let Some(region) = self.regions.find(name) else {
            return Err(Refusal::new(
                RefusalCode::NotFound,
                format!("there is no region `{name}`"),
            ));
        };
        if matches!(region.kind(), RegionKind::Pipe | RegionKind::Bench) {
            let kind = region.kind().name();
            return Err(Refusal::new(
                RefusalCode::WrongKind,
                format!("`{name}` is a {kind}, which is no program's to remove"),
            ));
        }
        self.end_region(region.id, EndCause::Removed, &by);
        Ok(())
    }

    /// A bell of the host's rings for a region: wakes the programs that hold it.
    pub(super) fn bell(&mut self, region: u64) {
        let programs: Vec<ProgramId> = match self.regions.get(region) {
            Some(region) => region.openers.programs().collect(),
            None => return,
        };
        for program in programs {
            if self.holds(program, region) {
                self.programs.ring(program, region);
            }
        }
    }

    /// A program rings for a region that it holds: wakes the host's programs, where a
    /// doorbell leads there.
    fn ring_host(&self, region: u64) {
        if let Some(connector) = &self.connector {
            connector.ring(region);
        }
    }

    /// For `status`: all programs with what they hold and wait for.
    pub(super) fn program_infos(&self) -> Vec<ProgramInfo> {
        let info = |program: &super::programs::Program| {
            let opener = Opener::Program(program.id);
            let held = self.regions.iter().filter_map(|region| {
                let role = region.openers.role(opener)?;
                Some(HeldInfo {
                    region: region.description.name.clone(),
                    role: role.into(),
                    waits: !self.holds(program.id, region.id),
                })
            });
            let unmade = program.waiting.iter().filter(|one| one.region.is_none());
            let unmade = unmade.map(|one| HeldInfo {
                region: one.wish.name.clone(),
                role: one.wish.role.into(),
                waits: true,
            });
            ProgramInfo {
                uid: program.user.uid,
                pid: program.pid,
                held: held.chain(unmade).collect(),
            }
        };
        self.programs.iter().map(info).collect()
    }
}

/// What a program is told of a region; its place in the guest's memory is not its business.
fn reply_to_program(region: &Region) -> Reply {
    Reply::Region(RegionReply {
        region: region.id,
        size: region.size,
        extents: region.extents.len() as u64,
        ready: true,
        key: 0,
        placement: 0,
    })
}

fn denied(reason: String) -> Refusal {
    Refusal::new(RefusalCode::Denied, reason)
}
