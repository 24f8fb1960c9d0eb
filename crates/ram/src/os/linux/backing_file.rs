//! Opens the file behind a RAM block, by whichever of the system's ways is allowed:
//! through the VMM's own descriptor, through its mapping, or by a copy of its
//! descriptor. Every result is checked to be the very file that the VMM maps, and to be a
//! regular one: what stands under a number may be another file a moment later, and opening
//! a pipe must not wait.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    FileType, MemfdFlags, Mode, OFlags, fcntl_getfl, fstat, fstatfs, ftruncate, memfd_create, open,
};
use rustix::io::{Errno, pread, pwrite};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use vmshm_shm::PAGE_SIZE;

use super::process::Process;
use crate::address::VmmVirtual;
use crate::mapping::FileIdentity;

/// `statfs` answers this for a hugetlbfs file.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
/// The same for file systems on which a mapping and `stat` show the same device.
const WITH_ONE_DEVICE: [u64; 4] = [
    HUGETLBFS_MAGIC,
    // tmpfs, and with it memfds and shared anonymous memory.
    0x0102_1994,
    // ext2, ext3 and ext4.
    0xef53,
    // XFS.
    0x5846_5342,
];
/// How every file is opened; regular ones take no notice of `NONBLOCK`.
const SAFELY: OFlags = OFlags::CLOEXEC
    .union(OFlags::NOCTTY)
    .union(OFlags::NONBLOCK);

/// The open file behind a RAM block.
#[derive(Debug)]
pub(crate) struct BackingFile {
    descriptor: OwnedFd,
    /// Whether it was opened for writing, too.
    pub(crate) writable: bool,
    /// Whether it lies in huge pages of their own kind (hugetlb).
    pub(crate) hugetlb: bool,
    identity: FileIdentity,
}

impl AsFd for BackingFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl BackingFile {
    /// Opens the file that `process` maps at `start`, for reading and writing where
    /// that is allowed, else for reading.
    ///
    /// The error is the code of the most telling refusal.
    pub(crate) fn open(
        process: &Process,
        identity: &FileIdentity,
        name: &str,
        start: VmmVirtual,
        end: VmmVirtual,
    ) -> Result<Self, i32> {
        let ways = [OFlags::RDWR, OFlags::RDONLY];
        Self::open_by(&ways, process, identity, name, start, end)
    }

    /// As [`open`](Self::open), for reading alone.
    pub(crate) fn open_to_read(
        process: &Process,
        identity: &FileIdentity,
        name: &str,
        start: VmmVirtual,
        end: VmmVirtual,
    ) -> Result<Self, i32> {
        let opened = Self::open_by(&[OFlags::RDONLY], process, identity, name, start, end)?;
        Ok(Self {
            // A copy of the VMM's own descriptor may permit more.
            writable: false,
            ..opened
        })
    }

    fn open_by(
        ways: &[OFlags],
        process: &Process,
        identity: &FileIdentity,
        name: &str,
        start: VmmVirtual,
        end: VmmVirtual,
    ) -> Result<Self, i32> {
        let descriptors = matching_descriptors(process, identity, name);
        let mut refusal = Errno::NOENT;
        for (index, flags) in ways.iter().enumerate() {
            for number in &descriptors {
                let path = process.path("fd").join(number.to_string());
                match open(&path, *flags | SAFELY, Mode::empty()) {
                    Ok(descriptor) => {
                        if let Some(file) = Self::checked(descriptor, identity) {
                            return Ok(file);
                        }
                    }
                    Err(error) => refusal = error,
                }
            }
            let name = format!("{:x}-{:x}", start.0, end.0);
            let path = process.path("map_files").join(name);
            if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
                match open(&path, *flags | SAFELY, Mode::empty()) {
                    Ok(descriptor) => {
                        if let Some(file) = Self::checked(descriptor, identity) {
                            return Ok(file);
                        }
                    }
                    Err(error) if refusal == Errno::NOENT => refusal = error,
                    Err(_) => {}
                }
            }
            if index == 0 {
                for number in &descriptors {
                    match copied_descriptor(process.pid(), *number) {
                        Ok(descriptor) => {
                            if let Some(file) = Self::checked(descriptor, identity) {
                                return Ok(file);
                            }
                        }
                        Err(error) if refusal == Errno::NOENT => refusal = error,
                        Err(_) => {}
                    }
                }
            }
        }
        Err(refusal.raw_os_error())
    }

    /// The access mode of a file that `process` has open, if it has.
    pub(crate) fn mode(process: &Process, identity: &FileIdentity, name: &str) -> Option<u32> {
        let number = *matching_descriptors(process, identity, name).first()?;
        let path = process.path("fd").join(number.to_string());
        Some(fs::metadata(path).ok()?.mode() & 0o7777)
    }

    /// A file that is no VMM's: a stored dump, for reading only. The error is the
    /// system's code.
    pub(crate) fn stored(file: fs::File) -> Result<Self, i32> {
        Self::of_own(file.into())
    }

    fn of_own(descriptor: OwnedFd) -> Result<Self, i32> {
        let stat = fstat(&descriptor).map_err(Errno::raw_os_error)?;
        Ok(Self {
            descriptor,
            writable: false,
            hugetlb: false,
            identity: FileIdentity {
                device: (
                    rustix::fs::major(stat.st_dev),
                    rustix::fs::minor(stat.st_dev),
                ),
                inode: stat.st_ino,
                offset: 0,
            },
        })
    }

    /// A file of so many zeros that needs no memory for them. The error is the system's
    /// code.
    pub(crate) fn zeros(length: u64) -> Result<Self, i32> {
        let descriptor =
            memfd_create("zeros-of-a-dump", MemfdFlags::CLOEXEC).map_err(Errno::raw_os_error)?;
        ftruncate(&descriptor, length).map_err(Errno::raw_os_error)?;
        Self::of_own(descriptor)
    }

    /// The file, for another process.
    pub(crate) fn as_file(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// The memory file of a grafted region, which was handed over.
    pub(crate) fn of_graft(descriptor: OwnedFd) -> Self {
        Self {
            descriptor,
            writable: true,
            hugetlb: false,
            // Nobody compares it with a mapping.
            identity: FileIdentity {
                device: (0, 0),
                inode: 0,
                offset: 0,
            },
        }
    }

    /// Whether who grafted it has taken it away from the VM again: its mode is 0 then.
    pub(crate) fn is_withdrawn(&self) -> bool {
        fstat(&self.descriptor).is_ok_and(|status| status.st_mode & 0o777 == 0)
    }

    /// Whether it is so long.
    pub(crate) fn has_size(&self, size: u64) -> bool {
        fstat(&self.descriptor).is_ok_and(|status| u64::try_from(status.st_size) == Ok(size))
    }

    /// Which file it is.
    pub(crate) const fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Keeps the descriptor if it is the file that was looked for and can be read.
    fn checked(descriptor: OwnedFd, identity: &FileIdentity) -> Option<Self> {
        let stat = fstat(&descriptor).ok()?;
        if stat.st_ino != identity.inode
            || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
        {
            return None;
        }
        let kind = fstatfs(&descriptor).ok()?.f_type.cast_unsigned();
        let device = (
            rustix::fs::major(stat.st_dev),
            rustix::fs::minor(stat.st_dev),
        );
        // Other file systems (btrfs, overlayfs) may show another device in a mapping than
        // in stat; the inode and the way by which the file was reached must do there.
        if WITH_ONE_DEVICE.contains(&kind) && device != identity.device {
            return None;
        }
        let mode = fcntl_getfl(&descriptor).ok()? & OFlags::RWMODE;
        if mode == OFlags::WRONLY || mode.contains(OFlags::PATH) {
            return None;
        }
        Some(Self {
            descriptor,
            writable: mode == OFlags::RDWR,
            hugetlb: kind == HUGETLBFS_MAGIC,
            identity: *identity,
        })
    }

    /// The size of the pages in which the file can be mapped.
    pub(crate) fn page_size(&self) -> u64 {
        if !self.hugetlb {
            return PAGE_SIZE;
        }
        fstatfs(&self.descriptor)
            .ok()
            .and_then(|statfs| u64::try_from(statfs.f_bsize).ok())
            .filter(|size| size.is_power_of_two() && *size >= PAGE_SIZE)
            .unwrap_or(PAGE_SIZE)
    }

    /// Fills `into` from `offset`; holes read as zeros and stay holes. The error is the
    /// system's code.
    pub(crate) fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), i32> {
        let mut done = 0;
        while done < into.len() {
            match pread(&self.descriptor, &mut into[done..], offset + done as u64) {
                // The file is shorter than what the VMM maps of it.
                Ok(0) => return Err(Errno::IO.raw_os_error()),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.raw_os_error()),
            }
        }
        Ok(())
    }

    /// Writes `from` at `offset`. Files of huge pages refuse this. The error is the
    /// system's code.
    pub(crate) fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), i32> {
        let mut done = 0;
        while done < from.len() {
            match pwrite(&self.descriptor, &from[done..], offset + done as u64) {
                Ok(0) => return Err(Errno::IO.raw_os_error()),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.raw_os_error()),
            }
        }
        Ok(())
    }
}

/// The numbers of the process's descriptors that are this very file.
fn matching_descriptors(process: &Process, identity: &FileIdentity, name: &str) -> Vec<u32> {
    let Ok(descriptors) = process.descriptors() else {
        return Vec::new();
    };
    descriptors
        .into_iter()
        .filter(|descriptor| descriptor.target == name)
        .filter(|descriptor| {
            let path = process.path("fd").join(descriptor.number.to_string());
            fs::metadata(&path).is_ok_and(|metadata| {
                // A device or a pipe must not even be opened.
                let kind = metadata.file_type();
                metadata.ino() == identity.inode
                    && metadata.is_file()
                    && !kind.is_fifo()
                    && !kind.is_socket()
            })
        })
        .map(|descriptor| descriptor.number)
        .collect()
}

/// A duplicate of another process's descriptor; needs the right to trace it.
fn copied_descriptor(pid: u32, number: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Errno::SRCH)?;
    let number = i32::try_from(number).map_err(|_| Errno::BADF)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::pipe::pipe;

    use super::*;
    use crate::os::ProcRoot;

    fn memory_file() -> (OwnedFd, FileIdentity) {
        let file = memfd_create("ram", MemfdFlags::CLOEXEC).expect("a memory file");
        ftruncate(&file, 4 * PAGE_SIZE).expect("its length");
        let identity = identity_of(&file);
        (file, identity)
    }

    fn identity_of(file: &OwnedFd) -> FileIdentity {
        let stat = fstat(file).expect("stat");
        FileIdentity {
            device: (
                rustix::fs::major(stat.st_dev),
                rustix::fs::minor(stat.st_dev),
            ),
            inode: stat.st_ino,
            offset: 0,
        }
    }

    fn name_of(file: &OwnedFd) -> String {
        let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("a link");
        link.to_string_lossy().into_owned()
    }

    #[test]
    fn the_same_inode_on_another_device_is_another_file() {
        let process = ProcRoot::system().process(std::process::id());
        let nowhere = VmmVirtual(0);
        let (file, identity) = memory_file();
        let name = name_of(&file);
        let open = |identity| BackingFile::open(&process, &identity, &name, nowhere, nowhere);
        assert!(open(identity).is_ok_and(|opened| opened.writable));
        let elsewhere = FileIdentity {
            device: (identity.device.0, identity.device.1 + 1),
            ..identity
        };
        assert!(open(elsewhere).is_err());
        let other = FileIdentity {
            inode: identity.inode + 1_000_000,
            ..identity
        };
        assert!(open(other).is_err());
    }

    #[test]
    fn what_is_only_read_is_not_opened_for_writing() {
        let process = ProcRoot::system().process(std::process::id());
        let nowhere = VmmVirtual(0);
        let (file, identity) = memory_file();
        let name = name_of(&file);
        let opened = BackingFile::open_to_read(&process, &identity, &name, nowhere, nowhere)
            .expect("opened");
        assert!(!opened.writable);
        let mode = fcntl_getfl(&opened).expect("its mode") & OFlags::RWMODE;
        assert_eq!(mode, OFlags::RDONLY);
    }

    #[test]
    fn a_pipe_that_stands_in_the_files_place_is_refused() {
        let (read, _write) = pipe().expect("a pipe");
        let identity = identity_of(&read);
        assert!(BackingFile::checked(read, &identity).is_none());
    }
}
