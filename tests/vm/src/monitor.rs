//! QEMU's own monitor as the truth: what it says of guest memory is what the guest has.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::patience::{SOON, wait_until};

/// A monitor that this test has for itself until the value is dropped.
#[derive(Debug)]
pub struct Monitor {
    line: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to a monitor that listens at `path`.
    ///
    /// # Panics
    /// When there is none soon.
    #[must_use]
    pub fn connect(path: &Path) -> Self {
        let socket = wait_until("monitor", SOON, || UnixStream::connect(path).ok());
        socket
            .set_read_timeout(Some(SOON))
            .expect("the socket is there");
        let mut monitor = Self {
            line: BufReader::new(socket),
        };
        assert!(monitor.message()["QMP"].is_object(), "it greets");
        monitor.execute("qmp_capabilities", json!({}));
        monitor
    }

    fn message(&mut self) -> Value {
        let mut line = String::new();
        self.line.read_line(&mut line).expect("the monitor answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Gives a command and its answer.
    ///
    /// # Panics
    /// When the monitor refuses it.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let text = json!({"execute": command, "arguments": arguments});
        self.line
            .get_mut()
            .write_all(format!("{text}\n").as_bytes())
            .expect("the monitor listens");
        loop {
            let mut message = self.message();
            assert!(message.get("error").is_none(), "{command}: {message}");
            if let Some(answer) = message.get_mut("return") {
                return answer.take();
            }
        }
    }

    /// Stops or resumes the guest's processors.
    pub fn pause(&mut self, paused: bool) {
        self.execute(if paused { "stop" } else { "cont" }, json!({}));
    }

    /// What the guest has at an address.
    ///
    /// # Panics
    /// When the monitor cannot write it to a file of ours.
    #[must_use]
    pub fn memory(&mut self, address: u64, length: u64) -> Vec<u8> {
        let name = format!("vm-tests-{}-memory", std::process::id());
        let path = std::env::temp_dir().join(name);
        let arguments = json!({"val": address, "size": length, "filename": path});
        self.execute("pmemsave", arguments);
        let bytes = std::fs::read(&path).expect("it was written");
        std::fs::remove_file(&path).expect("it is there");
        bytes
    }

    /// Where the VMM has an address, in its own address space.
    ///
    /// # Panics
    /// When it is no RAM.
    #[must_use]
    pub fn host_address(&mut self, address: u64) -> u64 {
        let line = format!("gpa2hva {address:#x}");
        let answer = self.execute("human-monitor-command", json!({"command-line": line}));
        let text = answer.as_str().expect("text").trim().to_owned();
        let number = text.rsplit_once(" is 0x").map(|(_, number)| number);
        number
            .and_then(|number| u64::from_str_radix(number, 16).ok())
            .unwrap_or_else(|| panic!("{text}"))
    }
}
