//! Starting a source process: this same program, with a channel as its standard input, the
//! rights of the desktop's user and an environment that holds nothing else of the agent's.

use std::env;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use vmshm_channel::Channel;
use vmshm_channel::source::Kind;

/// The hidden command of a source process.
const COMMAND: &str = "source";
/// This program, also where its file was replaced, or lies where the user cannot go.
const OWN: &str = "/proc/self/exe";
/// What is passed on of our own environment.
const PASSED_ON: [&str; 3] = ["PATH", "RUST_LOG", "VMSHM_LOG"];
/// Where there is no PATH.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A process that has been started.
#[derive(Debug)]
pub(crate) struct Started {
    /// The way to it.
    pub channel: Channel,
    /// The process, for its end.
    pub child: Option<Child>,
}

/// Whoever starts source processes.
pub(crate) trait Starter: fmt::Debug + Send {
    /// Starts one; nothing has been said to it.
    ///
    /// # Errors
    /// What the system says.
    fn start(&mut self, kind: &Kind, user: Option<(u32, u32)>) -> io::Result<Started>;
}

/// Starts real processes.
#[derive(Debug)]
pub(crate) struct Processes;

impl Starter for Processes {
    fn start(&mut self, kind: &Kind, user: Option<(u32, u32)>) -> io::Result<Started> {
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = OwnedFd::from(theirs);
        let child = spawn(Path::new(OWN), kind, user, theirs.try_clone()?).or_else(|error| {
            match env::current_exe() {
                Ok(path) if error.kind() == io::ErrorKind::NotFound => {
                    spawn(&path, kind, user, theirs)
                }
                _ => Err(error),
            }
        })?;
        Ok(Started {
            channel: Channel::new(ours)?,
            child: Some(child),
        })
    }
}

fn spawn(
    program: &Path,
    kind: &Kind,
    user: Option<(u32, u32)>,
    channel: OwnedFd,
) -> io::Result<Child> {
    let mut command = Command::new(program);
    command
        .arg(COMMAND)
        .env_clear()
        .env("PATH", PATH)
        .envs(
            PASSED_ON
                .iter()
                .filter_map(|name| Some((name, env::var_os(name)?))),
        )
        .current_dir("/")
        .stdin(channel)
        .stdout(Stdio::null())
        // What a terminal sends to us must not end it: it has to unplug first.
        .process_group(0);
    if let Kind::Wlroots { environment, .. } = kind {
        let own = |name: &str| PASSED_ON.contains(&name);
        let possible = |text: &str| !text.is_empty() && !text.contains(['\0', '=']);
        command.envs(
            environment
                .iter()
                .filter(|(name, value)| possible(name) && !own(name) && !value.contains('\0'))
                .map(|(name, value)| (name, value)),
        );
    }
    if let Some((uid, gid)) = user {
        // As root this also drops all supplementary groups.
        command.gid(gid).uid(uid);
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_a_channel_its_own_environment_and_nothing_else() {
        // `cat` stands for the program: what comes in by the channel goes to /dev/null.
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let kind = Kind::Wlroots {
            socket: "/run/user/1000/wayland-1".to_owned(),
            environment: vec![
                ("SWAYSOCK".to_owned(), "/x".to_owned()),
                ("PATH".to_owned(), "/evil".to_owned()),
                ("BAD=NAME".to_owned(), "x".to_owned()),
                ("NUL".to_owned(), "a\0b".to_owned()),
            ],
        };
        let program = Path::new("/bin/sh");
        // `sh source` finds no such script, and says so with a code of its own.
        let mut child = spawn(program, &kind, None, theirs.into()).expect("starts");
        let status = child.wait().expect("ends");
        assert!(!status.success());
        drop(ours);
    }
}
