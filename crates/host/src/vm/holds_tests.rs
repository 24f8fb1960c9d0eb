//! Tests of what is held, over a table in plain memory.

use std::time::Duration;

use vmshm_endpoint::RegionKind;
use vmshm_link::directory::{DIRECTORY_SIZE, write_region};
use vmshm_link::fields::Text;
use vmshm_shm::LocalMemory;

use super::*;

fn wish(role: Role) -> Wish {
    Wish {
        name: "x".to_owned(),
        kind: RegionKind::Latest,
        size: 0,
        record: 8,
        role,
        timeout: Duration::ZERO,
    }
}

fn hold(holds: &mut Holds, handle: u64, region: u64, role: Role) -> Arc<Tether> {
    let tether = Arc::new(Tether::default());
    holds.insert(handle, region, &wish(role), Arc::clone(&tether));
    tether
}

fn list(table: &LocalMemory, index: usize, id: u64, ended: Option<EndCause>) {
    let entry = RegionEntry {
        id,
        kind: RegionKind::Latest,
        size: 4096,
        ready: true,
        record: 8,
        ended,
        name: Text::new("x"),
    };
    write_region(table, index, Some(&entry)).expect("written");
}

fn table() -> LocalMemory {
    LocalMemory::new(usize::try_from(DIRECTORY_SIZE).expect("small"))
}

#[test]
fn the_last_to_let_go_closes_and_an_end_steps_down_for_watchers() {
    let mut holds = Holds::default();
    hold(&mut holds, 1, 7, Role::End);
    hold(&mut holds, 2, 7, Role::Watch);
    hold(&mut holds, 3, 8, Role::End);
    let farewell = |holds: &mut Holds, handle| holds.remove(handle).map(|(_, farewell)| farewell);
    assert_eq!(
        farewell(&mut holds, 1),
        Some(Farewell::StepDown(7, wish(Role::Watch)))
    );
    assert_eq!(farewell(&mut holds, 1), None, "only once");
    hold(&mut holds, 4, 7, Role::End);
    assert_eq!(farewell(&mut holds, 2), Some(Farewell::Nothing));
    assert_eq!(farewell(&mut holds, 4), Some(Farewell::Close(7)));
    assert!(!holds.holds(7) && holds.holds(8));
    assert_eq!(farewell(&mut holds, 3), Some(Farewell::Close(8)));
    assert!(holds.is_empty());
}

#[test]
fn an_end_of_a_region_that_is_over_is_not_exchanged_for_a_watch() {
    let mut holds = Holds::default();
    hold(&mut holds, 1, 7, Role::End);
    hold(&mut holds, 2, 7, Role::Watch);
    holds.end_region(7, &End::RegionRemoved);
    let (_, farewell) = holds.remove(1).expect("held");
    assert_eq!(farewell, Farewell::Nothing);
}

#[test]
fn a_region_that_leaves_the_table_or_is_marked_there_is_over() {
    let table = table();
    let mut holds = Holds::default();
    for (handle, region) in [(1, 7), (2, 8), (3, 9), (4, 10)] {
        hold(&mut holds, handle, region, Role::End);
    }
    for (index, id) in [(59, 7), (3, 8), (30, 9), (31, 10)] {
        list(&table, index, id, None);
    }
    assert_eq!(holds.look(&table), []);
    // One gone, one marked, one whose place another has taken, one that moved.
    write_region(&table, 59, None).expect("written");
    list(&table, 3, 8, Some(EndCause::Damaged));
    list(&table, 30, 99, None);
    list(&table, 31, 98, None);
    list(&table, 0, 10, None);
    let over = holds.look(&table);
    let regions: Vec<_> = over.iter().map(|(region, _)| *region).collect();
    assert_eq!(regions, [7, 8, 9]);
    assert_eq!(over[0].1, End::RegionRemoved);
    assert!(matches!(over[1].1, End::RegionDamaged(_)));
    assert_eq!(over[2].1, End::RegionRemoved);
    for (region, end) in over {
        holds.end_region(region, &end);
    }
    assert_eq!(holds.look(&table), [], "each is told once");
    list(&table, 0, 10, Some(EndCause::Other(77)));
    let (_, end) = holds.look(&table).pop().expect("over");
    assert!(end.to_string().contains("77"), "{end}");
}

#[test]
fn an_entry_that_is_not_there_yet_or_unreadable_is_waited_for() {
    for spoilt in [false, true] {
        let table = table();
        let mut holds = Holds::default();
        hold(&mut holds, 1, 7, Role::End);
        if spoilt {
            list(&table, 5, 7, None);
            assert_eq!(holds.look(&table), []);
            // The second word of entry 5 of the first page: its number.
            table.write(4096 + 5 * 256 + 8, &[1; 8]).expect("inside");
        }
        for _ in 1..MOST_DOUBTS {
            assert_eq!(holds.look(&table), []);
        }
        list(&table, 5, 7, None);
        assert_eq!(holds.look(&table), []);
        table.write(4096 + 5 * 256 + 8, &[1; 8]).expect("inside");
        for _ in 1..MOST_DOUBTS {
            assert_eq!(holds.look(&table), []);
        }
        let (_, end) = holds.look(&table).pop().expect("in the end it is over");
        assert!(matches!(end, End::Link(_)), "{end}");
    }
}

#[test]
fn all_tethers_end_with_the_session_and_only_their_own_with_a_region() {
    let mut holds = Holds::default();
    let first = hold(&mut holds, 1, 7, Role::End);
    let watch = hold(&mut holds, 2, 7, Role::Watch);
    let other = hold(&mut holds, 3, 8, Role::End);
    holds.end_region(7, &End::RegionRemoved);
    assert_eq!(first.check(), Err(End::RegionRemoved));
    assert_eq!(watch.check(), Err(End::RegionRemoved));
    assert_eq!(other.check(), Ok(()));
    holds.end_all(&End::AgentDied);
    assert_eq!(first.check(), Err(End::RegionRemoved), "the first counts");
    assert_eq!(other.check(), Err(End::AgentDied));
}
