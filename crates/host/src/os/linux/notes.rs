//! Where this user's commands leave each other notes, and files there that only this user
//! can read or write. A link is not followed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// Where it may lie, the best first. As far as possible that does not depend on how the
/// user has logged in.
pub(crate) fn candidates() -> Vec<PathBuf> {
    let user = rustix::process::geteuid();
    let mut directories = Vec::new();
    if user.is_root() {
        // In a guest that is a host, too, /run/vmshm is the agent's.
        directories.push(PathBuf::from("/run/vmshm-host"));
    }
    directories.push(PathBuf::from(format!("/run/user/{}/vmshm", user.as_raw())));
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    if let Some(runtime) = runtime.filter(|path| path.is_absolute()) {
        directories.push(runtime.join("vmshm"));
    }
    directories.push(PathBuf::from(format!("/tmp/vmshm-{}", user.as_raw())));
    directories
}

/// Whether this is a directory, not a link to one, of this user that nobody else may
/// enter.
pub(crate) fn is_ours_alone(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|found| {
        found.is_dir()
            && found.uid() == rustix::process::geteuid().as_raw()
            && found.mode() & 0o077 == 0
    })
}

/// Makes a directory that only this user may enter.
pub(crate) fn make_private_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(directory)
}

/// Opens a file for writing, empty; it is made where it is not there, for this user alone.
pub(crate) fn create_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// Opens a file for reading, unless it is a link. What is no file never holds this up.
pub(crate) fn open_unlinked(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)
}

/// A directory that was seen to be this user's alone, and stays the same one whatever its
/// path leads to later.
#[derive(Debug)]
pub(crate) struct NoteDirectory(OwnedFd);

impl NoteDirectory {
    /// Nothing unless it is this user's alone.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        is_ours_alone(path)
            .then(|| rustix::fs::openat(CWD, path, flags, Mode::empty()).ok())?
            .map(Self)
    }

    /// Opens a file of it for reading.
    pub(crate) fn read(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(rustix::fs::openat(&self.0, name, flags, Mode::empty())?.into())
    }

    /// Puts these bytes in the place of a file of it: whoever reads sees the old ones or
    /// the new ones.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let partial = format!("{name}.{}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let _ = rustix::fs::unlinkat(&self.0, &partial, AtFlags::empty());
        let file = rustix::fs::openat(&self.0, &partial, flags, Mode::RUSR | Mode::WUSR)?;
        let written = File::from(file).write_all(bytes).and_then(|()| {
            rustix::fs::renameat(&self.0, &partial, &self.0, name)?;
            Ok(())
        });
        if written.is_err() {
            let _ = rustix::fs::unlinkat(&self.0, &partial, AtFlags::empty());
        }
        written
    }
}
