//! The region's memory file inside the VMM's process: finding it by its name, bringing it
//! here by descriptor, and giving it size and seals. The process makes the file itself,
//! for three reasons: a file of ours would have to be opened by the process, which needs a
//! right over us that an unprivileged VMM has not; a made file needs one injected
//! call and nothing else; and should we die, the file stays with the VM to which it belongs.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::pieces::FileNumber;
use crate::process;
use crate::refusal::{GraftError, Refusal};

/// What a memory file's name starts with.
const PREFIX: &str = "vmshm-";

/// The longest identifier: the kernel takes names of 249 bytes.
const LONGEST: usize = 200;

/// A region's memory file, held here too.
#[derive(Debug)]
pub(crate) struct RegionFile {
    /// Its number in the VMM's process.
    pub(crate) number: u32,
    pub(crate) file: OwnedFd,
    pub(crate) identity: FileNumber,
    pub(crate) size: u64,
}

/// The name under which a region's file is made; nothing where the identifier cannot be
/// part of one.
pub(crate) fn file_name(id: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (!id.is_empty() && id.len() <= LONGEST && id.bytes().all(plain))
        .then(|| format!("{PREFIX}{id}"))
}

/// How memory files are made here: closed when the process starts another program, and
/// never executable where the kernel knows that (it may insist).
pub(crate) fn creation_flags() -> u32 {
    let plain = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let strict = plain | MemfdFlags::NOEXEC_SEAL;
    if rustix::fs::memfd_create("vmshm-test", strict).is_ok() {
        strict.bits()
    } else {
        plain.bits()
    }
}

/// All memory files of that name which a process has open.
pub(crate) fn find(pid: u32, name: &str) -> Result<Vec<RegionFile>, GraftError> {
    let files = process::open_files(pid).map_err(|_| Refusal::Gone { pid })?;
    let shown = format!("/memfd:{name} (deleted)");
    files
        .into_iter()
        .filter(|file| file.target == shown)
        .map(|file| bring(pid, file.number))
        .collect()
}

/// Brings one of a process's memory files here.
pub(crate) fn bring(pid: u32, number: u32) -> Result<RegionFile, GraftError> {
    let failed = |error| GraftError::System {
        what: TAKE_OVER,
        error,
    };
    let invalid = || failed(Errno::INVAL);
    let file = fetch(pid, number)?;
    let status = rustix::fs::fstat(&file).map_err(failed)?;
    Ok(RegionFile {
        number,
        identity: FileNumber {
            device: (
                rustix::fs::major(status.st_dev),
                rustix::fs::minor(status.st_dev),
            ),
            inode: status.st_ino,
        },
        size: u64::try_from(status.st_size).map_err(|_| invalid())?,
        file,
    })
}

const TAKE_OVER: &str = "take a file of the process over";

/// Brings one of a process's descriptors here.
pub(crate) fn fetch(pid: u32, number: u32) -> Result<OwnedFd, GraftError> {
    let failed = |error| GraftError::System {
        what: TAKE_OVER,
        error,
    };
    let process = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Refusal::Gone { pid })?;
    let process = pidfd_open(process, PidfdFlags::empty()).map_err(failed)?;
    let foreign = i32::try_from(number).map_err(|_| failed(Errno::INVAL))?;
    pidfd_getfd(process, foreign, PidfdGetfdFlags::empty()).map_err(failed)
}

/// Gives a file the region's size, unless it has one, and seals it against any other.
pub(crate) fn settle(file: &mut RegionFile, size: u64) -> Result<(), GraftError> {
    let failed = |what| move |error| GraftError::System { what, error };
    if file.size == 0 {
        rustix::fs::ftruncate(&file.file, size).map_err(failed("size the memory file"))?;
        file.size = size;
    }
    if file.size != size {
        return Err(Refusal::OtherSize {
            present: file.size,
            wanted: size,
        }
        .into());
    }
    let wanted = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let present = rustix::fs::fcntl_get_seals(&file.file).map_err(failed("read the seals"))?;
    if !present.contains(wanted) {
        rustix::fs::fcntl_add_seals(file.file.as_fd(), wanted)
            .map_err(failed("seal the memory file"))?;
    }
    // Undoing it may have begun and come to no end. Whoever grafts may have marked it by a
    // bit that gives no right; nobody else opens it by its path.
    let status = rustix::fs::fstat(&file.file).map_err(failed("look at the memory file"))?;
    let mode = Mode::from_raw_mode(status.st_mode);
    if !mode.contains(SERVES) || mode.intersects(Mode::RWXG | Mode::RWXO) {
        rustix::fs::fchmod(&file.file, SERVES).map_err(failed("mark the memory file"))?;
    }
    // Somebody may have shortened it before it was sealed.
    let status = rustix::fs::fstat(&file.file).map_err(failed("look at the memory file"))?;
    if u64::try_from(status.st_size) == Ok(size) {
        Ok(())
    } else {
        Err(Refusal::OtherSize {
            present: u64::try_from(status.st_size).unwrap_or(0),
            wanted: size,
        }
        .into())
    }
}

/// The mode of a file that serves.
const SERVES: Mode = Mode::RUSR.union(Mode::WUSR);

/// Marks a file as no longer the guest's: it has no mode at all then. Holders have it
/// open already, and lose nothing but the belief that somebody else is there.
pub(crate) fn withdraw(file: &RegionFile) -> Result<(), GraftError> {
    rustix::fs::fchmod(&file.file, Mode::empty()).map_err(|error| GraftError::System {
        what: "mark the memory file",
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_nothing_that_a_reader_of_proc_could_stumble_over() {
        assert_eq!(file_name("12ab").as_deref(), Some("vmshm-12ab"));
        for bad in ["", "a b", "a/b", "a\0b", "ä", &"x".repeat(201)] {
            assert_eq!(file_name(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_file_is_found_sized_and_sealed_and_another_size_is_refused() {
        let pid = std::process::id();
        let name = file_name(&format!("own-{pid}")).expect("a name");
        let flags = MemfdFlags::from_bits_retain(creation_flags());
        let _made = rustix::fs::memfd_create(&name, flags).expect("a memory file");
        let mut found = find(pid, &name).expect("the files");
        assert_eq!(found.len(), 1);
        let file = &mut found[0];
        assert_eq!(file.size, 0);
        settle(file, 8192).expect("settled");
        settle(file, 8192).expect("settled again");
        assert_eq!(
            settle(file, 4096),
            Err(Refusal::OtherSize {
                present: 8192,
                wanted: 4096
            }
            .into())
        );
        assert!(rustix::fs::ftruncate(&file.file, 0).is_err());
    }
}
