//! Files: access lists, holes, pipes and devices, which have names of their own here.
//!
//! Sources: learn.microsoft.com/windows/win32/fileio/naming-a-file, CreateFileW, FSCTL_SET_SPARSE, GetDiskFreeSpaceExW.
#![allow(
    unsafe_code,
    reason = "a file with an access list, holes and free room have no safe interface"
)]

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::ffi::{OsStrExt, OsStringExt};
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::os::windows::io::{AsRawHandle, FromRawHandle};
use std::path::{Component, Path, PathBuf, Prefix};

use tempfile::NamedTempFile;
use windows_sys::Win32::Foundation::{GENERIC_READ, GENERIC_WRITE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Security::SECURITY_ATTRIBUTES;
use windows_sys::Win32::Storage::FileSystem::{
    CREATE_NEW, CreateFileW, FILE_ATTRIBUTE_NORMAL, FILE_SHARE_DELETE, FILE_SHARE_READ,
    FILE_SHARE_WRITE, GetDiskFreeSpaceExW, SECURITY_IDENTIFICATION,
};
use windows_sys::Win32::System::IO::DeviceIoControl;
use windows_sys::Win32::System::Ioctl::FSCTL_SET_SPARSE;

use super::owner::Descriptor;
use super::{check, wide};
use crate::output_file::Readers;

/// Whether what `path` names is written straight: a named pipe, a device such as NUL. The name
/// tells: to look at a pipe would be to open it.
pub(crate) fn is_stream(path: &Path) -> bool {
    // NUL and its like become \\.\NUL, in whatever directory they are named.
    let Ok(path) = std::path::absolute(path) else {
        return false;
    };
    let mut components = path.components();
    let Some(Component::Prefix(prefix)) = components.next() else {
        return false;
    };
    match prefix.kind() {
        // A drive is a device, too; a file on it is a file.
        Prefix::DeviceNS(name) => !is_drive(name) || !components.any(is_name),
        Prefix::UNC(_, share) | Prefix::VerbatimUNC(_, share) => share.eq_ignore_ascii_case("pipe"),
        Prefix::Verbatim(first) => first.eq_ignore_ascii_case("pipe"),
        Prefix::Disk(_) | Prefix::VerbatimDisk(_) => false,
    }
}

fn is_drive(name: &OsStr) -> bool {
    matches!(name.as_encoded_bytes(), [letter, b':'] if letter.is_ascii_alphabetic())
}

fn is_name(component: Component<'_>) -> bool {
    matches!(component, Component::Normal(_))
}

/// Opens a pipe or a device for writing. Who serves a pipe learns who writes, and may not act
/// in the writer's name.
pub(crate) fn open_stream(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .security_qos_flags(SECURITY_IDENTIFICATION)
        .open(path)
}

/// Where a new file goes: its directory in the form that has no limit of 260 characters, and
/// its name as the system would take it, without dots and spaces at its end.
pub(crate) fn new_place(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    // What follows a colon would be a second stream of the file, which cannot be renamed.
    if name.as_encoded_bytes().contains(&b':') {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    Ok(directory.canonicalize()?.join(name))
}

/// The start of a name, short enough to be part of another one.
pub(crate) fn start_of_name(name: &OsStr) -> OsString {
    let units: Vec<u16> = name.encode_wide().take(128).collect();
    OsString::from_wide(&units)
}

/// Makes a file under a free name that begins with `prefix`. Who may read it is as for
/// `replaced`, the file whose place it will take, if there is one.
pub(crate) fn create_partial(
    directory: &Path,
    prefix: &OsStr,
    readers: Readers,
    replaced: Option<&Path>,
) -> io::Result<NamedTempFile> {
    let descriptor = match (replaced, readers) {
        // Whose list cannot be read is not made readable to more.
        (Some(path), _) => Some(Descriptor::of_file(path).or_else(|_| Descriptor::for_owner())?),
        (None, Readers::Owner) => Some(Descriptor::for_owner()?),
        (None, Readers::AsUsual) => None,
    };
    // What is made is named in the error then, and the system's number is lost.
    let mut refused = None;
    tempfile::Builder::new()
        .prefix(prefix)
        .make_in(directory, |path| {
            let made = create_new(path, descriptor.as_ref());
            made.inspect_err(|error| refused = error.raw_os_error())
        })
        .map_err(|error| refused.map_or(error, io::Error::from_raw_os_error))
}

/// Makes a file that does not exist yet, with an access list, or with what its directory gives.
fn create_new(path: &Path, descriptor: Option<&Descriptor>) -> io::Result<File> {
    let name = wide(path.as_os_str());
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a structure of a few words"
    )]
    let attributes = descriptor.map(|descriptor| SECURITY_ATTRIBUTES {
        nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
        lpSecurityDescriptor: descriptor.as_ptr(),
        bInheritHandle: 0,
    });
    // SAFETY: the name ends in a zero, and the attributes, if any, and what they point to live until after the call.
    let handle = unsafe {
        CreateFileW(
            name.as_ptr(),
            GENERIC_READ | GENERIC_WRITE,
            // As `std` opens files: it can be renamed while it is open.
            FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
            attributes.as_ref().map_or(std::ptr::null(), |it| it),
            CREATE_NEW,
            FILE_ATTRIBUTE_NORMAL,
            std::ptr::null_mut(),
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was made just now, and nobody else closes it.
    Ok(unsafe { File::from_raw_handle(handle) })
}

/// Lets a file have holes. A file system without holes takes the file with its zeros.
pub(crate) fn make_sparse(file: &File) {
    let mut returned = 0;
    // SAFETY: the handle is the file's; this request takes no input and gives no output.
    let done = unsafe {
        DeviceIoControl(
            file.as_raw_handle(),
            FSCTL_SET_SPARSE,
            std::ptr::null(),
            0,
            std::ptr::null_mut(),
            0,
            &mut returned,
            std::ptr::null_mut(),
        )
    };
    if let Err(error) = check(done) {
        tracing::debug!(%error, "the file has no holes");
    }
}

/// Writes bytes to their place in a file.
pub(crate) fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = file.seek_write(bytes, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
        offset += written as u64;
    }
    Ok(())
}

/// Room that is left for this user in a directory's file system, in bytes.
pub(crate) fn free_room(directory: &Path) -> Option<u64> {
    let name = wide(directory.as_os_str());
    let mut free = 0;
    // SAFETY: the name ends in a zero, and `free` is where the number goes; the others are not asked for.
    let done = unsafe {
        GetDiskFreeSpaceExW(
            name.as_ptr(),
            &mut free,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    (done != 0).then_some(free)
}

#[cfg(test)]
mod tests {
    use super::super::owner;
    use super::*;
    use crate::output_file::OutputFile;

    #[test]
    fn pipes_and_devices_are_known_by_their_names() {
        for stream in [
            "NUL",
            "nul",
            "CON",
            r"\\.\pipe\dump",
            r"\\server\pipe\dump",
            r"\\.\PhysicalDrive0",
            r"\\.\C:",
        ] {
            assert!(is_stream(Path::new(stream)), "{stream}");
        }
        for file in [
            "out",
            r"C:\null",
            r"C:\pipe\x",
            r"\\?\C:\x",
            r"\\.\C:\x",
            r"\\server\share\pipe",
        ] {
            assert!(!is_stream(Path::new(file)), "{file}");
        }
        let mut null = OutputFile::open(Path::new("NUL"), Readers::Owner).expect("opens");
        null.put(b"bytes").expect("written");
        null.finish().expect("ended");
    }

    #[test]
    fn a_new_file_is_for_its_owner_and_one_that_takes_a_place_keeps_its_list() {
        let directory = tempfile::tempdir().expect("a directory");
        let make = |name: &str, readers| {
            let path = directory.path().join(name);
            let mut file = OutputFile::open(&path, readers).expect("opens");
            file.put(b"bytes").expect("written");
            file.finish().expect("renamed");
            let list = Descriptor::of_file(&path).expect("its list");
            list.as_text().expect("text")
        };
        let list = make("private", Readers::Owner);
        // Wine keeps modes in the place of lists, and adds the system.
        let user = format!(";{})", owner::user().expect("known"));
        let entries: Vec<_> = list.split('(').skip(1).collect();
        assert!(!entries.is_empty(), "{list}");
        for entry in entries {
            assert!(entry.ends_with(&user) || entry.ends_with(";SY)"), "{list}");
        }
        let usual = make("usual", Readers::AsUsual);
        assert_ne!(list, usual);
        // The place's list stays, whatever a new file would get.
        let again = make("private", Readers::AsUsual);
        assert_eq!(list, again);
    }

    #[test]
    fn what_the_system_said_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let nowhere = directory.path().join("no");
        let error = create_partial(&nowhere, "p".as_ref(), Readers::Owner, None);
        assert!(error.is_err_and(|error| error.raw_os_error().is_some()));
    }

    #[test]
    fn names_are_taken_as_the_system_takes_them() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = |name: &str| new_place(&directory.path().join(name));
        let plain = place("out").expect("a place");
        assert_eq!(place("out. .").expect("a place"), plain);
        assert!(plain.to_string_lossy().starts_with(r"\\?\"));
        for refused in ["out:stream", "no/such"] {
            place(refused).expect_err(refused);
        }
    }

    #[test]
    fn bytes_go_to_their_places_and_the_rest_are_zeros() {
        let file = tempfile::tempfile().expect("a file");
        make_sparse(&file);
        file.set_len(1 << 20).expect("set");
        write_all_at(&file, b"end", (1 << 20) - 3).expect("written");
        write_all_at(&file, b"start", 0).expect("written");
        let mut bytes = [1; 8];
        file.seek_read(&mut bytes, 0).expect("read");
        assert_eq!(&bytes, b"start\0\0\0");
        assert_eq!(file.metadata().expect("there").len(), 1 << 20);
        assert!(free_room(Path::new(".")).is_some_and(|room| room > 0));
        assert_eq!(free_room(Path::new(r"C:\no\such\place")), None);
    }
}
