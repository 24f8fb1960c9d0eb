//! Sizes as people read them. How users write them is the wire's business
//! (`vmshm_link::quantity`), the same on both sides.

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
    fn shows_sizes() {
        assert_eq!(show(512), "512 bytes");
        assert_eq!(show(4096), "4 KiB");
        assert_eq!(show(64 << 20), "64 MiB");
        assert_eq!(show((1 << 30) + (1 << 29)), "1.5 GiB");
    }
}
