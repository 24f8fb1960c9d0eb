//! What stands against grafting, from what /proc shows, recorded or of this process.

use super::*;
use crate::pieces::PAGE;
use vmshm_ram::FileIdentity;

fn open(target: &str) -> OpenFile {
    OpenFile {
        number: 3,
        target: target.to_owned(),
    }
}

#[test]
fn passed_through_devices_are_found_by_what_is_open() {
    for pinned in [
        "/dev/vfio/17",
        "/dev/vfio/devices/vfio0",
        "/dev/iommu",
        "anon_inode:[vfio-device]",
        "/dev/vhost-vdpa-0",
        "/dev/infiniband/uverbs0",
    ] {
        assert_eq!(
            devices(&[open("/dev/kvm"), open(pinned)]),
            Some(Refusal::DevicePinned {
                what: pinned.to_owned()
            })
        );
    }
    for harmless in [
        "/dev/kvm",
        "/dev/vfio/vfio",
        "/dev/vhost-net",
        "anon_inode:[eventfd]",
    ] {
        assert_eq!(devices(&[open(harmless)]), None);
    }
    assert_eq!(
        devices(&[open("anon_inode:[kvm-gmem]")]),
        Some(Refusal::Confidential)
    );
}

#[test]
fn buffers_registered_with_io_uring_are_found() {
    assert!(registers_buffers(
        "SqMask:\t0x7f\nUserBufs:\t2\n    0: 0x7f00/4096\n"
    ));
    assert!(!registers_buffers("SqMask:\t0x7f\nUserBufs:\t0\n"));
    assert!(!registers_buffers(""));
}

#[test]
fn strict_filters_shadow_stacks_and_tracers_are_refused() {
    let with = |change: fn(&mut Status)| {
        let mut status = Status {
            state: b'S',
            ..Status::default()
        };
        change(&mut status);
        state(42, &status)
    };
    assert_eq!(with(|_| ()), []);
    assert_eq!(with(|s| s.seccomp = 1), [Refusal::StrictCallFilter]);
    assert_eq!(with(|s| s.shadow_stack = true), [Refusal::ShadowStack]);
    assert_eq!(with(|s| s.tracer = 7), [Refusal::Traced { tracer: 7 }]);
    assert_eq!(with(|s| s.state = b'Z'), [Refusal::Gone { pid: 42 }]);
    assert_eq!(
        with(|s| s.state = b'T'),
        [Refusal::StoppedBySignal { pid: 42 }]
    );
}

fn mapping(start: u64, pages: u64, name: &str) -> MemoryMapping {
    MemoryMapping {
        start: VmmVirtual(start),
        length: pages * PAGE,
        readable: true,
        writable: true,
        executable: false,
        shared: false,
        file: None,
        name: name.to_owned(),
    }
}

fn piece(at: u64, pages: u64) -> Piece {
    Piece {
        at: VmmVirtual(at),
        length: pages * PAGE,
        offset: 0,
    }
}

#[test]
fn only_plain_memory_is_replaced() {
    let mappings = [mapping(0x10_0000, 16, ""), mapping(0x20_0000, 16, "[heap]")];
    let plain = |start, flags: &[&[u8; 2]]| Area {
        place: start..start + 16 * PAGE,
        flags: flags.iter().map(|flag| **flag).collect(),
    };
    let areas = [plain(0x10_0000, &[b"rd", b"wr"])];
    let check = |piece, areas: &[Area]| memory(&[piece], &mappings, areas);
    assert_eq!(check(piece(0x10_2000, 4), &areas), None);
    assert_eq!(
        check(piece(0x10_e000, 4), &areas),
        Some(Refusal::NotMemory {
            at: VmmVirtual(0x11_0000)
        })
    );
    assert!(matches!(
        check(piece(0x20_0000, 1), &areas),
        Some(Refusal::SpecialMemory { .. })
    ));
    for flag in [b"ht", b"pf", b"io", b"um", b"uw"] {
        assert!(matches!(
            check(piece(0x10_2000, 4), &[plain(0x10_0000, &[flag])]),
            Some(Refusal::SpecialMemory { .. })
        ));
    }
}

#[test]
fn the_limit_of_mappings_is_kept_away_from() {
    assert_eq!(room(100, 1000, 65_530), None);
    assert_eq!(
        room(100, 32_700, 65_530),
        Some(Refusal::TooManyMappings {
            present: 100,
            needed: 65_400,
            most: 65_530
        })
    );
    assert_eq!(room(70_000, 0, 65_530), None);
}

#[test]
fn a_private_mapping_of_a_file_has_no_sharers_and_a_partner_is_none() {
    let pid = std::process::id();
    let own = process::mappings(pid).expect("mappings");
    // Our own program's file is mapped by ourselves only as far as this test knows; as a
    // stand-in for a VMM, any other process number will do.
    let code = own
        .iter()
        .find_map(|mapping| mapping.file)
        .expect("a file is mapped");
    let with = |shared, file: FileIdentity| MemoryMapping {
        shared,
        file: Some(file),
        ..mapping(0x10_0000, 16, "/memfd:ram")
    };
    assert_eq!(
        sharers(1, &[piece(0x10_0000, 1)], &[with(false, code)], &[]),
        None
    );
    let unknown = FileIdentity {
        device: (0xfff, 0xfff),
        inode: u64::MAX,
        offset: 0,
    };
    assert_eq!(
        sharers(1, &[piece(0x10_0000, 1)], &[with(true, unknown)], &[]),
        None
    );
    assert_eq!(
        sharers(1, &[piece(0x90_0000, 1)], &[with(true, code)], &[]),
        None
    );
}

#[test]
fn a_process_that_never_was_is_gone() {
    assert_eq!(
        examine(u32::MAX - 1, &[], &[]),
        [Refusal::Gone { pid: u32::MAX - 1 }]
    );
}

#[test]
fn every_refusal_names_its_cause_and_most_say_what_is_possible() {
    let refusal = Refusal::NoRight {
        pid: 4242,
        owner: 64055,
        user: 1000,
        scope: 1,
    };
    assert_eq!(
        refusal.to_string(),
        "process 4242 belongs to user 64055, and this user (1000) may not change it (Yama's ptrace_scope is set)"
    );
    assert!(refusal.hint().is_some_and(|hint| hint.contains("root")));
    assert!(Refusal::ShadowStack.hint().is_some());
    assert!(
        Refusal::Shared { pids: vec![1, 2] }
            .to_string()
            .ends_with("1, 2")
    );
}
