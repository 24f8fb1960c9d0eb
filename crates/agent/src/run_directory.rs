//! Where the agent and the keeper meet: `/run/vmshm`, which only root may read and write, with
//! their sockets and locks, which are root's alone. Others may pass through: in a guest that is a
//! host, too, the broker's socket lies there. A lock dies with its process, whatever killed it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// The directory.
pub(crate) const PATH: &str = "/run/vmshm";
/// Where the keeper listens.
pub(crate) const KEEPER_SOCKET: &str = "/run/vmshm/keeper.sock";
/// Where the agent listens.
pub(crate) const AGENT_SOCKET: &str = "/run/vmshm/agent.sock";
/// Held by the keeper.
pub(crate) const KEEPER_LOCK: &str = "/run/vmshm/keeper.lock";
/// Held by the agent.
pub(crate) const AGENT_LOCK: &str = "/run/vmshm/agent.lock";

/// How often a taken lock is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// Why the directory or something in it cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunDirectoryError {
    /// A system call failed.
    #[error("cannot {what} {}: {error}", .path.display())]
    System {
        /// What was being done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Others may read or write the directory.
    #[error("{} is not a directory that only root may read and write", .0.display())]
    Unsafe(PathBuf),
}

fn system(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunDirectoryError {
    move |error| RunDirectoryError::System {
        what,
        path: path.to_owned(),
        error,
    }
}

/// Makes the directory, or checks that it is as it should be.
pub(crate) fn prepare() -> Result<(), RunDirectoryError> {
    prepare_at(Path::new(PATH))
}

fn prepare_at(path: &Path) -> Result<(), RunDirectoryError> {
    match DirBuilder::new().mode(0o711).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(system("make", path)(error));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(path).map_err(system("look at", path))?;
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    if found.is_dir() && ours && found.mode() & 0o066 == 0 {
        Ok(())
    } else {
        Err(RunDirectoryError::Unsafe(path.to_owned()))
    }
}

/// Listens at `path`, in the place of a socket that nobody listens at any more. The
/// caller holds the lock that goes with it.
pub(crate) fn listen(path: &str) -> Result<UnixListener, RunDirectoryError> {
    let path = Path::new(path);
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(system("remove", path)(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(system("listen at", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(system("guard", path))?;
    listener
        .set_nonblocking(true)
        .map_err(system("listen at", path))?;
    Ok(listener)
}

/// A lock, held as long as this value or its process lives. The file holds the
/// holder's process id.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// What came of trying a lock.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is ours.
    Ours(Lock),
    /// Another process has it; its id, where the file tells.
    Theirs(Option<u32>),
}

impl Lock {
    /// Tries to take the lock at `path` for up to `patience`: a process that was killed
    /// a moment ago still has it.
    pub(crate) fn take(path: &str, patience: Duration) -> Result<Taken, RunDirectoryError> {
        let path = Path::new(path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(system("open", path))?;
        let deadline = Instant::now() + patience;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(RETRY),
                Err(Errno::AGAIN) => return Ok(Taken::Theirs(read_pid(&mut file))),
                Err(error) => return Err(system("lock", path)(error.into())),
            }
        }
        file.set_len(0)
            .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()))
            .map_err(system("write", path))?;
        Ok(Taken::Ours(Self { _file: file }))
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn a_lock_names_its_holder_and_goes_with_it() {
        let directory = tempfile::tempdir().expect("succeeds");
        let path = directory.path().join("lock");
        let path = path.to_str().expect("succeeds");
        let Taken::Ours(held) = Lock::take(path, NOW).expect("succeeds") else {
            panic!("taken")
        };
        let second = Lock::take(path, NOW).expect("succeeds");
        assert!(matches!(second, Taken::Theirs(Some(pid)) if pid == std::process::id()));
        drop(held);
        assert!(matches!(
            Lock::take(path, NOW).expect("succeeds"),
            Taken::Ours(_)
        ));
    }

    #[test]
    fn a_directory_that_others_may_read_or_write_is_refused() {
        let directory = tempfile::tempdir().expect("succeeds");
        let path = directory.path().join("run");
        prepare_at(&path).expect("succeeds");
        prepare_at(&path).expect("succeeds");
        // As the broker's socket needs it.
        fs::set_permissions(&path, Permissions::from_mode(0o711)).expect("succeeds");
        prepare_at(&path).expect("succeeds");
        for mode in [0o755, 0o733, 0o700 | 0o020] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("succeeds");
            assert!(matches!(
                prepare_at(&path),
                Err(RunDirectoryError::Unsafe(_))
            ));
        }
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("succeeds");
        assert!(matches!(
            prepare_at(&link),
            Err(RunDirectoryError::Unsafe(_))
        ));
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let directory = tempfile::tempdir().expect("succeeds");
        let path = directory.path().join("socket");
        let path = path.to_str().expect("succeeds");
        drop(listen(path).expect("succeeds"));
        let listener = listen(path).expect("succeeds");
        assert_eq!(fs::metadata(path).expect("succeeds").mode() & 0o777, 0o600);
        drop(listener);
    }
}
