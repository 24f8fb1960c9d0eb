//! What is said when the agent cannot be reached, and what the user can do.

use std::io;
use std::path::Path;

use rustix::io::Errno;
use vmshm_endpoint::OpenError;

use crate::memory::FileError;

const START: &str = "start `vmshm-agent run` in the guest, as root";

/// The socket at `path` does not let us in.
pub(crate) fn at(path: &Path, error: Errno) -> OpenError {
    let place = path.display();
    let (what, hint) = match error {
        Errno::NOENT | Errno::CONNREFUSED => (
            "vmshm-agent is not running in this guest".to_owned(),
            Some(START),
        ),
        Errno::ACCESS | Errno::PERM => (
            format!("this user may not talk to vmshm-agent at {place}"),
            Some("the guest's administrator gives access by the socket's mode"),
        ),
        Errno::AGAIN => (
            format!("vmshm-agent takes no more callers at {place}"),
            Some("end other programs, or wait longer"),
        ),
        _ => (format!("cannot connect to vmshm-agent at {place}"), None),
    };
    unreachable(what, io::Error::from(error), hint)
}

/// Somebody listens at `path`, but does not talk as an agent does.
pub(crate) fn silent(path: &Path, error: Errno) -> OpenError {
    let place = path.display();
    let (what, hint) = match error {
        Errno::TIMEDOUT => (
            format!("vmshm-agent does not answer at {place}"),
            Some("look whether it hangs: `vmshm-agent status`"),
        ),
        Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN => (
            format!("vmshm-agent closed the connection at {place}"),
            Some("look whether it runs, and whether this user has too many connections"),
        ),
        _ => (format!("cannot talk to vmshm-agent at {place}"), None),
    };
    unreachable(what, io::Error::from(error), hint)
}

/// The system gives no thread.
pub(crate) fn thread(error: io::Error) -> OpenError {
    let what = "cannot start the thread that listens to the agent".to_owned();
    unreachable(what, error, None)
}

/// The agent's file for the region `name` is of no use.
pub(crate) fn file(name: &str, error: FileError) -> OpenError {
    let what = format!("cannot use the memory of `{name}`: {error}");
    unreachable(what, error, None)
}

fn unreachable(
    what: String,
    source: impl std::error::Error + Send + Sync + 'static,
    hint: Option<&str>,
) -> OpenError {
    OpenError::Unreachable {
        what,
        source: Box::new(source),
        hint: hint.map(str::to_owned),
    }
}
