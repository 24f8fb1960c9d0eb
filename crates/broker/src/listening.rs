//! The socket: made at a path, or taken over from systemd (`LISTEN_FDS`). It keeps datagrams
//! apart (`SOCK_SEQPACKET`); another kind is refused.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Connections that the system keeps until they are taken.
const BACKLOG: i32 = 128;
/// The first descriptor that systemd hands over.
const FIRST: i32 = 3;

/// Why nobody can be listened to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The socket cannot be made.
    #[error("cannot listen at {}: {error}", .path.display())]
    Bind {
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// Somebody listens there already.
    #[error("another broker listens at {}", .0.display())]
    Taken(PathBuf),
    /// Something else lies there, and stays.
    #[error("cannot listen at {}: there is something that is no socket", .0.display())]
    NotSocket(PathBuf),
    /// What systemd has handed over is not what a broker needs.
    #[error("the socket that was handed over cannot be used: {0}")]
    Activation(String),
}

impl ListenError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bind { .. } => {
                Some("run as root, or give another place: --socket PATH".to_owned())
            }
            Self::Taken(_) => {
                Some("end it first: sudo systemctl stop vmshm-broker.socket".to_owned())
            }
            Self::NotSocket(_) => Some("--socket PATH names a place for a new socket".to_owned()),
            Self::Activation(_) => {
                Some("one socket, with ListenSequentialPacket= in its unit".to_owned())
            }
        }
    }
}

/// A socket that is listened to. One that was made here is removed with it.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    made: Option<Made>,
}

/// A socket that was made here. Its file stays the same one as long as it is bound, so that
/// no other file there is taken for it.
#[derive(Debug)]
struct Made {
    path: PathBuf,
    file: FileId,
}

/// A file's device and inode.
type FileId = (u64, u64);

/// The socket that lies at a path, if anything does; no symbolic link is followed.
fn socket_at(path: &Path) -> Result<Option<FileId>, ListenError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => Ok(Some((found.dev(), found.ino()))),
        Ok(_) => Err(ListenError::NotSocket(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ListenError::Bind {
            path: path.to_owned(),
            error,
        }),
    }
}

/// Lets everybody connect. The mode is set through a descriptor: a symbolic link that was put
/// there in the meantime is not followed.
fn let_everybody_connect(path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    if !fs::metadata(&itself)?.file_type().is_socket() {
        return Err(io::Error::other("it has been replaced"));
    }
    fs::set_permissions(itself, Permissions::from_mode(0o666))
}

impl Listener {
    /// Listens at `path`, for every user, in the place of a socket that nobody listens at any
    /// more.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |error: io::Error| ListenError::Bind {
            path: path.to_owned(),
            error,
        };
        if let Some(directory) = path.parent() {
            crate::directory::make(directory).map_err(failed)?;
        }
        let earlier = socket_at(path)?;
        let address = SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?;
        let made = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        };
        let probe = made().map_err(|error| failed(error.into()))?;
        match rustix::net::connect(&probe, &address) {
            Err(Errno::NOENT) => {}
            Err(Errno::CONNREFUSED) => {
                // What was put there since is somebody else's.
                if earlier.is_some() && socket_at(path)? == earlier {
                    fs::remove_file(path).map_err(failed)?;
                }
            }
            Ok(()) | Err(Errno::AGAIN) => return Err(ListenError::Taken(path.to_owned())),
            Err(error) => return Err(failed(error.into())),
        }
        let socket = made().map_err(|error| failed(error.into()))?;
        rustix::net::bind(&socket, &address).map_err(|error| failed(error.into()))?;
        let listener = Self {
            socket,
            made: socket_at(path)?.map(|file| Made {
                path: path.to_owned(),
                file,
            }),
        };
        // The rules decide who gets something; connecting is for all.
        let_everybody_connect(path).map_err(failed)?;
        rustix::net::listen(&listener.socket, BACKLOG).map_err(|error| failed(error.into()))?;
        Ok(listener)
    }

    /// A socket that listens already, such as systemd hands over.
    ///
    /// # Errors
    /// [`ListenError::Activation`].
    pub fn taken_over(socket: OwnedFd) -> Result<Self, ListenError> {
        let bad = |what: &str| ListenError::Activation(what.to_owned());
        let domain = sockopt::socket_domain(&socket).map_err(|_| bad("it is no socket"))?;
        let kind = sockopt::socket_type(&socket).map_err(|_| bad("it is no socket"))?;
        if domain != AddressFamily::UNIX || kind != SocketType::SEQPACKET {
            return Err(bad("it is no Unix socket that keeps datagrams apart"));
        }
        if !sockopt::socket_acceptconn(&socket).unwrap_or(false) {
            return Err(bad("it does not listen"));
        }
        rustix::io::ioctl_fionbio(&socket, true).map_err(|error| bad(&error.to_string()))?;
        Ok(Self { socket, made: None })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(Made { path, file }) = &self.made
            && matches!(socket_at(path), Ok(Some(found)) if found == *file)
        {
            // A socket that stays is taken for one of nobody by the next broker.
            let _ = fs::remove_file(path);
        }
    }
}

/// The socket that systemd has handed over, if it has.
///
/// # Errors
/// [`ListenError::Activation`].
pub fn activated() -> Result<Option<Listener>, ListenError> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<i32>().ok();
    let (pid, count) = (number("LISTEN_PID"), number("LISTEN_FDS"));
    let own = getpid();
    if pid != Some(own.as_raw_nonzero().get()) {
        return Ok(None);
    }
    match count {
        None | Some(0) => Ok(None),
        Some(1) => Listener::taken_over(inherited(own)?).map(Some),
        Some(more) => Err(ListenError::Activation(format!("there are {more}"))),
    }
}

/// The descriptor, as one of our own: it is fetched as from another process, for a number
/// alone cannot safely be made one.
fn inherited(own: Pid) -> Result<OwnedFd, ListenError> {
    let bad = |error: Errno| ListenError::Activation(error.to_string());
    let process = pidfd_open(own, PidfdFlags::empty()).map_err(bad)?;
    pidfd_getfd(process, FIRST, PidfdGetfdFlags::empty()).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_nobody_is_replaced_and_one_of_another_broker_is_not() {
        let directory = tempfile::tempdir().expect("made");
        let path = directory.path().join("below/broker.sock");
        let first = Listener::bind(&path).expect("listens");
        assert!(matches!(Listener::bind(&path), Err(ListenError::Taken(_))));
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
        drop(first);
        assert!(!path.exists());
        let flags = SocketFlags::CLOEXEC;
        let left =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .expect("made");
        let address = SocketAddrUnix::new(&path).expect("short");
        rustix::net::bind(&left, &address).expect("bound");
        drop(left);
        assert!(Listener::bind(&path).is_ok(), "nobody listens there");
    }

    #[test]
    fn what_is_no_socket_is_neither_removed_nor_followed() {
        let directory = tempfile::tempdir().expect("made");
        let left = directory.path().join("left.sock");
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .expect("made");
        let address = SocketAddrUnix::new(&left).expect("short");
        rustix::net::bind(&socket, &address).expect("bound");
        drop(socket);
        let file = directory.path().join("rules.toml");
        fs::write(&file, "# mine").expect("written");
        let link = |name: &str, to: &Path| {
            let path = directory.path().join(name);
            std::os::unix::fs::symlink(to, &path).expect("made");
            path
        };
        let to_file = link("to-file", &file);
        let to_socket = link("to-socket", &left);
        let to_nothing = link("to-nothing", Path::new("nothing"));
        for path in [&file, &to_file, &to_socket, &to_nothing] {
            let error = Listener::bind(path).expect_err("no place for a socket");
            assert!(matches!(error, ListenError::NotSocket(_)), "{error}");
            assert!(error.hint().is_some());
            assert!(fs::symlink_metadata(path).is_ok(), "{}", path.display());
        }
        assert!(matches!(
            Listener::bind(directory.path()),
            Err(ListenError::NotSocket(_))
        ));
        assert_eq!(fs::read(&file).expect("there"), b"# mine");
        assert!(left.exists());
        assert!(!directory.path().join("nothing").exists());
    }

    #[test]
    fn only_the_socket_that_was_made_here_is_removed() {
        let directory = tempfile::tempdir().expect("made");
        let path = directory.path().join("broker.sock");
        let first = Listener::bind(&path).expect("listens");
        fs::remove_file(&path).expect("there");
        let second = Listener::bind(&path).expect("listens");
        drop(first);
        assert!(path.exists(), "it is the second one's");
        fs::remove_file(&path).expect("there");
        fs::write(&path, "").expect("written");
        drop(second);
        assert!(path.exists(), "it is somebody's file");
    }

    #[test]
    fn what_is_handed_over_is_looked_at() {
        let directory = tempfile::tempdir().expect("made");
        let path = directory.path().join("broker.sock");
        let listener = Listener::bind(&path).expect("listens");
        let again = listener.as_fd().try_clone_to_owned().expect("a copy");
        assert!(Listener::taken_over(again).is_ok());
        let file: OwnedFd = fs::File::open("/dev/null").expect("opens").into();
        assert!(Listener::taken_over(file).is_err());
        let (stream, _other) = std::os::unix::net::UnixStream::pair().expect("made");
        assert!(Listener::taken_over(stream.into()).is_err());
    }
}
