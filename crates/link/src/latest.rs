//! The newest value of one writer, for any number of readers: never torn, and the writer
//! never waits.
//!
//! ```text
//! newest ─ written by the writer only: version of the last whole value; zero: none yet
//! slots  ─ four, version n in slot n mod 4
//!
//!   slot  ┌────────┬───────┬──────────────────┐
//!         │ length │ value │ to 64 bytes      │
//!         └────────┴───────┴──────────────────┘
//! ```
//!
//! The writer begins version `n + 1` in a slot that no reader of the three versions before
//! it touches, and then announces it. A reader copies the slot of the newest version `n`
//! and looks at `newest` again. That slot is begun again for version `n + 4`, and only
//! after `n + 3` was announced: the copy is whole if the second look sees less than that.
//! A reader that is lapped tries a few times, and gives up for this look.
//!
//! Readers write nothing, so there may be any number. What tells them of a machine that
//! was set back is a `newest` that went back.
//!
//! *Ends come and go.* A new writer goes on at the newest version; a value that the one
//! before it had begun and not announced is overwritten, since it lies in the next slot.
//!
//! The pair: the writer's store of `newest` (release) makes a value visible to the reader's
//! load of it (acquire): `latest-newest`. Beside it, the writer orders the store of
//! `newest` before those into the next slot, and the reader its loads of a slot before the
//! second look: stores among stores and loads among loads.

use vmshm_shm::SharedMemory;

use crate::duplex::Side;
use crate::ends::{self, DATA};
use crate::error::LinkError;
use crate::own_word::OwnWord;

const SLOTS: u64 = 4;
const LINE: u64 = 64;
const HEADER: u64 = 8;

/// How often a reader tries to be faster than the writer within one look.
const TRIES: usize = 4;

/// The longest value of any latest.
const LONGEST: u64 = 1 << 40;

/// A slot up to this many bytes is written and read by one call where calls are costly.
const SMALL: usize = 512;

/// Where the slots of one writer lie in a memory. Offsets and sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatestLayout {
    /// The writer's word.
    pub newest: u64,
    /// The first slot.
    pub slots: u64,
    /// The longest value.
    pub value: u64,
    /// From one slot to the next.
    pub stride: u64,
}

const fn stride(value: u64) -> u64 {
    (HEADER + value).div_ceil(LINE) * LINE
}

impl LatestLayout {
    /// The slots in which the end of `writer` keeps values of up to `value` bytes, in a
    /// link's region of `size` bytes.
    ///
    /// # Errors
    /// [`LinkError::EmptyRecord`], or [`LinkError::TooSmall`] when four slots do not fit
    /// the writer's half.
    pub fn in_region(size: u64, value: u64, writer: Side) -> Result<Self, LinkError> {
        if value == 0 {
            return Err(LinkError::EmptyRecord);
        }
        let too_small = LinkError::TooSmall {
            what: "four values of this length each way",
            size,
            needed: Self::region_size(value),
        };
        let (slots, length) = ends::half(size, writer).map_err(|_| too_small)?;
        if value > length || SLOTS * stride(value) > length {
            return Err(too_small);
        }
        Ok(Self {
            newest: writer.front(),
            slots,
            value,
            stride: stride(value),
        })
    }

    /// The smallest region for values of up to `value` bytes each way.
    #[must_use]
    pub const fn region_size(value: u64) -> u64 {
        let value = if value > LONGEST { LONGEST } else { value };
        DATA + 2 * SLOTS * stride(value)
    }

    fn check<M: SharedMemory>(&self, memory: &M) -> Result<(), LinkError> {
        let fits = (1..=LONGEST).contains(&self.value)
            && self.stride >= HEADER + self.value
            && self.stride.is_multiple_of(8)
            && self.slots.is_multiple_of(8)
            && self
                .stride
                .checked_mul(SLOTS)
                .and_then(|length| self.slots.checked_add(length))
                .is_some_and(|end| end <= memory.size());
        if fits {
            Ok(())
        } else {
            Err(LinkError::Violation {
                what: "the layout of a latest (offset of its slots)",
                value: self.slots,
            })
        }
    }

    #[inline]
    const fn slot(&self, version: u64) -> u64 {
        self.slots + version % SLOTS * self.stride
    }
}

/// The writing end.
#[derive(Debug)]
pub struct LatestWriter<M> {
    memory: M,
    layout: LatestLayout,
    newest: OwnWord,
}

impl<M: SharedMemory> LatestWriter<M> {
    /// Goes on where the writer before this one stopped; all zero is no value yet.
    ///
    /// # Errors
    /// [`LinkError::Violation`] when the layout does not fit the memory, or the word is no
    /// version.
    pub fn resume(memory: M, layout: LatestLayout) -> Result<Self, LinkError> {
        layout.check(&memory)?;
        let newest = OwnWord::resume(&memory, layout.newest, "newest version")?;
        Ok(Self {
            memory,
            layout,
            newest,
        })
    }

    /// Makes `value` the newest, and gives its version: one more than the last.
    ///
    /// # Errors
    /// [`LinkError::TooLong`]; else what the memory did, and nothing became visible.
    #[inline]
    pub fn publish(&mut self, value: &[u8]) -> Result<u64, LinkError> {
        let length = value.len() as u64;
        if length > self.layout.value {
            return Err(LinkError::TooLong {
                length,
                limit: self.layout.value,
            });
        }
        // Before the slot is touched: in an earlier state it may be the newest one.
        self.newest.verify(&self.memory)?;
        let version = self.newest.get() + 1;
        let slot = self.layout.slot(version);
        // Whoever sees a byte of this slot change sees the version before this one, too.
        self.memory.order_stores();
        let whole = 8 + value.len();
        if whole <= SMALL && self.memory.is_costly() {
            let mut bytes = [0_u8; SMALL];
            bytes[..8].copy_from_slice(&length.to_le_bytes());
            bytes[8..whole].copy_from_slice(value);
            self.memory.write(slot, &bytes[..whole])?;
        } else {
            self.memory.store_relaxed(slot, length)?;
            self.memory.write(slot + HEADER, value)?;
        }
        // release: latest-newest
        self.newest.publish(&self.memory, version)?;
        Ok(version)
    }

    /// The last version that was published; zero for none.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.newest.get()
    }

    /// Checks that this side's word still holds what it wrote.
    ///
    /// # Errors
    /// [`LinkError::RolledBack`] when it does not.
    #[inline]
    pub fn verify(&self) -> Result<(), LinkError> {
        self.newest.verify(&self.memory)
    }

    /// Where the slots lie.
    #[must_use]
    pub const fn layout(&self) -> &LatestLayout {
        &self.layout
    }
}

/// A reading end; it writes nothing.
#[derive(Debug)]
pub struct LatestReader<M> {
    memory: M,
    layout: LatestLayout,
    /// The highest version seen.
    seen: u64,
}

impl<M: SharedMemory> LatestReader<M> {
    /// Opens the slots for reading; nothing is written.
    ///
    /// # Errors
    /// [`LinkError::Violation`] when the layout does not fit the memory.
    pub fn open(memory: M, layout: LatestLayout) -> Result<Self, LinkError> {
        layout.check(&memory)?;
        Ok(Self {
            memory,
            layout,
            seen: 0,
        })
    }

    /// The newest version; zero while there is none.
    ///
    /// # Errors
    /// [`LinkError::Violation`] when it went back; else what the memory did.
    #[inline]
    pub fn newest(&mut self) -> Result<u64, LinkError> {
        // acquire: latest-newest
        let newest = self.memory.load_acquire(self.layout.newest)?;
        if newest < self.seen {
            return Err(LinkError::Violation {
                what: "the newest version, which went back,",
                value: newest,
            });
        }
        self.seen = newest;
        Ok(newest)
    }

    /// Copies the newest value into `into`, and gives its version and length; nothing
    /// while there is no value, or when the writer lapped every try of this look.
    ///
    /// # Errors
    /// [`LinkError::TooLong`] when the value is longer than `into`; else what the writer
    /// or the memory did. What `into` holds without a version is no value.
    #[inline]
    pub fn try_read(&mut self, into: &mut [u8]) -> Result<Option<(u64, usize)>, LinkError> {
        for _ in 0..TRIES {
            let version = self.newest()?;
            if version == 0 {
                return Ok(None);
            }
            let length = self.copy_slot(version, into)?;
            self.memory.order_loads();
            // Less than three versions on: nobody has begun this slot again.
            if self.newest()? - version >= SLOTS - 1 {
                continue;
            }
            if length > self.layout.value {
                return Err(LinkError::Violation {
                    what: "the length of a value",
                    value: length,
                });
            }
            return match usize::try_from(length) {
                Ok(count) if count <= into.len() => Ok(Some((version, count))),
                _ => Err(LinkError::TooLong {
                    length,
                    limit: into.len() as u64,
                }),
            };
        }
        Ok(None)
    }

    /// Copies what fits of a slot's value, and gives the length that the slot states.
    #[inline]
    fn copy_slot(&self, version: u64, into: &mut [u8]) -> Result<u64, LinkError> {
        let slot = self.layout.slot(version);
        let room = usize::try_from(self.layout.value)
            .unwrap_or(usize::MAX)
            .min(into.len());
        if room <= SMALL - 8 && self.memory.is_costly() {
            let mut bytes = [0_u8; SMALL];
            self.memory.read(slot, &mut bytes[..8 + room])?;
            into[..room].copy_from_slice(&bytes[8..8 + room]);
            let mut word = [0_u8; 8];
            word.copy_from_slice(&bytes[..8]);
            return Ok(u64::from_le_bytes(word));
        }
        // Loaded once; only this private copy is used from here on.
        let length = self.memory.load_relaxed(slot)?;
        let count = usize::try_from(length).unwrap_or(usize::MAX).min(room);
        self.memory.read(slot + HEADER, &mut into[..count])?;
        Ok(length)
    }

    /// Where the slots lie.
    #[must_use]
    pub const fn layout(&self) -> &LatestLayout {
        &self.layout
    }
}
