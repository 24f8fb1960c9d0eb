//! How a host proves that it looks at the guest's own pages.
//!
//! Two proofs, for two kinds of page. A session's *nonce* comes back mixed with
//! numbers that only the living agent knows. A new region's pages carry a *pattern*
//! keyed by numbers from the session, so that a page that the host sees in the wrong
//! place, or an old copy, is noticed page by page.

use vmshm_shm::SharedMemory;

use crate::beacon::PAGE;
use crate::error::LinkError;
use crate::fields::{put_word, word_at};
use crate::mix::mix;

/// Bytes at the start of each page of a new region that carry the pattern.
pub const PATTERN_BYTES: usize = 16;

/// What the agent answers to a host's nonce.
#[must_use]
pub const fn nonce_echo(nonce: u64, token: u64, session: u64, epoch: u64) -> u64 {
    mix(mix(nonce, token), mix(session, epoch))
}

/// The pattern of page `page` of a region.
#[must_use]
pub fn page_pattern(key: u64, region: u64, page: u64) -> [u8; PATTERN_BYTES] {
    let mut bytes = [0; PATTERN_BYTES];
    let first = mix(key, mix(region, page));
    put_word(&mut bytes, 0, first);
    put_word(&mut bytes, 8, mix(first, page));
    bytes
}

/// Writes the pattern into every page of a region (the agent, at its creation).
///
/// # Errors
/// [`LinkError::Fault`] when the memory cannot be reached.
pub fn write_pattern<M: SharedMemory>(memory: &M, key: u64, region: u64) -> Result<(), LinkError> {
    for page in 0..memory.size() / PAGE {
        memory.write(page * PAGE, &page_pattern(key, region, page))?;
    }
    Ok(())
}

/// Removes the pattern (the agent, once a host has seen it).
///
/// # Errors
/// [`LinkError::Fault`] when the memory cannot be reached.
pub fn clear_pattern<M: SharedMemory>(memory: &M) -> Result<(), LinkError> {
    for page in 0..memory.size() / PAGE {
        memory.write(page * PAGE, &[0; PATTERN_BYTES])?;
    }
    Ok(())
}

/// Checks the pattern of every page of a region (the host, before its first use).
///
/// # Errors
/// [`LinkError::Violation`] naming the first page that does not carry it.
pub fn verify_pattern<M: SharedMemory>(memory: &M, key: u64, region: u64) -> Result<(), LinkError> {
    for page in 0..memory.size() / PAGE {
        let mut seen = [0; PATTERN_BYTES];
        memory.read(page * PAGE, &mut seen)?;
        if seen != page_pattern(key, region, page) {
            return Err(LinkError::Violation {
                what: "the first word of a region's page, which should carry its proof,",
                value: word_at(&seen, 0),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmshm_shm::LocalMemory;

    #[test]
    fn a_page_in_the_wrong_place_fails_the_proof() {
        let memory = LocalMemory::new(4 * 4096);
        write_pattern(&memory, 5, 6).expect("written");
        assert_eq!(verify_pattern(&memory, 5, 6), Ok(()));
        assert!(verify_pattern(&memory, 5, 7).is_err());
        let mut first = [0; 16];
        memory.read(0, &mut first).expect("read");
        memory.write(2 * 4096, &first).expect("written");
        assert!(verify_pattern(&memory, 5, 6).is_err());
        clear_pattern(&memory).expect("cleared");
        memory.read(4096, &mut first).expect("read");
        assert_eq!(first, [0; 16]);
    }
}
