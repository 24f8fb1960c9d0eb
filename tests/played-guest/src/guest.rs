//! The guest's part: RAM, beacon, directory, and an agent that serves slots.

use std::fmt::Write as _;
use std::sync::Arc;

use vmshm_link::beacon::{AGENT_GENERATION, AGENT_PULSE, Beacon, KEEPER_PULSE, KEEPER_STATE};
use vmshm_link::beacon::{KeeperState, PAGE, PAGE_BYTES};
use vmshm_link::control::{EndCause, RefusalCode, Reply, Request};
use vmshm_link::directory::{self, DIRECTORY_SIZE, Header, RegionKind, SLOTS};
use vmshm_link::slot::{self, AgentSlot, SlotEvent, SlotState, SlotView};
use vmshm_link::{Extent, GuestPhysical, duplex};
use vmshm_shm::SharedMemory;

use crate::bench::Bench;
use crate::pipes::Pipes;
use crate::plan::Plan;
use crate::ram::{GuestMemory, Ram, Window};
use crate::regions::Region;
use crate::requests::refusal;
use crate::screens::Screens;

/// A guest that is played.
pub struct Guest<M: GuestMemory> {
    pub(crate) plan: Plan,
    pub(crate) ram: Ram<M>,
    page: Window<M>,
    pub(crate) directory: Arc<Window<M>>,
    slots: Vec<AgentSlot<Arc<Window<M>>>>,
    pub(crate) regions: Vec<Region>,
    epoch: u64,
    sessions: u64,
    pub(crate) last_id: u64,
    /// Of the rooms, which to try next.
    pub(crate) next_pair: usize,
    pulse: u64,
    /// It has booted.
    is_on: bool,
    is_serving: bool,
    keeps_silent: bool,
    /// The region whose proofs it does not hear.
    deaf_to: String,
    pub(crate) screens: Screens<M>,
    pub(crate) pipes: Pipes<M>,
    pub(crate) benches: Vec<(u64, Bench)>,
}

impl<M: GuestMemory> Guest<M> {
    /// Boots a guest over `memory`.
    #[must_use]
    pub fn new(memory: M, plan: Plan) -> Self {
        let mut guest = Self::without_agent(memory, plan);
        guest.boot();
        guest
    }

    /// A guest whose RAM nobody has touched yet: no agent runs there, until the order `reboot`.
    #[must_use]
    pub fn without_agent(memory: M, plan: Plan) -> Self {
        let ram = Ram::new(memory, &plan.ranges);
        let page = Extent {
            start: plan.beacon,
            length: PAGE,
        };
        Self {
            page: ram.window(&[page]),
            directory: Arc::new(ram.window(&[plan.directory()])),
            plan,
            ram,
            slots: Vec::new(),
            regions: Vec::new(),
            epoch: 7,
            sessions: 0,
            last_id: 0,
            next_pair: 0,
            pulse: 0,
            is_on: false,
            is_serving: true,
            keeps_silent: false,
            deaf_to: String::new(),
            screens: Screens::default(),
            pipes: Pipes::default(),
            benches: Vec::new(),
        }
    }

    fn boot(&mut self) {
        self.page.write(0, &[0; PAGE_BYTES]).expect("written");
        let zeroes = vec![0; usize::try_from(DIRECTORY_SIZE).expect("small")];
        self.directory.write(0, &zeroes).expect("written");
        let extents = [self.plan.directory()];
        let ram: Vec<_> = self.plan.ranges.iter().map(|range| range.extent).collect();
        let header = Header::new(self.epoch, 1000, "1.1", "6.1", &ram);
        directory::write_page_addresses(&self.directory, &extents).expect("whole");
        header.write(&self.directory).expect("written");
        let beacon = Beacon::new(self.plan.beacon, [1; 16], self.epoch, &extents);
        let page = beacon.expect("right").to_page();
        self.page.write(0, &page).expect("written");
        self.say(KeeperState::AgentAlive);
        self.adopt();
        self.is_on = true;
        self.list();
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

    /// Lets the guest live for a moment: it beats, and answers who asks.
    pub fn step(&mut self) {
        if !self.is_on {
            return;
        }
        self.beat();
        if self.is_serving {
            self.serve();
        }
    }

    /// Writes the table of regions, if there is an agent to have one.
    pub(crate) fn list_if_on(&self) {
        if self.is_on {
            self.list();
        }
    }

    fn beat(&mut self) {
        self.pulse += 1;
        for word in [KEEPER_PULSE, AGENT_PULSE] {
            self.page.store_relaxed(word, self.pulse).expect("there");
        }
        directory::write_pulse(&self.directory, self.pulse).expect("there");
    }

    fn is_deaf_to(&self, request: Option<&Request>) -> bool {
        let Some(Request::Proved { region: id, .. }) = request else {
            return false;
        };
        let mut regions = self.regions.iter();
        regions.any(|region| region.id == *id && region.name == self.deaf_to)
    }

    pub(crate) fn mark(&mut self, name: &str, cause: EndCause) -> Reply {
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
                self.leave_regions(index);
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
                    Some(Request::Bell { .. }) => continue,
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
        self.pump();
        self.greet_readers();
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

    /// Asks each session to end, as another host process that grafts would.
    fn ask_to_make_way(&self) {
        for base in (0..SLOTS).map(directory::slot_offset) {
            let view = SlotView::read(&self.directory, base).expect("there");
            if view.is_held() {
                slot::ask_to_leave(&self.directory, base, view.token).expect("there");
            }
        }
    }

    /// A session has ended: what it held is held no more, and an end of a pipe that was in use is lost.
    fn leave_regions(&mut self, slot: usize) {
        let mut gone = Vec::new();
        for index in 0..self.regions.len() {
            let region = &self.regions[index];
            if region.kind == RegionKind::Pipe && region.is_held_by(slot) {
                let memory = self.memory(region);
                duplex::mark_lost(&memory, duplex::Side::Host).expect("there");
                gone.push(region.id);
            }
            self.regions[index]
                .holders
                .retain(|(holder, _)| *holder != slot);
        }
        self.regions.retain(|region| !gone.contains(&region.id));
    }

    /// Carries out an order, and gives what it says to that.
    ///
    /// # Panics
    /// When it does not know the order.
    pub fn obey(&mut self, order: &str) -> String {
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
            ("make-way", _) => self.ask_to_make_way(),
            ("reboot", _) => {
                self.epoch += 1;
                self.pulse = 0;
                self.regions.clear();
                self.benches.clear();
                self.pipes.forget();
                self.screens.forget_regions();
                self.boot();
            }
            ("peek", place) => return self.peek(place),
            ("poke", place) => self.poke(place),
            ("ahead", _) => self.pulse += 1 << 32,
            ("back", _) => self.pulse -= 1 << 32,
            ("screen", order) => return self.obey_screen(order),
            ("pipe", order) => return self.pipes.obey(order),
            (other, _) => panic!("what is {other:?}?"),
        }
        String::new()
    }

    /// The bytes at `GPA LENGTH`, in hex.
    fn peek(&self, place: &str) -> String {
        let (start, length) = place.split_once(' ').expect("an address and a length");
        let length = number(length);
        let mut bytes = vec![0; usize::try_from(length).expect("small")];
        self.at(start, length).read(0, &mut bytes).expect("inside");
        let mut text = String::new();
        for byte in bytes {
            write!(text, "{byte:02x}").expect("a string takes it");
        }
        text
    }

    /// Writes what `GPA HEX` says.
    fn poke(&self, place: &str) {
        let (start, hex) = place.split_once(' ').expect("an address and bytes");
        let digits = hex.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16);
        let bytes: Vec<u8> = digits.map(|pair| byte(pair).expect("hex")).collect();
        self.at(start, bytes.len() as u64)
            .write(0, &bytes)
            .expect("inside");
    }

    fn at(&self, start: &str, length: u64) -> Window<M> {
        let start = GuestPhysical(number(start));
        self.ram.window(&[Extent { start, length }])
    }
}

/// A number, decimal or `0x…`.
fn number(text: &str) -> u64 {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.expect("a number")
}
