//! What `vmshm listen` and programs of its user say to each other over a Unix socket that
//! keeps datagrams apart. Both are this host's, and mostly of one version; a datagram that
//! is not understood ends the connection.
//!
//! ```text
//! number  from      then, 8 bytes each
//! 1       program   Register: format, VMM's process number, its start time
//! 2       listener  Registered
//! 3       both      Bell: region's number
//! ```
//!
//! All numbers are eight bytes, little-endian.

use std::path::{Path, PathBuf};

/// The longest datagram, and one byte more would be too long.
pub(crate) const MAX_DATAGRAM: usize = 32;
/// The format that both sides must speak.
const FORMAT: u64 = 1;

const REGISTER: u64 = 1;
const REGISTERED: u64 = 2;
const BELL: u64 = 3;

/// A VMM's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vmm {
    /// Its number.
    pub pid: u32,
    /// When it started, so that nobody takes another process of that number for it.
    pub start_time: u64,
}

/// A datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Datagram {
    /// The program's VM is this one.
    Register(Vmm),
    /// Its bells go there and come from there.
    Registered,
    /// There may be something new in this region.
    Bell(u64),
}

impl Datagram {
    /// What is sent.
    pub(crate) fn encode(self) -> Vec<u8> {
        let words = match self {
            Self::Register(vmm) => vec![REGISTER, FORMAT, u64::from(vmm.pid), vmm.start_time],
            Self::Registered => vec![REGISTERED],
            Self::Bell(region) => vec![BELL, region],
        };
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    /// Nothing for bytes that are none of this format.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (words, []) = bytes.as_chunks::<8>() else {
            return None;
        };
        let words: Vec<u64> = words.iter().copied().map(u64::from_le_bytes).collect();
        match words[..] {
            [REGISTER, FORMAT, pid, start_time] => Some(Self::Register(Vmm {
                pid: u32::try_from(pid).ok()?,
                start_time,
            })),
            [REGISTERED] => Some(Self::Registered),
            [BELL, region] => Some(Self::Bell(region)),
            _ => None,
        }
    }
}

/// Where the listener with this process number takes programs, in its user's directory.
pub(crate) fn socket_in(directory: &Path, listener: u32) -> PathBuf {
    directory.join(format!("bells-{listener}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_read_as_they_were_written_and_others_are_none() {
        let vmm = Vmm {
            pid: 7,
            start_time: u64::MAX,
        };
        for datagram in [
            Datagram::Register(vmm),
            Datagram::Registered,
            Datagram::Bell(0),
            Datagram::Bell(u64::MAX),
        ] {
            let bytes = datagram.encode();
            assert!(bytes.len() <= MAX_DATAGRAM);
            assert_eq!(Datagram::decode(&bytes), Some(datagram));
            assert_eq!(Datagram::decode(&bytes[1..]), None);
            assert_eq!(Datagram::decode(&[&bytes[..], &[0; 8]].concat()), None);
        }
        for odd in [&[][..], &[0; 8], &[0xff; 16], b"GET / HTTP/1.1\r\n"] {
            assert_eq!(Datagram::decode(odd), None);
        }
        let mut other = Datagram::Register(vmm).encode();
        other[8] = 9;
        assert_eq!(Datagram::decode(&other), None, "another format");
    }
}
