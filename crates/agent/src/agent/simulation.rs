//! A simulated guest for tests: hosts that speak the real wire to a real agent, over a
//! keeper that is a thread and hands out unpinned memory. No root is needed.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use vmshm_link::control::{
    MAX_MESSAGE, RefusalCode, RegionReply, Reply as HostReply, Request as HostRequest, Role,
};
use vmshm_link::directory::{DIRECTORY_SIZE, RegionKind, slot_offset};
use vmshm_link::fields::Text;
use vmshm_link::slot::{Claim, HostIdentity, HostSlot, PendingClaim, Proof};
use vmshm_shm::{PAGE_SIZE, Protection};

use super::locals::Locals;
use super::programs::Programs;
use super::rules::Rules;
use super::screens::{Findings, Offer, Processes, Screens};
use super::service::Service;
use crate::keeper::client::{Client, Holding, Inventory};
use crate::keeper::protocol::{Allocation, Purpose, Reply, Request, State, Summary};
use crate::pin::Method;
use crate::window::Window;
use vmshm_channel::Channel;

pub(super) const MIB: u64 = 1 << 20;
pub(super) const LIMIT: u64 = 16 * MIB;
const EPOCH: u64 = 77;

type Files = Arc<Mutex<BTreeMap<u64, (Allocation, OwnedFd)>>>;

fn memory(id: u64, purpose: Purpose, name: &str, size: u64) -> (Allocation, OwnedFd) {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).expect("a memfd");
    rustix::fs::ftruncate(&file, size).expect("a size");
    let allocation = Allocation {
        id,
        purpose,
        name: name.to_owned(),
        offset: 0,
        length: size,
        cost: size,
        // Two runs, so that extents are more than one.
        extents: vec![
            (id << 32, PAGE_SIZE),
            ((id << 32) + (1 << 30), size - PAGE_SIZE),
        ],
        descriptor: 0,
        description: None,
    };
    (allocation, file)
}

/// A keeper that keeps, describes and frees, but pins nothing.
fn keep(socket: UnixStream, files: &Files) {
    let mut channel = Channel::new(socket).expect("a channel");
    // An agent may ask for nothing for as long as its test takes; its end is told.
    let patience = Duration::from_secs(3600);
    while let Ok((request, _)) = channel.next::<Request>(patience) {
        let mut files = files.lock().expect("not poisoned");
        match request {
            Request::Allocate { name, size } if size > LIMIT => {
                let message = format!("no memory for {name}");
                channel
                    .send(
                        &Reply::Refused {
                            message,
                            hint: None,
                        },
                        None,
                    )
                    .expect("sent");
            }
            Request::AllocateDevice { path, .. } if path != "/dev/fb0" => {
                let reply = Reply::Refused {
                    message: format!("{path} has no pages of its own"),
                    hint: None,
                };
                channel.send(&reply, None).expect("sent");
            }
            Request::Allocate { name, size } | Request::AllocateDevice { name, size, .. } => {
                let id = files.keys().last().map_or(1, |last| last + 1);
                let (allocation, file) = memory(id, Purpose::Region, &name, size);
                let reply = Reply::Allocation(allocation.clone());
                channel.send(&reply, Some(file.as_fd())).expect("sent");
                files.insert(id, (allocation, file));
            }
            Request::Describe { id, description } => {
                let (allocation, _) = files.get_mut(&id).expect("a known memory");
                allocation.description = Some(description);
            }
            Request::Free { id } => drop(files.remove(&id).expect("a known memory")),
            Request::Withdraw => channel.send(&Reply::Withdrawn, None).expect("sent"),
            Request::Serving | Request::Serve { .. } | Request::List { .. } => {}
        }
    }
}

/// A guest: what its keeper holds outlives its agents.
pub(super) struct Guest {
    files: Files,
    generation: u64,
    /// The rules for programs.
    pub(super) rules: Rules,
    /// The screens of the next agent; nothing: none.
    pub(super) screens: Option<Screens>,
    keeper: Option<JoinHandle<()>>,
}

impl Guest {
    pub(super) fn new() -> Self {
        let mut files = BTreeMap::new();
        files.insert(1, memory(1, Purpose::Beacon, "beacon", 2 * PAGE_SIZE));
        files.insert(
            2,
            memory(2, Purpose::Directory, "directory", DIRECTORY_SIZE),
        );
        Self {
            files: Arc::new(Mutex::new(files)),
            generation: 0,
            rules: Rules::none(),
            screens: None,
            keeper: None,
        }
    }

    /// Starts an agent; the one before must have been dropped, as if killed.
    pub(super) fn start_agent(&mut self) -> Service {
        self.generation += 1;
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        // A keeper takes the last words of one agent before it admits the next.
        if let Some(keeper) = self.keeper.take() {
            keeper.join().expect("a keeper that ends");
        }
        let files = Arc::clone(&self.files);
        self.keeper = Some(thread::spawn(move || keep(theirs, &files)));
        let inventory = Inventory {
            holdings: self
                .files
                .lock()
                .expect("not poisoned")
                .values()
                .map(|(allocation, file)| Holding {
                    allocation: allocation.clone(),
                    file: file.try_clone().expect("a file"),
                })
                .collect(),
            summary: Summary {
                protocol: 1,
                version: String::new(),
                keeper_pid: 1,
                agent_pid: None,
                state: State::Starting,
                epoch: EPOCH,
                generation: self.generation,
                method: Method::IoUring,
                unit: PAGE_SIZE,
                notes: Vec::new(),
            },
        };
        let client = Client::over(ours).expect("a client");
        let programs = Programs::new(None, self.rules.clone()).expect("descriptors");
        let screens = match self.screens.take() {
            Some(screens) => screens,
            None => Screens::new(Offer::NONE, Processes, Findings::default).expect("descriptors"),
        };
        let locals = Locals::new(None);
        let mut service = Service::take_over(client, inventory, locals, programs, screens, LIMIT)
            .expect("takes over");
        service.announce().expect("announces");
        service
    }

    pub(super) fn directory(&self) -> Arc<Window> {
        self.map(2, DIRECTORY_SIZE)
    }

    pub(super) fn map(&self, id: u64, size: u64) -> Arc<Window> {
        let files = self.files.lock().expect("not poisoned");
        let (_, file) = files.get(&id).expect("a known memory");
        Arc::new(Window::open(file, 0, size, Protection::ReadWrite).expect("mapped"))
    }

    /// Whether the keeper still holds that memory, which it frees in a thread of its own.
    pub(super) fn holds(&self, id: u64) -> bool {
        thread::sleep(Duration::from_millis(50));
        self.has(id)
    }

    /// Whether the keeper frees that memory, given time.
    pub(super) fn frees(&self, id: u64) -> bool {
        (0..2000).any(|_| {
            thread::sleep(Duration::from_millis(5));
            !self.has(id)
        })
    }

    fn has(&self, id: u64) -> bool {
        self.files.lock().expect("not poisoned").contains_key(&id)
    }
}

pub(super) fn turn(service: &mut Service) {
    service.poll_slots().expect("polls");
    service.poll_keeper().expect("polls");
    service.poll_locals().expect("polls");
    service.programs.settle();
    service.poll_programs().expect("polls");
    service.serve_pipes().expect("serves");
    service.poll_screens().expect("polls");
    service.serve_waiting().expect("serves");
    service.settle_screens().expect("settles");
}

/// A host process.
pub(super) struct Host {
    pub(super) slot: HostSlot<Arc<Window>>,
    pub(super) tag: u64,
}

impl Host {
    pub(super) fn attach(guest: &Guest, service: &mut Service, index: usize) -> Self {
        let token = 1000 + index as u64;
        let place = PendingClaim::place(guest.directory(), slot_offset(index), token);
        let mut claim = place.expect("placed").expect("a free slot");
        let mut unproved = loop {
            turn(service);
            match claim
                .poll(EPOCH, 99, &HostIdentity::default())
                .expect("polls")
            {
                Claim::Waiting(again) => claim = again,
                Claim::Granted(slot) => break slot,
                Claim::Lost => panic!("nobody else claims"),
            }
        };
        loop {
            turn(service);
            match unproved.poll().expect("polls") {
                Proof::Waiting(again) => unproved = again,
                Proof::Proved(slot) => return Self { slot, tag: 0 },
            }
        }
    }

    pub(super) fn send(&mut self, request: &HostRequest) {
        self.tag += 1;
        let message = request.to_message(self.tag);
        let sent = self.slot.requests.try_push(message.kind, message.payload());
        assert_eq!(sent, Ok(true));
    }

    pub(super) fn receive(&mut self) -> Option<HostReply> {
        let mut payload = [0; MAX_MESSAGE];
        let (kind, length) = self.slot.replies.try_pop(&mut payload).expect("a reply")?;
        let (tag, reply) =
            HostReply::from_payload(kind, &payload[..length]).expect("a right reply");
        assert_eq!(tag, self.tag);
        Some(reply)
    }

    pub(super) fn ask(&mut self, service: &mut Service, request: &HostRequest) -> HostReply {
        self.send(request);
        for _ in 0..2000 {
            turn(service);
            if let Some(reply) = self.receive() {
                return reply;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("no answer to {request:?}");
    }

    pub(super) fn create(&mut self, service: &mut Service, name: &str, size: u64) -> RegionReply {
        let kind = RegionKind::Raw;
        let request = HostRequest::Create {
            kind,
            size,
            name: Text::new(name),
        };
        region(self.ask(service, &request))
    }

    pub(super) fn link(
        &mut self,
        service: &mut Service,
        name: &str,
        kind: RegionKind,
        record: u64,
    ) -> HostReply {
        self.ask(service, &link(name, kind, record, Role::End))
    }

    /// Proves a region that was just made.
    pub(super) fn prove(&mut self, service: &mut Service, region: u64) {
        let request = HostRequest::Proved {
            region,
            placement: 5,
        };
        assert_eq!(self.ask(service, &request), HostReply::Done);
    }

    pub(super) fn open(
        &mut self,
        service: &mut Service,
        name: &str,
        kind: RegionKind,
    ) -> HostReply {
        let request = HostRequest::Open {
            kind,
            size: MIB,
            name: Text::new(name),
        };
        self.ask(service, &request)
    }
}

/// A request for a link that is made with a megabyte where it is not there.
pub(super) fn link(name: &str, kind: RegionKind, record: u64, role: Role) -> HostRequest {
    HostRequest::Link {
        kind,
        size: MIB,
        name: Text::new(name),
        record,
        role,
    }
}

pub(super) fn region(reply: HostReply) -> RegionReply {
    match reply {
        HostReply::Region(region) => region,
        other => panic!("a region is expected, not {other:?}"),
    }
}

pub(super) fn refusal(reply: HostReply) -> RefusalCode {
    match reply {
        HostReply::Refused { code, .. } => code,
        other => panic!("a refusal is expected, not {other:?}"),
    }
}
