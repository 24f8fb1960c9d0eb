//! Opens the file behind a RAM block, by whichever of the system's ways is allowed:
//! through the VMM's own descriptor, through its mapping, or by a copy of its
//! descriptor. Every result is checked to be the very file that the VMM maps.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    MemfdFlags, Mode, OFlags, fcntl_getfl, fstat, fstatfs, ftruncate, memfd_create, open,
};
use rustix::io::{Errno, pread, pwrite};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use vmshm_shm::PAGE_SIZE;

use super::process::Process;
use crate::address::VmmVirtual;
use crate::mapping::FileIdentity;

/// `statfs` answers this for a hugetlbfs file.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

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
        let descriptors = matching_descriptors(process, identity, name);
        let mut refusal = Errno::NOENT;
        for flags in [OFlags::RDWR, OFlags::RDONLY] {
            for number in &descriptors {
                let path = process.path("fd").join(number.to_string());
                match open(
                    &path,
                    flags | OFlags::CLOEXEC | OFlags::NOCTTY,
                    Mode::empty(),
                ) {
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
                match open(
                    &path,
                    flags | OFlags::CLOEXEC | OFlags::NOCTTY,
                    Mode::empty(),
                ) {
                    Ok(descriptor) => {
                        if let Some(file) = Self::checked(descriptor, identity) {
                            return Ok(file);
                        }
                    }
                    Err(error) if refusal == Errno::NOENT => refusal = error,
                    Err(_) => {}
                }
            }
            if flags == OFlags::RDWR {
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
    pub(crate) fn stored(descriptor: OwnedFd) -> Result<Self, i32> {
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
        Self::stored(descriptor)
    }

    /// Which file it is.
    pub(crate) const fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Keeps the descriptor if it is the file that was looked for and can be read.
    fn checked(descriptor: OwnedFd, identity: &FileIdentity) -> Option<Self> {
        let stat = fstat(&descriptor).ok()?;
        // Some file systems show another device number in a mapping than in stat; the
        // inode and the way by which the file was reached must do there.
        if stat.st_ino != identity.inode {
            return None;
        }
        let mode = fcntl_getfl(&descriptor).ok()? & OFlags::RWMODE;
        if mode == OFlags::WRONLY || mode.contains(OFlags::PATH) {
            return None;
        }
        let hugetlb = fstatfs(&descriptor)
            .is_ok_and(|statfs| statfs.f_type.cast_unsigned() == HUGETLBFS_MAGIC);
        Some(Self {
            descriptor,
            writable: mode == OFlags::RDWR,
            hugetlb,
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
