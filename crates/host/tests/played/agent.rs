//! The guest's part: RAM, beacon, directory, and an agent that serves slots.

#[path = "screens.rs"]
mod screens;

use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmshm_link::beacon::{AGENT_GENERATION, AGENT_PULSE, Beacon, KEEPER_PULSE, KEEPER_STATE};
use vmshm_link::beacon::{KeeperState, PAGE, PAGE_BYTES};
use vmshm_link::control::{EndCause, ExtentsReply, RefusalCode, RegionReply};
use vmshm_link::control::{Reply, Request, Role};
use vmshm_link::directory::{self, DIRECTORY_SIZE, Header, RegionEntry, RegionKind, SLOTS};
use vmshm_link::fields::Text;
use vmshm_link::slot::{AgentSlot, SlotEvent, SlotState};
use vmshm_link::{Extent, GuestPhysical, proof};
use vmshm_shm::{Mapping, Piece, Protection, SharedMemory};

const SIZE: u64 = 64 << 20;
const BEACON: u64 = 6 << 20;
const DIRECTORY: u64 = BEACON + PAGE;
const REGIONS: u64 = 16 << 20;
const ROOM: u64 = 1 << 20;

struct Region {
    id: u64,
    name: String,
    kind: RegionKind,
    size: u64,
    record: u64,
    ready: bool,
    placement: u64,
    ended: Option<EndCause>,
    /// One for each time that it was opened.
    holders: Vec<(usize, Role)>,
}

impl Region {
    /// Its second half lies before its first.
    fn extents(&self) -> [Extent; 2] {
        let start = REGIONS + self.id * ROOM;
        let half = self.size / 2;
        [start + half, start].map(|start| Extent {
            start: GuestPhysical(start),
            length: half,
        })
    }
}

struct Guest {
    file: OwnedFd,
    page: Mapping,
    directory: Arc<Mapping>,
    slots: Vec<AgentSlot<Arc<Mapping>>>,
    regions: Vec<Region>,
    epoch: u64,
    sessions: u64,
    last_id: u64,
    pulse: u64,
    is_serving: bool,
    keeps_silent: bool,
    /// The region whose proofs it does not hear.
    deaf_to: String,
    screens: screens::Screens,
}

fn map(file: &OwnedFd, pieces: &[(u64, u64)]) -> Mapping {
    let pieces: Vec<_> = pieces
        .iter()
        .map(|&(offset, length)| Piece { offset, length })
        .collect();
    Mapping::new(file, &pieces, Protection::ReadWrite).expect("mapped")
}

impl Guest {
    fn new() -> Self {
        let file = memfd_create("guest-ram", MemfdFlags::empty()).expect("a memory file");
        ftruncate(&file, SIZE).expect("its size");
        // A VMM has all of it mapped; that is how it is found.
        std::mem::forget(map(&file, &[(0, SIZE)]));
        let mut guest = Self {
            page: map(&file, &[(BEACON, PAGE)]),
            directory: Arc::new(map(&file, &[(DIRECTORY, DIRECTORY_SIZE)])),
            file,
            slots: Vec::new(),
            regions: Vec::new(),
            epoch: 7,
            sessions: 0,
            last_id: 0,
            pulse: 0,
            is_serving: true,
            keeps_silent: false,
            deaf_to: String::new(),
            screens: screens::Screens::default(),
        };
        guest.boot();
        guest
    }

    fn boot(&mut self) {
        self.page.write(0, &[0; PAGE_BYTES]).expect("written");
        let zeroes = vec![0; usize::try_from(DIRECTORY_SIZE).expect("small")];
        self.directory.write(0, &zeroes).expect("written");
        let extents = [Extent {
            start: GuestPhysical(DIRECTORY),
            length: DIRECTORY_SIZE,
        }];
        let ram = [Extent {
            start: GuestPhysical(0),
            length: SIZE,
        }];
        let header = Header::new(self.epoch, 1000, "1.1", "6.1", &ram);
        directory::write_page_addresses(&self.directory, &extents).expect("whole");
        header.write(&self.directory).expect("written");
        let beacon = Beacon::new(GuestPhysical(BEACON), [1; 16], self.epoch, &extents);
        let page = beacon.expect("right").to_page();
        self.page.write(0, &page).expect("written");
        self.say(KeeperState::AgentAlive);
        self.adopt();
    }

    fn adopt(&mut self) {
        let adopt = |index| {
            let base = directory::slot_offset(index);
            AgentSlot::adopt(Arc::clone(&self.directory), base, self.epoch).expect("adopted")
        };
        self.slots = (0..SLOTS).map(adopt).collect();
    }

    fn say(&self, state: KeeperState) {
        let word = state.to_word();
        self.page.store_relaxed(KEEPER_STATE, word).expect("there");
    }

    fn beat(&mut self) {
        self.pulse += 1;
        for word in [KEEPER_PULSE, AGENT_PULSE] {
            self.page.store_relaxed(word, self.pulse).expect("there");
        }
        directory::write_pulse(&self.directory, self.pulse).expect("there");
    }

    fn list(&self) {
        for index in 0..self.regions.len().max(8) {
            let entry = self.regions.get(index).map(|region| RegionEntry {
                id: region.id,
                kind: region.kind,
                size: region.size,
                ready: region.ready,
                record: region.record,
                ended: region.ended,
                name: Text::new(&region.name),
            });
            directory::write_region(&self.directory, index, entry.as_ref()).expect("there");
        }
    }

    fn memory(&self, region: &Region) -> Mapping {
        let [first, second] = region.extents();
        let pieces = [first, second].map(|extent| (extent.start.0, extent.length));
        map(&self.file, &pieces)
    }

    fn make(&mut self, name: &str, kind: RegionKind, size: u64, record: u64) {
        self.last_id += 1;
        let region = Region {
            id: self.last_id,
            name: name.to_owned(),
            kind,
            size: size.next_multiple_of(2 * PAGE),
            record,
            ready: false,
            placement: 0,
            ended: None,
            holders: Vec::new(),
        };
        let memory = self.memory(&region);
        proof::write_pattern(&memory, 99, region.id).expect("written");
        self.regions.push(region);
    }

    fn link(&mut self, slot: usize, request: &Request) -> Reply {
        let Request::Link {
            kind,
            size,
            name,
            record,
            role,
        } = request
        else {
            return refusal(RefusalCode::Unsupported);
        };
        let open = |region: &Region| region.name == name.as_str() && region.ended.is_none();
        if !self.regions.iter().any(open) {
            if *size == 0 {
                return refusal(RefusalCode::NotFound);
            }
            self.make(name.as_str(), *kind, *size, *record);
        }
        let Some(region) = self.regions.iter_mut().find(|region| open(region)) else {
            return refusal(RefusalCode::NotFound);
        };
        if region.kind != *kind {
            return refusal(RefusalCode::WrongKind);
        }
        let conflicts = |holder: &(usize, Role)| match (*holder, *role) {
            ((_, Role::End), Role::End) => true,
            ((holder, held), wanted) => holder == slot && held != wanted,
        };
        if *kind != RegionKind::Raw && region.holders.iter().any(conflicts) {
            return refusal(RefusalCode::Busy);
        }
        if !region.ready && !region.holders.is_empty() {
            return refusal(RefusalCode::Proving);
        }
        region.holders.push((slot, *role));
        Reply::Region(RegionReply {
            region: region.id,
            size: region.size,
            extents: 2,
            ready: region.ready,
            key: 99,
            placement: region.placement,
        })
    }

    fn answer(&mut self, slot: usize, request: &Request) -> Reply {
        let held = |region: &&mut Region, id: u64| {
            region.id == id && region.holders.iter().any(|(holder, _)| *holder == slot)
        };
        match request {
            Request::Extents { region: id, first } => {
                let first_at = usize::try_from(*first).expect("small");
                match self.regions.iter_mut().find(|region| held(region, *id)) {
                    // One at a time, as if there were very many.
                    Some(region) => Reply::Extents(ExtentsReply::new(
                        *first,
                        &region.extents()[first_at..=first_at],
                    )),
                    None => refusal(RefusalCode::NotFound),
                }
            }
            Request::Proved {
                region: id,
                placement,
            } => {
                let Some(index) = self.regions.iter().position(|region| region.id == *id) else {
                    return refusal(RefusalCode::NotFound);
                };
                let memory = self.memory(&self.regions[index]);
                proof::clear_pattern(&memory).expect("written");
                self.regions[index].ready = true;
                self.regions[index].placement = *placement;
                self.lay_out_frames(*id);
                Reply::Done
            }
            Request::Close { region: id } => {
                if let Some(region) = self.regions.iter_mut().find(|region| held(region, *id)) {
                    let held = |(holder, _): &(usize, Role)| *holder == slot;
                    let first = region.holders.iter().position(held).expect("held");
                    region.holders.remove(first);
                }
                Reply::Done
            }
            Request::Remove { name } => self.mark(name.as_str(), EndCause::Removed),
            request => self.link(slot, request),
        }
    }

    fn is_deaf_to(&self, request: Option<&Request>) -> bool {
        let Some(Request::Proved { region: id, .. }) = request else {
            return false;
        };
        let mut regions = self.regions.iter();
        regions.any(|region| region.id == *id && region.name == self.deaf_to)
    }

    fn mark(&mut self, name: &str, cause: EndCause) -> Reply {
        let mut regions = self.regions.iter_mut();
        match regions.find(|region| region.name == name && region.ended.is_none()) {
            Some(region) => {
                region.ended = Some(cause);
                Reply::Done
            }
            None => refusal(RefusalCode::NotFound),
        }
    }

    fn serve(&mut self) {
        for index in 0..SLOTS {
            self.sessions += 1;
            let event = self.slots[index].poll(self.sessions).expect("a good host");
            if event == Some(SlotEvent::Released) {
                for region in &mut self.regions {
                    region.holders.retain(|(holder, _)| *holder != index);
                }
                self.leave_screens(index);
                self.slots[index].free().expect("freed");
            }
            if self.keeps_silent {
                continue;
            }
            let mut buffer = [0; 512];
            while let Some(rings) = self.slots[index].rings() {
                let Some((kind, length)) = rings.requests.try_pop(&mut buffer).expect("good")
                else {
                    break;
                };
                let (tag, request) = Request::from_payload(kind, &buffer[..length]);
                if self.is_deaf_to(request.as_ref()) {
                    continue;
                }
                let reply = match request {
                    Some(Request::Screen(request)) => match self.answer_screen(index, &request) {
                        Some(reply) => reply,
                        None => continue,
                    },
                    Some(request) => self.answer(index, &request),
                    None => refusal(RefusalCode::Unsupported),
                };
                // The table is right before anybody acts on the answer.
                self.list();
                let message = reply.to_message(tag);
                let rings = self.slots[index].rings().expect("it runs");
                let sent = rings.replies.try_push(message.kind, message.payload());
                assert_eq!(sent, Ok(true));
            }
        }
        self.regions
            .retain(|region| region.ended.is_none() || !region.holders.is_empty());
        self.list();
    }

    /// Slots that are not free, the sum of their hosts' pulses, and who holds what.
    fn state(&self) -> String {
        let held: Vec<_> = self
            .slots
            .iter()
            .filter(|slot| slot.state() != SlotState::Free)
            .collect();
        let pulses: u64 = held.iter().filter_map(|slot| slot.host_pulse().ok()).sum();
        let regions: Vec<_> = self
            .regions
            .iter()
            .map(|region| format!("{}={}", region.name, region.holders.len()))
            .collect();
        format!("slots={} pulses={pulses} {}", held.len(), regions.join(" "))
    }

    fn obey(&mut self, order: &str) -> String {
        match order.split_once(' ').unwrap_or((order, "")) {
            ("state", _) => return self.state(),
            ("make", name) => {
                self.make(name, RegionKind::Ring, 2 * PAGE, 8);
            }
            ("damage", name) => drop(self.mark(name, EndCause::Damaged)),
            ("drop", name) => self.regions.retain(|region| region.name != name),
            ("deaf", name) => self.deaf_to = name.to_owned(),
            ("silent", word) => self.keeps_silent = word == "on",
            ("die", _) => {
                self.is_serving = false;
                self.say(KeeperState::AgentDead);
            }
            ("restart", _) => {
                let generation = self.page.load_relaxed(AGENT_GENERATION).expect("there");
                let next = generation + 1;
                self.page
                    .store_relaxed(AGENT_GENERATION, next)
                    .expect("there");
                self.adopt();
                self.is_serving = true;
                self.say(KeeperState::AgentAlive);
            }
            ("leave", _) => {
                self.is_serving = false;
                self.say(KeeperState::Withdrawn);
            }
            ("reboot", _) => {
                self.epoch += 1;
                self.pulse = 0;
                self.regions.clear();
                self.screens.forget_regions();
                self.boot();
            }
            ("ahead", _) => self.pulse += 1 << 32,
            ("back", _) => self.pulse -= 1 << 32,
            ("screen", order) => return self.obey_screen(order),
            (other, _) => panic!("what is {other:?}?"),
        }
        String::new()
    }
}

fn refusal(code: RefusalCode) -> Reply {
    Reply::Refused {
        code,
        explanation: Text::new("the player will not"),
    }
}

/// Plays until its input ends.
pub fn play() {
    let mut guest = Guest::new();
    let orders = orders();
    println!("ready");
    loop {
        guest.beat();
        if guest.is_serving {
            guest.serve();
        }
        match orders.recv_timeout(Duration::from_millis(1)) {
            Ok(order) => {
                let answer = guest.obey(&order);
                guest.list();
                println!("done:{answer}");
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn orders() -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
