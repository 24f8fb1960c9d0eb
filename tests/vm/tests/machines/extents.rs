//! Guest-physical addresses: where the agent says that memory lies, the host finds the guest's bytes, and what the host
//! writes there the guest sees.

use vmshm_vm_tests::bytes::{RandomBytes, hexadecimal, sha256};
use vmshm_vm_tests::environment::{guest_program, report};
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::guest::Guest;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::status::{Memory, Status};

const SIZE: usize = 256 << 10;

#[test]
fn uml_has_its_bytes_where_the_agent_says() {
    compare(Kind::Uml);
}

#[test]
fn qemu_with_private_ram_has_its_bytes_where_the_agent_says() {
    compare(Kind::QemuPrivate(2));
}

#[test]
fn qemu_with_a_memfd_has_its_bytes_where_the_agent_says() {
    compare(Kind::QemuMemfd(1));
}

fn compare(kind: Kind) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let path = machine.path("bytes");
    vmshm(["region", "create", &path, "--size", "256K"])
        .run()
        .success();
    let status = Status::of(&machine.guest);
    let region = &status.region("bytes").memory;
    report(&format_args!(
        "{}: {} extents",
        machine.name,
        region.extents.len()
    ));
    let length: u64 = region.extents.iter().map(|extent| extent.length).sum();
    assert_eq!(length, SIZE as u64, "the extents are the region");

    what_the_guest_writes_the_host_reads(&machine, region);
    the_directory_is_the_same_on_both_sides(&machine, &status.directory);
    what_the_host_writes_the_guest_reads(&machine, region);
    vmshm(["region", "remove", &path]).run().success();
}

/// The guest's program writes through the file that the agent names, page by page with the page's number as its key.
fn what_the_guest_writes_the_host_reads(machine: &Machine, region: &Memory) {
    let seed = RandomBytes::fresh_seed();
    let program = guest_program("write-file");
    machine
        .guest
        .check(&format!("{program} {} {SIZE} {seed}", region.memory));
    let written = RandomBytes::new(seed).take(SIZE);
    assert_eq!(guest_hash(&machine.guest, region), sha256(&written));
    assert_eq!(host_bytes(machine, region), written, "by address");
    let whole = vmshm(["region", "read", &machine.path("bytes"), "0", "256K"]).run();
    assert_eq!(whole.success(), written, "by region");
}

/// The directory's pulses move all the time; what stands still between two looks of the guest the host must see, too.
fn the_directory_is_the_same_on_both_sides(machine: &Machine, directory: &Memory) {
    let look = || {
        let text = machine
            .guest
            .check(&format!("od -An -v -tx1 {}", directory.memory));
        text.replace([' ', '\n'], "")
    };
    let before = look();
    let host = hexadecimal(&host_bytes(machine, directory));
    let after = look();
    assert_eq!(host.len(), before.len(), "the directory's size");
    let pairs = |text: &str| {
        let digits: Vec<char> = text.chars().collect();
        digits
            .chunks(2)
            .map(|pair| (pair[0], pair[1]))
            .collect::<Vec<_>>()
    };
    let (before, host, after) = (pairs(&before), pairs(&host), pairs(&after));
    let still = (0..host.len()).filter(|&place| before[place] == after[place]);
    let wrong: Vec<usize> = still
        .clone()
        .filter(|&place| host[place] != before[place])
        .collect();
    assert!(still.count() * 100 > host.len() * 95, "it hardly moves");
    assert!(wrong.is_empty(), "places in the directory: {wrong:?}");
}

fn what_the_host_writes_the_guest_reads(machine: &Machine, region: &Memory) {
    let mut expected = host_bytes(machine, region);
    let mut random = RandomBytes::new(RandomBytes::fresh_seed());

    // By address, in the middle of each of the first extents.
    let mut place = 0;
    for extent in region.extents.iter().take(4) {
        let bytes = random.take(100);
        let inside = (extent.length / 2 - 50) & !3;
        let address = format!("{:#x}", extent.gpa + inside);
        vmshm([
            "write",
            &machine.name,
            &address,
            "--hex",
            &hexadecimal(&bytes),
        ])
        .run()
        .success();
        let start = place + usize::try_from(inside).expect("small");
        expected[start..start + 100].copy_from_slice(&bytes);
        place += usize::try_from(extent.length).expect("small");
    }
    assert_eq!(guest_hash(&machine.guest, region), sha256(&expected));

    // By region, over a border between pages (and, where there are many, extents), with odd ends.
    let bytes = random.take(8195);
    let write = vmshm([
        "region",
        "write",
        &machine.path("bytes"),
        "0xff7",
        "-i",
        "-",
    ]);
    write.input(bytes.clone()).run().success();
    expected[0xff7..0xff7 + 8195].copy_from_slice(&bytes);
    assert_eq!(guest_hash(&machine.guest, region), sha256(&expected));
}

/// The memory's sha256 as the guest sees it.
fn guest_hash(guest: &Guest, memory: &Memory) -> String {
    let answer = guest.check(&format!("sha256sum {}", memory.memory));
    answer.split(' ').next().expect("a hash").to_owned()
}

/// The memory's bytes as the host sees them, extent by extent.
fn host_bytes(machine: &Machine, memory: &Memory) -> Vec<u8> {
    let mut bytes = Vec::new();
    for extent in &memory.extents {
        let read = vmshm([
            "read",
            &machine.name,
            &format!("{:#x}", extent.gpa),
            &extent.length.to_string(),
        ])
        .run();
        assert_eq!(read.errors, "", "a proved layout needs no words");
        let read = read.success();
        assert_eq!(read.len() as u64, extent.length);
        bytes.extend(read);
    }
    bytes
}
