//! Asks a QEMU where guest RAM lies, over a monitor that its command line opens as a
//! Unix socket. Only questions are sent, never anything that changes the VM, and only
//! where nobody else is served: a monitor that is taken does not greet, and is left at
//! once. Only the VMM itself is believed, not another process behind the same path. What
//! it answers is checked against the VM's own RAM blocks.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmshm_link::{Extent, GuestPhysical};

use super::Vmm;
use super::qemu_options::{get, split_options};
use crate::address::BlockOffset;
use crate::block::RamBlock;
use crate::layout::{Layout, LayoutRange, Source};
use crate::os::LocalSocket;

/// How long a monitor may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// To greet: one that serves somebody else never does.
    greeting: Duration,
    /// For all answers.
    answers: Duration,
}

const LIMITS: Limits = Limits {
    greeting: Duration::from_millis(200),
    answers: Duration::from_millis(1000),
};
/// Longer answers are no answers.
const LONGEST: usize = 4 << 20;
/// More ranges of RAM than this are not asked about.
const MOST_RANGES: usize = 64;

/// Why a monitor tells nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// The command line opens none that could be reached.
    #[error("the VM has no QMP monitor on a Unix socket")]
    None,
    /// It cannot be connected to.
    #[error("its QMP monitor cannot be reached")]
    Unreachable(#[source] io::Error),
    /// It is not the VMM that listens there.
    #[error("its QMP monitor's path is served by another process ({})", served_by(*.pid))]
    Foreign {
        /// Who does; 0 where that process is out of sight.
        pid: u32,
    },
    /// Somebody else uses it.
    #[error("its QMP monitor is in use")]
    Taken,
    /// It answers what cannot be understood.
    #[error("its QMP monitor gives no useful answer")]
    Unclear,
}

fn served_by(pid: u32) -> String {
    if pid == 0 {
        "out of sight".to_owned()
    } else {
        format!("pid {pid}")
    }
}

impl Vmm {
    /// Where RAM lies as the VMM itself says it, if it has a monitor that is free.
    ///
    /// # Errors
    /// [`MonitorError`]. A monitor in use costs about 0.2 s.
    pub fn layout_by_monitor(&self) -> Result<Layout, MonitorError> {
        let process = self.process();
        let mut error = MonitorError::None;
        // The words with which it was found: under its number another may run by now.
        for path in monitor_paths(&self.words) {
            let seen = process.socket_path(&path);
            match ask(&seen, self.pid, &self.blocks, LIMITS) {
                Ok(layout) => return Ok(layout),
                Err(refusal) => error = refusal,
            }
        }
        Err(error)
    }
}

/// The paths of the sockets on which a command line makes QEMU listen for QMP.
fn monitor_paths(words: &[String]) -> Vec<String> {
    let mut paths = Vec::new();
    let mut sockets: Vec<(String, String)> = Vec::new();
    let mut controls: Vec<String> = Vec::new();
    for pair in words.windows(2) {
        let [option, value] = pair else { continue };
        let Some(option) = option
            .strip_prefix("--")
            .or_else(|| option.strip_prefix('-'))
        else {
            continue;
        };
        match option {
            "qmp" | "qmp-pretty" => {
                let Some(rest) = value.strip_prefix("unix:") else {
                    continue;
                };
                let options = split_options(rest, "path");
                if listens(&options)
                    && let Some(path) = get(&options, "path")
                {
                    paths.push(path.to_owned());
                }
            }
            "chardev" => {
                let options = split_options(value, "backend");
                if get(&options, "backend") == Some("socket")
                    && listens(&options)
                    && let (Some(id), Some(path)) = (get(&options, "id"), get(&options, "path"))
                {
                    sockets.push((id.to_owned(), path.to_owned()));
                }
            }
            "mon" => {
                let options = split_options(value, "chardev");
                if get(&options, "mode") == Some("control") {
                    controls.extend(get(&options, "chardev").map(str::to_owned));
                }
            }
            _ => {}
        }
    }
    let named = sockets.into_iter().filter(|(id, _)| controls.contains(id));
    paths.extend(named.map(|(_, path)| path));
    paths
}

fn listens(options: &[(String, String)]) -> bool {
    matches!(get(options, "server"), Some("on" | "yes" | "true" | "y"))
}

/// A monitor that has greeted.
struct Monitor {
    socket: LocalSocket,
    read: Vec<u8>,
    deadline: Instant,
}

/// Asks the monitor at a path, which the process `vmm` must serve.
fn ask(path: &Path, vmm: u32, blocks: &[RamBlock], limits: Limits) -> Result<Layout, MonitorError> {
    let socket = LocalSocket::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => MonitorError::Taken,
        _ => MonitorError::Unreachable(error),
    })?;
    let pid = socket.peer().map_err(MonitorError::Unreachable)?;
    if pid != vmm {
        return Err(MonitorError::Foreign { pid });
    }
    let mut monitor = Monitor {
        socket,
        read: Vec::new(),
        deadline: Instant::now() + limits.greeting,
    };
    let greeting = monitor.greeting().map_err(|_| MonitorError::Taken)?;
    if greeting.get("QMP").is_none() {
        return Err(MonitorError::Unclear);
    }
    monitor.deadline = Instant::now() + limits.answers;
    let unclear = |_| MonitorError::Unclear;
    monitor
        .execute(&json!({"execute": "qmp_capabilities"}))
        .map_err(unclear)?;
    let tree = monitor.human("info mtree -f").map_err(unclear)?;
    let mut ranges = Vec::new();
    for range in ram_ranges(&tree).into_iter().take(MOST_RANGES) {
        let answer = monitor
            .human(&format!("gpa2hva {:#x}", range.start.0))
            .map_err(unclear)?;
        ranges.extend(host_address(&answer).and_then(|at| located(range, at, blocks)));
    }
    if ranges.is_empty() {
        return Err(MonitorError::Unclear);
    }
    Layout::new(ranges).map_err(|_| MonitorError::Unclear)
}

impl Monitor {
    /// The next message.
    fn line(&mut self) -> io::Result<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(io::Error::from);
            }
            if self.read.len() > LONGEST {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.socket.receive(&mut self.read, self.deadline)?;
        }
    }

    /// The first message that is no event: QEMU tells those that come up meanwhile before it greets.
    fn greeting(&mut self) -> io::Result<Value> {
        loop {
            let message = self.line()?;
            if message.get("event").is_none() {
                return Ok(message);
            }
        }
    }

    /// Sends a command and waits for its answer; what is not asked for is passed over.
    fn execute(&mut self, command: &Value) -> io::Result<Value> {
        self.socket
            .send(format!("{command}\n").as_bytes(), self.deadline)?;
        loop {
            let mut message = self.line()?;
            if message.get("error").is_some() {
                return Err(io::ErrorKind::Unsupported.into());
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    /// A question to the monitor for people, whose answer is text.
    fn human(&mut self, line: &str) -> io::Result<String> {
        let command = json!({
            "execute": "human-monitor-command",
            "arguments": {"command-line": line},
        });
        let answer = self.execute(&command)?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }
}

/// The ranges of RAM that the processor sees, from `info mtree -f`. RAM that stands
/// read-only for shadowing is RAM.
fn ram_ranges(tree: &str) -> Vec<Extent> {
    let mut ranges: Vec<(Extent, String, u64)> = Vec::new();
    let (mut is_memory, mut done) = (false, false);
    for line in tree.lines() {
        if line.starts_with("FlatView") {
            done |= is_memory;
            is_memory = false;
        }
        is_memory |= line.trim_start().starts_with("AS \"memory\"");
        if !is_memory || done {
            continue;
        }
        let Some((extent, name, offset)) = ram_line(line) else {
            continue;
        };
        match ranges.last_mut() {
            Some((last, last_name, last_offset))
                if *last_name == name
                    && last.end() == Some(extent.start)
                    && last_offset.checked_add(last.length) == Some(offset) =>
            {
                last.length += extent.length;
            }
            _ => ranges.push((extent, name, offset)),
        }
    }
    ranges.into_iter().map(|(extent, ..)| extent).collect()
}

/// `  START-END (prio 0, ram): NAME @OFFSET`: where, what, and from where on.
fn ram_line(line: &str) -> Option<(Extent, String, u64)> {
    let (place, what) = line.trim().split_once(" (prio ")?;
    let (kind, name) = what.split_once("): ")?;
    if !matches!(kind.split_once(", ")?.1, "ram" | "rom" | "nv-ram") {
        return None;
    }
    let (start, end) = place.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, last) = (hex(start)?, hex(end)?);
    let length = last.checked_sub(start)?.checked_add(1)?;
    let mut words = name.split(' ');
    let name = words.next()?.to_owned();
    let offset = words.find_map(|word| hex(word.strip_prefix('@')?));
    let extent = Extent {
        start: GuestPhysical(start),
        length,
    };
    extent.end()?;
    Some((extent, name, offset.unwrap_or(0)))
}

/// `Host virtual address for 0x0 (pc.ram) is 0x7f…`.
fn host_address(answer: &str) -> Option<u64> {
    let (_, address) = answer.trim().rsplit_once(" is 0x")?;
    u64::from_str_radix(address, 16).ok()
}

/// The range in the block that has it whole.
fn located(extent: Extent, at: u64, blocks: &[RamBlock]) -> Option<LayoutRange> {
    blocks.iter().enumerate().find_map(|(index, block)| {
        let offset = at.checked_sub(block.start.0)?;
        let fits = offset.checked_add(extent.length)? <= block.length;
        fits.then_some(LayoutRange {
            extent,
            at: BlockOffset {
                block: index,
                offset,
            },
            source: Source::Qmp,
        })
    })
}

#[cfg(all(test, target_os = "linux"))]
#[path = "qmp_tests.rs"]
mod tests;
