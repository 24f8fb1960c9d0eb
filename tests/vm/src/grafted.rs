//! A raw region whose bytes both sides know, in a guest that works: what the tests of grafts look at.

use std::ops::Range;
use std::time::Duration;

use serde_json::Value;

use crate::bytes::RandomBytes;
use crate::environment::guest_program;
use crate::guest::Job;
use crate::machine::Machine;
use crate::patience::{LATER, wait_for};
use crate::program::{Outcome, vmshm};

/// How much memory the guest's loop sums up.
const WORK: u64 = 16;

/// A loop in the guest that fills memory and sums it up.
#[derive(Debug)]
pub struct Work<'a> {
    machine: &'a Machine,
    _job: Job<'a>,
    seen: u64,
}

impl<'a> Work<'a> {
    /// Starts it with so many threads.
    #[must_use]
    pub fn start(machine: &'a Machine, threads: u32) -> Self {
        machine.guest.run("rm -f rounds");
        let program = guest_program("work-in-memory");
        let job = machine
            .guest
            // Whoever looks at the region meanwhile need not wait for it; no processor is ever idle.
            .start(&format!("nice -n 19 {program} rounds {WORK} {threads}"));
        let mut work = Self {
            machine,
            _job: job,
            seen: 0,
        };
        work.goes_on();
        work
    }

    /// Waits until it has come further, and all was right.
    ///
    /// # Panics
    /// When it stands still or is wrong.
    #[track_caller]
    pub fn goes_on(&mut self) {
        let mut rounds = self.seen;
        wait_for("round of the loop in the guest", LATER, || {
            let text = self.machine.guest.run("cat rounds").text;
            assert_ne!(text.trim(), "wrong", "the guest's memory is wrong");
            rounds = text.trim().parse().unwrap_or(self.seen);
            rounds > self.seen
        });
        self.seen = rounds;
    }
}

/// A raw region; it is removed when this is dropped.
#[derive(Debug)]
pub struct Bytes<'a> {
    machine: &'a Machine,
    name: String,
    size: u64,
    host_seed: u64,
    guest_seed: u64,
}

impl<'a> Bytes<'a> {
    /// Makes it, and fills one half from each side.
    #[must_use]
    pub fn create(machine: &'a Machine, name: &str, size: u64) -> Self {
        let path = machine.path(name);
        vmshm(["region", "create", &path, "--size", &size.to_string()])
            .run()
            .success();
        let mut bytes = Self {
            machine,
            name: name.to_owned(),
            size,
            host_seed: 0,
            guest_seed: 0,
        };
        bytes.change();
        bytes
    }

    /// As commands name it.
    #[must_use]
    pub fn path(&self) -> String {
        self.machine.path(&self.name)
    }

    /// Each side fills its half anew.
    #[track_caller]
    pub fn change(&mut self) {
        self.host_seed = RandomBytes::fresh_seed();
        self.guest_seed = RandomBytes::fresh_seed();
        let half = self.size / 2;
        let host = RandomBytes::new(self.host_seed).take(usize::try_from(half).expect("it fits"));
        let path = self.path();
        let mut file = tempfile::NamedTempFile::new().expect("there is room");
        std::io::Write::write_all(&mut file, &host).expect("there is room");
        vmshm(["region", "write", &path, "0", "-i"])
            .argument(file.path())
            .run()
            .success();
        self.in_guest("fill", self.guest_seed, half);
    }

    /// Both sides see all bytes as they were written.
    #[track_caller]
    pub fn check(&self) {
        let half = self.size / 2;
        let path = self.path();
        let seen = vmshm(["region", "read", &path, "0", &self.size.to_string()])
            .run()
            .success();
        let half_length = usize::try_from(half).expect("it fits");
        let right = [self.host_seed, self.guest_seed]
            .map(|seed| RandomBytes::new(seed).take(half_length))
            .concat();
        assert!(seen == right, "the host sees other bytes in {path}");
        self.in_guest("check", self.host_seed, 0);
        self.in_guest("check", self.guest_seed, half);
    }

    #[track_caller]
    fn in_guest(&self, what: &str, seed: u64, offset: u64) {
        let (program, name) = (guest_program("raw-bytes"), &self.name);
        let half = self.size / 2;
        self.machine
            .guest
            .check(&format!("{program} {name} {what} {seed} {offset} {half}"));
    }

    /// Grafts it.
    #[must_use]
    pub fn graft(&self) -> Outcome {
        vmshm(["region", "graft", &self.path(), "--json"]).run()
    }

    /// Undoes that.
    #[must_use]
    pub fn undo(&self) -> Outcome {
        vmshm(["region", "graft", &self.path(), "--undo", "--json"]).run()
    }
}

impl Drop for Bytes<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = vmshm(["region", "remove", &self.path()]).run();
        }
    }
}

/// A time in milliseconds out of a command's answer.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn milliseconds(answer: &Value, name: &str) -> Duration {
    let milliseconds = answer[name].as_f64();
    let milliseconds = milliseconds.unwrap_or_else(|| panic!("no {name} in {answer}"));
    Duration::from_secs_f64(milliseconds / 1e3)
}

/// How many bytes of the process's memory lie in files of grafts.
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn grafted_bytes(pid: u32) -> u64 {
    grafted_places(pid)
        .map(|place| place.end - place.start)
        .sum()
}

/// Where files of grafts lie in the process's memory.
///
/// # Panics
/// When the process is gone.
pub fn grafted_places(pid: u32) -> impl Iterator<Item = Range<u64>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process is there");
    let place = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(number(start)?..number(end)?)
    };
    let lines = maps.lines().filter(|line| line.contains("/memfd:vmshm-"));
    let places: Vec<Range<u64>> = lines.filter_map(place).collect();
    places.into_iter()
}

/// How many files of grafts the process has open.
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn graft_files(pid: u32) -> usize {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there");
    files
        .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("/memfd:vmshm-"))
        .count()
}
