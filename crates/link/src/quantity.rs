//! Numbers and sizes as users of both sides write them: decimal or `0x…`, and for
//! sizes a `K`, `M` or `G` (powers of 1024) at the end.

/// Why a text is no number or size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number at all.
    #[error("expected a number such as 4096 or 0x1000")]
    NotANumber,
    /// Not a size.
    #[error("expected a size such as 65536, 0x10000, 64K, 16M or 1G")]
    NotASize,
    /// More than 64 bits.
    #[error("the number is too large")]
    TooLarge,
}

/// Reads a number.
///
/// # Errors
/// [`QuantityError`].
pub fn parse_number(text: &str) -> Result<u64, QuantityError> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    // The standard parser would take a sign.
    if digits.is_empty() || !digits.bytes().all(|byte| char::from(byte).is_digit(radix)) {
        return Err(QuantityError::NotANumber);
    }
    u64::from_str_radix(digits, radix).map_err(|_| QuantityError::TooLarge)
}

/// Reads a size in bytes.
///
/// # Errors
/// [`QuantityError`].
pub fn parse_size(text: &str) -> Result<u64, QuantityError> {
    let shift = match text.bytes().last() {
        Some(b'k' | b'K') => 10,
        Some(b'm' | b'M') => 20,
        Some(b'g' | b'G') => 30,
        _ => 0,
    };
    let digits = if shift == 0 {
        text
    } else {
        text.get(..text.len() - 1).unwrap_or_default()
    };
    let number = parse_number(digits).map_err(|error| match error {
        QuantityError::NotANumber => QuantityError::NotASize,
        other => other,
    })?;
    number
        .checked_mul(1 << shift)
        .ok_or(QuantityError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes_read_as_users_write_them() {
        assert_eq!(parse_number("4096"), Ok(4096));
        assert_eq!(parse_number("0x1F"), Ok(31));
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("0x10m"), Ok(16 << 20));
        assert_eq!(parse_size("1G"), Ok(1 << 30));
        assert_eq!(parse_size("0"), Ok(0));
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "", "0x", "+1", "-1", "1.5", "K", "1KB", "0xg", " 1", "1 M", "ä",
        ] {
            assert!(parse_size(text).is_err(), "{text:?}");
            assert!(parse_number(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_size("99999999999G"), Err(QuantityError::TooLarge));
        assert_eq!(
            parse_number("99999999999999999999"),
            Err(QuantityError::TooLarge)
        );
    }
}
