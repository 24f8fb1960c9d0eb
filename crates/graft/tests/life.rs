//! Grafts a running program over and over, and kills whoever does so at every moment:
//! the program must run on and see only what it wrote. Needs no VM and no root, only the
//! right to trace its own children; what needs root says so and is left out.

#![allow(clippy::unwrap_used)]

mod victim;

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use victim::{Victim, once};
use vmshm_graft::{Contents, GraftError, Piece, Refusal, Region, Step, examine, graft, undo};
use vmshm_ram::VmmVirtual;

/// Tries until the machine had time for it.
fn surely<T>(mut work: impl FnMut() -> Result<T, GraftError>) -> Result<T, GraftError> {
    for _ in 0..50 {
        match work() {
            Err(GraftError::TooSlow { .. } | GraftError::Busy | GraftError::Incomplete { .. }) => {
                std::thread::sleep(Duration::from_millis(50))
            }
            other => return other,
        }
    }
    work()
}

fn refused<T>(result: Result<T, GraftError>) -> Refusal {
    match result {
        Err(GraftError::Refused(refusal)) => refusal,
        Err(other) => panic!("not refused: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

fn in_file(file: &std::fs::File, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset).unwrap();
    u64::from_le_bytes(bytes)
}

#[test]
#[ignore = "long: some minutes on a small machine"]
fn a_busy_program_is_grafted_and_undone_a_hundred_times() {
    let mut victim = Victim::start("");
    let region = victim.region("hundred");
    let piece = region.pieces[1];
    let in_memory = piece.at.0 - victim.memory;
    for round in 0..100 {
        victim.ask(&format!("poke {in_memory} {round}"));
        let grafted = surely(|| graft(victim.pid(), &region, Contents::Keep, &[], &mut |_| ()))
            .expect("grafted");
        let file = std::fs::File::from(grafted.file);
        // What was there before, and what either side writes afterwards.
        assert_eq!(in_file(&file, piece.offset), round);
        victim.ask(&format!("poke {in_memory} {}", round + 1000));
        assert_eq!(in_file(&file, piece.offset), round + 1000);
        file.write_all_at(&(round + 5000).to_le_bytes(), piece.offset)
            .unwrap();
        assert_eq!(
            victim.ask(&format!("peek {in_memory}")),
            (round + 5000).to_string()
        );
        victim.check();
        surely(|| undo(victim.pid(), &region, Contents::Keep, &[], &mut |_| ())).expect("undone");
        assert_eq!(
            victim.ask(&format!("peek {in_memory}")),
            (round + 5000).to_string()
        );
        file.write_all_at(&[0; 8], piece.offset).unwrap();
        assert_eq!(
            victim.ask(&format!("peek {in_memory}")),
            (round + 5000).to_string()
        );
        victim.check();
    }
    assert_eq!(victim.files("hundred"), 0);
}

#[test]
fn grafting_what_is_grafted_changes_nothing() {
    let mut victim = Victim::start("");
    let region = victim.region("twice");
    let run = || surely(|| graft(victim.pid(), &region, Contents::Keep, &[], &mut |_| ()));
    let first = run().expect("grafted");
    let second = run().expect("grafted again");
    assert!(!first.pauses.is_empty());
    assert!(second.pauses.is_empty());
    assert_eq!(first.number, second.number);
    victim.check();
    let other = Region {
        size: region.size + 4096,
        ..region.clone()
    };
    assert!(matches!(
        refused(surely(|| graft(
            victim.pid(),
            &other,
            Contents::Keep,
            &[],
            &mut |_| ()
        ))),
        Refusal::OtherSize { .. }
    ));
    surely(|| undo(victim.pid(), &region, Contents::Keep, &[], &mut |_| ())).expect("undone");
    assert_eq!(
        refused(surely(|| undo(
            victim.pid(),
            &region,
            Contents::Keep,
            &[],
            &mut |_| ()
        ))),
        Refusal::NotGrafted
    );
    victim.check();
}

#[test]
fn memory_that_nobody_uses_is_grafted_with_one_thread_borrowed() {
    let mut victim = Victim::start("");
    let region = victim.unused_region("unused");
    let mut pauses = Vec::new();
    for _ in 0..20 {
        let grafted = surely(|| graft(victim.pid(), &region, Contents::Forget, &[], &mut |_| ()))
            .expect("grafted");
        pauses.push(grafted.pauses.iter().map(|pause| pause.standing).max());
        let file = std::fs::File::from(grafted.file);
        file.write_all_at(&77_u64.to_le_bytes(), 0).unwrap();
        let at = region.pieces[0].at.0 - victim.memory;
        assert_eq!(victim.ask(&format!("peek {at}")), "77");
        surely(|| undo(victim.pid(), &region, Contents::Forget, &[], &mut |_| ())).expect("undone");
        assert_eq!(victim.ask(&format!("peek {at}")), "0");
        victim.check();
    }
    pauses.sort();
    println!(
        "one thread paused for {:?} (median of the longest)",
        pauses[10]
    );
}

#[test]
fn what_changes_after_it_was_copied_ahead_is_kept() {
    let mut victim = Victim::start("huge");
    let region = victim.unused_region("ahead");
    let pid = victim.pid();
    let place = |index: usize| {
        let piece = region.pieces[index];
        (piece.at.0 - victim.memory, piece.offset)
    };
    let (written, stays, gone) = (place(3), place(5), place(7));
    victim.ask("fill");
    for round in 1..4_u64 {
        victim.ask(&format!("poke {} {round}", written.0 + 8192));
        victim.ask(&format!("poke {} {round}", stays.0 + 8192));
        victim.ask(&format!("poke {} {round}", gone.0 + 8192));
        let mut ahead = false;
        let grafted = surely(|| {
            graft(pid, &region, Contents::Keep, &[], &mut |step| {
                if step == Step::CopiedAhead {
                    ahead = true;
                    let late = round + 1000;
                    victim.ask(&format!("poke {} {late}", written.0 + 8192));
                    // All of a huge page, of which not even a table is left.
                    let answer = victim.ask(&format!("drop {} {}", gone.0, 2 << 20));
                    assert_eq!(answer, "dropped 0");
                }
            })
        });
        let file = std::fs::File::from(grafted.expect("grafted").file);
        if ahead {
            assert_eq!(in_file(&file, written.1 + 8192), round + 1000);
            assert_eq!(in_file(&file, gone.1 + 8192), 0);
        } else {
            println!("this kernel does not tell what was written: all was copied in the pause");
        }
        assert_eq!(in_file(&file, stays.1 + 8192), round);
        victim.check();
        surely(|| undo(pid, &region, Contents::Keep, &[], &mut |_| ())).expect("undone");
    }
}

#[test]
fn memory_that_is_written_all_the_time_is_grafted_whole() {
    let mut victim = Victim::start("huge");
    let region = victim.unused_region("written");
    victim.ask("fill");
    victim.ask("use 1");
    for _ in 0..3 {
        let run = || graft(victim.pid(), &region, Contents::Keep, &[], &mut |_| ());
        surely(run).expect("grafted");
        victim.check();
        let run = || undo(victim.pid(), &region, Contents::Keep, &[], &mut |_| ());
        surely(run).expect("undone");
        victim.check();
    }
    assert_eq!(victim.descriptors("anon_inode:[userfaultfd]"), 0);
}

#[test]
#[ignore = "long: some minutes on a small machine"]
fn who_grafts_may_be_killed_at_any_moment() {
    let mut victim = Victim::start("");
    let region = victim.region("moments");
    // How long one takes, to spread the moments over it.
    let began = std::time::Instant::now();
    assert_eq!(once("graft", victim.pid(), &region, 0), Some(0));
    assert_eq!(once("undo", victim.pid(), &region, 0), Some(0));
    let length = began.elapsed() / 2;
    let mut seed = 0x2545_f491_u64;
    for round in 0..200 {
        let what = if round % 2 == 0 { "graft" } else { "undo" };
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let wait = length.mul_f64((seed >> 33) as f64 / f64::from(1_u32 << 31) * 1.2);
        let mut dying = victim::spawn_once(what, victim.pid(), &region, 0);
        std::thread::sleep(wait);
        dying.kill().unwrap();
        dying.wait().unwrap();
        victim.check();
        victim.complete(what, &region);
        victim.check();
    }
    victim.complete("undo", &region);
    assert_eq!(victim.files("moments"), 0);
}

#[test]
#[ignore = "long: some minutes on a small machine"]
fn who_grafts_may_die_after_every_step() {
    let mut victim = Victim::start("");
    let region = victim.region("steps");
    for what in ["graft", "undo"] {
        let other = if what == "graft" { "undo" } else { "graft" };
        let mut steps = 0;
        loop {
            steps += 1;
            // A busy machine makes more steps of one kind; death comes at one of them.
            let end = once(what, victim.pid(), &region, steps);
            victim.check();
            victim.complete(what, &region);
            victim.check();
            if end == Some(0) {
                break;
            }
            assert!(steps < 2000);
            victim.complete(other, &region);
        }
        println!("{what}: survived death after each of {} steps", steps - 1);
        assert!(steps > 20);
    }
}

#[test]
fn a_traced_process_is_refused_and_unharmed() {
    let mut victim = Victim::start("");
    let region = victim.region("traced");
    let mut debugger = Command::new(env!("CARGO_BIN_EXE_graft-once"))
        .args(["trace", "keep", &victim.pid().to_string(), "x", "0", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    debugger
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut byte)
        .unwrap();
    let tracer = debugger.id();
    assert_eq!(
        refused(surely(|| graft(
            victim.pid(),
            &region,
            Contents::Keep,
            &[],
            &mut |_| ()
        ))),
        Refusal::Traced { tracer }
    );
    assert!(examine(victim.pid(), &region.pieces, &[]).contains(&Refusal::Traced { tracer }));
    drop(debugger.stdin.take());
    debugger.wait().unwrap();
    victim.check();
    assert_eq!(victim.files("traced"), 0);
}

#[test]
fn memory_that_another_process_maps_is_refused_unless_it_is_a_partner() {
    let mut victim = Victim::start("shared");
    let region = victim.region("shared");
    assert_eq!(examine(victim.pid(), &region.pieces, &[]), []);
    let mut mapper = victim.mapper();
    assert_eq!(
        refused(surely(|| graft(
            victim.pid(),
            &region,
            Contents::Keep,
            &[],
            &mut |_| ()
        ))),
        Refusal::Shared {
            pids: vec![mapper.id()]
        }
    );
    victim.check();
    let partners = [mapper.id()];
    surely(|| {
        graft(
            victim.pid(),
            &region,
            Contents::Keep,
            &partners,
            &mut |_| (),
        )
    })
    .expect("grafted with a partner");
    victim.check();
    surely(|| undo(victim.pid(), &region, Contents::Keep, &[], &mut |_| ())).expect("undone");
    victim.check();
    mapper.kill().unwrap();
    mapper.wait().unwrap();
}

#[test]
fn filters_of_system_calls_are_read_and_obeyed() {
    if !rustix::process::geteuid().is_root() {
        println!("left out: only root may read filters");
        return;
    }
    let mut victim = Victim::start("deny-list");
    let region = victim.region("denied");
    surely(|| graft(victim.pid(), &region, Contents::Keep, &[], &mut |_| ()))
        .expect("a list of what is forbidden does not forbid this");
    victim.check();
    surely(|| undo(victim.pid(), &region, Contents::Keep, &[], &mut |_| ())).expect("undone");
    victim.check();
    let mut victim = Victim::start("allow-list");
    let result = surely(|| {
        graft(
            victim.pid(),
            &region_of(&victim),
            Contents::Keep,
            &[],
            &mut |_| (),
        )
    });
    assert_eq!(
        refused(result),
        Refusal::CallFiltered {
            call: "memfd_create",
            answer: 0x8000_0000
        }
    );
    victim.check();
    let victim = Victim::start("strict");
    assert_eq!(
        refused(surely(|| graft(
            victim.pid(),
            &region_of(&victim),
            Contents::Keep,
            &[],
            &mut |_| ()
        ))),
        Refusal::StrictCallFilter
    );
    assert!(victim.is_alive());
}

fn region_of(victim: &Victim) -> Region {
    victim.region("filtered")
}

#[test]
fn what_is_no_memory_of_the_process_is_refused() {
    let mut victim = Victim::start("");
    let with = |at: u64| Region {
        id: "nowhere".to_owned(),
        size: 4096,
        pieces: vec![Piece {
            at: VmmVirtual(at),
            length: 4096,
            offset: 0,
        }],
    };
    let run = |at| {
        refused(surely(|| {
            graft(victim.pid(), &with(at), Contents::Keep, &[], &mut |_| ())
        }))
    };
    assert!(matches!(run(4096), Refusal::NotMemory { .. }));
    assert!(matches!(run(4097), Refusal::BadPiece { index: 0 }));
    assert_eq!(
        refused(surely(|| graft(
            u32::MAX / 2,
            &with(4096),
            Contents::Keep,
            &[],
            &mut |_| ()
        ))),
        Refusal::Gone { pid: u32::MAX / 2 }
    );
    victim.check();
}
