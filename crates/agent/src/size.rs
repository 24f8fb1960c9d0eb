//! Sizes as the command line takes them: decimal or `0x…`, with K, M or G for
//! binary multiples. It refuses everything else rather than guess.

/// Why a text is no size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    /// Empty, or not a number with at most one unit behind it.
    #[error("not a size: use decimal or 0x…, with K, M or G for binary multiples (64M)")]
    NotANumber,
    /// More bytes than 64 bits can count.
    #[error("the size is larger than any memory")]
    TooLarge,
}

/// The number of bytes that `text` stands for.
pub(crate) fn parse(text: &str) -> Result<u64, SizeError> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number = parse_number(digits)?;
    number.checked_mul(1 << unit).ok_or(SizeError::TooLarge)
}

/// A plain number: decimal, or hexadecimal behind `0x`.
pub(crate) fn parse_number(text: &str) -> Result<u64, SizeError> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(rest) => (rest, 16),
        None => (text, 10),
    };
    // `from_str_radix` would also take a sign.
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(SizeError::NotANumber);
    }
    u64::from_str_radix(digits, radix).map_err(|_| SizeError::TooLarge)
}

/// A size for people: the largest binary unit that divides it, else one decimal.
pub(crate) fn show(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let one = 1_u64 << shift;
        if bytes >= one {
            let tenths = (bytes % one) * 10 / one;
            return if tenths == 0 {
                format!("{} {unit}", bytes / one)
            } else {
                format!("{}.{tenths} {unit}", bytes / one)
            };
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_promised() {
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("0x1000"), Ok(4096));
        assert_eq!(parse("64K"), Ok(64 << 10));
        assert_eq!(parse("64m"), Ok(64 << 20));
        assert_eq!(parse("3G"), Ok(3 << 30));
        assert_eq!(parse("0x10M"), Ok(16 << 20));
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "", "M", "-1", "+1", "1.5M", "1T", "1 M", "0x", "0xg", "1MM", "ä", "1é",
        ] {
            assert_eq!(parse(text), Err(SizeError::NotANumber), "{text}");
        }
        assert_eq!(parse("18446744073709551616"), Err(SizeError::TooLarge));
        assert_eq!(parse("18446744073709551615K"), Err(SizeError::TooLarge));
    }

    #[test]
    fn shows_sizes() {
        assert_eq!(show(512), "512 bytes");
        assert_eq!(show(4096), "4 KiB");
        assert_eq!(show(64 << 20), "64 MiB");
        assert_eq!(show((1 << 30) + (1 << 29)), "1.5 GiB");
    }
}
