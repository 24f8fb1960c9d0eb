//! Texts as the native calls answer them: a `UNICODE_STRING` (`ntdef.h`) whose characters lie
//! in the same buffer. A pointer that leads out of the buffer is refused.

/// The length of a `UNICODE_STRING` of a 64-bit system.
const LENGTH: usize = 16;

/// The text whose `UNICODE_STRING` stands at `at` in `bytes`, which the system filled in where
/// they had the address `base`.
pub(super) fn text(bytes: &[u8], base: u64, at: usize) -> Option<String> {
    let header = bytes.get(at..at.checked_add(LENGTH)?)?;
    let length = usize::from(u16::from_le_bytes(*header.first_chunk()?));
    let pointer = u64::from_le_bytes(*header.get(8..)?.first_chunk()?);
    if length == 0 {
        return Some(String::new());
    }
    let start = usize::try_from(pointer.checked_sub(base)?).ok()?;
    let characters = bytes.get(start..start.checked_add(length)?)?;
    let units = characters.chunks_exact(2);
    let units: Vec<u16> = units
        .filter_map(|pair| Some(u16::from_le_bytes(*pair.first_chunk()?)))
        .collect();
    Some(String::from_utf16_lossy(&units))
}

/// A text as the system's functions take it: ended by a zero.
#[cfg(windows)]
pub(super) fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain(std::iter::once(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::text;

    fn string(length: u16, pointer: u64, characters: &str) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes[..2].copy_from_slice(&length.to_le_bytes());
        bytes[8..16].copy_from_slice(&pointer.to_le_bytes());
        bytes.extend(characters.encode_utf16().flat_map(u16::to_le_bytes));
        bytes
    }

    #[test]
    fn a_text_is_read_and_one_outside_is_refused() {
        let base = 0x1000;
        let good = string(8, base + 16, "abcd");
        assert_eq!(text(&good, base, 0).as_deref(), Some("abcd"));
        assert_eq!(text(&string(0, 0, ""), base, 0).as_deref(), Some(""));
        for (length, pointer) in [
            (10, base + 16),
            (2, base - 1),
            (2, base + 24),
            (2, u64::MAX),
            (u16::MAX, base),
        ] {
            assert_eq!(text(&string(length, pointer, "abcd"), base, 0), None);
        }
        assert_eq!(text(&good, base, 1 << 20), None);
        assert_eq!(text(&good, base, usize::MAX), None);
    }
}
