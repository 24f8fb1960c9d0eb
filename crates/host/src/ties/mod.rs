//! What `vmshm listen` has learned, for the other vmshm commands of this user: which
//! process's guest has its beacon where.
//!
//! Each listener writes a file of its own into a directory that only its user may
//! enter; it is replaced as a whole, and goes with the listener. A reader takes nothing
//! from a directory of another user, from a listener that runs no more, or of a process
//! whose number was given anew. What it takes is only a place to look at: attaching
//! proves it as if it had been typed.

#[cfg(target_os = "linux")]
mod listeners;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use vmshm_link::GuestPhysical;
use vmshm_link::quantity::parse_number;

use crate::identity::start_time;
use crate::user_directory::{self, is_ours_alone};
#[cfg(target_os = "linux")]
pub(crate) use listeners::listeners_of;

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
        user_directory::create_private_file(&partial)
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
        let _ = user_directory::make_private_directory(directory);
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
    let file = user_directory::open_unlinked(path).ok()?;
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
