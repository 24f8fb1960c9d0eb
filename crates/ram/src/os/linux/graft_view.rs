//! A grafted region as memory: a file that holds the region and nothing else, which comes
//! by descriptor, and is lent the same way.

use std::sync::Arc;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use vmshm_shm::{MapError, Mapping, Piece, Protection, SharedMemory};

use super::backing_file::BackingFile;
use crate::view::View;

impl View {
    /// Maps a file that holds a region and nothing else: a graft.
    ///
    /// # Errors
    /// What the system says.
    pub fn of_file(file: OwnedFd, size: u64, protection: Protection) -> Result<Self, MapError> {
        let whole = Piece {
            offset: 0,
            length: size,
        };
        let mapping = Mapping::new(&file, &[whole], protection)?;
        let graft = Arc::new(BackingFile::of_graft(file));
        Ok(Self::linear(mapping).over_grafts(vec![graft]))
    }

    /// Lets go of all files that it maps, with zeros of this process's own in their place, and
    /// writes nothing any more where it copies: nobody sees what is written.
    ///
    /// # Errors
    /// What the system says; some of it may stay mapped then.
    pub fn abandon(&self) -> Result<(), MapError> {
        self.stop_copying();
        self.mappings().try_for_each(Mapping::abandon)
    }

    /// The file of a region that is grafted, if that is what it is a view of.
    #[must_use]
    pub fn graft(&self) -> Option<BorrowedFd<'_>> {
        let [file] = self.grafts() else {
            return None;
        };
        file.has_size(self.size()).then(|| file.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, Mode, fchmod, ftruncate, memfd_create};

    #[test]
    fn an_abandoned_view_reaches_nobody() {
        let file = memfd_create("vmshm-left", MemfdFlags::CLOEXEC).expect("a file");
        ftruncate(&file, 8192).expect("its size");
        let other = rustix::io::dup(&file).expect("a copy");
        let view = View::of_file(file, 8192, Protection::ReadWrite).expect("mapped");
        view.store_relaxed(4096, 7).expect("stored");
        view.abandon().expect("let go of");
        assert_eq!(view.load_relaxed(4096), Ok(0));
        view.store_relaxed(4096, 8).expect("nobody's");
        let mut seen = [0; 8];
        rustix::io::pread(&other, &mut seen, 4096).expect("read");
        assert_eq!(seen, 7_u64.to_ne_bytes());
        let maps = std::fs::read_to_string("/proc/self/maps").expect("ours");
        assert!(!maps.contains("vmshm-left"), "{maps}");
    }

    #[test]
    fn a_graft_is_memory_until_it_is_cut_off() {
        let file = memfd_create("vmshm-view", MemfdFlags::CLOEXEC).expect("a file");
        ftruncate(&file, 8192).expect("its size");
        let other = rustix::io::dup(&file).expect("a copy");
        let view = View::of_file(file, 8192, Protection::ReadWrite).expect("mapped");
        view.store_relaxed(4096, 7).expect("stored");
        let mut seen = [0; 8];
        rustix::io::pread(&other, &mut seen, 4096).expect("read");
        assert_eq!(seen, 7_u64.to_ne_bytes());
        assert!(view.lies_in_grafts() && view.graft().is_some() && !view.is_cut_off());
        fchmod(&other, Mode::empty()).expect("it is ours");
        assert!(view.is_cut_off());
        assert_eq!(view.load_relaxed(4096), Ok(7));
    }
}
