//! The files that a broker sends with regions, checked and mapped. The broker is trusted, but
//! a file that shrinks under its mapping kills the process: one that could, or that is
//! shorter than the region, is refused.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{OFlags, SealFlags};
use vmshm_link::control::RegionReply;
use vmshm_ram::{FileRuns, MapError, OpenError, Protection, View};

use crate::session::RequestError;

/// A region's file.
#[derive(Debug)]
pub(crate) struct RegionFile {
    file: OwnedFd,
    size: u64,
}

impl RegionFile {
    pub(crate) fn view(&self, protection: Protection) -> Result<View, OpenError> {
        let failed = |cause| OpenError::Map { pieces: 1, cause };
        let file = rustix::io::fcntl_dupfd_cloexec(&self.file, 0)
            .map_err(|error| failed(MapError::System(error)))?;
        View::of_file(file, self.size, protection).map_err(failed)
    }

    /// All of it, as another process maps it.
    pub(crate) fn runs(&self) -> FileRuns<'_> {
        FileRuns::whole(self.file.as_fd(), self.size)
    }

    fn checked(file: OwnedFd, size: u64) -> Result<Self, RequestError> {
        let bad = |what: &str| RequestError::Pages(what.to_owned());
        let seals = rustix::fs::fcntl_get_seals(&file).unwrap_or(SealFlags::empty());
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(bad("the broker's file is not sealed"));
        }
        let status = rustix::fs::fstat(&file).map_err(|error| bad(&error.to_string()))?;
        if u64::try_from(status.st_size) != Ok(size) {
            return Err(bad("the broker's file is not as long as the region"));
        }
        Ok(Self { file, size })
    }
}

/// Files that have come and are not laid out yet, each with its region's number. The same
/// region may be granted more than once, to be written or to be read only.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files(Arc<Mutex<Vec<(u64, OwnedFd)>>>);

impl Files {
    /// Notes one that has come.
    pub(super) fn put(&self, region: u64, file: OwnedFd) {
        self.with(|files| files.push((region, file)));
    }

    /// The file that came with a grant, one that can be used so where there are several.
    ///
    /// # Errors
    /// [`RequestError::Pages`].
    pub(crate) fn take(
        &self,
        granted: &RegionReply,
        protection: Protection,
    ) -> Result<Arc<RegionFile>, RequestError> {
        let file = self.with(|files| {
            let is_its = |(region, _): &(u64, OwnedFd)| *region == granted.region;
            let suits =
                |one: &(u64, OwnedFd)| is_its(one) && can_write(&one.1) == wants(protection);
            let place = files.iter().position(suits);
            let place = place.or_else(|| files.iter().position(is_its))?;
            Some(files.remove(place).1)
        });
        let missing = || RequestError::Pages("no file came with the region".to_owned());
        let file = RegionFile::checked(file.ok_or_else(missing)?, granted.size)?;
        Ok(Arc::new(file))
    }

    /// Drops a file that nobody wants.
    pub(super) fn forget(&self, region: u64) {
        self.with(|files| {
            let place = files.iter().position(|(one, _)| *one == region);
            place.map(|place| files.remove(place))
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut Vec<(u64, OwnedFd)>) -> T) -> T {
        // Nothing that holds the lock can leave the list half changed.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn wants(protection: Protection) -> bool {
    protection == Protection::ReadWrite
}

fn can_write(file: &OwnedFd) -> bool {
    rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::RDWR))
}

#[cfg(test)]
mod tests {
    use rustix::fs::MemfdFlags;
    use vmshm_shm::SharedMemory;

    use super::*;

    fn file(size: u64, seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("vmshm-test", flags).expect("made");
        rustix::fs::ftruncate(&file, size).expect("sized");
        rustix::fs::fcntl_add_seals(&file, seals).expect("sealed");
        file
    }

    fn granted(size: u64) -> RegionReply {
        RegionReply {
            region: 5,
            size,
            extents: 1,
            ready: true,
            key: 0,
            placement: 0,
        }
    }

    #[test]
    fn files_that_could_change_their_size_or_have_another_are_refused() {
        let sealed = SealFlags::SHRINK | SealFlags::GROW;
        let files = Files::default();
        assert!(
            files.take(&granted(4096), Protection::Read).is_err(),
            "none has come"
        );
        for (size, seals) in [
            (8192, SealFlags::SHRINK),
            (8192, SealFlags::GROW),
            (8192, SealFlags::empty()),
            (4096, sealed),
            (16384, sealed),
        ] {
            files.put(5, file(size, seals));
            assert!(
                files.take(&granted(8192), Protection::ReadWrite).is_err(),
                "{size} {seals:?}"
            );
        }
        files.put(5, file(8192, sealed));
        let taken = files
            .take(&granted(8192), Protection::ReadWrite)
            .expect("good");
        let view = taken.view(Protection::ReadWrite).expect("mapped");
        view.store_release(8, 7).expect("stored");
        assert!(view.is_mapped() && view.size() == 8192);
        assert_eq!(taken.runs().runs, [(0, 8192)]);
    }

    #[test]
    fn whoever_wants_to_write_gets_the_file_that_can_be_written() {
        use std::os::fd::AsRawFd;
        let writable = file(8192, SealFlags::SHRINK | SealFlags::GROW);
        let path = format!("/proc/self/fd/{}", writable.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let readable = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).expect("opens");
        let files = Files::default();
        files.put(5, readable);
        files.put(5, writable);
        let both = [Protection::ReadWrite, Protection::Read];
        for protection in both {
            let taken = files.take(&granted(8192), protection).expect("there");
            assert!(taken.view(protection).is_ok());
        }
    }
}
