//! The pattern by which a host proves a new region's pages: written and cleared in
//! slices, with a heartbeat in between, since a large region takes longer than a
//! watching host would wait.
//!
//! Nobody else writes to the pages meanwhile, so whole pages are written, by system
//! calls: touching each page through a mapping would cost some 100 µs a page under
//! user-mode Linux. Files of huge pages cannot be written so, and are mapped.

use std::os::fd::AsFd;

use rustix::io::Errno;
use vmshm_link::LinkError;
use vmshm_link::proof::{PATTERN_BYTES, page_pattern};
use vmshm_shm::{MapError, PAGE_SIZE, Protection, SharedMemory};

use crate::window::Window;

const SLICE: u64 = 1 << 20;
const PAGE: usize = 4096;

const _: () = assert!(PAGE as u64 == PAGE_SIZE);

/// Why a region's pages could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PatternError {
    /// The heartbeat in between, or the mapping.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The pages could not be mapped.
    #[error("cannot map a region: {0}")]
    Map(#[from] MapError),
    /// The file could not be written.
    #[error("cannot write a region's pages: {0}")]
    Write(Errno),
}

/// Called between two slices.
type Progress<'a> = &'a mut dyn FnMut() -> Result<(), LinkError>;

/// Writes the pattern of `key` into every page of a region's file; the rest of the
/// pages becomes zero.
pub(crate) fn write(
    file: impl AsFd,
    size: u64,
    key: u64,
    region: u64,
    progress: Progress<'_>,
) -> Result<(), PatternError> {
    fill(file, size, progress, |page| page_pattern(key, region, page))
}

/// Removes it; the pages are all zero then.
pub(crate) fn clear(
    file: impl AsFd,
    size: u64,
    progress: Progress<'_>,
) -> Result<(), PatternError> {
    fill(file, size, progress, |_| [0; PATTERN_BYTES])
}

fn fill(
    file: impl AsFd,
    size: u64,
    progress: Progress<'_>,
    bytes: impl Fn(u64) -> [u8; PATTERN_BYTES],
) -> Result<(), PatternError> {
    let mut buffer = Vec::new();
    let mut window = None;
    let mut at = 0;
    while at < size {
        let slice = SLICE.min(size - at);
        // A slice always fits.
        buffer.resize(usize::try_from(slice).unwrap_or_default(), 0);
        for (page, place) in (at / PAGE_SIZE..).zip(buffer.as_chunks_mut::<PAGE>().0) {
            place[..PATTERN_BYTES].copy_from_slice(&bytes(page));
        }
        match &window {
            None => match write_all(&file, &buffer, at) {
                Err(Errno::INVAL) => {
                    window = Some(Window::open(&file, 0, size, Protection::ReadWrite)?);
                    continue;
                }
                result => result.map_err(PatternError::Write)?,
            },
            Some(window) => window.write(at, &buffer).map_err(LinkError::from)?,
        }
        at += slice;
        progress()?;
    }
    Ok(())
}

fn write_all(file: impl AsFd, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(&file, &bytes[done..], offset + done as u64) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::fs::MemfdFlags;
    use vmshm_link::proof::verify_pattern;

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
        write(&file, length, 3, 9, &mut progress).expect("succeeds");
        verify_pattern(&memory, 3, 9).expect("succeeds");
        clear(&file, length, &mut progress).expect("succeeds");
        assert_eq!(beats, 4);
        let mut bytes = vec![1; usize::try_from(length).expect("succeeds")];
        memory.read(0, &mut bytes).expect("succeeds");
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}
