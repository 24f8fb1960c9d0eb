//! Starts the program that is grafted, and talks to it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use vmshm_graft::{Piece, Region};
use vmshm_ram::VmmVirtual;

/// A running victim; killed on drop.
pub struct Victim {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Where its memory starts.
    pub memory: u64,
}

impl Victim {
    /// Starts one; the argument says in which way it is special.
    pub fn start(argument: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_graft-victim"))
            .arg(argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the victim starts");
        let input = child.stdin.take().expect("its input");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        output.read_line(&mut line).expect("its first line");
        let (memory, _) = line.trim().split_once(' ').expect("two numbers");
        let memory = u64::from_str_radix(memory.trim_start_matches("0x"), 16).expect("a number");
        Self {
            child,
            input,
            output,
            memory,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a command, and reads the answer.
    pub fn ask(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").expect("the victim listens");
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .expect("the victim answers");
        assert!(!line.is_empty(), "the victim died: {:?}", self.child.wait());
        line.trim().to_owned()
    }

    /// All its threads made progress, and none saw anything wrong.
    pub fn check(&mut self) {
        let answer = self.ask("check");
        assert!(answer.starts_with("right"), "{answer}");
    }

    pub fn is_alive(&self) -> bool {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        text.is_ok_and(|text| !text.contains(") Z "))
    }

    /// Three pieces of its memory, in another order in the region.
    pub fn region(&self, id: &str) -> Region {
        let piece = |at: u64, length: u64, offset: u64| Piece {
            at: VmmVirtual(self.memory + at),
            length,
            offset,
        };
        Region {
            id: id.to_owned(),
            size: (2 << 20) + (64 << 10) + 4096,
            pieces: vec![
                piece(1 << 20, 2 << 20, 68 << 10),
                piece(4 << 20, 64 << 10, 4096),
                piece((5 << 20) + 4096, 4096, 0),
            ],
        }
    }

    /// The part of its memory that nobody uses: 64 MiB in pieces of 2 MiB, the last first.
    pub fn unused_region(&self, id: &str) -> Region {
        const PIECE: u64 = 2 << 20;
        let piece = |index: u64| Piece {
            at: VmmVirtual(self.memory + (8 << 20) + (31 - index) * PIECE),
            length: PIECE,
            offset: index * PIECE,
        };
        Region {
            id: id.to_owned(),
            size: 32 * PIECE,
            pieces: (0..32).map(piece).collect(),
        }
    }

    /// How many memory files of a region it has open.
    pub fn files(&self, id: &str) -> usize {
        self.descriptors(&format!("/memfd:vmshm-{id} (deleted)"))
    }

    /// How many descriptors it has of a file of this name.
    pub fn descriptors(&self, wanted: &str) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("its files")
            .filter_map(Result::ok)
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .filter(|target| target.to_str() == Some(wanted))
            .count()
    }

    /// Grafts or undoes to the end, however busy the machine is.
    pub fn complete(&self, what: &str, region: &Region) {
        for _ in 0..50 {
            match once(what, self.pid(), region, 0) {
                Some(0) => return,
                Some(75) => std::thread::sleep(Duration::from_millis(50)),
                // Undoing what is undone is refused.
                Some(1) if what == "undo" && self.files(&region.id) == 0 => return,
                other => panic!("{what}: {other:?}"),
            }
        }
        panic!("{what} never came to an end");
    }

    /// Another process that maps its memory.
    pub fn mapper(&self) -> Child {
        let number = std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("its files")
            .filter_map(Result::ok)
            .find(|entry| {
                std::fs::read_link(entry.path())
                    .is_ok_and(|target| target.to_str() == Some("/memfd:ram (deleted)"))
            })
            .expect("its memory file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_graft-once"))
            .args([
                "map",
                "keep",
                "0",
                &number.path().to_string_lossy(),
                "0",
                "0",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the mapper starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("its line");
        child
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a process that grafts or undoes, and dies after a number of steps.
pub fn spawn_once(what: &str, pid: u32, region: &Region, die_after: u64) -> Child {
    let pieces = region
        .pieces
        .iter()
        .map(|piece| format!("{}:{}:{}", piece.at.0, piece.length, piece.offset));
    Command::new(env!("CARGO_BIN_EXE_graft-once"))
        .args([what, "keep", &pid.to_string(), &region.id])
        .args([region.size.to_string(), die_after.to_string()])
        .args(pieces)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the grafting process starts")
}

/// Its exit code; nothing where it was killed.
pub fn once(what: &str, pid: u32, region: &Region, die_after: u64) -> Option<i32> {
    spawn_once(what, pid, region, die_after)
        .wait()
        .expect("it ends")
        .code()
}
