//! The process that shows pictures: finding its program, starting it with its channel, and
//! saying how it ended. It gets no more than that channel and stderr.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use vmshm_channel::Channel;

use crate::failure::Failure;
use crate::os::{MONITOR_PROGRAM, is_program, words_for_end};

/// How long it may take to end by itself once its channel is closed.
const PATIENCE: Duration = Duration::from_secs(2);

/// The process; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Monitor {
    child: Child,
}

impl Monitor {
    /// Starts it.
    pub(crate) fn start() -> Result<(Self, Channel), Failure> {
        let program = find()?;
        let failed = |error: io::Error| {
            Failure::from_error(&error, None)
                .because(&format!("cannot start {}", program.display()))
        };
        // A Ctrl-C on the terminal is for this command, which then ends it.
        let (child, channel) = vmshm_channel::start(&mut Command::new(&program)).map_err(failed)?;
        Ok((Self { child }, channel))
    }

    /// Waits until it has ended, and says how if that was not in good order.
    pub(crate) fn how_it_ended(&mut self) -> Option<String> {
        let start = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return words_for_end(status),
                Ok(None) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(None) => return Some("it closed its connection and did not end".to_owned()),
                Err(error) => return Some(error.to_string()),
            }
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > PATIENCE {
                // It ends with its channel; this one hangs.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Beside this program, else in PATH.
fn find() -> Result<PathBuf, Failure> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join(MONITOR_PROGRAM)))
        .filter(|path| is_program(path));
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let in_path = || {
        std::env::split_paths(&paths)
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(MONITOR_PROGRAM))
            .find(|path| is_program(path))
    };
    beside.or_else(in_path).ok_or_else(|| {
        Failure::new(
            "vmshm-monitor, the program that shows screens, is not there",
            Some("install it beside `vmshm`, or into a directory of PATH"),
        )
    })
}
