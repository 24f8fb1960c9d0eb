//! Tests of finding patterns, with this process as the VMM.

use super::*;
use crate::access::Method;
use crate::os::own_process::OwnRam;
use rustix::fs::MemfdFlags;
use vmshm_shm::SharedMemory;

const MIB: u64 = 1 << 20;
const BRAND: &[u8; 16] = b"\xf3a pattern, once";

fn places(own: &OwnRam, method: Method, step: Step, pattern: &[u8]) -> Vec<u64> {
    let ram = own.open(method);
    let mut found = Vec::new();
    let stats = ram
        .scan(pattern, step, &mut |at| {
            if at.block == own.block {
                found.push(at.offset);
            }
            ControlFlow::Continue(())
        })
        .expect("a scan");
    assert!(!stats.ended_early);
    found
}

#[test]
fn each_step_finds_what_lies_at_its_places() {
    let own = OwnRam::new(16 * MIB);
    let planted = [0, 4096 * 3, 2 * MIB, 5 * MIB, 6 * MIB + 7, 16 * MIB - 16];
    for place in planted {
        own.mapping.write(place, BRAND).expect("write");
    }
    let before = own.pages();
    for method in [Method::Map, Method::Copy] {
        assert_eq!(places(&own, method, Step::HugePage, BRAND), [0, 2 * MIB]);
        assert_eq!(
            places(&own, method, Step::Page, BRAND),
            [0, 4096 * 3, 2 * MIB, 5 * MIB]
        );
        assert_eq!(places(&own, method, Step::Byte, BRAND), planted);
        assert!(places(&own, method, Step::Byte, b"").is_empty());
    }
    assert_eq!(
        own.pages(),
        before,
        "a scan must not bring pages into being"
    );
}

#[test]
fn huge_pages_are_counted_from_the_start_of_the_file_too() {
    // User-mode Linux maps its RAM file from somewhere in the middle.
    let own = OwnRam::try_from_offset(0x39_4000, 8 * MIB, MemfdFlags::empty()).expect("RAM");
    let aligned_in_file = 4 * MIB - 0x39_4000;
    own.mapping.write(aligned_in_file, BRAND).expect("write");
    own.mapping.write(2 * MIB, BRAND).expect("write");
    for method in [Method::Map, Method::Copy] {
        let found = places(&own, method, Step::HugePage, BRAND);
        assert_eq!(found, [aligned_in_file, 2 * MIB]);
    }
}

#[test]
fn matches_that_cross_pages_and_buffers_are_found_once() {
    let own = OwnRam::new(16 * MIB);
    let filler = vec![b'-'; 4 << 20];
    own.mapping.write(0, &filler).expect("write");
    // Across a page's border, across a read buffer's border, and overlapping itself.
    let planted = [4096 - 8, MIB - 1, 2 * MIB - 15];
    for place in planted {
        own.mapping.write(place, BRAND).expect("write");
    }
    own.mapping.write(3 * MIB, b"ababab").expect("write");
    for method in [Method::Map, Method::Copy] {
        assert_eq!(places(&own, method, Step::Byte, BRAND), planted);
        assert_eq!(
            places(&own, method, Step::Byte, b"abab"),
            [3 * MIB, 3 * MIB + 2]
        );
    }
}

#[test]
fn patterns_longer_than_a_page_are_found_where_a_page_starts() {
    let own = OwnRam::new(8 * MIB);
    let long: Vec<u8> = (0..10_000_u32)
        .map(|number| number.to_le_bytes()[0] ^ 0x5a)
        .collect();
    for place in [MIB - 4096, 3 * MIB] {
        own.mapping.write(place, &long).expect("write");
    }
    for step in [Step::Page, Step::Byte] {
        assert_eq!(
            places(&own, Method::Map, step, &long),
            [MIB - 4096, 3 * MIB],
            "{step:?}"
        );
    }
}

#[test]
fn a_scan_ends_when_it_is_told_to() {
    let own = OwnRam::new(4 * MIB);
    for page in 0..1024 {
        own.mapping.write(page * 4096, BRAND).expect("write");
    }
    let ram = own.open(Method::Map);
    for step in [Step::HugePage, Step::Page, Step::Byte] {
        let mut calls = 0;
        let stats = ram
            .scan(BRAND, step, &mut |_| {
                calls += 1;
                ControlFlow::Break(())
            })
            .expect("a scan");
        assert_eq!((calls, stats.found, stats.ended_early), (1, 1, true));
    }
}

#[test]
fn a_scan_in_parts_finds_what_a_whole_one_does() {
    let own = OwnRam::new(16 * MIB);
    own.mapping
        .write(0, &vec![b'-'; 12 << 20])
        .expect("written");
    let planted = [0, 3 * 4096, MIB - 4096, MIB, 5 * MIB, 12 * MIB - 4096];
    for place in planted {
        own.mapping.write(place, BRAND).expect("write");
    }
    for method in [Method::Map, Method::Copy] {
        let ram = own.open(method);
        let (mut found, mut parts) = (Vec::new(), 0);
        let mut next = Some(BlockOffset::default());
        while let Some(from) = next {
            parts += 1;
            next = ram
                .scan_some_pages(BRAND, from, &mut || false, &mut |at| {
                    if at.block == own.block {
                        found.push(at.offset);
                    }
                })
                .expect("a scan");
        }
        assert_eq!(found, planted, "{method:?}");
        assert!(parts > 10, "it was stopped after each piece: {parts}");
    }
}
