//! The protocol's version, and which other versions this side can talk to.

use core::fmt;

use crate::error::LinkError;

/// A protocol version. Equal majors work together: a newer minor only adds what an
/// older side does not look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Raised when an older side would misread the memory.
    pub major: u32,
    /// Raised when something is added.
    pub minor: u32,
}

/// The version that this crate speaks.
pub const VERSION: Version = Version { major: 1, minor: 2 };

impl Version {
    /// One word: the major in the upper half.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        (self.major as u64) << 32 | self.minor as u64
    }

    /// The inverse of [`Version::to_word`].
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "each half is exactly 32 bits"
    )]
    pub const fn from_word(word: u64) -> Self {
        Self {
            major: (word >> 32) as u32,
            minor: word as u32,
        }
    }

    /// Accepts every version with the same major number.
    ///
    /// # Errors
    /// [`LinkError::Incompatible`], naming both versions.
    pub const fn accept(theirs: Self) -> Result<(), LinkError> {
        if theirs.major == VERSION.major {
            Ok(())
        } else {
            Err(LinkError::Incompatible {
                ours: VERSION,
                theirs,
            })
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_minor_is_accepted_and_another_major_refused_with_both_numbers() {
        let newer = Version {
            major: VERSION.major,
            minor: 77,
        };
        assert_eq!(Version::accept(newer), Ok(()));
        assert_eq!(Version::from_word(newer.to_word()), newer);
        let other = Version { major: 9, minor: 3 };
        assert_eq!(
            Version::accept(other),
            Err(LinkError::Incompatible {
                ours: VERSION,
                theirs: other
            })
        );
    }
}
