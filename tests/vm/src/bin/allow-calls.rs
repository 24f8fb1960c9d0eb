//! Starts a program under a filter that lists what is allowed, and ends the process for all else: every system call up
//! to the newest known one but `memfd_create`.
//!
//! `allow-calls PROGRAM ARGUMENTS…`
#![allow(
    clippy::expect_used,
    reason = "a program of the tests that cannot go on says so by panicking"
)]

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

const MEMFD_CREATE: i64 = 319;
const NEWEST: i64 = 470;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().expect("allow-calls PROGRAM ARGUMENTS…");
    let allowed: BTreeMap<i64, Vec<seccompiler::SeccompRule>> = (0..=NEWEST)
        .filter(|call| *call != MEMFD_CREATE)
        .map(|call| (call, Vec::new()))
        .collect();
    let filter = SeccompFilter::new(
        allowed,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    );
    let program_of_filter: BpfProgram = filter
        .and_then(TryInto::try_into)
        .expect("the filter is sound");
    seccompiler::apply_filter(&program_of_filter).expect("filters can be set");
    let error = Command::new(program).args(arguments).exec();
    panic!("the program cannot be started: {error}");
}
