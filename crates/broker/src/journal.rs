//! What the broker has grafted, noted before it does it: a broker that was killed is followed by
//! one that takes back what the first has left, before it serves anybody. The notes are empty
//! files, whose names say it all. One broker keeps notes in a directory at a time: a second one
//! would take back what the first one lends.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// The file by which one broker keeps others away. It is no note's name.
const LOCK: &str = "lock";

/// What the kernel tells of locks.
const LOCKS: &str = "/proc/locks";

/// Why notes cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system does not let it.
    #[error("cannot keep notes in {}: {error}", .path.display())]
    System {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// Another broker does, and runs.
    #[error("another broker{} keeps its notes in {}", process(*.pid), .path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
        /// That broker, where the system tells.
        pid: Option<u32>,
    },
    /// Others could change them.
    #[error("notes in {} could be changed by others", .0.display())]
    Unsafe(PathBuf),
}

impl JournalError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::System { .. } => "run as root, or give another place: --state DIRECTORY",
            Self::Taken { .. } => "end it first, or give another place: --state DIRECTORY",
            Self::Unsafe(_) => "give a place for a new directory: --state DIRECTORY",
        };
        Some(hint.to_owned())
    }
}

fn process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})"))
        .unwrap_or_default()
}

/// A graft, as a note names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The VMM's process.
    pub pid: u32,
    /// When that process started.
    pub start_time: u64,
    /// What tells the graft from all others of the VM.
    pub id: String,
}

impl Note {
    fn file_name(&self) -> String {
        format!("{}-{}-{}", self.pid, self.start_time, self.id)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.splitn(3, '-');
        Some(Self {
            pid: parts.next()?.parse().ok()?,
            start_time: parts.next()?.parse().ok()?,
            id: parts.next().filter(|id| !id.is_empty())?.to_owned(),
        })
    }
}

/// The notes.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    /// A file there, locked. The lock goes with this process, whatever ends it, and is
    /// not passed on to programs that it starts.
    _lock: File,
}

impl Journal {
    /// Opens the notes in a directory, which is made, for its owner alone; and keeps other
    /// brokers away from them.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        let failed = |error| JournalError::System {
            path: directory.to_owned(),
            error,
        };
        Self::make(directory).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = rustix::fs::open(directory, flags, Mode::empty())
            .map(File::from)
            .map_err(|error| failed(error.into()))?;
        // Whoever could write here could have grafts of others undone. One that was there before
        // may be anybody's, such as /tmp: it is refused rather than changed.
        let facts = file.metadata().map_err(failed)?;
        let own = rustix::process::geteuid().as_raw();
        if !(facts.uid() == 0 || facts.uid() == own) || facts.mode() & 0o022 != 0 {
            return Err(JournalError::Unsafe(directory.to_owned()));
        }
        // A file that only its owner opens: others could hold a lock on what they may read.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&file, LOCK, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|error| failed(error.into()))?;
        let facts = file.metadata().map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                directory: directory.to_owned(),
                _lock: file,
            }),
            Err(Errno::WOULDBLOCK) => Err(JournalError::Taken {
                path: directory.to_owned(),
                pid: fs::read_to_string(LOCKS)
                    .ok()
                    .and_then(|locks| holder(&locks, facts.dev(), facts.ino())),
            }),
            Err(error) => Err(failed(error.into())),
        }
    }

    fn make(directory: &Path) -> io::Result<()> {
        if let Some(parent) = directory.parent() {
            crate::directory::make(parent)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    /// Notes a graft.
    ///
    /// # Errors
    /// What the system says: nothing must be grafted then.
    pub fn note(&self, note: &Note) -> io::Result<()> {
        fs::write(self.directory.join(note.file_name()), b"")
    }

    /// It is undone.
    pub fn forget(&self, note: &Note) {
        let path = self.directory.join(note.file_name());
        if let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a note cannot be removed");
        }
    }

    /// What is noted.
    ///
    /// # Errors
    /// What the system says.
    pub fn notes(&self) -> io::Result<Vec<Note>> {
        let mut notes = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            notes.extend(name.to_str().and_then(Note::parse));
        }
        Ok(notes)
    }
}

/// Who holds the lock on a file, by the kernel's list of locks.
fn holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    let pid = locks.lines().find_map(|line| {
        // number: FLOCK ADVISORY WRITE pid major:minor:inode from to; who waits has an arrow.
        let mut words = line.split_whitespace().skip(1);
        let is_lock = words.next() == Some("FLOCK");
        let pid = words.nth(2)?;
        (is_lock && words.next() == Some(place.as_str())).then_some(pid)
    })?;
    // Of a process that cannot be seen from here there is no number.
    pid.parse().ok().filter(|pid| *pid != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn note() -> Note {
        Note {
            pid: 4242,
            start_time: 99,
            id: "7.00000000000000ab".to_owned(),
        }
    }

    #[test]
    fn what_was_noted_is_found_again_until_it_is_forgotten() {
        let directory = tempfile::tempdir().expect("made");
        let place = directory.path().join("grafts");
        let note = note();
        Journal::open(&place)
            .expect("opens")
            .note(&note)
            .expect("noted");
        fs::write(place.join("no note"), b"").expect("written");
        let again = Journal::open(&place).expect("opens");
        assert_eq!(again.notes().expect("read"), std::slice::from_ref(&note));
        again.forget(&note);
        again.forget(&note);
        assert_eq!(again.notes().expect("read"), []);
    }

    #[test]
    fn one_broker_keeps_notes_in_a_directory_until_it_ends() {
        let directory = tempfile::tempdir().expect("made");
        let place = directory.path().join("grafts");
        let note = note();
        let first = Journal::open(&place).expect("opens");
        first.note(&note).expect("noted");
        let error = crate::Machines::new(&place).expect_err("taken");
        let JournalError::Taken { pid, .. } = &error else {
            panic!("{error}");
        };
        assert!(pid.is_none_or(|pid| pid == std::process::id()), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("--state")));
        assert_eq!(first.notes().expect("read"), [note], "nothing taken back");
        let flags = rustix::io::fcntl_getfd(&first._lock).expect("open");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        drop(first);
        assert!(Journal::open(&place).is_ok());
    }

    #[test]
    fn whoever_holds_a_lock_is_found() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:2b:77 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 12 00:2b:78 0 EOF\n\
            3: FLOCK  ADVISORY  WRITE 13 00:2b:77 0 EOF\n\
            3: -> FLOCK  ADVISORY  WRITE 14 00:2b:77 0 EOF\n\
            4: FLOCK  ADVISORY  WRITE 0 00:2b:79 0 EOF\n";
        let device = rustix::fs::makedev(0, 0x2b);
        assert_eq!(holder(locks, device, 77), Some(13));
        assert_eq!(holder(locks, device, 79), None);
        assert_eq!(holder(locks, device, 7), None);
        assert_eq!(holder("", device, 77), None);
    }

    #[test]
    fn a_directory_of_others_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().expect("made");
        let place = directory.path();
        let mode = |mode| fs::set_permissions(place, fs::Permissions::from_mode(mode));
        for (bits, good) in [(0o1777, false), (0o770, false), (0o755, true)] {
            mode(bits).expect("ours");
            match Journal::open(place) {
                Err(JournalError::Unsafe(_)) => assert!(!good),
                result => assert!(good, "{result:?}"),
            }
            let found = fs::metadata(place).expect("there").mode();
            assert_eq!(found & 0o7777, bits);
        }
    }
}
