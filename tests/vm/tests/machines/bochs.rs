//! Bochs: found by its evidence, and its RAM, which lies in pieces in the order of first touches, proved piece by piece
//! by what a boot sector of ours wrote.

use std::collections::BTreeSet;

use vmshm_link::GuestPhysical;
use vmshm_ram::{GuestRam, Layout, Method, Point, Source, Step, Vmm, VmmKind, find_all};
use vmshm_vm_tests::bochs::{self, BRAND, BRANDED, COUNTER, NO_RAM, PIECE};
use vmshm_vm_tests::environment::{self, report};
use vmshm_vm_tests::patience::{LATER, SOON, wait_for, wait_until};
use vmshm_vm_tests::program::vmshm;

const MEBIBYTES: u64 = 48;

#[test]
fn bochs_is_found_and_every_piece_of_its_ram_is_proved_by_its_brand() {
    if !environment::is_set_up() {
        return;
    }
    let Some(machine) = bochs::boot(MEBIBYTES) else {
        return;
    };
    let vmm = wait_until("Bochs in the list", SOON, || found(machine.pid));
    assert_eq!((vmm.kind, vmm.ram_bytes), (VmmKind::Bochs, MEBIBYTES << 20));
    assert!(
        vmm.blocks
            .iter()
            .any(|block| block.length >= MEBIBYTES << 20)
    );
    assert!(!vmm.is_shared());
    let ram = GuestRam::open(&vmm, Method::Auto).expect("private memory is copied");

    let expected: BTreeSet<u64> = (0..MEBIBYTES << 20)
        .step_by(usize::try_from(PIECE).expect("small"))
        .filter(|piece| !NO_RAM.contains(piece))
        .flat_map(|piece| BRANDED.map(|place| piece + place))
        .collect();
    let points = wait_until("brand in every piece", LATER, || {
        let points = ram.brands(&BRAND, Step::Page).expect("it can be read");
        let stated: BTreeSet<u64> = points.iter().map(|point| point.0.0).collect();
        (stated == expected).then_some(points)
    });
    assert_eq!(points.len(), expected.len(), "each brand stands once");
    // Before anything is known, addresses are not guessed: counting would be wrong.
    assert!(vmm.rule_layout().is_err());
    assert!(
        !is_linear(&points),
        "the boot sector touched the last piece first"
    );

    let blocks: Vec<_> = ram.blocks().cloned().collect();
    let layout = Layout::prove_granules(&points, PIECE, &blocks).expect("nothing contradicts");
    let proved: u64 = layout
        .ranges()
        .iter()
        .map(|range| range.extent.length)
        .sum();
    assert_eq!(proved, (MEBIBYTES << 20) - (NO_RAM.end - NO_RAM.start));
    report(&format_args!(
        "{} ranges prove {} pieces",
        layout.ranges().len(),
        proved / PIECE
    ));
    // Reading by address gives what the guest put there.
    for &address in &expected {
        let location = layout
            .translate(GuestPhysical(address))
            .expect("it is proved");
        assert_eq!(location.source, Source::Proved);
        let mut bytes = [0; 16];
        ram.read_at(location.at, &mut bytes)
            .expect("it can be read");
        assert_eq!(bytes[..8], BRAND);
        assert_eq!(bytes[8..], address.to_le_bytes());
    }
    assert!(
        layout.translate(GuestPhysical(NO_RAM.start)).is_err(),
        "nobody saw that piece"
    );
    // The machine lives: its counter moves, as the host sees it.
    let counter = layout
        .translate(GuestPhysical(COUNTER))
        .expect("it is proved")
        .at;
    let count = || {
        let mut word = [0; 4];
        ram.read_at(counter, &mut word).expect("it can be read");
        u32::from_le_bytes(word)
    };
    let before = count();
    wait_for("counter that moves", SOON, || count() != before);

    // One brand proves its piece and no other.
    let one: Vec<Point> = points[..1].to_vec();
    let partial = Layout::prove_granules(&one, PIECE, &blocks).expect("nothing contradicts");
    let neighbour = GuestPhysical(one[0].0.0 ^ PIECE);
    assert!(partial.translate(one[0].0).is_ok() && partial.translate(neighbour).is_err());

    let pid = machine.pid.to_string();
    let listed = vmshm(["list", "--json"]).run().json();
    let entry = listed
        .as_array()
        .expect("an array")
        .iter()
        .find(|entry| entry["pid"] == machine.pid);
    let entry = entry.expect("it is listed");
    assert_eq!(entry["vmm"], "bochs");
    assert_eq!(entry["name"], format!("bochs-{pid}"));
    assert_eq!(entry["access"], "copy");
    // No layout is made up.
    let refused = vmshm(["read", &pid, "0x100000", "16"]).run();
    refused
        .refused(&["no rule is known"])
        .hints(&["mark pages"]);
}

fn found(pid: u32) -> Option<Vmm> {
    let all = find_all().expect("processes can be listed");
    all.into_iter().find(|vmm| vmm.pid == pid)
}

fn is_linear(points: &[Point]) -> bool {
    let distance = |point: &Point| point.0.0.wrapping_sub(point.1.offset);
    points
        .windows(2)
        .all(|pair| distance(&pair[0]) == distance(&pair[1]))
}
