//! The sending direction of a ring of records of any length. Refuses records that could never
//! fit.

use std::sync::Arc;
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::ends::{Presence, SleepWatch};
use vmshm_link::ring::{Producer, Reservation};
use vmshm_shm::SharedMemory;

use super::RECORD;
use crate::connection::Connection;
use crate::error::LinkFailure;
use crate::hold::Hold;

/// The direction to the other side.
#[derive(Debug)]
pub struct ByteRingSender<C: Connection> {
    pub(super) hold: Arc<Hold<C>>,
    pub(super) ring: Producer<C::Memory>,
    pub(super) watch: SleepWatch,
}

impl<C: Connection> ByteRingSender<C> {
    /// Sends a record; waits while the ring is too full for it.
    ///
    /// # Errors
    /// [`LinkFailure::TooLong`] for a record that could never fit, and
    /// [`LinkFailure::Ended`].
    pub fn send(&mut self, record: &[u8]) -> Result<(), LinkFailure> {
        self.push(record, None)
    }

    /// Sends a record if there is room, and says so.
    ///
    /// # Errors
    /// As [`ByteRingSender::send`].
    pub fn try_send(&mut self, record: &[u8]) -> Result<bool, LinkFailure> {
        match self.push(record, Some(Duration::ZERO)) {
            Ok(()) => Ok(true),
            Err(LinkFailure::Timeout(_)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Sends a record; waits at most so long while the ring is too full for it.
    ///
    /// # Errors
    /// As [`ByteRingSender::send`], and [`LinkFailure::Timeout`] with nothing sent.
    pub fn send_timeout(&mut self, record: &[u8], timeout: Duration) -> Result<(), LinkFailure> {
        self.push(record, Some(timeout))
    }

    fn push(&mut self, record: &[u8], timeout: Option<Duration>) -> Result<(), LinkFailure> {
        let (hold, ring) = (&self.hold, &mut self.ring);
        hold.wait_or_fail(timeout, || {
            hold.verify()?;
            Ok(ring.try_push(RECORD, record)?.then_some(()))
        })?;
        hold.wake_peer(&mut self.watch);
        Ok(())
    }

    /// Makes room for a record of at most `length` bytes, to be written in place; waits
    /// while the ring is too full for it.
    ///
    /// # Errors
    /// As [`ByteRingSender::send`].
    pub fn reserve(&mut self, length: u64) -> Result<Room<'_, C>, LinkFailure> {
        let (hold, ring) = (&self.hold, &mut self.ring);
        hold.wait_or_fail(None, || {
            hold.verify()?;
            Ok(ring.reserve(length)?.map(drop))
        })?;
        Ok(Room {
            sender: self,
            length,
        })
    }

    /// As [`ByteRingSender::reserve`], or nothing if the ring is too full now.
    ///
    /// # Errors
    /// As [`ByteRingSender::send`].
    pub fn try_reserve(&mut self, length: u64) -> Result<Option<Room<'_, C>>, LinkFailure> {
        self.hold.may_write()?;
        let found = self.ring.reserve(length).map(|room| room.is_some());
        let found = found.map_err(|error| self.hold.explain(error))?;
        Ok(found.then_some(Room {
            sender: self,
            length,
        }))
    }

    /// Whether the other side has received all that was sent.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn is_drained(&mut self) -> Result<bool, LinkFailure> {
        self.hold.check()?;
        let drained = self.ring.is_drained();
        drained.map_err(|error| self.hold.explain(error))
    }

    /// Bytes of the longest record that fits.
    #[must_use]
    pub const fn longest_record(&self) -> u64 {
        self.ring.layout().longest_record()
    }

    /// How the other side's end stands.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn peer(&self) -> Result<Presence, LinkFailure> {
        self.hold.peer()
    }
}

/// Room for one record in a ring, which nobody sees before [`Room::commit`]. Dropped, it
/// leaves no record.
#[derive(Debug)]
#[must_use = "without commit() nothing is sent"]
pub struct Room<'a, C: Connection> {
    sender: &'a mut ByteRingSender<C>,
    length: u64,
}

impl<C: Connection> Room<'_, C> {
    /// Writes `bytes` at `offset` of the record's payload. What is not written holds
    /// whatever was there before.
    ///
    /// # Errors
    /// [`LinkFailure::TooLong`] when they do not lie inside the room, and
    /// [`LinkFailure::Ended`].
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<&mut Self, LinkFailure> {
        let sender = &mut *self.sender;
        sender.hold.may_write()?;
        let written = place(&mut sender.ring, self.length, |mut room| {
            room.write(offset, bytes)
        });
        written.map_err(|error| sender.hold.explain(error))?;
        Ok(self)
    }

    /// Sends the record with its first `length` bytes, which were all written.
    ///
    /// # Errors
    /// [`LinkFailure::TooLong`] when that is more than was reserved, and
    /// [`LinkFailure::Ended`].
    pub fn commit(self, length: u64) -> Result<(), LinkFailure> {
        let sender = self.sender;
        sender.hold.may_write()?;
        let sent = place(&mut sender.ring, self.length, |room| {
            room.commit(RECORD, length)
        })
        .and_then(|()| sender.ring.publish());
        sent.map_err(|error| sender.hold.explain(error))?;
        sender.hold.wake_peer(&mut sender.watch);
        Ok(())
    }

    /// Bytes that were reserved.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.length
    }

    /// Whether the record can only be empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// Calls `act` with the room that was found before: nobody has taken it since.
fn place<M: SharedMemory>(
    ring: &mut Producer<M>,
    length: u64,
    act: impl FnOnce(Reservation<'_, M>) -> Result<(), LinkError>,
) -> Result<(), LinkError> {
    match ring.reserve(length)? {
        Some(room) => act(room),
        None => Err(LinkError::Violation {
            what: "the room that the ring has gone back on, in bytes,",
            value: length,
        }),
    }
}
