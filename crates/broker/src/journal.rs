//! What the broker has grafted, noted before it does it: a broker that was killed is followed by
//! one that takes back what the first has left, before it serves anybody. The notes are empty
//! files, whose names say it all.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

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
}

impl Journal {
    /// Opens the notes in a directory, which is made, for its owner alone.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(directory: &Path) -> io::Result<Self> {
        if let Some(parent) = directory.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Whoever could write here could have grafts of others undone.
                fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
            }
            result => result?,
        }
        Ok(Self {
            directory: directory.to_owned(),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_found_again_until_it_is_forgotten() {
        let directory = tempfile::tempdir().expect("made");
        let place = directory.path().join("grafts");
        let note = Note {
            pid: 4242,
            start_time: 99,
            id: "7.00000000000000ab".to_owned(),
        };
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
}
