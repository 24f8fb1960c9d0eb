//! Where this user's commands leave each other notes, and files there that only this user,
//! the system and its administrators can read or write. A link, or whatever else has a
//! reparse point, is not followed.
#![allow(
    unsafe_code,
    reason = "access lists are read and made by calls that take raw pointers"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::{MetadataExt, OpenOptionsExt};
use std::os::windows::io::AsRawHandle;
use std::path::{Path, PathBuf};
use std::ptr;

use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, GetKernelObjectSecurity, OWNER_SECURITY_INFORMATION,
    SECURITY_ATTRIBUTES,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateDirectoryW, FILE_ATTRIBUTE_REPARSE_POINT, FILE_FLAG_BACKUP_SEMANTICS,
    FILE_FLAG_OPEN_REPARSE_POINT, FILE_LIST_DIRECTORY, FILE_READ_ATTRIBUTES, FILE_SHARE_READ,
    FILE_SHARE_WRITE, READ_CONTROL,
};

use super::security;
use super::user::own_sid;

/// No descriptor is longer: an access list has at most 64 KiB.
const LONGEST_DESCRIPTOR: usize = 128 << 10;

/// Where it may lie, the best first: `%LOCALAPPDATA%\vmshm`, which stays on this host, and
/// where the profile has it.
pub(crate) fn candidates() -> Vec<PathBuf> {
    let local = std::env::var_os("LOCALAPPDATA").map(PathBuf::from);
    let profile = std::env::home_dir().map(|home| home.join("AppData").join("Local"));
    let mut directories: Vec<PathBuf> = local
        .into_iter()
        .chain(profile)
        .filter(|path| path.is_absolute())
        .map(|path| path.join("vmshm"))
        .collect();
    directories.dedup();
    directories
}

/// Whether this is a directory, not a link to one, of this user that nobody else may
/// enter but the system and its administrators.
pub(crate) fn is_ours_alone(directory: &Path) -> bool {
    pinned(directory).is_some()
}

/// Opens a directory that is this user's alone. While it is open, it can be neither renamed
/// nor removed.
fn pinned(directory: &Path) -> Option<File> {
    let file = OpenOptions::new()
        // Listing counts for sharing; the other rights alone would not.
        .access_mode(FILE_LIST_DIRECTORY | FILE_READ_ATTRIBUTES | READ_CONTROL)
        .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT)
        .open(directory)
        .ok()?;
    let found = file.metadata().ok()?;
    let is_plain = found.is_dir() && found.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT == 0;
    let descriptor = descriptor(&file).ok()?;
    (is_plain && security::is_of_user_alone(&descriptor, &own_sid().ok()?)).then_some(file)
}

/// The owner and the access list of a file, in their self-relative form.
fn descriptor(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; LONGEST_DESCRIPTOR];
    let space = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut needed = 0;
    // SAFETY: the file is open, `bytes` has `space` bytes, and `needed` takes a number.
    let worked = unsafe {
        GetKernelObjectSecurity(
            file.as_raw_handle(),
            OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION,
            bytes.as_mut_ptr().cast(),
            space,
            &raw mut needed,
        )
    };
    if worked == 0 {
        return Err(io::Error::last_os_error());
    }
    bytes.truncate(usize::try_from(needed).unwrap_or_default());
    Ok(bytes)
}

/// Makes a directory that only this user, the system and its administrators may enter.
pub(crate) fn make_private_directory(directory: &Path) -> io::Result<()> {
    // The kernel wants it aligned.
    let descriptor = security::of_user_alone(&own_sid()?);
    let (words, rest) = descriptor.as_chunks::<4>();
    debug_assert!(
        rest.is_empty(),
        "every part of it is a multiple of four bytes"
    );
    let mut words: Vec<u32> = words.iter().copied().map(u32::from_ne_bytes).collect();
    let attributes = SECURITY_ATTRIBUTES {
        nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or_default(),
        lpSecurityDescriptor: words.as_mut_ptr().cast(),
        bInheritHandle: 0,
    };
    let mut path: Vec<u16> = directory.as_os_str().encode_wide().collect();
    if path.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    path.push(0);
    // SAFETY: `path` ends with a zero; `attributes` points to a whole descriptor that lives
    // until after the call.
    if unsafe { CreateDirectoryW(path.as_ptr(), ptr::from_ref(&attributes)) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Opens a file for writing, empty; what was there is removed. Who may use it is inherited
/// from its directory.
pub(crate) fn create_private_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Opens a file for reading, unless it is a link.
pub(crate) fn open_unlinked(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT)
        .open(path)?;
    if file.metadata()?.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT != 0 {
        let is_link = "it is a link";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, is_link));
    }
    Ok(file)
}

/// A directory that was seen to be this user's alone, and can be neither renamed nor removed
/// meanwhile.
#[derive(Debug)]
pub(crate) struct NoteDirectory {
    path: PathBuf,
    _pin: File,
}

impl NoteDirectory {
    /// Nothing unless it is this user's alone.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        Some(Self {
            path: path.to_owned(),
            _pin: pinned(path)?,
        })
    }

    /// Opens a file of it for reading.
    pub(crate) fn read(&self, name: &str) -> io::Result<File> {
        open_unlinked(&self.path.join(name))
    }

    /// Puts these bytes in the place of a file of it: whoever reads sees the old ones or
    /// the new ones.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let partial = self.path.join(format!("{name}.{}", std::process::id()));
        let written = create_private_file(&partial)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&partial, self.path.join(name)));
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_directory_made_here_is_ours_alone_and_keeps_what_is_put_into_it() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("vmshm");
        assert!(NoteDirectory::open(&path).is_none());
        make_private_directory(&path).expect("made");
        assert!(is_ours_alone(&path));
        assert!(make_private_directory(&path).is_err(), "it is there");
        let directory = NoteDirectory::open(&path).expect("ours");
        for text in ["one", "another"] {
            directory.replace("note", text.as_bytes()).expect("written");
            let mut read = String::new();
            let mut file = directory.read("note").expect("there");
            file.read_to_string(&mut read).expect("read");
            assert_eq!(read, text);
        }
        assert_eq!(fs::read_dir(&path).expect("listed").count(), 1);
        assert!(!is_ours_alone(&path.join("note")), "a file is no directory");
    }

    #[test]
    fn the_users_own_place_is_known() {
        let places = candidates();
        assert!(places.iter().all(|path| path.ends_with("vmshm")));
        assert!(!places.is_empty());
    }
}
