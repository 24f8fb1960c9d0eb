//! Files: modes, holes, what is no regular file.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::output_file::Readers;

/// Whether what `path` names is written straight: a pipe, a device.
pub(crate) fn is_stream(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// Opens a pipe or a device for writing. Opening a pipe waits for its reader.
pub(crate) fn open_stream(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// Where a new file goes; here where its path says.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the same name on a system where it can fail"
)]
pub(crate) fn new_place(path: &Path) -> io::Result<PathBuf> {
    Ok(path.to_owned())
}

/// The start of a name, short enough to be part of another one.
pub(crate) fn start_of_name(name: &OsStr) -> OsString {
    let bytes = name.as_bytes();
    OsStr::from_bytes(bytes.get(..128).unwrap_or(bytes)).to_owned()
}

/// Makes a file under a free name that begins with `prefix`. Who may read it is as for
/// `replaced`, the file whose place it will take, if there is one.
pub(crate) fn create_partial(
    directory: &Path,
    prefix: &OsStr,
    readers: Readers,
    replaced: Option<&Path>,
) -> io::Result<NamedTempFile> {
    let first = match readers {
        Readers::AsUsual => 0o666,
        Readers::Owner => 0o600,
    };
    let mode = match replaced {
        Some(path) => Some(path.metadata()?.permissions().mode() & 0o777),
        None => None,
    };
    let partial = tempfile::Builder::new()
        .prefix(prefix)
        .permissions(Permissions::from_mode(first))
        .tempfile_in(directory)?;
    if let Some(mode) = mode {
        let file = partial.as_file();
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(partial)
}

/// Lets a file have holes; here every file may.
pub(crate) const fn make_sparse(_file: &File) {}

/// Writes bytes to their place in a file.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Room that is left for this user in a directory's file system, in bytes.
pub(crate) fn free_room(directory: &Path) -> Option<u64> {
    let known = rustix::fs::statvfs(directory).ok()?;
    Some(known.f_bavail.saturating_mul(known.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output_file::OutputFile;
    use std::os::unix::fs::FileTypeExt;

    fn entries(directory: &tempfile::TempDir) -> usize {
        std::fs::read_dir(directory).expect("listed").count()
    }

    fn mode(path: &Path) -> u32 {
        let metadata = std::fs::metadata(path).expect("it is there");
        metadata.permissions().mode() & 0o777
    }

    #[test]
    fn a_new_file_is_for_its_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out");
        let file = OutputFile::open(&path, Readers::Owner).expect("opens");
        file.finish().expect("renamed");
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
}
