//! A program that holds a region by the broker, for tests of what it can do then. It tells on standard error: `held` once
//! it does, and `ended: REASON` when that is over.
//!
//! `hold-brokered hold VM REGION` holds until its standard input ends; `write` writes all of it again and again, also after
//! its end; `write-late` does so once it has a line of input; `punch` takes a page out of its file. `look VM VMM-PID BROKER-PID WORD REST` tries each way to memory that it can
//! think of, looks for the word and the rest with a dash between them there, and prints what it found as JSON. `attack SOCKET` says to the
//! broker what nobody may.
#![allow(
    clippy::expect_used,
    reason = "a program of the tests that cannot go on says so by panicking"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::json;
use vmshm_host::endpoint::{Connection, Held, RegionKind, Wish};
use vmshm_host::{Role, Vm};
use vmshm_shm::SharedMemory;

const SIZE: u64 = 1 << 20;
/// No test takes so long.
const LONGEST: Duration = Duration::from_secs(600);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [
            mode @ ("hold" | "write" | "write-late" | "punch"),
            vm,
            region,
        ] => hold(mode, vm, region),
        ["look", vm, vmm, broker, word, rest] => {
            let pid = |text: &str| text.parse().expect("a process number");
            look(vm, pid(vmm), pid(broker), &format!("{word}-{rest}"));
        }
        ["attack", socket] => attack(Path::new(socket)),
        _ => panic!(
            "hold|write|write-late|punch VM REGION, look VM PID PID WORD REST, attack SOCKET"
        ),
    }
}

fn held(vm: &str, region: &str) -> (Vm, Held<Vm>) {
    let vm = Vm::connect(vm).expect("a session");
    let wish = Wish {
        name: region.to_owned(),
        kind: RegionKind::Raw,
        size: SIZE,
        record: 0,
        role: Role::End,
        timeout: Duration::from_secs(60),
    };
    let held = vm.open(&wish).expect("the region");
    eprintln!("held");
    (vm, held)
}

fn hold(mode: &str, vm: &str, region: &str) {
    let (_vm, held) = held(vm, region);
    if mode == "punch" {
        let file = held.memory.graft().expect("it is a file");
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, flags, 0x3000, 0x1000).expect("a hole");
    }
    let writes = Arc::new(AtomicBool::new(mode == "write"));
    let has_a_line = Arc::clone(&writes);
    std::thread::spawn(move || {
        while std::io::stdin()
            .read_line(&mut String::new())
            .expect("it is open")
            > 0
        {
            has_a_line.store(true, Ordering::Relaxed);
        }
        std::process::exit(0);
    });
    let (start, mut told, mut has_written) = (Instant::now(), false, false);
    let block = vec![0xa5; 1 << 16];
    while start.elapsed() < LONGEST {
        if let (false, Err(end)) = (told, held.tether.check()) {
            eprintln!("ended: {end}");
            told = true;
        }
        if writes.load(Ordering::Relaxed) {
            // Whether it may or not: nobody can keep a program from it.
            for part in 0..SIZE >> 16 {
                held.memory.write(part << 16, &block).expect("it is mapped");
            }
            if !std::mem::replace(&mut has_written, true) {
                eprintln!("written");
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether the bytes are in what can be read of a file from the start.
fn finds(file: &File, secret: &[u8], length: u64) -> bool {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < length {
        match file.read_at(&mut buffer, at) {
            Ok(0) | Err(_) => at += buffer.len() as u64,
            Ok(count) => {
                let seen = buffer.get(..count).unwrap_or_default();
                if seen.windows(secret.len()).any(|window| window == secret) {
                    return true;
                }
                at += (count as u64).saturating_sub(secret.len() as u64).max(1);
            }
        }
    }
    false
}

/// Entries of a directory, as far as it can be read.
fn entries(directory: &str) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(directory).into_iter().flatten();
    listed.flatten().map(|entry| entry.path()).collect()
}

fn look(vm: &str, vmm: i32, broker: i32, secret: &str) {
    let (_vm, held) = held(vm, "held");
    held.memory
        .write(0, b"its own bytes")
        .expect("it is mapped");
    let graft = held.memory.graft().expect("it is a file");
    let own = rustix::fs::fstat(graft).expect("it is open");
    let secret = secret.as_bytes();
    let (mut found, mut longer, mut memory_files) = (Vec::new(), Vec::new(), Vec::new());

    // Its own descriptors, opened again in each way, and what lies behind the end.
    for path in entries("/proc/self/fd") {
        let target = std::fs::read_link(&path).unwrap_or_default();
        let target = target.display().to_string();
        let Some(stem) = target.strip_prefix("/memfd:") else {
            continue;
        };
        for flags in [OFlags::RDONLY, OFlags::RDWR, OFlags::WRONLY] {
            let Ok(file) = rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty()) else {
                continue;
            };
            longer.push(format!("{stem} was opened again"));
            if finds(&File::from(file), secret, 8 << 20) {
                found.push(format!("{stem} opened again"));
            }
        }
    }
    let file = File::from(graft.try_clone_to_owned().expect("a copy"));
    if !memory_files.contains(&own.st_ino) {
        memory_files.push(own.st_ino);
    }
    if finds(&file, secret, 8 << 20) {
        found.push("the region's file".to_owned());
    }
    let length = u64::try_from(own.st_size).unwrap_or(0);
    if length != held.memory.size() {
        longer.push(format!("the file has {length} bytes"));
    }
    for grown in [length + 4096, length - 4096] {
        if file.set_len(grown).is_ok() {
            longer.push(format!("the file was made {grown} bytes long"));
        }
    }
    if rustix::fs::fallocate(&file, FallocateFlags::empty(), length, 4096).is_ok() {
        longer.push("the file has grown".to_owned());
    }
    let mut byte = [0];
    if file.read_at(&mut byte, length).is_ok_and(|count| count > 0) {
        longer.push("there are bytes behind its end".to_owned());
    }

    // Its own mappings, those that are files too.
    let memory = File::open("/proc/self/mem").ok();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("it is its own");
    for line in maps.lines().filter(|line| line.contains("/memfd:")) {
        let range = line.split(' ').next().unwrap_or_default();
        let (start, end) = range.split_once('-').expect("a range");
        let number = |text: &str| u64::from_str_radix(text, 16).expect("a number");
        let (start, end) = (number(start), number(end));
        let inode: u64 = line
            .split_whitespace()
            .nth(4)
            .and_then(|inode| inode.parse().ok())
            .unwrap_or(0);
        if !memory_files.contains(&inode) {
            memory_files.push(inode);
        }
        let mut bytes = vec![0; usize::try_from(end - start).expect("small")];
        let read = memory
            .as_ref()
            .map(|memory| memory.read_at(&mut bytes, start));
        if read.is_some() && bytes.windows(secret.len()).any(|window| window == secret) {
            found.push(line.to_owned());
        }
    }
    for path in entries("/proc/self/map_files") {
        if let Ok(file) = File::open(&path)
            && std::fs::read_link(&path).is_ok_and(|to| to.display().to_string().contains("memfd:"))
            && finds(&file, secret, 8 << 20)
        {
            found.push(path.display().to_string());
        }
    }

    // Other processes' memory, files and descriptors.
    let mut opened = Vec::new();
    for (name, pid) in [("vmm", vmm), ("broker", broker)] {
        for place in [
            "mem", "maps", "smaps", "pagemap", "environ", "auxv", "syscall", "stack",
        ] {
            let path = format!("/proc/{pid}/{place}");
            let read = File::open(&path).and_then(|file| file.read_at(&mut byte, 0).map(|_| file));
            if read.is_ok() {
                opened.push(path);
            }
        }
        for place in ["fd", "map_files", "fdinfo", "root", "cwd"] {
            opened.extend(
                entries(&format!("/proc/{pid}/{place}"))
                    .iter()
                    .map(|path| path.display().to_string()),
            );
        }
        for number in 0..64 {
            let path = format!("/proc/{pid}/fd/{number}");
            if File::open(&path).is_ok() {
                opened.push(path);
            }
        }
        let process = Pid::from_raw(pid).expect("a process");
        if let Ok(process) = pidfd_open(process, PidfdFlags::empty()) {
            for number in 0..64 {
                if pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).is_ok() {
                    opened.push(format!("descriptor {number} of the {name}"));
                }
            }
        }
    }
    let mut start = [0; 13];
    file.read_exact_at(&mut start, 0).expect("its own");
    let seen = json!({
        "found_secret": found,
        "opened": opened,
        "memory_files": memory_files.len(),
        "longer_than_the_region": longer,
        "region_is_its_own": &start == b"its own bytes",
    });
    println!("{seen}");
}

/// Everything that no client may say, from many connections; most stay open, none reads.
fn attack(socket: &Path) {
    let address = SocketAddrUnix::new(socket).expect("short");
    let connect = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let one = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let one = one.expect("there are sockets");
        rustix::net::connect(&one, &address).ok().map(|()| one)
    };
    let mut open = Vec::new();
    for round in 0..10_000_usize {
        let Some(one) = connect() else {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        };
        let bytes: Vec<u8> = (0..round % 1100)
            .map(|at| (at * 7 + round).to_le_bytes()[0])
            .collect();
        let _ = rustix::net::send(&one, &bytes, SendFlags::NOSIGNAL);
        open.push(one);
        if open.len() > 500 {
            open.drain(..250);
        }
    }
    println!("attacked");
}
