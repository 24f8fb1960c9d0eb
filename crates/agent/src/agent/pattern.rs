//! The pattern by which a host proves a new region's pages: written and cleared in
//! slices, with a heartbeat in between, since a large region takes longer than a
//! watching host would wait.

use vmshm_link::LinkError;
use vmshm_link::proof::{PATTERN_BYTES, page_pattern};
use vmshm_shm::{PAGE_SIZE, SharedMemory};

use crate::window::Window;

const SLICE: u64 = 8 << 20;

/// Writes the pattern of `key` into every page.
pub(crate) fn write(
    memory: &Window,
    key: u64,
    region: u64,
    progress: &mut dyn FnMut() -> Result<(), LinkError>,
) -> Result<(), LinkError> {
    each_page(memory, progress, |page| page_pattern(key, region, page))
}

/// Removes it; the pages are all zero then.
pub(crate) fn clear(
    memory: &Window,
    progress: &mut dyn FnMut() -> Result<(), LinkError>,
) -> Result<(), LinkError> {
    each_page(memory, progress, |_| [0; PATTERN_BYTES])
}

fn each_page(
    memory: &Window,
    progress: &mut dyn FnMut() -> Result<(), LinkError>,
    bytes: impl Fn(u64) -> [u8; PATTERN_BYTES],
) -> Result<(), LinkError> {
    let mut at = 0;
    while at < memory.size() {
        let end = (at + SLICE).min(memory.size());
        memory.prefault(at, end - at);
        while at < end {
            memory.write(at, &bytes(at / PAGE_SIZE))?;
            at += PAGE_SIZE;
        }
        progress()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::fs::MemfdFlags;
    use vmshm_link::proof::verify_pattern;
    use vmshm_shm::Protection;

    use super::*;

    #[test]
    fn writes_what_the_wire_specifies_and_clears_it() {
        let length = SLICE + 2 * PAGE_SIZE;
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).expect("succeeds");
        rustix::fs::ftruncate(&file, length).expect("succeeds");
        let memory = Window::open(&file, 0, length, Protection::ReadWrite).expect("succeeds");
        let mut beats = 0;
        let mut progress = || {
            beats += 1;
            Ok(())
        };
        write(&memory, 3, 9, &mut progress).expect("succeeds");
        verify_pattern(&memory, 3, 9).expect("succeeds");
        clear(&memory, &mut progress).expect("succeeds");
        assert_eq!(beats, 4);
        let mut bytes = vec![1; usize::try_from(length).expect("succeeds")];
        memory.read(0, &mut bytes).expect("succeeds");
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}
