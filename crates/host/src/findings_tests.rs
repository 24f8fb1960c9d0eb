//! Tests of finding a guest's beacon among pages that are nearly right, in a guest that
//! is a memory file of this process.

use std::time::{Duration, Instant};

use vmshm_link::beacon::KEEPER_PULSE;
use vmshm_ram::Machine;

use super::*;
use crate::beacon_search::{beacons_at, find_living};
use crate::own_guest::{INNER, OUTER, OwnGuest, page};
use crate::sighting::Where;

const PC: Machine = Machine::Pc { below_4g: None };
const MIB: u64 = 1 << 20;
const DECOYS: u64 = 10_000;
/// Where the guest's own beacon lies.
const TRUE: u64 = 6 * MIB;
const PATIENCE: Duration = Duration::from_secs(60);
const AT_ONCE: Duration = Duration::ZERO;

fn sight(guest: &OwnGuest, patience: Duration) -> Sighting {
    find_living(&guest.target, Where::Scan, patience).expect("it can be read")
}

/// Two lives are seen, as soon as both have shown theirs within one look.
fn assert_nested(guest: &OwnGuest) {
    let started = Instant::now();
    loop {
        let both = sight(guest, PATIENCE);
        if matches!(both, Sighting::Nested) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{both:?}");
    }
}

fn assert_found(guest: &OwnGuest) -> Duration {
    let started = Instant::now();
    match sight(guest, PATIENCE) {
        Sighting::Living(candidate) => {
            assert_eq!(candidate.at.offset, TRUE);
            assert_eq!(candidate.beacon.boot_id, OUTER);
        }
        other => panic!("misled: {other:?}"),
    }
    started.elapsed()
}

/// Finds the true beacon with and without ten thousand pages that `decoy` makes.
fn among_decoys(decoy: &dyn Fn(&OwnGuest, u64)) {
    let guest = OwnGuest::new(64 * MIB, PC);
    // The same pages are there in both cases, first without the brand.
    for number in 0..DECOYS {
        guest.write(8 * MIB + number * 4096, &[0x5a; 4096]);
    }
    guest.beacon(TRUE, TRUE, OUTER);
    let _heart = guest.beat(vec![TRUE], AT_ONCE);
    let alone = assert_found(&guest);
    for number in 0..DECOYS {
        decoy(&guest, 8 * MIB + number * 4096);
    }
    // Generous, and not each time: other tests take the processors meanwhile, and Wine more than a little.
    let is_quick = (0..5).any(|_| {
        let among = assert_found(&guest);
        println!("found alone in {alone:?}, among decoys in {among:?}");
        among < 4 * alone + Duration::from_secs(3)
    });
    assert!(is_quick);
}

#[test]
fn pages_with_a_wrong_checksum_do_not_count() {
    among_decoys(&|guest, at| {
        let mut page = page(at, OUTER);
        page[0x30] ^= 1;
        guest.write(at, &page);
    });
}

#[test]
fn pages_that_state_another_address_do_not_count() {
    among_decoys(&|guest, at| guest.beacon(at, at + 64 * MIB, OUTER));
}

#[test]
fn copies_of_the_beacon_do_not_count() {
    among_decoys(&|guest, at| {
        let mut page = page(TRUE, OUTER);
        page[usize::try_from(KEEPER_PULSE).expect("small")] = 77;
        guest.write(at, &page);
    });
}

#[test]
fn pages_that_are_right_but_for_their_heartbeat_do_not_count() {
    among_decoys(&|guest, at| guest.beacon(at, at, OUTER));
}

/// Elsewhere a memory file takes its whole size of the system's memory.
#[cfg(target_os = "linux")]
#[test]
fn ten_thousand_decoys_where_huge_pages_start_do_not_count() {
    const GIB: u64 = 1 << 30;
    let guest = OwnGuest::new(24 * GIB, PC);
    guest.beacon(TRUE, TRUE, OUTER);
    let _heart = guest.beat(vec![TRUE], AT_ONCE);
    for number in 0..DECOYS {
        let at = 8 * MIB + number * 2 * MIB;
        let address = if at < 3 * GIB { at } else { at + GIB };
        guest.beacon(at, address, OUTER);
    }
    println!("found among decoys in {:?}", assert_found(&guest));
}

#[test]
fn copies_whose_hearts_beat_faster_do_not_mislead() {
    let guest = OwnGuest::new(64 * MIB, PC);
    guest.beacon(TRUE, TRUE, OUTER);
    let copies: Vec<u64> = (0..500).map(|number| 8 * MIB + number * 4096).collect();
    for &at in &copies {
        guest.beacon(at, TRUE, OUTER);
    }
    let _copies = guest.beat(copies, AT_ONCE);
    let _heart = guest.beat(vec![TRUE], Duration::from_millis(300));
    assert_found(&guest);
}

#[test]
fn of_several_blocks_the_one_whose_heart_beats_is_the_ram() {
    let machine = Machine::Vmware { below_4g: 3 << 30 };
    for right in 0..3 {
        let guests = OwnGuest::several(16 * MIB, machine, 3);
        // An old copy at its place, one at another place, and one that is as it should be.
        guests[(right + 1) % 3].beacon(TRUE, TRUE, OUTER);
        guests[(right + 2) % 3].beacon(8 * MIB + 4096, TRUE, OUTER);
        guests[right].beacon(TRUE, TRUE, OUTER);
        let _heart = guests[right].beat(vec![TRUE], AT_ONCE);
        match sight(&guests[0], PATIENCE) {
            Sighting::Living(candidate) => {
                assert_eq!(candidate.at.block, guests[right].block);
                assert_eq!(candidate.at.offset, TRUE);
            }
            other => panic!("misled: {other:?}"),
        }
    }
}

#[test]
fn of_several_blocks_two_that_live_are_not_told_apart() {
    let machine = Machine::Vmware { below_4g: 3 << 30 };
    let guests = OwnGuest::several(16 * MIB, machine, 2);
    let hearts: Vec<_> = guests
        .iter()
        .map(|guest| {
            guest.beacon(TRUE, TRUE, OUTER);
            guest.beat(vec![TRUE], AT_ONCE)
        })
        .collect();
    assert_nested(&guests[0]);
    drop(hearts);
}

#[test]
fn the_beacon_of_a_guest_inside_the_guest_is_not_taken_for_the_guests_own() {
    let guest = OwnGuest::new(64 * MIB, PC);
    guest.beacon(10 * MIB + 4096, 4 * MIB, INNER);
    let quiet = sight(&guest, Duration::from_millis(100));
    assert!(matches!(quiet, Sighting::Nothing), "{quiet:?}");
    let _heart = guest.beat(vec![10 * MIB + 4096], AT_ONCE);
    let alive = sight(&guest, PATIENCE);
    assert!(matches!(alive, Sighting::Nested), "{alive:?}");
}

#[test]
fn two_guests_that_live_are_nested_even_if_one_is_slower() {
    let guest = OwnGuest::new(64 * MIB, PC);
    guest.beacon(TRUE, TRUE, OUTER);
    guest.beacon(20 * MIB + 4096, 4 * MIB, INNER);
    let _outer = guest.beat(vec![TRUE], AT_ONCE);
    assert_found(&guest);
    let _inner = guest.beat(vec![20 * MIB + 4096], Duration::from_millis(50));
    assert_nested(&guest);
}

#[test]
fn without_a_rule_two_that_live_are_not_told_apart() {
    let guest = OwnGuest::new(64 * MIB, Machine::Unknown);
    guest.beacon(TRUE, TRUE, OUTER);
    let _heart = guest.beat(vec![TRUE], AT_ONCE);
    assert_found(&guest);
    guest.beacon(20 * MIB, 4 * MIB, OUTER);
    let _other = guest.beat(vec![20 * MIB], AT_ONCE);
    assert_nested(&guest);
}

#[test]
fn an_old_beacon_where_a_huge_page_starts_does_not_hide_the_living_one() {
    let guest = OwnGuest::new(64 * MIB, PC);
    guest.beacon(4 * MIB, 4 * MIB, INNER);
    guest.beacon(9 * MIB + 4096, 9 * MIB + 4096, OUTER);
    let _heart = guest.beat(vec![9 * MIB + 4096], AT_ONCE);
    match sight(&guest, PATIENCE) {
        Sighting::Living(candidate) => assert_eq!(candidate.at.offset, 9 * MIB + 4096),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_heart_that_stands_still_is_silent_and_nothing_is_nothing() {
    let guest = OwnGuest::new(64 * MIB, PC);
    let nothing = sight(&guest, PATIENCE);
    assert!(matches!(nothing, Sighting::Nothing), "{nothing:?}");
    guest.beacon(TRUE, TRUE, OUTER);
    for number in 0..DECOYS {
        let mut page = page(8 * MIB + number * 4096, OUTER);
        page[0x100] ^= 1;
        guest.write(8 * MIB + number * 4096, &page);
    }
    match sight(&guest, Duration::from_millis(200)) {
        Sighting::Silent(candidate) => assert_eq!(candidate.at.offset, TRUE),
        other => panic!("{other:?}"),
    }
}

#[test]
fn another_version_is_named() {
    let guest = OwnGuest::new(16 * MIB, PC);
    let mut beacon = vmshm_link::beacon::Beacon::from_page(&page(TRUE, OUTER)).expect("right");
    beacon.version.major = 9;
    guest.write(TRUE, &beacon.to_page());
    let found = sight(&guest, PATIENCE);
    assert!(matches!(found, Sighting::Incompatible(_)), "{found:?}");
}

#[test]
fn an_address_by_hand_finds_only_what_states_it() {
    let guest = OwnGuest::new(64 * MIB, PC);
    guest.beacon(TRUE, TRUE, OUTER);
    guest.beacon(10 * MIB, 4 * MIB, INNER);
    let _hearts = guest.beat(vec![TRUE, 10 * MIB], AT_ONCE);
    let by_hand = |address| {
        find_living(&guest.target, Where::At(GuestPhysical(address)), PATIENCE)
            .expect("it can be read")
    };
    assert!(matches!(by_hand(TRUE), Sighting::Living(_)));
    assert!(matches!(by_hand(10 * MIB), Sighting::Nothing));
    assert!(matches!(by_hand(u64::MAX - 4095), Sighting::Nothing));
    let stated =
        |address| beacons_at(&guest.target, GuestPhysical(address)).expect("it can be read");
    assert_eq!(stated(TRUE).len(), 1);
    assert_eq!(stated(10 * MIB).len(), 0);
}

#[test]
fn a_process_of_unknown_kind_may_hold_pages_at_any_address() {
    let guest = OwnGuest::new(16 * MIB, Machine::Unknown);
    let at = 5 * MIB + 16;
    guest.beacon(at, TRUE, OUTER);
    let _heart = guest.beat(vec![at], AT_ONCE);
    match sight(&guest, PATIENCE) {
        Sighting::Living(candidate) => assert_eq!(candidate.at.offset, at),
        other => panic!("{other:?}"),
    }
}
