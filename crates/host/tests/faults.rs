//! VMMs that do what they like while they are looked at: they end, become another program, fork, map their memory
//! elsewhere, or have tens of thousands of mappings. Looking ends in bounded time with a right answer or a clear error.
#![cfg(target_os = "linux")]
#![allow(
    clippy::expect_used,
    reason = "a test that cannot go on says so by panicking"
)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmshm_host::beacon_search::find_living;
use vmshm_host::sighting::{Sighting, Target, Where};
use vmshm_link::beacon::Beacon;
use vmshm_link::{Extent, GuestPhysical};
use vmshm_ram::{Method, find_by_pid};
use vmshm_shm::{Mapping, Piece, Protection, SharedMemory};

const SIZE: u64 = 64 << 20;
const BEACON: u64 = 6 << 20;
const ROLE: &str = "VMSHM_TEST_ROLE";

/// Not a test of its own: what the other process of each test does.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let file = memfd_create("guest-ram", MemfdFlags::empty()).expect("a memory file");
    ftruncate(&file, SIZE).expect("its size");
    let map = |offset, length| {
        let piece = Piece { offset, length };
        Mapping::new(&file, &[piece], Protection::ReadWrite).expect("mapped")
    };
    let mut memory = map(0, SIZE);
    memory.write(0, &vec![0x5a; 32 << 20]).expect("written");
    let directory = [Extent {
        start: GuestPhysical(BEACON + 4096),
        length: 4096,
    }];
    let beacon = Beacon::new(GuestPhysical(BEACON), [1; 16], 7, &directory).expect("right");
    memory.write(BEACON, &beacon.to_page()).expect("written");
    let mut scattered = Vec::new();
    if role == "scattered" {
        // Each is a mapping of its own: its neighbour shows another page.
        for number in 0..30_000 {
            scattered.push(map(number % 2 * 8192, 4096));
        }
    }
    // The test tells by the end of our input when to change; it comes, too, when the test is killed.
    let told = Arc::new(AtomicBool::new(false));
    let by_input = Arc::clone(&told);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        by_input.store(true, Ordering::Relaxed);
    });
    println!("ready");
    std::io::stdout().flush().expect("somebody listens");
    let start = Instant::now();
    let mut children = Vec::new();
    loop {
        match role.as_str() {
            "end" if start.elapsed() > Duration::from_millis(30) => std::process::exit(0),
            "exec" if told.load(Ordering::Relaxed) => {
                let error = Command::new("sleep").arg("60").exec();
                panic!("{error}");
            }
            "exec" => std::thread::sleep(Duration::from_millis(1)),
            _ if told.load(Ordering::Relaxed) => std::process::exit(0),
            "remap" => {
                drop(memory);
                memory = map(0, SIZE);
                // Long enough to be looked at, short enough to change while it is.
                std::thread::sleep(Duration::from_millis(2));
            }
            "fork" => children.push(Command::new("true").spawn().expect("it starts")),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
        if children.len() > 64 {
            for mut child in children.drain(..) {
                child.wait().expect("it ends");
            }
        }
    }
}

/// A process that plays `role`; it is killed with the value.
struct Player(Child);

impl Player {
    fn start(role: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("known"))
            .args(["--exact", "role", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        while !line.ends_with("ready\n") {
            assert_ne!(output.read_line(&mut line).expect("it talks"), 0, "{line}");
        }
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks at the process again and again; how often the beacon was found, and how often
/// there was a clear error.
fn look_at(player: &Player, method: Method, rounds: usize) -> (usize, usize) {
    let (mut found, mut refused) = (0, 0);
    for _ in 0..rounds {
        let look = || -> Result<bool, String> {
            let vmm = find_by_pid(player.pid()).map_err(|error| error.to_string())?;
            let target = Target::open(&vmm, method).map_err(|error| error.to_string())?;
            let sighting = find_living(&target, Where::Scan, Duration::ZERO)
                .map_err(|error| error.to_string())?;
            Ok(match sighting {
                // Its heart does not beat.
                Sighting::Silent(candidate) => {
                    assert_eq!(candidate.beacon.own, GuestPhysical(BEACON));
                    true
                }
                Sighting::Nothing => false,
                other => panic!("a wrong answer: {other:?}"),
            })
        };
        match look() {
            Ok(true) => found += 1,
            Ok(false) => {}
            Err(error) => {
                assert!(!error.is_empty());
                refused += 1;
            }
        }
    }
    (found, refused)
}

#[test]
fn a_vmm_that_ends_is_gone() {
    for method in [Method::Auto, Method::Copy] {
        let player = Player::start("end");
        let started = Instant::now();
        let mut last = (0, 0);
        while last.1 == 0 {
            last = look_at(&player, method, 1);
            assert!(started.elapsed() < Duration::from_secs(30), "{last:?}");
        }
    }
}

#[test]
fn a_vmm_that_becomes_another_program_is_not_read_on() {
    for method in [Method::Auto, Method::Copy] {
        let mut player = Player::start("exec");
        let vmm = find_by_pid(player.pid()).expect("it is there");
        let target = Target::open(&vmm, method).expect("it opens");
        player.0.stdin.take();
        let started = Instant::now();
        // The other program has no beacon. What was opened before shows the old RAM, or
        // nothing; never the new program's memory.
        while look_at(&player, method, 1).0 > 0 {
            assert!(started.elapsed() < Duration::from_secs(30));
        }
        match find_living(&target, Where::Scan, Duration::ZERO) {
            Ok(Sighting::Silent(candidate)) => {
                assert_eq!(candidate.beacon.own, GuestPhysical(BEACON));
            }
            Ok(Sighting::Nothing) | Err(_) => {}
            Ok(other) => panic!("a wrong answer: {other:?}"),
        }
    }
}

#[test]
fn a_vmm_that_forks_is_found_all_the_same() {
    let player = Player::start("fork");
    let (found, _) = look_at(&player, Method::Auto, 20);
    assert_eq!(found, 20);
}

#[test]
fn a_vmm_that_maps_its_memory_anew_gives_right_answers_or_errors() {
    let player = Player::start("remap");
    for method in [Method::Auto, Method::Copy] {
        let started = Instant::now();
        let (mut found, mut refused) = (0, 0);
        // Any wrong answer ends the test; there must be right ones, too.
        for round in 1.. {
            let (right, clear) = look_at(&player, method, 1);
            (found, refused) = (found + right, refused + clear);
            if found > 0 && round >= 40 {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "never found");
        }
        println!("{method:?}: found {found}, refused {refused}");
    }
}

#[test]
fn thirty_thousand_mappings_are_looked_at_in_bounded_time() {
    let player = Player::start("scattered");
    let lines = std::fs::read_to_string(format!("/proc/{}/maps", player.pid())).expect("read");
    let count = lines.lines().count();
    assert!(count > 30_000, "{count} mappings");
    let started = Instant::now();
    let vmm = find_by_pid(player.pid()).expect("it is there");
    let found = started.elapsed();
    let target = Target::open(&vmm, Method::Auto).expect("it opens");
    let sighting = find_living(&target, Where::Scan, Duration::ZERO).expect("read");
    let all = started.elapsed();
    println!("{count} mappings: found in {found:?}, looked at in {all:?}");
    assert!(matches!(sighting, Sighting::Silent(_)), "{sighting:?}");
    // Generous: this is about what grows with the square of their number.
    assert!(all < Duration::from_secs(10), "{all:?}");
}
