//! A region's file, checked and mapped.
//!
//! The agent is trusted, but a file that shrinks under its mapping kills the process: one
//! that could, or that is shorter than the region, is refused.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::SealFlags;
use vmshm_endpoint::Role;
use vmshm_shm::{MapError, Mapping, PAGE_SIZE, Protection};

/// Why a region's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// None came.
    #[error("no file came with the region")]
    Missing,
    /// It could change its size.
    #[error("the region's file is not sealed against shrinking and growing")]
    Unsealed,
    /// It does not hold the region.
    #[error("the region's file has {found} bytes, the region {expected}")]
    Short {
        /// What the file has.
        found: u64,
        /// What the agent says.
        expected: u64,
    },
    /// It cannot be examined.
    #[error("the region's file cannot be examined: {0}")]
    Examine(#[source] io::Error),
    /// It cannot be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// Maps the first `size` bytes of a region's `file`, all pages present: under user-mode
/// Linux the first touch of a page costs some 100 µs, which no message shall pay.
pub(crate) fn map(file: impl AsFd, size: u64, role: Role) -> Result<Arc<Mapping>, FileError> {
    let seals = rustix::fs::fcntl_get_seals(&file).map_err(|_| FileError::Unsealed)?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
        return Err(FileError::Unsealed);
    }
    let facts = rustix::fs::fstat(&file).map_err(|error| FileError::Examine(error.into()))?;
    let found = u64::try_from(facts.st_size).unwrap_or(0);
    if found < size {
        return Err(FileError::Short {
            found,
            expected: size,
        });
    }
    // A file of huge pages states their size here.
    let unit = u64::try_from(facts.st_blksize)
        .ok()
        .filter(|unit| unit.is_power_of_two())
        .unwrap_or(PAGE_SIZE);
    let protection = match role {
        Role::End => Protection::ReadWrite,
        Role::Watch => Protection::Read,
    };
    let mut mapping = Mapping::start(file, size, unit, protection)?;
    mapping.populate()?;
    Ok(Arc::new(mapping))
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::fs::MemfdFlags;
    use vmshm_shm::{Fault, SharedMemory};

    use super::*;

    fn file(size: u64, seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("vmshm-test", flags).expect("made");
        rustix::fs::ftruncate(&file, size).expect("resized");
        rustix::fs::fcntl_add_seals(&file, seals).expect("sealed");
        file
    }

    #[test]
    fn files_that_could_change_their_size_or_are_short_are_refused() {
        let sealed = SealFlags::SHRINK | SealFlags::GROW;
        for seals in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::empty()] {
            let error = map(file(8192, seals), 8192, Role::End).expect_err("refused");
            assert!(matches!(error, FileError::Unsealed), "{error}");
        }
        let error = map(file(4096, sealed), 8192, Role::End).expect_err("refused");
        let short = FileError::Short {
            found: 4096,
            expected: 8192,
        };
        assert_eq!(error.to_string(), short.to_string());
        let null = std::fs::File::open("/dev/null").expect("opens");
        let error = map(null, 4096, Role::End).expect_err("refused");
        assert!(matches!(error, FileError::Unsealed), "{error}");
    }

    #[test]
    fn a_watcher_cannot_write() {
        let sealed = SealFlags::SHRINK | SealFlags::GROW;
        let shared = file(8192, sealed);
        let end = map(&shared, 4096, Role::End).expect("mapped");
        let watch = map(&shared, 4096, Role::Watch).expect("mapped");
        end.store_release(8, 7).expect("stored");
        assert_eq!(watch.load_acquire(8), Ok(7));
        assert_eq!(watch.store_relaxed(8, 1), Err(Fault::ReadOnly));
        assert_eq!(end.size(), 4096);
    }
}
