//! The process that shows pictures: finding its program, starting it with its channel, and
//! saying how it ended. It gets no more than that channel and stderr.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use vmshm_channel::Channel;

use crate::failure::Failure;

/// The program's name.
const PROGRAM: &str = "vmshm-monitor";
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
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let child = Command::new(&program)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // A Ctrl-C on the terminal is for the command, which then ends it.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        // A monitor that nobody waits for must not stay behind on an error.
        let monitor = Self { child };
        let channel = Channel::new(ours).map_err(failed)?;
        Ok((monitor, channel))
    }

    /// Waits until it has ended, and says how if that was not in good order.
    pub(crate) fn how_it_ended(&mut self) -> Option<String> {
        let start = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return describe(status),
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

fn describe(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("it ended with status {code}")),
        (None, Some(signal)) => Some(match signal_name(signal) {
            Some(name) => format!("it was ended by signal {signal} ({name})"),
            None => format!("it was ended by signal {signal}"),
        }),
        (None, None) => Some("it ended".to_owned()),
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    signal_hook::low_level::signal_name(signal)
}

/// Beside this program, else in PATH.
fn find() -> Result<PathBuf, Failure> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join(PROGRAM)))
        .filter(|path| is_program(path));
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let in_path = || {
        std::env::split_paths(&paths)
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(PROGRAM))
            .find(|path| is_program(path))
    };
    beside.or_else(in_path).ok_or_else(|| {
        Failure::new(
            "vmshm-monitor, the program that shows screens, is not there",
            Some("install it beside `vmshm`, or into a directory of PATH"),
        )
    })
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_by_status_and_signal() {
        let end = |script: &str| {
            let child = Command::new("sh").args(["-c", script]).spawn();
            Monitor {
                child: child.expect("it starts"),
            }
            .how_it_ended()
        };
        assert_eq!(end("exit 0"), None);
        assert_eq!(end("exit 3").as_deref(), Some("it ended with status 3"));
        assert_eq!(
            end("kill -9 $$").as_deref(),
            Some("it was ended by signal 9 (SIGKILL)")
        );
    }
}
