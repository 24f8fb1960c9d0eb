//! Which page frame stands behind a virtual page: `/proc/PID/pagemap`.
//!
//! It refuses to take a hidden frame for frame 0: without `CAP_SYS_ADMIN` the
//! kernel shows zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vmshm_shm::PAGE_SIZE;

const ENTRY: usize = 8;
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FRAME_BITS: u64 = (1 << 55) - 1;
/// Entries that one read asks for.
const BATCH: u64 = 4096;

/// What stands behind one virtual page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// Nothing: unmapped, or not touched yet.
    Absent,
    /// Swapped out.
    Swapped,
    /// Something, but we may not know where.
    Hidden,
    /// This page frame.
    Frame(u64),
}

impl Page {
    fn from_entry(entry: u64) -> Self {
        if entry & PRESENT != 0 {
            match entry & FRAME_BITS {
                0 => Self::Hidden,
                frame => Self::Frame(frame),
            }
        } else if entry & SWAPPED != 0 {
            Self::Swapped
        } else {
            Self::Absent
        }
    }
}

/// The page table of a process, as the kernel shows it.
#[derive(Debug)]
pub(crate) struct Pagemap {
    file: File,
}

impl Pagemap {
    /// Our own.
    pub(crate) fn of_self() -> io::Result<Self> {
        Ok(Self {
            file: File::open("/proc/self/pagemap")?,
        })
    }

    /// That of another process.
    pub(crate) fn of_process(pid: u32) -> io::Result<Self> {
        Ok(Self {
            file: File::open(format!("/proc/{pid}/pagemap"))?,
        })
    }

    /// Calls `each` for every page of the `pages` pages from `address` on, until it
    /// answers false.
    pub(crate) fn for_each(
        &self,
        address: u64,
        pages: u64,
        mut each: impl FnMut(Page) -> bool,
    ) -> io::Result<()> {
        let first = address / PAGE_SIZE;
        let mut bytes = Vec::new();
        let mut done = 0;
        while done < pages {
            let count = BATCH.min(pages - done);
            // BATCH entries always fit.
            bytes.resize(usize::try_from(count).unwrap_or_default() * ENTRY, 0);
            self.file
                .read_exact_at(&mut bytes, (first + done) * ENTRY as u64)?;
            let (entries, _) = bytes.as_chunks::<ENTRY>();
            for entry in entries {
                if !each(Page::from_entry(u64::from_ne_bytes(*entry))) {
                    return Ok(());
                }
            }
            done += count;
        }
        Ok(())
    }

    /// The page at `address`.
    pub(crate) fn page(&self, address: u64) -> io::Result<Page> {
        let mut page = Page::Absent;
        self.for_each(address, 1, |found| {
            page = found;
            true
        })?;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_states_apart() {
        assert_eq!(Page::from_entry(0), Page::Absent);
        assert_eq!(Page::from_entry(SWAPPED | 77), Page::Swapped);
        assert_eq!(Page::from_entry(PRESENT | (1 << 61)), Page::Hidden);
        assert_eq!(
            Page::from_entry(PRESENT | (1 << 55) | 0x1234),
            Page::Frame(0x1234)
        );
    }
}
