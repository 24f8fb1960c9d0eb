//! A byte stream between two applications, over a ring whose ends come and go ([`ends`]).
//!
//! A stream belongs to one pair of ends: bytes that one program wrote must not be taken for
//! another's. So each stream starts with a record that says whom it is for and who writes
//! it, both as the agent counts the ends of a side ([`Presence`](crate::ends::Presence)):
//!
//! ```text
//!   start  reader's count (64) │ writer's count (64)
//!   data   1 byte or more, at most an eighth of the ring
//!   end    nothing: half-close
//! ```
//!
//! A reader skips everything up to a start with its own count: what is left there was for
//! a program before it. A second start ends its stream, whoever it is for: the writer was
//! replaced. Nothing that follows an end is looked at.
//!
//! [`ends`]: crate::ends

use vmshm_shm::SharedMemory;

use crate::error::LinkError;
use crate::fields::{put_word, word_at};
use crate::ring::{Consumer, HEADER, Producer, Record, RingLayout};

const START: u16 = 1;
const DATA: u16 = 2;
const END: u16 = 3;

/// Bytes of a start.
const START_BYTES: usize = 16;

/// How many records of others one look skips, so that no look lasts as long as a writer
/// likes.
const SKIPPED: usize = 64;

/// The writing end of an application's stream.
#[derive(Debug)]
pub struct AppStreamWriter<M> {
    ring: Producer<M>,
    started: bool,
    ended: bool,
}

impl<M: SharedMemory> AppStreamWriter<M> {
    /// Takes over a ring as the writer before this one left it.
    ///
    /// # Errors
    /// As [`Producer::resume`].
    pub fn resume(memory: M, layout: RingLayout) -> Result<Self, LinkError> {
        Ok(Self {
            ring: Producer::resume(memory, layout)?,
            started: false,
            ended: false,
        })
    }

    /// The longest data record: with its header an eighth of the ring, so that both ends
    /// are kept busy.
    #[must_use]
    pub const fn chunk(&self) -> usize {
        let eighth = self.ring.layout().capacity / 8;
        #[allow(clippy::cast_possible_truncation, reason = "a ring is at most 2 GiB")]
        let chunk = eighth.saturating_sub(HEADER) as usize;
        if chunk == 0 { 1 } else { chunk }
    }

    /// Starts the stream for the reader of count `reader`, as the writer of count `writer`;
    /// `false` while the ring is too full.
    ///
    /// # Errors
    /// What the peer or the memory did.
    pub fn try_start(&mut self, reader: u64, writer: u64) -> Result<bool, LinkError> {
        if !self.started {
            let mut payload = [0_u8; START_BYTES];
            put_word(&mut payload, 0, reader);
            put_word(&mut payload, 8, writer);
            self.started = self.ring.try_push(START, &payload)?;
        }
        Ok(self.started)
    }

    /// Writes as many of `bytes` as fit now, and says how many; zero while the ring is
    /// full, before the start, and after the end.
    ///
    /// # Errors
    /// What the peer or the memory did.
    pub fn try_write(&mut self, bytes: &[u8]) -> Result<usize, LinkError> {
        if !self.started || self.ended {
            return Ok(0);
        }
        let mut done = 0;
        for chunk in bytes.chunks(self.chunk()) {
            if !self.ring.try_push(DATA, chunk)? {
                break;
            }
            done += chunk.len();
        }
        Ok(done)
    }

    /// Ends the stream; `false` while the ring is too full, and before the start.
    ///
    /// # Errors
    /// What the peer or the memory did.
    pub fn try_end(&mut self) -> Result<bool, LinkError> {
        if self.started && !self.ended {
            self.ended = self.ring.try_push(END, &[])?;
        }
        Ok(self.ended)
    }

    /// Whether the start has been written.
    #[must_use]
    pub const fn has_started(&self) -> bool {
        self.started
    }

    /// Whether the end has been written.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the reader has taken everything.
    ///
    /// # Errors
    /// What the peer or the memory did.
    pub fn is_drained(&mut self) -> Result<bool, LinkError> {
        self.ring.is_drained()
    }
}

/// What a look at a stream gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// Nothing yet: records of others were skipped, and there may be more behind them.
    Skipped,
    /// The writer has ended the stream, and all of it has been read.
    End,
    /// Another stream starts, and this one had not ended: its writer is no more.
    Replaced,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No start with this reader's count yet.
    Before,
    Open,
    Over(Received),
}

/// The reading end of an application's stream.
#[derive(Debug)]
pub struct AppStreamReader<M> {
    ring: Consumer<M>,
    own: u64,
    phase: Phase,
    /// A record that was read up to here.
    open: Option<(Record, u64)>,
    writer: Option<u64>,
}

impl<M: SharedMemory> AppStreamReader<M> {
    /// Takes over a ring as the reader before this one left it. `own` is this reader's
    /// count.
    ///
    /// # Errors
    /// As [`Consumer::resume`].
    pub fn resume(memory: M, layout: RingLayout, own: u64) -> Result<Self, LinkError> {
        Ok(Self {
            ring: Consumer::resume(memory, layout)?,
            own,
            phase: Phase::Before,
            open: None,
            writer: None,
        })
    }

    /// The writer's count, once its start has been seen.
    #[must_use]
    pub const fn writer(&self) -> Option<u64> {
        self.writer
    }

    /// Reads what is there into `into`, at most one record's worth. With an empty `into` it
    /// gives `Bytes(0)` while there are bytes.
    ///
    /// # Errors
    /// What the peer or the memory did.
    pub fn try_read(&mut self, into: &mut [u8]) -> Result<Received, LinkError> {
        for _ in 0..SKIPPED {
            if let Phase::Over(outcome) = self.phase {
                return Ok(outcome);
            }
            let (record, offset) = match self.open {
                Some(open) => open,
                None => match self.ring.peek()? {
                    None => return Ok(Received::Nothing),
                    Some(record) => (record, 0),
                },
            };
            match (record.kind, self.phase) {
                (DATA, Phase::Open) if record.length > 0 => {
                    return self.read_data(record, offset, into).map(Received::Bytes);
                }
                (END, Phase::Open) if record.length == 0 => {
                    self.ring.release(record)?;
                    self.phase = Phase::Over(Received::End);
                }
                (START, Phase::Open) => self.phase = Phase::Over(Received::Replaced),
                (START, Phase::Before) if record.length == START_BYTES as u64 => {
                    let mut payload = [0_u8; START_BYTES];
                    self.ring.read(record, 0, &mut payload)?;
                    self.ring.release(record)?;
                    if word_at(&payload, 0) == self.own {
                        self.writer = Some(word_at(&payload, 8));
                        self.phase = Phase::Open;
                    }
                }
                (DATA | END, Phase::Before) => self.ring.release(record)?,
                (other, _) => {
                    return Err(LinkError::Violation {
                        what: "a stream record's kind, for its length,",
                        value: u64::from(other),
                    });
                }
            }
        }
        Ok(Received::Skipped)
    }

    fn read_data(
        &mut self,
        record: Record,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, LinkError> {
        let count = self.ring.read(record, offset, into)?;
        let offset = offset + count as u64;
        self.open = if offset == record.length {
            self.ring.release(record)?;
            None
        } else {
            Some((record, offset))
        };
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::vec::Vec;

    use super::*;
    use crate::duplex::Side;
    use vmshm_shm::LocalMemory;

    type Ends = (
        AppStreamWriter<Arc<LocalMemory>>,
        AppStreamReader<Arc<LocalMemory>>,
    );

    fn ends(memory: &Arc<LocalMemory>, reader: u64) -> Ends {
        let layout = RingLayout::in_region(memory.size(), Side::Host).expect("fits");
        let writer = AppStreamWriter::resume(Arc::clone(memory), layout).expect("fits");
        let reader = AppStreamReader::resume(Arc::clone(memory), layout, reader).expect("fits");
        (writer, reader)
    }

    fn memory() -> Arc<LocalMemory> {
        Arc::new(LocalMemory::new(3 * 4096))
    }

    #[test]
    fn bytes_come_in_order_and_end() {
        let (mut writer, mut reader) = ends(&memory(), 1);
        assert_eq!(writer.try_write(b"too early"), Ok(0));
        assert_eq!(writer.try_end(), Ok(false));
        assert_eq!(writer.try_start(1, 5), Ok(true));
        let sent: Vec<u8> = (0..1500)
            .map(|number: u32| number.to_le_bytes()[0])
            .collect();
        assert_eq!(writer.try_write(&sent), Ok(1500));
        assert_eq!(writer.try_end(), Ok(true));
        assert_eq!(writer.try_write(b"late"), Ok(0));
        let mut received = Vec::new();
        let mut part = [0; 100];
        while let Received::Bytes(count) = reader.try_read(&mut part).expect("honest") {
            received.extend_from_slice(&part[..count]);
        }
        assert_eq!(received, sent);
        assert_eq!(reader.try_read(&mut part), Ok(Received::End));
        assert_eq!(reader.writer(), Some(5));
    }

    #[test]
    fn a_reader_takes_nothing_that_was_for_another() {
        let memory = memory();
        let (mut writer, mut first) = ends(&memory, 1);
        let mut part = [0; 8];
        writer.try_start(1, 1).expect("room");
        writer.try_write(b"for one").expect("room");
        assert_eq!(first.try_read(&mut part[..3]), Ok(Received::Bytes(3)));
        let (mut second_writer, mut second) = ends(&memory, 2);
        assert_eq!(second.try_read(&mut part), Ok(Received::Nothing));
        assert_eq!(second.writer(), None);
        second_writer.try_start(2, 2).expect("room");
        second_writer.try_write(b"two").expect("room");
        assert_eq!(second.try_read(&mut part), Ok(Received::Bytes(3)));
        assert_eq!(&part[..3], b"two");
    }

    #[test]
    fn a_second_start_ends_the_stream_after_its_bytes() {
        let memory = memory();
        let (mut writer, mut reader) = ends(&memory, 1);
        writer.try_start(1, 1).expect("room");
        writer.try_write(b"a").expect("room");
        let (mut next, _) = ends(&memory, 1);
        next.try_start(1, 2).expect("room");
        let mut part = [0; 8];
        assert_eq!(reader.try_read(&mut part), Ok(Received::Bytes(1)));
        assert_eq!(reader.try_read(&mut part), Ok(Received::Replaced));
        assert_eq!(reader.try_read(&mut part), Ok(Received::Replaced));
    }

    #[test]
    fn records_that_no_stream_has_are_refused() {
        for (kind, payload) in [(DATA, &b""[..]), (END, b"x"), (9, b"x"), (0, b"")] {
            let memory = memory();
            let (mut writer, mut reader) = ends(&memory, 1);
            writer.try_start(1, 1).expect("room");
            writer.ring.try_push(kind, payload).expect("room");
            assert!(reader.try_read(&mut [0; 8]).is_err(), "kind {kind}");
        }
        let (mut writer, mut reader) = ends(&memory(), 1);
        writer.ring.try_push(START, b"short").expect("room");
        assert!(reader.try_read(&mut [0; 8]).is_err());
    }

    #[test]
    fn one_look_skips_a_bounded_number_of_records() {
        let (mut writer, mut reader) = ends(&memory(), 2);
        writer.try_start(1, 1).expect("room");
        let mut skipped = 1;
        while writer.try_write(b"x") == Ok(1) {
            skipped += 1;
        }
        assert!(skipped > SKIPPED);
        assert_eq!(reader.try_read(&mut [0; 8]), Ok(Received::Skipped));
        assert_eq!(writer.is_drained(), Ok(false));
    }
}
