//! Connections over a serial line, which knows none: it has no beginning, no end, and may
//! carry what a boot loader or a login prompt says.
//!
//! ```text
//! 0   mark: 0x16 "vsh"
//! 4   number of the connection, 32 bits; 0: all of them
//! 8   kind, 16 bits: 1 knock, 2 data, 3 alive, 4 close
//! 10  payload's length, 16 bits; only data has one
//! 12  CRC-32 of bytes 4 to 11 and of the payload
//! 16  payload: a part of what would go over TCP
//! ```
//!
//! All numbers are little-endian. The agent knocks with a number that it has made up, and
//! knocks again until something of that number comes; a knock with a new number ends the
//! connection before it. A listener that starts closes all. Who hears of a connection that
//! it does not know closes it. The agent says now and then that it is alive, and the
//! listener says the same; who hears nothing for [`SILENCE_SECONDS`] gives up.
//!
//! A side may end in the middle of a frame. So whoever starts sends [`FLUSH`] first: that
//! completes whatever was begun, the checksum is wrong, and the search for a mark begins at
//! the next byte.

use crate::fields::{put_word, word_at};

/// The longest payload: a greeting and an announcement in one.
pub const MAX_CHUNK: usize = 160;
/// The longest frame.
pub const MAX_FRAME: usize = HEADER + MAX_CHUNK;
/// What completes any frame that was begun.
pub const FLUSH: [u8; MAX_FRAME] = [0; MAX_FRAME];
/// Time between two knocks.
pub const KNOCK_SECONDS: u64 = 1;
/// Time between two signs of life.
pub const ALIVE_SECONDS: u64 = 10;
/// After so long a silence the other side is gone.
pub const SILENCE_SECONDS: u64 = 30;

const MARK: [u8; 4] = [0x16, b'v', b's', b'h'];
const HEADER: usize = 16;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The agent wants a connection of this number.
    Knock,
    /// Bytes of a connection.
    Data,
    /// The connection is still wanted.
    Alive,
    /// The connection has ended.
    Close,
}

impl Kind {
    const fn number(self) -> u64 {
        match self {
            Self::Knock => 1,
            Self::Data => 2,
            Self::Alive => 3,
            Self::Close => 4,
        }
    }

    const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Knock,
            2 => Self::Data,
            3 => Self::Alive,
            4 => Self::Close,
            _ => return None,
        })
    }
}

/// A frame, with its payload.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// What it is for.
    pub kind: Kind,
    /// The connection's number; zero means all.
    pub connection: u32,
    bytes: [u8; MAX_FRAME],
    length: usize,
}

impl Frame {
    /// A frame; of the payload at most [`MAX_CHUNK`] bytes are taken.
    #[must_use]
    pub fn new(kind: Kind, connection: u32, payload: &[u8]) -> Self {
        let count = payload.len().min(MAX_CHUNK);
        let mut bytes = [0; MAX_FRAME];
        bytes[..4].copy_from_slice(&MARK);
        bytes[4..8].copy_from_slice(&connection.to_le_bytes());
        // The checksum's place is filled in below.
        put_word(&mut bytes, 8, kind.number() | (count as u64) << 16);
        bytes[HEADER..HEADER + count].copy_from_slice(&payload[..count]);
        let sum = checksum(&bytes[4..12], &bytes[HEADER..HEADER + count]);
        bytes[12..HEADER].copy_from_slice(&sum.to_le_bytes());
        Self {
            kind,
            connection,
            bytes,
            length: HEADER + count,
        }
    }

    /// The bytes to send.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// What it carries.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(HEADER..self.length).unwrap_or_default()
    }
}

/// CRC-32 as in IEEE 802.3, over both parts.
fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in head.iter().chain(payload) {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            let feedback = if sum & 1 == 1 { 0xedb8_8320 } else { 0 };
            sum = sum >> 1 ^ feedback;
        }
    }
    !sum
}

/// Finds frames in what a line brings. It holds one frame at most.
#[derive(Debug, Clone)]
pub struct Decoder {
    bytes: [u8; MAX_FRAME],
    filled: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            bytes: [0; MAX_FRAME],
            filled: 0,
        }
    }
}

impl Decoder {
    /// Where the next bytes go. Never empty after [`Decoder::take`] has given nothing.
    pub fn space(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.filled..).unwrap_or_default()
    }

    /// So many bytes were put into [`Decoder::space`].
    pub fn filled(&mut self, count: usize) {
        self.filled = self.filled.saturating_add(count).min(MAX_FRAME);
    }

    /// Takes the next frame; nothing where more bytes are needed. What is none is skipped.
    pub fn take(&mut self) -> Option<Frame> {
        loop {
            let there = self.bytes.get(..self.filled).unwrap_or_default();
            let start = (0..there.len())
                .find(|start| there[*start..].iter().zip(MARK).all(|(a, b)| *a == b))
                .unwrap_or(there.len());
            self.drop_first(start);
            let there = self.bytes.get(..self.filled).unwrap_or_default();
            let header = there.get(..HEADER)?;
            let count = usize::from(u16::from_le_bytes([header[10], header[11]]));
            if count > MAX_CHUNK {
                self.drop_first(1);
                continue;
            }
            let payload = there.get(HEADER..HEADER + count)?;
            let kind = Kind::from_number(word_at(header, 8) & 0xffff);
            let connection = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
            let frame = kind.map(|kind| Frame::new(kind, connection, payload));
            let Some(frame) = frame.filter(|frame| there.starts_with(frame.as_bytes())) else {
                self.drop_first(1);
                continue;
            };
            self.drop_first(HEADER + count);
            return Some(frame);
        }
    }

    fn drop_first(&mut self, count: usize) {
        self.bytes
            .copy_within(count.min(self.filled)..self.filled, 0);
        self.filled = self.filled.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn feed(bytes: &[u8], piece: usize) -> Vec<(Kind, u32, Vec<u8>)> {
        let mut decoder = Decoder::default();
        let mut rest = bytes;
        let mut out = Vec::new();
        while !rest.is_empty() {
            let space = decoder.space();
            assert!(!space.is_empty(), "a drained decoder takes more");
            let count = piece.max(1).min(space.len()).min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            decoder.filled(count);
            rest = &rest[count..];
            while let Some(frame) = decoder.take() {
                out.push((frame.kind, frame.connection, frame.payload().to_vec()));
            }
        }
        out
    }

    fn kind() -> impl Strategy<Value = Kind> {
        (1..=4_u64).prop_map(|number| Kind::from_number(number).expect("one"))
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(checksum(b"1234", b"56789"), 0xcbf4_3926);
    }

    proptest! {
        #[test]
        fn frames_arrive_however_they_are_cut_and_whatever_is_between(
            frames in prop::collection::vec(
                (kind(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..=MAX_CHUNK)), 0..8),
            noise in "[ -~\n]{0,80}",
            piece in 1_usize..300,
        ) {
            let mut bytes = Vec::new();
            for (kind, connection, payload) in &frames {
                bytes.extend(noise.as_bytes());
                bytes.extend(Frame::new(*kind, *connection, payload).as_bytes());
            }
            prop_assert_eq!(feed(&bytes, piece), frames);
        }

        #[test]
        fn after_a_flush_nothing_that_was_begun_is_in_the_way(
            payload in prop::collection::vec(any::<u8>(), 0..=MAX_CHUNK),
            cut in 0_usize..MAX_FRAME,
            noise in prop::collection::vec(any::<u8>(), 0..50),
            piece in 1_usize..300,
        ) {
            let begun = Frame::new(Kind::Data, 3, &payload);
            let begun = begun.as_bytes();
            let mut bytes = noise;
            bytes.extend(&begun[..cut.min(begun.len() - 1)]);
            bytes.extend(FLUSH);
            bytes.extend(Frame::new(Kind::Knock, 9, &[]).as_bytes());
            let last = feed(&bytes, piece).pop();
            prop_assert_eq!(last, Some((Kind::Knock, 9, Vec::new())));
        }

        #[test]
        fn no_bytes_cause_a_panic_or_a_frame_that_was_damaged(
            payload in prop::collection::vec(any::<u8>(), 1..=MAX_CHUNK),
            at in any::<prop::sample::Index>(),
            change in 1_u8..=255,
            noise in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let frame = Frame::new(Kind::Data, 3, &payload);
            let mut damaged = frame.as_bytes().to_vec();
            let place = at.index(damaged.len());
            damaged[place] ^= change;
            prop_assert_eq!(feed(&damaged, 7), Vec::new());
            let _ = feed(&noise, 50);
        }
    }
}
