//! What `vmshm listen` has learned, for the other vmshm commands of this user: which
//! process's guest has its beacon where.
//!
//! Each listener writes a file of its own into a directory that only its user may
//! enter; it is replaced as a whole, and goes with the listener. A reader takes nothing
//! from a directory of another user, from a listener that runs no more, or of a process
//! whose number was given anew. What it takes is only a place to look at: attaching
//! proves it as if it had been typed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use vmshm_link::GuestPhysical;
use vmshm_link::quantity::parse_number;

use crate::identity::start_time;
use crate::user_directory::{self, is_ours_alone};

/// What the first line of each file begins with.
const MARK: &str = "vmshm-ties 1";
/// What the files are called, before the listener's process number.
const PREFIX: &str = "ties-";
/// The longest file that is read: more ties than a listener makes.
const LONGEST: u64 = 1 << 16;
/// The most files of a directory that are read.
const MOST: usize = 256;

/// A process of this host and its guest's beacon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tie {
    /// The VMM's process.
    pub pid: u32,
    /// When it started, so that nobody takes another process of that number for it.
    pub start_time: u64,
    /// Where the beacon lies.
    pub beacon: GuestPhysical,
}

/// Why ties cannot be kept for others.
#[derive(Debug, thiserror::Error)]
pub enum TiesError {
    /// No directory can be used.
    #[error("there is no directory that only this user may enter (tried {0})")]
    NoDirectory(String),
    /// The file cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A listener's file; it is removed when this is dropped.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
}

impl Record {
    /// Makes the file, with no ties yet.
    ///
    /// # Errors
    /// [`TiesError`].
    pub fn open() -> Result<Self, TiesError> {
        Self::open_in(&user_directory::candidates())
    }

    pub(crate) fn open_in(directories: &[PathBuf]) -> Result<Self, TiesError> {
        let directory = own_directory(directories)?;
        let record = Self {
            path: directory.join(format!("{PREFIX}{}", std::process::id())),
        };
        record.write(&[])?;
        Ok(record)
    }

    /// Replaces what is known.
    ///
    /// # Errors
    /// [`TiesError::Write`].
    pub fn write(&self, ties: &[Tie]) -> Result<(), TiesError> {
        let own = std::process::id();
        let started = start_time(u64::from(own)).unwrap_or_default();
        let mut text = format!("{MARK} {own} {started}\n");
        for tie in ties {
            text.push_str(&format!("{} {} {}\n", tie.pid, tie.start_time, tie.beacon));
        }
        let partial = self.path.with_extension("new");
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&partial, &self.path))
            .map_err(|source| TiesError::Write {
                path: self.path.clone(),
                source,
            })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // What stays is not believed once this process has ended.
        let _ = fs::remove_file(&self.path);
    }
}

/// The first of these directories that only this user may enter; it is made where it is
/// not there.
pub(crate) fn own_directory(directories: &[PathBuf]) -> Result<&Path, TiesError> {
    let usable = |directory: &&PathBuf| {
        // One that is there already, or cannot be made, is judged by what is there.
        let _ = DirBuilder::new().mode(0o700).create(directory);
        is_ours_alone(directory)
    };
    match directories.iter().find(usable) {
        Some(directory) => Ok(directory),
        None => {
            let tried: Vec<_> = directories
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            Err(TiesError::NoDirectory(tried.join(", ")))
        }
    }
}

/// The running listeners of this user that hold a connection to the guest in process `pid`,
/// which started then: each one's directory and process number.
pub(crate) fn listeners_of(directories: &[PathBuf], pid: u32, started: u64) -> Vec<(PathBuf, u32)> {
    let is_meant = |tie: &Tie| tie.pid == pid && tie.start_time == started;
    let own = directories
        .iter()
        .filter(|directory| is_ours_alone(directory));
    own.flat_map(|directory| files(directory))
        .filter(|path| read(path).is_some_and(|ties| ties.iter().any(is_meant)))
        .filter_map(|path| {
            let number = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
            Some((path.parent()?.to_owned(), number.parse().ok()?))
        })
        .collect()
}

/// Where the beacon of the guest in process `pid` lies, if a running listener of this
/// user has learned it.
#[must_use]
pub fn beacon_of(pid: u32) -> Option<GuestPhysical> {
    beacon_in(&user_directory::candidates(), pid)
}

fn beacon_in(directories: &[PathBuf], pid: u32) -> Option<GuestPhysical> {
    let started = start_time(u64::from(pid))?;
    directories
        .iter()
        .filter(|directory| is_ours_alone(directory))
        .flat_map(|directory| files(directory))
        .filter_map(|path| read(&path))
        .flatten()
        .find(|tie| tie.pid == pid && tie.start_time == started)
        .map(|tie| tie.beacon)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let is_record = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    entries
        .filter_map(Result::ok)
        .filter(is_record)
        .map(|entry| entry.path())
        .take(MOST)
        .collect()
}

/// The ties in a file, if the listener that wrote it still runs.
fn read(path: &Path) -> Option<Vec<Tie>> {
    let mut text = String::new();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).ok()?)
        .open(path)
        .ok()?;
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    let (head, rest) = text.split_once('\n')?;
    let (pid, started) = head.strip_prefix(MARK)?.trim().split_once(' ')?;
    let runs = start_time(pid.parse().ok()?)? == started.parse::<u64>().ok()?;
    runs.then(|| rest.lines().filter_map(parse_tie).collect())
}

fn parse_tie(line: &str) -> Option<Tie> {
    let mut words = line.split(' ');
    let mut word = || words.next();
    Some(Tie {
        pid: word()?.parse().ok()?,
        start_time: word()?.parse().ok()?,
        beacon: GuestPhysical(parse_number(word()?).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn own_tie(beacon: u64) -> Tie {
        let pid = std::process::id();
        Tie {
            pid,
            start_time: start_time(u64::from(pid)).expect("we run"),
            beacon: GuestPhysical(beacon),
        }
    }

    #[test]
    fn what_a_listener_writes_is_found_until_it_ends() {
        let home = tempfile::tempdir().expect("a directory");
        let places = [home.path().join("vmshm")];
        let record = Record::open_in(&places).expect("opens");
        let (pid, tie) = (std::process::id(), own_tie(0x1_4020_0000));
        assert_eq!(beacon_in(&places, pid), None);
        record.write(&[tie]).expect("written");
        assert_eq!(beacon_in(&places, pid), Some(tie.beacon));
        let file = fs::metadata(&record.path).expect("there");
        let directory = fs::metadata(&places[0]).expect("there");
        assert_eq!(
            (file.mode() & 0o777, directory.mode() & 0o777),
            (0o600, 0o700)
        );
        let stranger = Tie {
            start_time: tie.start_time + 1,
            ..tie
        };
        record.write(&[stranger]).expect("written");
        assert_eq!(
            beacon_in(&places, pid),
            None,
            "another process had that pid"
        );
        record.write(&[tie]).expect("written");
        drop(record);
        assert_eq!(beacon_in(&places, pid), None);
        assert_eq!(fs::read_dir(&places[0]).expect("listed").count(), 0);
    }

    #[test]
    fn a_directory_that_others_may_enter_is_neither_written_nor_read() {
        let home = tempfile::tempdir().expect("a directory");
        let open = home.path().join("open");
        let link = home.path().join("link");
        let good = home.path().join("good");
        fs::create_dir(&open).expect("made");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("set");
        std::os::unix::fs::symlink(&good, &link).expect("linked");
        let places = [open.clone(), link.clone(), good.clone()];
        let record = Record::open_in(&places).expect("the last one will do");
        assert!(record.path.starts_with(&good));
        record.write(&[own_tie(0x20_0000)]).expect("written");
        let pid = std::process::id();
        assert!(beacon_in(std::slice::from_ref(&good), pid).is_some());
        assert_eq!(beacon_in(&[link], pid), None, "a link leads to it");
        fs::copy(
            &record.path,
            open.join(record.path.file_name().expect("named")),
        )
        .expect("copied");
        assert_eq!(beacon_in(std::slice::from_ref(&open), pid), None);
        let error = Record::open_in(&[open]).expect_err("refused").to_string();
        assert!(error.contains("open"), "{error}");
    }

    #[test]
    fn odd_files_and_dead_listeners_tell_nothing() {
        let home = tempfile::tempdir().expect("a directory");
        let places = [home.path().join("vmshm")];
        let record = Record::open_in(&places).expect("opens");
        let tie = own_tie(0x20_0000);
        let own = format!("{} {} {}\n", tie.pid, tie.start_time, tie.beacon);
        let listener = format!("{MARK} {} {}", tie.pid, tie.start_time);
        let dead = format!("{MARK} {} {}", tie.pid, tie.start_time + 1);
        for text in [
            String::new(),
            own.clone(),
            format!("{dead}\n{own}"),
            format!("{listener}\n{} {}\n", tie.pid, tie.start_time),
            format!("{listener}\n{} {} 0xzz\n", tie.pid, tie.start_time),
            format!("{MARK}\n{own}"),
            "\u{0}\n".repeat(1 << 17),
        ] {
            fs::write(&record.path, &text).expect("written");
            assert_eq!(beacon_in(&places, tie.pid), None, "{text:.80}");
        }
        fs::write(&record.path, format!("{listener}\nodd\n{own}")).expect("written");
        assert_eq!(beacon_in(&places, tie.pid), Some(tie.beacon));
        fs::write(&record.path, [0xff, 0xfe, b'\n']).expect("written");
        assert_eq!(beacon_in(&places, tie.pid), None);
    }
}
