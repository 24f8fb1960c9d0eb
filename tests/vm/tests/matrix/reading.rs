//! A machine is found as it is, and its memory is read right at every kind of address.

use std::time::Instant;

use vmshm_host::attach::AttachOptions;
use vmshm_host::machines::Subject;
use vmshm_host::physical::Physical;
use vmshm_link::GuestPhysical;
use vmshm_ram::{Source, find_by_pid};
use vmshm_vm_tests::agent;
use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::LATER;
use vmshm_vm_tests::planted::Planted;
use vmshm_vm_tests::program::{Outcome, vmshm};
use vmshm_vm_tests::status::Status;

use vmshm_vm_tests::residency;

use crate::truth::{PAGE, Truth};

const MIB: u64 = 1 << 20;
/// Pages that the guest may be using at this moment are looked at so often.
const LOOKS: usize = 5;
/// A range of this size must hold a planted page, or nothing of it is sure.
const LARGE: u64 = 64 * MIB;

/// What is expected of an address that is RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// By rule: with a word about that.
    Guessed,
    /// By the agent: with a word where no page of the agent's is in the range.
    Shown,
}

/// All of it in one boot: without the agent, and then with it.
pub fn without_and_with_the_agent(machine: &Machine) {
    let vmm = find_by_pid(machine.pid).expect("it is there");
    let before = residency::of(&vmm);
    let planted = Planted::in_guest(&machine.guest);
    let growth = residency::of(&vmm).saturating_sub(before);
    assert!(growth > MIB, "memory that is used shows: {growth} bytes");
    let truth = Truth::of(machine);
    for range in truth
        .ranges
        .iter()
        .filter(|range| range.end - range.start >= LARGE)
    {
        let has = planted.addresses().any(|address| range.contains(&address));
        assert!(
            has,
            "no page is planted in {range:x?} of {:x?}",
            truth.ranges
        );
    }
    is_found(machine);
    let entry = entry_of(machine);
    assert_eq!(entry["agent"], serde_json::Value::Null, "{entry}");
    let guessed = memory_is_right(machine, &truth, &planted, Layout::Guessed);

    agent::start(&machine.guest);
    is_seen(machine);
    is_found(machine);
    let shown = memory_is_right(machine, &truth, &planted, Layout::Shown);
    let beacon = Status::of(&machine.guest).beacon;
    let proved = read(machine, beacon & !(PAGE - 1));
    assert_eq!(proved.errors, "", "the beacon's own place is proved");
    planted.end();
    report(&format_args!(
        "{}: {guessed} pages right without the agent, {shown} with it",
        machine.name
    ));
}

/// Waits until the agent is in the list.
fn is_seen(machine: &Machine) {
    let deadline = Instant::now() + LATER;
    loop {
        let agent = entry_of(machine)["agent"].take();
        if agent["state"] == "seen" {
            return;
        }
        assert!(Instant::now() < deadline, "the agent is listed as {agent}");
    }
}

/// RAM and its blocks are what the machine was started with.
fn is_found(machine: &Machine) {
    let entry = entry_of(machine);
    assert_eq!(entry["pid"], machine.pid, "{entry}");
    assert_eq!(entry["vmm"], machine.kind.vmm(), "{entry}");
    assert_eq!(entry["ram_bytes"], machine.kind.ram_bytes(), "{entry}");
    let backing = if machine.kind.is_shared() {
        "shared"
    } else {
        "private"
    };
    assert_eq!(entry["backing"], backing, "{entry}");
    let vmm = find_by_pid(machine.pid).expect("it is there");
    let blocks: Vec<(u64, String)> = vmm
        .blocks
        .iter()
        .map(|block| (block.length, block.backing.to_string()))
        .collect();
    if let Kind::Qemu(cell) = machine.kind {
        let wanted: Vec<(u64, String)> = cell
            .blocks()
            .into_iter()
            .map(|(length, backing)| (length, backing.to_owned()))
            .collect();
        assert_eq!(blocks, wanted, "{:?}", vmm.blocks);
    } else {
        // The file holds a random gap, too.
        assert_eq!(blocks.len(), 1, "{:?}", vmm.blocks);
        assert!(
            blocks[0].0 >= machine.kind.ram_bytes() - (64 << 20),
            "{blocks:?}"
        );
        assert_eq!(blocks[0].1, "shared file");
    }
}

fn entry_of(machine: &Machine) -> serde_json::Value {
    let listed = vmshm(["list", "--json"]).run().json();
    let entries = listed.as_array().expect("a list is an array");
    let ours = entries.iter().find(|entry| entry["pid"] == machine.pid);
    ours.unwrap_or_else(|| panic!("{} is not in {listed}", machine.name))
        .clone()
}

/// Compares every page that something is known of, and asks for what is none. Gives the number of pages. The command
/// looks for the agent anew each time, so most of it is asked of the library, as the command asks it.
fn memory_is_right(
    machine: &Machine,
    truth: &Truth,
    planted: &Planted<'_>,
    layout: Layout,
) -> usize {
    let vmm = find_by_pid(machine.pid).expect("it is there");
    let physical = Physical::for_looking(&Subject::Running(vmm), &AttachOptions::default());
    let physical = physical.expect("a layout is known");
    let look = Look {
        machine,
        physical,
        layout,
    };
    let mut count = 0;
    for address in planted.addresses() {
        look.is_planted_there(planted, address);
        count += 1;
    }
    if let Some(monitor) = &truth.monitor {
        for address in truth.pages() {
            look.is_same_page(address, &|| monitor.memory(address, PAGE));
            count += 1;
        }
    }
    for &address in &truth.holes {
        let refused = look.ask(address).expect_err("there is no RAM");
        assert!(refused.contains("guest's RAM"), "{address:#x}: {refused}");
    }
    look.commands_say_the_same(truth, planted);
    count
}

fn read(machine: &Machine, address: u64) -> Outcome {
    let pid = machine.pid.to_string();
    vmshm(["read", &pid, &format!("{address:#x}"), "4096"]).run()
}

/// A machine while its memory is read.
struct Look<'a> {
    machine: &'a Machine,
    physical: Physical,
    layout: Layout,
}

impl Look<'_> {
    /// A page, and how its place is known; else the reason.
    fn ask(&self, address: u64) -> Result<(Vec<u8>, Option<Source>), String> {
        let mut bytes = Vec::new();
        let read = self
            .physical
            .read(GuestPhysical(address), PAGE, &mut |part| {
                bytes.extend_from_slice(part);
                Ok(())
            });
        match read {
            Ok(source) => Ok((bytes, source)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What is read at an address that is RAM; nothing where that may be unknown: where plugged memory lies, only the
    /// guest and the monitor know.
    fn page(&self, address: u64) -> Option<Vec<u8>> {
        match self.ask(address) {
            Ok((bytes, source)) => {
                let source = source.expect("a page has a source");
                assert_eq!(bytes.len() as u64, PAGE);
                assert!(
                    self.layout == Layout::Shown || source != Source::Proved,
                    "{address:#x} is proved without an agent"
                );
                Some(bytes)
            }
            Err(reason) => {
                let may_be_unknown =
                    self.layout == Layout::Guessed && is_plugged(self.machine, address);
                assert!(may_be_unknown, "{address:#x}: {reason}");
                assert!(reason.contains("guest's RAM"), "{address:#x}: {reason}");
                None
            }
        }
    }

    fn is_planted_there(&self, planted: &Planted<'_>, address: u64) {
        let Some(bytes) = self.page(address) else {
            return;
        };
        let wanted = planted.contents(address);
        assert!(
            bytes == wanted || !planted.is_still_at(address),
            "not what was planted at {address:#x}: {:02x?}…, not {:02x?}…",
            &bytes[..16],
            &wanted[..16]
        );
    }

    /// The guest may be using the page, so only what stands still between two looks of the VMM's counts.
    fn is_same_page(&self, address: u64, told: &dyn Fn() -> Vec<u8>) {
        let mut wrong = Vec::new();
        for _ in 0..LOOKS {
            let before = told();
            let Some(bytes) = self.page(address) else {
                return;
            };
            let after = told();
            let mut places = 0..bytes.len();
            let still = |place: &usize| before[*place] == after[*place];
            if places.clone().filter(still).count() * 2 < bytes.len() {
                continue;
            }
            let differs = |place: &usize| still(place) && bytes[*place] != before[*place];
            let Some(place) = places.find(differs) else {
                return;
            };
            wrong.push(place);
        }
        panic!("another page than the monitor's at {address:#x}: at {wrong:?}");
    }

    /// The same at some addresses, as users ask.
    fn commands_say_the_same(&self, truth: &Truth, planted: &Planted<'_>) {
        let known = |address: &u64| self.ask(*address).is_ok();
        let address = planted.addresses().find(known).expect("a known page");
        let outcome = read(self.machine, address);
        let guessed = outcome.errors.starts_with("layout: ");
        assert!(
            guessed || (self.layout == Layout::Shown && outcome.errors.is_empty()),
            "{}",
            outcome.errors
        );
        let same = outcome.success() == planted.contents(address);
        assert!(same || !planted.is_still_at(address), "at {address:#x}");
        if let Some(&address) = truth.holes.first() {
            read(self.machine, address).refused(&["guest's RAM"]);
        }
    }
}

fn is_plugged(machine: &Machine, address: u64) -> bool {
    match machine.kind {
        Kind::Qemu(cell) => {
            cell.shape == vmshm_vm_tests::cell::Shape::Slots && address >= cell.ram_bytes()
        }
        _ => false,
    }
}
