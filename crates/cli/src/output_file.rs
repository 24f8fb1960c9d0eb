//! The files that commands write. A regular file appears only when it is whole: it is
//! written beside its place, and renamed at the end. What is no regular file, such as a
//! pipe or a device, is written straight, and never replaced.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::failure::Failure;

/// Who may read a file that did not exist before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Whoever the user lets read files in general.
    AsUsual,
    /// The user alone: memory holds keys and passwords.
    Owner,
}

/// Whether what `path` names is written straight: a pipe, a device.
pub(crate) fn is_stream(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| !metadata.is_file())
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
        let descriptor = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self::Stream(descriptor.into()))
    }

    /// Takes the next bytes.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Whole(whole) => whole.partial.write_all(bytes),
            Self::Stream(file) => file.write_all(bytes),
        }
    }

    /// Its descriptor, for another process that writes the bytes.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Whole(whole) => whole.file().as_fd(),
            Self::Stream(file) => file.as_fd(),
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
    let (place, mode) = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(metadata) if !metadata.is_file() => {
            // Opening a pipe waits for its reader.
            return Ok(OutputFile::Stream(
                OpenOptions::new().write(true).open(path)?,
            ));
        }
        Ok(metadata) => {
            // A file that may not be written is not replaced, either; and a link stays
            // one: what it leads to is replaced.
            OpenOptions::new().append(true).open(path)?;
            let mode = metadata.permissions().mode() & 0o777;
            (std::fs::canonicalize(path)?, Some(mode))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (path.to_owned(), None),
        Err(error) => return Err(error),
    };
    let mut prefix = std::ffi::OsString::new();
    // A name may be as long as the file system allows; the partial file's is longer.
    let name = place.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let start = name.as_bytes().get(..128).unwrap_or(name.as_bytes());
    prefix.push(std::ffi::OsStr::from_bytes(start));
    prefix.push(".partial-");
    let first = match readers {
        Readers::AsUsual => 0o666,
        Readers::Owner => 0o600,
    };
    std::fs::metadata(directory(&place))?;
    let partial = tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(Permissions::from_mode(first))
        .tempfile_in(directory(&place))
        // That error names the partial file, which says nothing to the user.
        .map_err(|error| io::Error::from(error.kind()))?;
    if let Some(mode) = mode {
        partial
            .as_file()
            .set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(OutputFile::Whole(WholeFile { partial, place }))
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
    use std::os::unix::fs::FileTypeExt;

    fn entries(directory: &tempfile::TempDir) -> usize {
        std::fs::read_dir(directory).expect("listed").count()
    }

    fn mode(path: &Path) -> u32 {
        let metadata = std::fs::metadata(path).expect("it is there");
        metadata.permissions().mode() & 0o777
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
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn what_was_there_stays_until_the_end_and_keeps_its_mode_and_its_links() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out");
        std::fs::write(&path, b"old").expect("written");
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("set");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("out", &link).expect("linked");
        let mut file = OutputFile::open(&link, Readers::Owner).expect("opens");
        file.put(b"new").expect("written");
        assert_eq!(std::fs::read(&path).expect("read"), b"old");
        file.finish().expect("renamed");
        assert_eq!(std::fs::read(&path).expect("read"), b"new");
        assert_eq!(mode(&path), 0o640);
        assert!(link.is_symlink());
        assert_eq!(entries(&directory), 2);
    }

    #[test]
    fn pipes_and_devices_are_written_and_never_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .expect("made");
        let reader = {
            let path = path.clone();
            std::thread::spawn(move || std::fs::read(path).expect("read"))
        };
        let mut file = OutputFile::open(&path, Readers::Owner).expect("opens");
        file.put(b"bytes").expect("written");
        file.finish().expect("ended");
        assert_eq!(reader.join().expect("it reads"), b"bytes");
        let kind = std::fs::metadata(&path).expect("there").file_type();
        assert!(kind.is_fifo());
        assert_eq!(entries(&directory), 1);
        let mut null = OutputFile::open(Path::new("/dev/null"), Readers::Owner).expect("opens");
        null.put(b"bytes").expect("written");
        null.finish().expect("ended");
        let kind = std::fs::metadata("/dev/null").expect("there").file_type();
        assert!(kind.is_char_device());
    }

    #[test]
    fn what_cannot_be_made_is_told_with_its_name() {
        let directory = tempfile::tempdir().expect("a directory");
        for path in [
            directory.path().to_owned(),
            directory.path().join("no/such"),
        ] {
            let failure = OutputFile::open(&path, Readers::Owner).expect_err("refused");
            let text = format!("{failure:?}");
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
