//! The three lines between a guest and us: control, script output and console, each a socket pair.
//!
//! Console and script output go to standard error in whole lines, without carriage returns before the line's end; the
//! control line's messages become events. What does not parse on the control line is shown as it came, never obeyed.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

/// What a guest's kernel says when it meets a breakpoint that nobody set. Linux changes its own code behind a breakpoint
/// (`text_poke_bp` in arch/x86/kernel/alternative.c), and QEMU's emulation (7.2) now and then still runs the breakpoint
/// when it is long gone: about one boot in a thousand.
const BREAKPOINT: &[u8] = b"Oops: int3";

/// Something that happened to a VM, or to us while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest is up, and its agent (if it is to run) is ready.
    Ready,
    /// The guest cannot do what it was started for.
    Failed(String),
    /// The script ended with this status.
    Exit(u8),
    /// The guest's kernel fell over a breakpoint of its own: see [`BREAKPOINT`].
    Breakpoint,
    /// The VMM's process ended.
    VmmEnded,
    /// We got this signal.
    Signal(i32),
}

/// Where the guest's console and the script's output go.
#[derive(Clone)]
pub enum Console {
    /// To standard error, line by line.
    StandardError,
    /// Into memory, for a message if something goes wrong.
    Kept(Arc<Mutex<Vec<u8>>>),
}

impl Console {
    /// Passes on one line with its end.
    fn show(&self, line: &[u8]) {
        match self {
            // Who closed our standard error does not want to see it.
            Console::StandardError => drop(std::io::stderr().lock().write_all(line)),
            Console::Kept(kept) => kept
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(line),
        }
    }
}

/// The VMM's ends of the lines, in the order of its descriptors 0, 1 and 2.
pub struct VmmEnds(pub [OwnedFd; 3]);

/// Makes the lines and starts to read them. The threads end when the last process that holds the other ends is gone.
pub fn open(events: &Sender<Event>, console: &Console) -> Result<(VmmEnds, Vec<JoinHandle<()>>)> {
    let pair = || UnixStream::pair().context("cannot make a socket pair");
    let ((control, vmm_control), (script, vmm_script), (screen, vmm_screen)) =
        (pair()?, pair()?, pair()?);
    let (events, breakpoints) = (events.clone(), events.clone());
    let strange = console.clone();
    let mut threads = vec![std::thread::spawn(move || {
        each_line(control, |line| match parse(line) {
            Some(event) => drop(events.send(event)),
            None => strange.show(line),
        });
    })];
    let said = console.clone();
    threads.push(std::thread::spawn(move || {
        each_line(script, |line| said.show(line))
    }));
    let console = console.clone();
    threads.push(std::thread::spawn(move || {
        each_line(screen, |line| {
            if line
                .windows(BREAKPOINT.len())
                .any(|words| words == BREAKPOINT)
            {
                let _ = breakpoints.send(Event::Breakpoint);
            }
            console.show(line);
        });
    }));
    Ok((
        VmmEnds([vmm_control.into(), vmm_script.into(), vmm_screen.into()]),
        threads,
    ))
}

/// Calls `take` for each line of `stream`, its end included; also for a last line without an end.
fn each_line(stream: impl Read, mut take: impl FnMut(&[u8])) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let end = text
            .iter()
            .rposition(|byte| *byte != b'\r')
            .map_or(0, |last| last + 1);
        line.truncate(end);
        line.push(b'\n');
        take(&line);
        line.clear();
    }
}

/// The event that a line of the control channel stands for.
fn parse(line: &[u8]) -> Option<Event> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    match line.split_once(' ') {
        None if line == "ready" => Some(Event::Ready),
        Some(("failed", reason)) => Some(Event::Failed(reason.to_owned())),
        Some(("exit", status)) => status.parse().ok().map(Event::Exit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_carriage_returns_and_keep_the_rest() {
        let mut lines = Vec::new();
        each_line(&b"one\r\r\ntwo\rthree\n\n\xff end"[..], |line| {
            lines.push(line.to_vec())
        });
        assert_eq!(
            lines,
            [&b"one\n"[..], b"two\rthree\n", b"\n", b"\xff end\n"]
        );
    }

    #[test]
    fn only_the_known_messages_are_obeyed() {
        assert_eq!(parse(b"ready\n"), Some(Event::Ready));
        assert_eq!(parse(b"exit 7\n"), Some(Event::Exit(7)));
        assert_eq!(
            parse(b"failed no agent\n"),
            Some(Event::Failed("no agent".into()))
        );
        for strange in [&b"exit 256\n"[..], b"exit\n", b"readyish\n", b"\xff\n"] {
            assert_eq!(parse(strange), None);
        }
    }
}
