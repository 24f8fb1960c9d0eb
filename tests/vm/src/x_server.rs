//! An X server without a screen, on the host, in which windows are shown and looked at.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::command_line::find;
use crate::environment::skip;
use crate::patience::{LATER, SOON, wait_for};
use crate::png_file::Picture;

/// A server that runs; it is ended when this is dropped.
#[derive(Debug)]
pub struct XServer {
    child: Child,
    /// What `DISPLAY` is for its clients.
    pub display: String,
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl XServer {
    /// Starts a server with a screen of this size; nothing where there is none to start, which is said.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(width: u32, height: u32) -> Option<Self> {
        if !["Xvfb", "xdotool", "xwd"]
            .into_iter()
            .all(|name| find(name).is_some())
        {
            skip("there is no Xvfb with xdotool and xwd; `cargo xtask test` installs them as root");
            return None;
        }
        // It chooses a number that is free, and tells it on its standard output.
        let mut child = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0"])
            .arg(format!("{width}x{height}x24"))
            .args(["-nolisten", "tcp", "-noreset"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it was found");
        let mut output = child.stdout.take().expect("it is piped");
        let mut number = String::new();
        let mut byte = [0];
        while output.read(&mut byte).is_ok_and(|count| count == 1) && byte != *b"\n" {
            number.push(char::from(byte[0]));
        }
        assert!(!number.is_empty(), "Xvfb does not come up");
        Some(Self {
            child,
            display: format!(":{number}"),
            width,
            height,
        })
    }

    /// Runs `xdotool`, which must succeed, and gives what it said.
    ///
    /// # Panics
    /// When it fails.
    pub fn xdotool(&self, arguments: &[&str]) -> String {
        let output = Command::new("xdotool")
            .args(arguments)
            .env("DISPLAY", &self.display)
            .output()
            .expect("it was found");
        assert!(
            output.status.success(),
            "xdotool {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Waits for a window whose title holds `title`, and gives its number.
    ///
    /// # Panics
    /// When none comes.
    #[must_use]
    pub fn window(&self, title: &str) -> String {
        let mut found = String::new();
        wait_for("a window", LATER, || {
            let output = Command::new("xdotool")
                .args(["search", "--onlyvisible", "--name", title])
                .env("DISPLAY", &self.display)
                .output()
                .expect("it was found");
            let text = String::from_utf8_lossy(&output.stdout);
            found = text.lines().next().unwrap_or_default().to_owned();
            !found.is_empty()
        });
        found
    }

    /// What the screen shows.
    ///
    /// # Panics
    /// When the server does not tell.
    #[must_use]
    pub fn picture(&self) -> Picture {
        let start = Instant::now();
        loop {
            let output = Command::new("xwd")
                .args(["-root", "-silent", "-display", &self.display])
                .output()
                .expect("it was found");
            if output.status.success() {
                return from_xwd(&output.stdout);
            }
            // It asks each window on the screen, and fails where one closes in that moment.
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(start.elapsed() < SOON, "xwd: {errors}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for XServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a dump of xwd(1): a header of big-endian words (X11/XWDFile.h), a colour table, rows of pixels of 32 bits, or
/// of 24 where windows have several visuals, as Wine's.
fn from_xwd(bytes: &[u8]) -> Picture {
    let word = |index: usize| {
        let at = index * 4;
        u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    };
    let (header, width, height) = (word(0), word(4), word(5));
    let (byte_order, bits, stride, colours) = (word(7), word(11), word(12), word(19));
    assert!(
        byte_order == 0 && matches!(bits, 24 | 32),
        "little-endian pixels of 24 or 32 bits"
    );
    let pixel_bytes = bits as usize / 8;
    let start = header as usize + colours as usize * 12;
    let row = |y: u32| {
        let at = start + y as usize * stride as usize;
        bytes[at..at + width as usize * pixel_bytes].chunks_exact(pixel_bytes)
    };
    Picture {
        width,
        height,
        colours: (0..height)
            .flat_map(|y| row(y).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]))
            .collect(),
    }
}
