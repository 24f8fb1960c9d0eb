//! Guest-physical addresses and runs of them, as types of their own, so that no
//! other kind of address can be passed in their place.

use core::fmt;

/// What the guest calls a physical address, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GuestPhysical(pub u64);

impl GuestPhysical {
    /// The address `bytes` further on, or nothing where the number would overflow.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// Whether the address is a multiple of `alignment` (a power of two).
    #[must_use]
    pub const fn is_aligned_to(self, alignment: u64) -> bool {
        self.0 & (alignment - 1) == 0
    }
}

impl fmt::Display for GuestPhysical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A run of consecutive guest-physical bytes. Regions are lists of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Extent {
    /// First byte.
    pub start: GuestPhysical,
    /// Length in bytes.
    pub length: u64,
}

impl Extent {
    /// The first address after the run, or nothing where the number would overflow.
    #[must_use]
    pub const fn end(&self) -> Option<GuestPhysical> {
        self.start.checked_add(self.length)
    }

    /// Whether `address` lies in the run.
    #[must_use]
    pub const fn contains(&self, address: GuestPhysical) -> bool {
        address.0 >= self.start.0 && address.0 - self.start.0 < self.length
    }
}
