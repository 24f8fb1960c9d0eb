//! Checksums and mixing of words: protection against accidents and stale copies,
//! not against a peer who wants to deceive (that peer owns the memory anyway).

/// FNV-1a, 64 bits, over `bytes` (constants: the algorithm's reference page by
/// Fowler, Noll and Vo).
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Mixes two words into one in which every input bit counts (the finalizer of
/// Steele, Lea and Flood's SplitMix64).
#[must_use]
pub const fn mix(first: u64, second: u64) -> u64 {
    let mut z = first
        .wrapping_add(second.rotate_left(32))
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^= second;
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_matches_the_published_value() {
        assert_eq!(checksum(b"a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn mix_depends_on_order_and_on_every_input() {
        assert_ne!(mix(1, 2), mix(2, 1));
        assert_ne!(mix(0, 0), 0);
        for bit in 0..64 {
            assert_ne!(mix(1 << bit, 7), mix(0, 7));
            assert_ne!(mix(7, 1 << bit), mix(7, 0));
        }
    }
}
