//! QEMU's own monitor, as a witness of what is where in the guest's memory.
//!
//! The monitor serves one client at a time, so each question has a connection of its own.

use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::patience::SOON;

/// The monitor of one machine.
#[derive(Debug)]
pub struct Qmp {
    socket: PathBuf,
}

/// Where the machine of this name has its monitor.
#[must_use]
pub(crate) fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{name}.qmp"))
}

impl Qmp {
    /// The monitor of the machine of this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self {
            socket: socket(name),
        }
    }

    /// Runs a command.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn execute(&self, command: &str, arguments: &Value) -> Value {
        let stream = UnixStream::connect(&self.socket).expect("the monitor listens");
        stream.set_read_timeout(Some(SOON)).expect("a socket");
        let mut lines = BufReader::new(stream);
        let greeting = next(&mut lines);
        assert!(greeting.get("QMP").is_some(), "{greeting}");
        let mut answer = Value::Null;
        for request in [
            json!({"execute": "qmp_capabilities"}),
            json!({"execute": command, "arguments": arguments}),
        ] {
            writeln!(lines.get_mut(), "{request}").expect("the monitor reads");
            answer = next(&mut lines);
        }
        let result = answer.get("return");
        result
            .unwrap_or_else(|| panic!("{command}: {answer}"))
            .clone()
    }

    /// What the monitor for people answers.
    ///
    /// # Panics
    /// When the monitor fails.
    #[must_use]
    pub fn monitor(&self, line: &str) -> String {
        let answer = self.execute("human-monitor-command", &json!({"command-line": line}));
        answer.as_str().expect("text").to_owned()
    }

    /// What the processors do.
    ///
    /// # Panics
    /// When the monitor fails.
    #[must_use]
    pub fn processors(&self) -> String {
        ["info status", "info registers -a"]
            .map(|line| self.monitor(line))
            .concat()
    }

    /// The bytes at a guest-physical address.
    ///
    /// # Panics
    /// When QEMU cannot tell them.
    #[must_use]
    pub fn memory(&self, address: u64, length: u64) -> Vec<u8> {
        let file = Removed(self.socket.with_extension("page"));
        let arguments = json!({"val": address, "size": length, "filename": file.0});
        self.execute("pmemsave", &arguments);
        std::fs::read(&file.0).expect("QEMU has written it")
    }

    /// The guest-physical addresses that lie in memory that can be written, piece by piece.
    ///
    /// # Panics
    /// When QEMU's answer has none.
    #[must_use]
    pub fn ram(&self) -> Vec<Range<u64>> {
        let tree = self.monitor("info mtree -f");
        // Each view starts with the names of those who see it.
        let mut views = tree.split("FlatView ");
        let view = views.find(|view| view.contains("AS \"memory\","));
        let ram: Vec<Range<u64>> = view.unwrap_or_default().lines().filter_map(piece).collect();
        assert!(!ram.is_empty(), "no memory in {tree}");
        ram
    }
}

/// A line like `  0000000100000000-00000001bfffffff (prio 0, ram): pc.ram @00000000c0000000`.
fn piece(line: &str) -> Option<Range<u64>> {
    let (addresses, rest) = line.trim().split_once(' ')?;
    if !rest.contains(", ram)") {
        return None;
    }
    let (first, last) = addresses.split_once('-')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    Some(number(first)?..number(last)?.checked_add(1)?)
}

/// The next word to whoever is connected: events may come before each, the greeting too.
fn next(lines: &mut BufReader<UnixStream>) -> Value {
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).expect("the monitor answers");
        let said: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        if said.get("event").is_none() {
            return said;
        }
    }
}

/// A file that is removed when this is dropped.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // It may not have been written.
        let _ = std::fs::remove_file(&self.0);
    }
}
