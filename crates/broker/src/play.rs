//! VMs that are played, for trying the broker without one: an agent that answers at once, and
//! regions that are memory files of this process.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{MemfdFlags, Mode, SealFlags};
use vmshm_host::brokered::wire::Machine;
use vmshm_host::{Condition, SessionEnd};
use vmshm_link::control::{EndCause, RefusalCode, RegionReply, Reply, Request};
use vmshm_link::directory::{RegionEntry, RegionKind};
use vmshm_link::fields::Text;
use vmshm_link::screens::ScreenRequest;

use crate::guests::{Found, Guest, Guests, Refused, Use};

/// A played region.
struct Region {
    name: String,
    kind: RegionKind,
    size: u64,
    file: Arc<OwnedFd>,
}

#[derive(Default)]
struct State {
    regions: BTreeMap<u64, Region>,
    last: u64,
    sessions: usize,
    over: Option<SessionEnd>,
    ended: Vec<(u64, EndCause)>,
    /// Regions that are lent now, each as often as it is.
    lent: Vec<u64>,
    /// What has happened, in its order.
    log: Vec<String>,
    /// Whether the agent answers nothing.
    deaf: bool,
    /// Whether what is taken back is back at once.
    slow: bool,
    /// Why no memory of the VM can be lent.
    obstacle: Option<Refused>,
}

/// The played host: one VM called `web`.
#[derive(Clone, Default)]
pub(crate) struct Play(Arc<Mutex<State>>);

impl Play {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host with a raw region.
    pub(crate) fn with_region(name: &str) -> Self {
        let play = Self::default();
        play.state().make(name, RegionKind::Raw, 1 << 16);
        play
    }

    pub(crate) fn end(&self, end: SessionEnd) {
        self.state().over = Some(end);
    }

    pub(crate) fn end_region(&self, name: &str) {
        let mut state = self.state();
        let id = state.find(name).expect("there");
        state.ended.push((id, EndCause::Removed));
    }

    pub(crate) fn be_deaf(&self) {
        self.state().deaf = true;
    }

    pub(crate) fn be_slow(&self, slow: bool) {
        self.state().slow = slow;
    }

    pub(crate) fn have_no_memory_to_lend(&self, why: Option<Refused>) {
        self.state().obstacle = why;
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// Sessions and loans that there are now.
    pub(crate) fn left(&self) -> (usize, usize) {
        let state = self.state();
        (state.sessions, state.lent.len())
    }

    /// The file of a region.
    pub(crate) fn file(&self, name: &str) -> Arc<OwnedFd> {
        let state = self.state();
        let id = state.find(name).expect("there");
        Arc::clone(&state.regions[&id].file)
    }
}

impl State {
    fn find(&self, name: &str) -> Option<u64> {
        let mut regions = self.regions.iter();
        regions.find_map(|(id, region)| (region.name == name).then_some(*id))
    }

    fn make(&mut self, name: &str, kind: RegionKind, size: u64) -> u64 {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("vmshm-played", flags).expect("made");
        rustix::fs::ftruncate(&file, size).expect("sized");
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).expect("sealed");
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).expect("set");
        self.last += 1;
        let region = Region {
            name: name.to_owned(),
            kind,
            size,
            file: Arc::new(file),
        };
        self.regions.insert(self.last, region);
        self.last
    }

    fn grant(&self, id: u64) -> Reply {
        let size = self.regions[&id].size;
        Reply::Region(RegionReply {
            region: id,
            size,
            extents: size / 4096,
            ready: true,
            key: 0x5ec2e7,
            placement: 0xadd2e55,
        })
    }

    fn answer(&mut self, request: &Request) -> Reply {
        let refused = |code| Reply::Refused {
            code,
            explanation: Text::new("the played agent says no"),
        };
        match request {
            Request::Create { kind, size, name } => {
                let id = self.make(name.as_str(), *kind, *size);
                self.grant(id)
            }
            Request::Open { kind, size, name }
            | Request::Link {
                kind, size, name, ..
            } => match self.find(name.as_str()) {
                Some(id) => self.grant(id),
                None if *size > 0 => {
                    let id = self.make(name.as_str(), *kind, *size);
                    self.grant(id)
                }
                None => refused(RefusalCode::NotFound),
            },
            Request::Screen(ScreenRequest::Watch { .. }) => {
                let id = self.make("frames", RegionKind::Frames, 4096);
                self.grant(id)
            }
            Request::Screen(ScreenRequest::Pixels { .. }) => {
                let id = self.make("pixels", RegionKind::Pixels, 8192);
                self.grant(id)
            }
            Request::Close { .. } | Request::Remove { .. } | Request::Screen(_) => Reply::Done,
            _ => refused(RefusalCode::Unsupported),
        }
    }
}

/// A request in a word, for the log.
fn word(request: &Request) -> String {
    match request {
        Request::Create { name, .. } => format!("create {}", name.as_str()),
        Request::Open { name, .. } => format!("open {}", name.as_str()),
        Request::Link { name, size, .. } => format!("link {} {size}", name.as_str()),
        Request::Close { region } => format!("close {region}"),
        Request::Remove { name } => format!("remove {}", name.as_str()),
        Request::Bell { region } => format!("bell {region}"),
        Request::Screen(ScreenRequest::Watch { screen }) => format!("watch {screen}"),
        Request::Screen(ScreenRequest::Leave { screen }) => format!("leave {screen}"),
        Request::Screen(ScreenRequest::Input { .. }) => "input".to_owned(),
        other => format!("{other:?}"),
    }
}

impl Guests for Play {
    fn find(&self, selector: &str) -> Result<Found, Refused> {
        if !["web", "4242", "other"].contains(&selector) {
            return Err(Refused::new(format!("no VM is called {selector:?}"), None));
        }
        Ok(Found {
            pid: 4242,
            start_time: 7,
            vmm: "qemu".to_owned(),
            name: if selector == "other" { "other" } else { "web" }.to_owned(),
            owner: Some(64055),
        })
    }

    fn obstacle(&self, _: &Found) -> Option<Refused> {
        self.state().obstacle.clone()
    }

    fn attach(&self, _: &Found, _: Duration) -> Result<Box<dyn Guest>, Refused> {
        self.state().sessions += 1;
        Ok(Box::new(Seat {
            play: self.clone(),
            answers: Vec::new(),
            held: Vec::new(),
        }))
    }

    fn list(&self) -> Vec<(Found, Machine, Vec<RegionEntry>)> {
        let found = self.find("web").expect("there");
        let machine = Machine {
            pid: found.pid,
            start_time: found.start_time,
            vmm: found.vmm.clone(),
            name: found.name.clone(),
            ram_bytes: 1 << 30,
            guest_os: None,
            agent: Some("1.0".to_owned()),
            boot_id: [1; 16],
        };
        vec![(found, machine, entries(&self.state()))]
    }
}

fn entries(state: &State) -> Vec<RegionEntry> {
    let entry = |(id, region): (&u64, &Region)| RegionEntry {
        id: *id,
        kind: region.kind,
        size: region.size,
        ready: true,
        record: 0,
        ended: None,
        name: Text::new(&region.name),
    };
    state.regions.iter().map(entry).collect()
}

struct Seat {
    play: Play,
    answers: Vec<(u64, Reply)>,
    held: Vec<u64>,
}

impl Guest for Seat {
    fn slot(&self) -> usize {
        3
    }

    fn keep(&mut self) -> Result<Condition, SessionEnd> {
        self.play.state().over.map_or(Ok(Condition::Running), Err)
    }

    fn ask(&mut self, tag: u64, request: &Request) -> Result<bool, SessionEnd> {
        let mut state = self.play.state();
        state.log.push(word(request));
        if !state.deaf {
            let reply = state.answer(request);
            self.answers.push((tag, reply));
        }
        Ok(true)
    }

    fn tell(&mut self, request: &Request) -> Result<bool, SessionEnd> {
        self.play.state().log.push(word(request));
        Ok(true)
    }

    fn answers(&mut self) -> Result<Vec<(u64, Reply)>, SessionEnd> {
        Ok(std::mem::take(&mut self.answers))
    }

    fn lend(&mut self, granted: &RegionReply, how: Use) -> Result<OwnedFd, Refused> {
        let mut state = self.play.state();
        let file = Arc::clone(&state.regions[&granted.region].file);
        state.lent.push(granted.region);
        self.held.push(granted.region);
        let file = match how {
            Use::Write => file.try_clone(),
            Use::Read | Use::ReadUnproved => vmshm_host::proxied::only_to_read(&file),
        };
        file.map_err(|error| Refused::new(error.to_string(), None))
    }

    fn take_back(&mut self, region: u64) -> bool {
        let Some(place) = self.held.iter().position(|one| *one == region) else {
            return true;
        };
        self.held.remove(place);
        let mut state = self.play.state();
        let lent = state.lent.iter().position(|one| *one == region);
        state.lent.remove(lent.expect("lent"));
        state.log.push(format!("back {region}"));
        !state.slow
    }

    fn may_let_go(&self, _: u64) -> bool {
        !self.play.state().slow
    }

    fn over(&mut self) -> Vec<(u64, EndCause)> {
        std::mem::take(&mut self.play.state().ended)
    }

    fn regions(&mut self) -> Result<Vec<RegionEntry>, SessionEnd> {
        Ok(entries(&self.play.state()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        for region in self.held.clone() {
            self.take_back(region);
        }
        self.play.state().sessions -= 1;
    }
}
