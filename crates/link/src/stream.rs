//! A byte stream over a ring: data records, then one end record (half-close).
//!
//! A data record is never empty. Nothing is written after the end, and the reader
//! never looks at what a peer writes there.

use vmshm_shm::SharedMemory;

use crate::error::LinkError;
use crate::ring::{Consumer, Producer, Record, RingLayout};

const DATA: u16 = 1;
const END: u16 = 2;

/// The writing end of a stream.
#[derive(Debug)]
pub struct StreamWriter<M> {
    ring: Producer<M>,
    ended: bool,
}

impl<M: SharedMemory> StreamWriter<M> {
    /// Starts an empty stream over the ring at `layout`.
    ///
    /// # Errors
    /// As [`Producer::start`].
    pub fn start(memory: M, layout: RingLayout) -> Result<Self, LinkError> {
        Ok(Self {
            ring: Producer::start(memory, layout)?,
            ended: false,
        })
    }

    /// The record size that keeps both ends busy: an eighth of the ring.
    #[must_use]
    pub const fn chunk(&self) -> usize {
        let eighth = self.ring.layout().capacity / 8;
        #[allow(clippy::cast_possible_truncation, reason = "a ring is at most 2 GiB")]
        let chunk = eighth as usize - 8;
        chunk
    }

    /// Writes as many of `bytes` as fit now, and says how many; zero while the ring
    /// is full, or once the stream has ended.
    ///
    /// # Errors
    /// What the peer or the memory did.
    pub fn try_write(&mut self, bytes: &[u8]) -> Result<usize, LinkError> {
        if self.ended {
            return Ok(0);
        }
        let mut done = 0;
        for chunk in bytes.chunks(self.chunk().max(1)) {
            if !self.ring.try_push(DATA, chunk)? {
                break;
            }
            done += chunk.len();
        }
        Ok(done)
    }

    /// Ends the stream; `false` while the ring is too full for the end record.
    ///
    /// # Errors
    /// What the peer or the memory did.
    pub fn try_end(&mut self) -> Result<bool, LinkError> {
        if !self.ended {
            self.ended = self.ring.try_push(END, &[])?;
        }
        Ok(self.ended)
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

    /// Checks that this side's word still holds what it wrote.
    ///
    /// # Errors
    /// [`LinkError::RolledBack`] when it does not.
    pub fn verify(&self) -> Result<(), LinkError> {
        self.ring.verify()
    }
}

/// What a look at a stream gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The writer has ended the stream, and all of it has been read.
    End,
}

/// The reading end of a stream.
#[derive(Debug)]
pub struct StreamReader<M> {
    ring: Consumer<M>,
    open: Option<(Record, u64)>,
    ended: bool,
}

impl<M: SharedMemory> StreamReader<M> {
    /// Starts an empty stream over the ring at `layout`.
    ///
    /// # Errors
    /// As [`Consumer::start`].
    pub fn start(memory: M, layout: RingLayout) -> Result<Self, LinkError> {
        Ok(Self {
            ring: Consumer::start(memory, layout)?,
            open: None,
            ended: false,
        })
    }

    /// Reads what is there into `into`, at most one record's worth. With an empty
    /// `into` it gives `Bytes(0)` while there are bytes.
    ///
    /// # Errors
    /// What the peer or the memory did.
    pub fn try_read(&mut self, into: &mut [u8]) -> Result<Received, LinkError> {
        loop {
            if self.ended {
                return Ok(Received::End);
            }
            let (record, offset) = match self.open {
                Some(open) => open,
                None => match self.ring.peek()? {
                    None => return Ok(Received::Nothing),
                    Some(record) => (record, 0),
                },
            };
            match record.kind {
                DATA if record.length > 0 => {
                    let count = self.ring.read(record, offset, into)?;
                    let offset = offset + count as u64;
                    if offset == record.length {
                        self.ring.release(record)?;
                        self.open = None;
                    } else {
                        self.open = Some((record, offset));
                    }
                    return Ok(Received::Bytes(count));
                }
                END if record.length == 0 => {
                    self.ring.release(record)?;
                    self.ended = true;
                }
                other => {
                    return Err(LinkError::Violation {
                        what: "a stream record's kind, for its length,",
                        value: u64::from(other),
                    });
                }
            }
        }
    }

    /// Whether the end has been read.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Checks that this side's word still holds what it wrote.
    ///
    /// # Errors
    /// [`LinkError::RolledBack`] when it does not.
    pub fn verify(&self) -> Result<(), LinkError> {
        self.ring.verify()
    }
}
