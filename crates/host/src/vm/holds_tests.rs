//! Tests of what is held, over a table in plain memory.

use vmshm_endpoint::RegionKind;
use vmshm_link::directory::{DIRECTORY_SIZE, write_region};
use vmshm_link::fields::Text;
use vmshm_shm::LocalMemory;

use super::*;

fn hold(holds: &mut Holds, handle: u64, region: u64) -> Arc<Tether> {
    let tether = Arc::new(Tether::default());
    holds.insert(handle, region, "x", Arc::clone(&tether));
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
fn each_hold_is_let_go_of_once_and_a_region_may_be_held_twice() {
    let mut holds = Holds::default();
    for (handle, region) in [(1, 7), (2, 7), (3, 8)] {
        hold(&mut holds, handle, region);
    }
    let let_go = |holds: &mut Holds, handle| holds.remove(handle, false).map(|(_, region)| region);
    assert_eq!(let_go(&mut holds, 1), Some(7));
    assert_eq!(let_go(&mut holds, 1), None);
    assert!(holds.has_open("x") && !holds.has_open("y"));
    holds.end_region(8, &End::RegionRemoved);
    assert_eq!(let_go(&mut holds, 2), Some(7));
    assert!(!holds.has_open("x"), "what is left is over");
    assert_eq!(let_go(&mut holds, 3), Some(8));
    assert!(holds.is_empty());
}

#[test]
fn a_region_that_leaves_the_table_or_is_marked_there_is_over() {
    let table = table();
    let mut holds = Holds::default();
    for (handle, region) in [(1, 7), (2, 8), (3, 9), (4, 10)] {
        hold(&mut holds, handle, region);
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
        hold(&mut holds, 1, 7);
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
    let first = hold(&mut holds, 1, 7);
    let watch = hold(&mut holds, 2, 7);
    let other = hold(&mut holds, 3, 8);
    holds.end_region(7, &End::RegionRemoved);
    assert_eq!(first.check(), Err(End::RegionRemoved));
    assert_eq!(watch.check(), Err(End::RegionRemoved));
    assert_eq!(other.check(), Ok(()));
    holds.end_all(&End::AgentDied);
    assert_eq!(first.check(), Err(End::RegionRemoved), "the first counts");
    assert_eq!(other.check(), Err(End::AgentDied));
}
