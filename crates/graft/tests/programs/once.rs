//! Grafts a region of a process, or undoes it, once: for tests that kill whoever does so.
//! `graft-once (graft|undo) (keep|forget) PID ID SIZE DIE_AFTER AT:LENGTH:OFFSET…`; after
//! DIE_AFTER steps it kills itself, unless that is zero. With `trace` it traces PID as a
//! debugger would, with `map` it maps the file ID, until its input ends. Exit codes: 0 done, 1 refused or
//! failed, 75 the process was too busy.

#![allow(unsafe_code, reason = "kills itself, traces and maps as others would")]

use std::process::ExitCode;

use vmshm_graft::{Contents, GraftError, Piece, Region, Step, graft, undo};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [what, contents, pid, id, size, die_after, pieces @ ..] = words.as_slice() else {
        eprintln!("too few arguments");
        return ExitCode::FAILURE;
    };
    match what.as_str() {
        "trace" => return trace(pid),
        "map" => return map(id),
        _ => {}
    }
    let number = |word: &str| word.parse::<u64>().unwrap_or(0);
    let pieces = pieces.iter().map(|piece| {
        let mut parts = piece.split(':').map(number);
        let mut next = || parts.next().unwrap_or(0);
        Piece {
            at: vmshm_ram::VmmVirtual(next()),
            length: next(),
            offset: next(),
        }
    });
    let region = Region {
        id: id.clone(),
        size: number(size),
        pieces: pieces.collect(),
    };
    let contents = if contents == "keep" {
        Contents::Keep
    } else {
        Contents::Forget
    };
    let die_after = number(die_after);
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut count = 0;
    let mut last = std::time::Instant::now();
    let mut times = Vec::new();
    let mut watch = |step: Step| {
        count += 1;
        times.push((step, last.elapsed()));
        last = std::time::Instant::now();
        if count == die_after {
            // SAFETY: takes numbers only; nothing of ours runs after it.
            unsafe { libc::kill(own, libc::SIGKILL) };
        }
    };
    let pid = u32::try_from(number(pid)).unwrap_or(0);
    let result = if what == "graft" {
        graft(pid, &region, contents, &[], &mut watch).map(|grafted| grafted.pauses)
    } else {
        undo(pid, &region, contents, &[], &mut watch)
    };
    match result {
        Ok(pauses) => {
            println!("{count} steps; {pauses:?}");
            // What took long, for whoever measures.
            times.retain(|(_, time)| time.as_micros() > 300);
            println!("{times:?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            match error {
                GraftError::TooSlow { .. } | GraftError::Busy | GraftError::Incomplete { .. } => {
                    ExitCode::from(75)
                }
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Traces a process until the input ends.
fn trace(pid: &str) -> ExitCode {
    let pid: i32 = pid.parse().unwrap_or(0);
    // SAFETY: takes numbers only.
    let answer = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
    wait_for_the_end();
    if answer == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Maps a file until the input ends.
fn map(path: &str) -> ExitCode {
    let Ok(file) = std::fs::File::open(path) else {
        return ExitCode::FAILURE;
    };
    // SAFETY: a new mapping, which nobody looks into.
    let mapping = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            4096,
            rustix::mm::ProtFlags::READ,
            rustix::mm::MapFlags::SHARED,
            &file,
            0,
        )
    };
    wait_for_the_end();
    if mapping.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Says that all is set up, and waits.
fn wait_for_the_end() {
    println!("ready");
    let mut line = String::new();
    while std::io::stdin()
        .read_line(&mut line)
        .is_ok_and(|count| count > 0)
    {}
}
