//! Random bytes as a stream that can be made twice, and their hashes.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// A stream of random bytes, the same for the same seed.
#[derive(Debug, Clone)]
pub struct RandomBytes {
    state: u64,
}

impl RandomBytes {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed | 1 }
    }

    /// A seed that nobody has seen before.
    ///
    /// # Panics
    /// When the system has no random numbers.
    #[must_use]
    pub fn fresh_seed() -> u64 {
        getrandom::u64().expect("the system has random numbers")
    }

    /// The stream's next bytes; whole words only.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            // xorshift64*
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let value = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            word.copy_from_slice(&value[..word.len()]);
        }
    }

    /// The next `count` bytes.
    #[must_use]
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }
}

/// The sha256 of some bytes, as `sha256sum` prints it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
