//! Little-endian words and text inside private byte buffers. It never looks at
//! shared memory: what it reads has been copied already.

/// The word at `offset`, or zero where the buffer ends before it.
#[must_use]
pub fn word_at(bytes: &[u8], offset: usize) -> u64 {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk::<8>())
        .map_or(0, |word| u64::from_le_bytes(*word))
}

/// Puts a word at `offset`; does nothing where the buffer ends before it.
pub fn put_word(bytes: &mut [u8], offset: usize, value: u64) {
    if let Some(slot) = bytes
        .get_mut(offset..)
        .and_then(|rest| rest.first_chunk_mut::<8>())
    {
        *slot = value.to_le_bytes();
    }
}

/// Text of at most `N` bytes, as it crosses the border: printable ASCII only, so
/// that a peer cannot reach the terminal that shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    /// Takes the printable ASCII of `text`, with `?` for every other character, and
    /// drops what goes beyond `N` bytes.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut result = Self::default();
        for (slot, character) in result.bytes.iter_mut().zip(text.chars()) {
            *slot = match u8::try_from(character) {
                Ok(byte) if (b' '..=b'~').contains(&byte) => byte,
                _ => b'?',
            };
            result.length += 1;
        }
        result
    }

    /// Reads text that the peer wrote: up to the first zero byte, with `?` for
    /// whatever is not printable ASCII.
    #[must_use]
    pub fn from_untrusted(bytes: &[u8]) -> Self {
        let mut result = Self::default();
        for (slot, byte) in result
            .bytes
            .iter_mut()
            .zip(bytes.iter().take_while(|byte| **byte != 0))
        {
            *slot = if (b' '..=b'~').contains(byte) {
                *byte
            } else {
                b'?'
            };
            result.length += 1;
        }
        result
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII was ever stored.
        core::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The text's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// All `N` bytes, filled up with zeros.
    #[must_use]
    pub const fn padded(&self) -> &[u8; N] {
        &self.bytes
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_text_cannot_carry_terminal_controls() {
        let text = Text::<16>::from_untrusted(b"a\x1b[2Jb\x07\xff\0rest");
        assert_eq!(text.as_str(), "a?[2Jb??");
        assert_eq!(Text::<3>::new("äbcd").as_str(), "?bc");
    }

    #[test]
    fn words_outside_the_buffer_read_as_zero() {
        let mut bytes = [0xff_u8; 12];
        put_word(&mut bytes, 0, 7);
        put_word(&mut bytes, 8, 7);
        assert_eq!(word_at(&bytes, 0), 7);
        assert_eq!(word_at(&bytes, 8), 0);
        assert_eq!(word_at(&bytes, usize::MAX), 0);
    }
}
