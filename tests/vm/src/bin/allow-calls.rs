//! Starts a program under a filter that lists what is allowed, and ends the process for all else: every system call up
//! to the newest known one, but mappings at a given place that others can see. Programs do not make those by themselves,
//! and a graft is one.
//!
//! `allow-calls PROGRAM ARGUMENTS…`
#![allow(
    clippy::expect_used,
    reason = "a program of the tests that cannot go on says so by panicking"
)]

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

const NEWEST: i64 = 470;
const MMAP: i64 = 9;
/// Which argument of `mmap` has these bits.
const FLAGS: u8 = 3;
const MAP_SHARED: u64 = 0x01;
const MAP_FIXED: u64 = 0x10;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().expect("allow-calls PROGRAM ARGUMENTS…");
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> =
        (0..=NEWEST).map(|call| (call, Vec::new())).collect();
    let without = |bit| {
        let mask = SeccompCmpOp::MaskedEq(bit);
        let condition = SeccompCondition::new(FLAGS, SeccompCmpArgLen::Dword, mask, 0);
        SeccompRule::new(vec![condition.expect("mmap has flags")]).expect("one condition")
    };
    allowed.insert(MMAP, vec![without(MAP_SHARED), without(MAP_FIXED)]);
    let filter = SeccompFilter::new(
        allowed,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    );
    let filter: BpfProgram = filter
        .and_then(TryInto::try_into)
        .expect("the filter is sound");
    seccompiler::apply_filter(&filter).expect("filters can be set");
    let error = Command::new(program).args(arguments).exec();
    panic!("the program cannot be started: {error}");
}
