//! Tests of reading and writing RAM, with this process and a child as the VMM.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vmshm_shm::{PAGE_SIZE, SharedMemory};

use super::*;
use crate::os::own_process::OwnRam;
use crate::vmm::find_by_pid;
use crate::{FindError, RunState};

const MIB: u64 = 1 << 20;

#[test]
fn what_the_vmm_has_is_read_and_what_is_written_the_vmm_sees() {
    let own = OwnRam::new(4 * MIB);
    own.mapping.write(5000, b"from the guest").expect("write");
    for method in [Method::Map, Method::Copy, Method::Auto] {
        let ram = own.open(method);
        let mut bytes = [0_u8; 14];
        ram.read_at(own.at(5000), &mut bytes).expect("read");
        assert_eq!(&bytes, b"from the guest");
        ram.write_at(own.at(4 * MIB - 4), b"host").expect("write");
        let mut seen = [0_u8; 4];
        own.mapping.read(4 * MIB - 4, &mut seen).expect("read");
        assert_eq!(&seen, b"host");
        own.mapping.write(4 * MIB - 4, b"....").expect("write");
    }
}

#[test]
fn reading_brings_no_page_into_being() {
    let own = OwnRam::new(64 * MIB);
    own.mapping.store_relaxed(MIB, 7).expect("store");
    let before = own.pages();
    for method in [Method::Map, Method::Copy] {
        let ram = own.open(method);
        let mut bytes = vec![1_u8; 1 << 20];
        ram.read_at(own.at(8 * MIB), &mut bytes).expect("read");
        assert!(bytes.iter().all(|byte| *byte == 0));
        let mut runs = Vec::new();
        ram.resident_runs(own.block, 0..64 * MIB, &mut |run| {
            runs.push((run.start, run.end));
            true
        })
        .expect("runs");
        assert_eq!(runs, vec![(MIB, MIB + 4096)]);
    }
    assert_eq!(own.pages(), before);
}

#[test]
fn accesses_outside_are_refused() {
    let own = OwnRam::new(MIB);
    for method in [Method::Map, Method::Copy] {
        let ram = own.open(method);
        let mut bytes = [0_u8; 16];
        let nowhere = BlockOffset {
            block: 9999,
            offset: 0,
        };
        for at in [own.at(MIB - 8), own.at(MIB), own.at(u64::MAX), nowhere] {
            let outside = RamError::Outside { at, length: 16 };
            assert_eq!(ram.read_at(at, &mut bytes), Err(outside));
            assert_eq!(ram.write_at(at, &bytes), Err(outside));
        }
        let runs = ram.resident_runs(own.block, 0..MIB + 1, &mut |_| true);
        assert!(matches!(runs, Err(RamError::Outside { .. })));
    }
}

#[test]
fn batches_are_filled_in_any_order() {
    let own = OwnRam::new(16 * MIB);
    for word in 0..3000_u64 {
        own.mapping
            .store_relaxed(word * 4096, word + 1)
            .expect("store");
    }
    for method in [Method::Map, Method::Copy] {
        let ram = own.open(method);
        let mut buffers = vec![[0_u8; 8]; 3000];
        let mut reads: Vec<RamRead<'_>> = buffers
            .iter_mut()
            .enumerate()
            .map(|(index, into)| RamRead {
                at: own.at((2999 - index as u64) * 4096),
                into,
            })
            .collect();
        ram.read_many(&mut reads, &mut |index, error| panic!("{index}: {error}"))
            .expect("a batch");
        for (index, bytes) in buffers.iter().enumerate() {
            assert_eq!(u64::from_ne_bytes(*bytes), 3000 - index as u64);
        }
    }
}

/// A process with some private memory that waits for ever: nobody reads its output.
struct PrivateVmm(Child);

impl PrivateVmm {
    fn start() -> (Self, Vmm) {
        let child = Command::new("dd")
            .args(["if=/dev/zero", "bs=8M"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dd starts");
        let guard = Self(child);
        let started = Instant::now();
        loop {
            let found = find_by_pid(guard.0.id());
            if let Ok(vmm) = found
                && vmm.blocks.iter().any(|block| block.length >= 8 * MIB)
            {
                return (guard, vmm);
            }
            assert!(started.elapsed() < Duration::from_secs(60), "no block came");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for PrivateVmm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn private_memory_is_copied_and_not_mapped() {
    let (_guard, vmm) = PrivateVmm::start();
    assert_eq!(vmm.access(), Access::Copy);
    assert!(!vmm.is_shared());
    let refused = GuestRam::open(&vmm, Method::Map).expect_err("cannot be mapped");
    assert!(matches!(refused, OpenError::Method { .. }), "{refused}");
    let hint = refused.hint().expect("there are other ways");
    assert!(
        hint.contains("--method graft") && hint.contains("copy"),
        "{hint}"
    );
    let ram = GuestRam::open(&vmm, Method::Auto).expect("opens");
    assert_eq!(ram.access(), Access::Copy);
    let at = BlockOffset {
        block: 0,
        offset: 4 * MIB,
    };
    let mut bytes = vec![1_u8; 100_000];
    ram.read_at(at, &mut bytes).expect("read");
    ram.write_at(at, b"seen").expect("write");
    let piece = BlockPiece {
        at: BlockOffset {
            block: 0,
            offset: 0,
        },
        length: 8 * MIB,
    };
    let view = ram.view(&[piece], Protection::ReadWrite).expect("a view");
    assert!(!view.is_mapped());
    view.store_release(64, 5).expect("store");
    view.load_acquire(64).expect("load");
}

#[test]
fn memory_that_moved_since_it_was_found_is_not_touched() {
    let (_guard, mut vmm) = PrivateVmm::start();
    // As if the process had replaced itself: what was RAM is something else now.
    vmm.blocks[0].start.0 = 0x1000;
    let moved = GuestRam::open(&vmm, Method::Copy);
    assert!(matches!(moved, Err(OpenError::Moved { .. })), "{moved:?}");
}

#[test]
fn after_the_vmm_ends_every_access_says_so() {
    let (mut guard, vmm) = PrivateVmm::start();
    let ram = GuestRam::open(&vmm, Method::Copy).expect("opens");
    let piece = BlockPiece {
        at: BlockOffset {
            block: 0,
            offset: 0,
        },
        length: MIB,
    };
    let view = ram.view(&[piece], Protection::ReadWrite).expect("a view");
    guard.0.kill().expect("kill");
    guard.0.wait().expect("wait");
    assert!(ram.liveness().is_gone());
    assert_eq!(ram.liveness().run_state(), RunState::Gone);
    let mut bytes = vec![0_u8; 100_000];
    let at = BlockOffset {
        block: 0,
        offset: 0,
    };
    for length in [8, 100_000] {
        assert_eq!(ram.read_at(at, &mut bytes[..length]), Err(RamError::Gone));
        assert_eq!(ram.write_at(at, &bytes[..length]), Err(RamError::Gone));
        let unreachable = Err(vmshm_shm::Fault::Unreachable {
            code: code::NO_PROCESS,
        });
        assert_eq!(view.read(0, &mut bytes[..length]), unreachable);
        assert_eq!(view.write(0, &bytes[..length]), unreachable);
    }
    assert!(view.load_acquire(0).is_err() && view.store_release(0, 1).is_err());
    let mut word = [0_u8; 8];
    let mut reads = [RamRead {
        at,
        into: &mut word,
    }];
    assert_eq!(
        ram.read_many(&mut reads, &mut |_, _| {}),
        Err(RamError::Gone)
    );
    let again = GuestRam::open(&vmm, Method::Copy);
    assert!(matches!(again, Err(OpenError::Gone { .. })));
    assert_eq!(
        find_by_pid(vmm.pid),
        Err(FindError::NoProcess { pid: vmm.pid })
    );
}

#[test]
fn huge_pages_are_read_written_and_viewed() {
    use rustix::fs::MemfdFlags;
    let Some(own) = OwnRam::try_new(4 * MIB, MemfdFlags::HUGETLB) else {
        eprintln!("skipped: the system has no huge pages to give");
        return;
    };
    assert_eq!(own.vmm.blocks[own.block].backing, crate::Backing::Hugetlb);
    own.mapping.store_relaxed(8192, 77).expect("store");
    let ram = own.open(Method::Map);
    let mut word = [0_u8; 8];
    ram.read_at(own.at(8192), &mut word).expect("read");
    assert_eq!(u64::from_ne_bytes(word), 77);
    ram.write_at(own.at(8192), &78_u64.to_ne_bytes())
        .expect("write");
    assert_eq!(own.mapping.load_relaxed(8192), Ok(78));
    let pieces = [
        BlockPiece {
            at: own.at(2 * MIB + 4096),
            length: 4096,
        },
        BlockPiece {
            at: own.at(8192),
            length: 4096,
        },
    ];
    let view = ram.view(&pieces, Protection::ReadWrite).expect("a view");
    assert_eq!(view.load_acquire(4096), Ok(78));
    view.store_release(0, 5).expect("store");
    assert_eq!(own.mapping.load_relaxed(2 * MIB + 4096), Ok(5));
}

#[test]
fn what_a_vmm_has_not_touched_of_a_private_file_is_read_from_the_file() {
    let mut own = OwnRam::new(1 << 20);
    // In the file but not in the VMM, and in both.
    rustix::io::pwrite(&own.file, &[3; 100], 3 * PAGE_SIZE + 50).expect("written");
    own.mapping
        .write(5 * PAGE_SIZE, &[5; 100])
        .expect("written");
    let pages = own.pages();
    own.vmm.blocks[own.block].backing = Backing::PrivateFile;
    let ram = own.open(Method::Copy);
    let mut wanted = vec![0; 1 << 20];
    let page = usize::try_from(PAGE_SIZE).expect("small");
    wanted[3 * page + 50..3 * page + 150].fill(3);
    wanted[5 * page..5 * page + 100].fill(5);
    let mut bytes = vec![9; 1 << 20];
    ram.read_at(own.at(0), &mut bytes).expect("read");
    assert!(bytes == wanted);
    for (from, to) in [
        (3 * page + 60, 5 * page + 20),
        (7, 9),
        (5 * page + 90, 6 * page + 1),
    ] {
        let mut part = vec![9; to - from];
        ram.read_at(own.at(from as u64), &mut part).expect("read");
        assert_eq!(part, wanted[from..to]);
    }
    assert_eq!(own.pages(), pages, "reading brought pages into being");
}

/// This process with a memory file of which it has touched less than the file holds, as if
/// it were mapped privately.
fn privately_mapped(size: u64, in_file: &[Range<u64>], touched: &[u64]) -> (OwnRam, GuestRam) {
    let mut own = OwnRam::new(size);
    for run in in_file {
        let bytes = vec![3; usize::try_from(run.end - run.start).expect("small")];
        rustix::io::pwrite(&own.file, &bytes, run.start).expect("written");
    }
    for page in touched {
        own.mapping.write(*page, &[5; 100]).expect("written");
    }
    own.vmm.blocks[own.block].backing = Backing::PrivateFile;
    let ram = own.open(Method::Copy);
    (own, ram)
}

#[test]
fn what_lies_in_a_private_file_alone_exists() {
    const PAGE: u64 = PAGE_SIZE;
    // The window in which the pages are asked for ends inside the third run.
    let border = 128 * MIB;
    let in_file = [
        3 * PAGE..5 * PAGE,
        9 * PAGE..10 * PAGE,
        border - PAGE..border + 2 * PAGE,
    ];
    let touched = [5 * PAGE, 20 * PAGE, border + 2 * PAGE];
    let (own, ram) = privately_mapped(130 * MIB, &in_file, &touched);
    let pages = own.pages();
    let expected = [
        3 * PAGE..6 * PAGE,
        9 * PAGE..10 * PAGE,
        20 * PAGE..21 * PAGE,
        border - PAGE..border + 3 * PAGE,
    ];
    let mut runs = Vec::new();
    ram.resident_runs(own.block, 0..130 * MIB, &mut |run| {
        runs.push(run);
        true
    })
    .expect("runs");
    assert_eq!(runs, expected);
    // Not beyond what was asked for, and no further than wanted.
    runs.clear();
    ram.resident_runs(own.block, 4 * PAGE..border, &mut |run| {
        runs.push(run);
        runs.len() < 2
    })
    .expect("runs");
    assert_eq!(runs, [4 * PAGE..6 * PAGE, 9 * PAGE..10 * PAGE]);
    let asked = [0, 3, 4, 5, 6, 9, 20].map(|page| page * PAGE).to_vec();
    let there = [3, 4, 5, 9, 20].map(|page| page * PAGE);
    assert_eq!(ram.existing(own.block, asked), there);
    let mut found = Vec::new();
    ram.scan(&[3; 64], crate::Step::Page, &mut |at| {
        found.push(at.offset);
        std::ops::ControlFlow::Continue(())
    })
    .expect("a scan");
    let wanted = [3, 4, 9].map(|page| page * PAGE);
    let across = [border - PAGE, border, border + PAGE];
    assert_eq!(found, [&wanted[..], &across].concat());
    assert_eq!(own.pages(), pages, "looking brought pages into being");
}
