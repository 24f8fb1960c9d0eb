//! The files that commands write. A regular file appears only when it is whole: it is
//! written beside its place, and renamed at the end. What is no regular file, such as a
//! pipe or a device, is written straight, and never replaced.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::failure::Failure;
use crate::os::{self, Descriptor};

pub(crate) use crate::os::is_stream;

/// Who may read a file that did not exist before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Whoever the user lets read files in general.
    AsUsual,
    /// The user alone: memory holds keys and passwords.
    Owner,
}

/// A file that is being written.
#[derive(Debug)]
pub(crate) enum OutputFile {
    /// A regular file, which has its name only at the end.
    Whole(WholeFile),
    /// A pipe or a device.
    Stream(File),
}

/// A regular file under construction. It vanishes unless it is finished.
#[derive(Debug)]
pub(crate) struct WholeFile {
    partial: NamedTempFile,
    place: PathBuf,
}

impl OutputFile {
    /// Opens what `path` names, or makes it.
    pub(crate) fn open(path: &Path, readers: Readers) -> Result<Self, Failure> {
        open(path, readers).map_err(|error| {
            Failure::from_error(&error, None).because(&format!("cannot create {}", path.display()))
        })
    }

    /// Standard output, without the buffer that looks for ends of lines.
    pub(crate) fn standard() -> io::Result<Self> {
        Ok(Self::Stream(os::standard_output()?))
    }

    /// Takes the next bytes.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Whole(whole) => whole.partial.write_all(bytes),
            Self::Stream(file) => file.write_all(bytes),
        }
    }

    /// Its descriptor, for another process that writes the bytes.
    pub(crate) fn descriptor(&self) -> Descriptor<'_> {
        match self {
            Self::Whole(whole) => os::descriptor(whole.file()),
            Self::Stream(file) => os::descriptor(file),
        }
    }

    /// Ends in good order: a regular file exists under its name only after this.
    pub(crate) fn finish(self) -> io::Result<()> {
        match self {
            Self::Whole(whole) => whole.finish(),
            Self::Stream(mut file) => file.flush(),
        }
    }
}

impl WholeFile {
    /// The file itself.
    pub(crate) fn file(&self) -> &File {
        self.partial.as_file()
    }

    fn finish(self) -> io::Result<()> {
        self.partial.as_file().sync_all()?;
        self.partial.persist(&self.place)?;
        Ok(())
    }
}

fn open(path: &Path, readers: Readers) -> io::Result<OutputFile> {
    if is_stream(path) {
        return Ok(OutputFile::Stream(os::open_stream(path)?));
    }
    let replaced = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => {
            // A file that may not be written is not replaced, either; and a link stays
            // one: what it leads to is replaced.
            OpenOptions::new().append(true).open(path)?;
            Some(std::fs::canonicalize(path)?)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let place = match &replaced {
        Some(place) => place.clone(),
        None => os::new_place(path)?,
    };
    // A name may be as long as the file system allows; the partial file's is longer.
    let name = place.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut prefix = os::start_of_name(name);
    prefix.push(".partial-");
    std::fs::metadata(directory(&place))?;
    let partial = os::create_partial(&directory(&place), &prefix, readers, replaced.as_deref())
        .map_err(without_path)?;
    Ok(OutputFile::Whole(WholeFile { partial, place }))
}

/// An error without the name of the partial file, which says nothing to the user.
fn without_path(error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() {
        return error;
    }
    error.kind().into()
}

fn directory(place: &Path) -> PathBuf {
    match place.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(directory: &tempfile::TempDir) -> usize {
        std::fs::read_dir(directory).expect("listed").count()
    }

    #[test]
    fn a_file_appears_only_when_it_is_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out");
        let mut file = OutputFile::open(&path, Readers::Owner).expect("opens");
        file.put(b"half").expect("written");
        assert!(!path.exists());
        assert_eq!(entries(&directory), 1);
        drop(file);
        assert_eq!(entries(&directory), 0);
        let mut file = OutputFile::open(&path, Readers::Owner).expect("opens");
        file.put(b"whole").expect("written");
        file.finish().expect("renamed");
        assert_eq!(std::fs::read(&path).expect("read"), b"whole");
        assert_eq!(entries(&directory), 1);
    }

    #[test]
    fn what_was_there_stays_until_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out");
        std::fs::write(&path, b"old").expect("written");
        let mut file = OutputFile::open(&path, Readers::Owner).expect("opens");
        file.put(b"new").expect("written");
        assert_eq!(std::fs::read(&path).expect("read"), b"old");
        file.finish().expect("renamed");
        assert_eq!(std::fs::read(&path).expect("read"), b"new");
        assert_eq!(entries(&directory), 1);
    }

    #[test]
    fn what_cannot_be_made_is_told_with_its_name() {
        let directory = tempfile::tempdir().expect("a directory");
        for path in [
            directory.path().to_owned(),
            directory.path().join("no/such"),
        ] {
            let failure = OutputFile::open(&path, Readers::Owner).expect_err("refused");
            let text = failure.to_string();
            assert!(text.contains(&path.display().to_string()), "{text}");
            assert!(!text.contains("partial"), "{text}");
        }
        assert_eq!(entries(&directory), 0);
        let long = directory.path().join("n".repeat(255));
        let file = OutputFile::open(&long, Readers::AsUsual).expect("opens");
        file.finish().expect("renamed");
        assert!(long.is_file());
    }
}
