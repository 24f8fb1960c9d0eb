//! Huge pages from an empty pool: the limit of surplus pages is raised while a file
//! is allocated, and put back at once. The pages stay with the file, and go back to
//! the system with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The kernel's numbers for 2 MiB pages, per page size and, in old places, for the
/// default size.
const BY_SIZE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Why no huge pages can be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HugePagesError {
    /// The kernel was built without them, or the processor lacks them.
    #[error("this kernel has no 2 MiB huge pages")]
    Absent,
    /// Their limit cannot be read or changed.
    #[error("cannot change {}: {error}", .path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// The pool of 2 MiB pages.
#[derive(Debug, Clone)]
pub(crate) struct HugePages {
    limit: PathBuf,
    surplus: PathBuf,
}

impl HugePages {
    /// Finds the pool.
    pub(crate) fn find() -> Result<Self, HugePagesError> {
        Self::at(Path::new(BY_SIZE))
    }

    fn at(directory: &Path) -> Result<Self, HugePagesError> {
        let limit = directory.join("nr_overcommit_hugepages");
        let surplus = directory.join("surplus_hugepages");
        if limit.exists() && surplus.exists() {
            Ok(Self { limit, surplus })
        } else {
            Err(HugePagesError::Absent)
        }
    }

    /// Lets `work` take up to `pages` pages beyond the pool.
    pub(crate) fn with_surplus<T>(
        &self,
        pages: u64,
        work: impl FnOnce() -> T,
    ) -> Result<T, HugePagesError> {
        let before = read_number(&self.limit)?;
        let wanted = read_number(&self.surplus)?.saturating_add(pages);
        if wanted <= before {
            return Ok(work());
        }
        write_number(&self.limit, wanted)?;
        let result = work();
        // Whoever changed the limit meanwhile keeps his word.
        if read_number(&self.limit)? == wanted {
            write_number(&self.limit, before)?;
        }
        Ok(result)
    }
}

fn read_number(path: &Path) -> Result<u64, HugePagesError> {
    let limit = |error| HugePagesError::Limit {
        path: path.to_owned(),
        error,
    };
    fs::read_to_string(path)
        .map_err(limit)?
        .trim()
        .parse()
        .map_err(|error| limit(io::Error::new(io::ErrorKind::InvalidData, error)))
}

fn write_number(path: &Path, number: u64) -> Result<(), HugePagesError> {
    fs::write(path, number.to_string()).map_err(|error| HugePagesError::Limit {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(limit: &str, surplus: &str) -> (PathBuf, HugePages) {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let directory =
            std::env::temp_dir().join(format!("vmshm-pool-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).expect("succeeds");
        fs::write(directory.join("nr_overcommit_hugepages"), limit).expect("succeeds");
        fs::write(directory.join("surplus_hugepages"), surplus).expect("succeeds");
        let pool = HugePages::at(&directory).expect("succeeds");
        (directory, pool)
    }

    #[test]
    fn raises_the_limit_and_puts_it_back() {
        let (directory, pool) = pool("1\n", "3\n");
        let seen = pool
            .with_surplus(5, || {
                fs::read_to_string(directory.join("nr_overcommit_hugepages")).expect("succeeds")
            })
            .expect("succeeds");
        assert_eq!(seen, "8");
        assert_eq!(
            fs::read_to_string(directory.join("nr_overcommit_hugepages")).expect("succeeds"),
            "1"
        );
        fs::remove_dir_all(directory).expect("succeeds");
    }

    #[test]
    fn leaves_a_limit_alone_that_is_high_enough_or_was_changed() {
        let (directory, pool) = pool("100", "3");
        pool.with_surplus(5, || ()).expect("succeeds");
        let path = directory.join("nr_overcommit_hugepages");
        assert_eq!(fs::read_to_string(&path).expect("succeeds"), "100");
        pool.with_surplus(500, || fs::write(&path, "7").expect("succeeds"))
            .expect("succeeds");
        assert_eq!(fs::read_to_string(&path).expect("succeeds"), "7");
        fs::remove_dir_all(directory).expect("succeeds");
    }

    #[test]
    fn says_when_there_are_none() {
        assert!(matches!(
            HugePages::at(Path::new("/nonexistent")),
            Err(HugePagesError::Absent)
        ));
    }
}
