//! The receiving direction of a ring of records of any length. Refuses records that no
//! application's end has written.

use std::sync::Arc;
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::ends::Presence;
use vmshm_link::ring::{Consumer, HEADER, Record};

use super::RECORD;
use crate::connection::Connection;
use crate::error::LinkFailure;
use crate::hold::Hold;
use crate::room_bell::RoomBell;

/// The direction from the other side.
#[derive(Debug)]
pub struct ByteRingReceiver<C: Connection> {
    pub(super) hold: Arc<Hold<C>>,
    pub(super) ring: Consumer<C::Memory>,
    pub(super) bell: RoomBell,
}

impl<C: Connection> ByteRingReceiver<C> {
    /// Receives a record: `record` is its payload then, and nothing else. Waits while there
    /// is none.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn receive(&mut self, record: &mut Vec<u8>) -> Result<(), LinkFailure> {
        self.peek()?.take(record)
    }

    /// Receives a record if there is one, and says so.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn try_receive(&mut self, record: &mut Vec<u8>) -> Result<bool, LinkFailure> {
        match self.try_peek()? {
            Some(found) => found.take(record).map(|()| true),
            None => Ok(false),
        }
    }

    /// Receives a record; waits at most so long while there is none.
    ///
    /// # Errors
    /// [`LinkFailure::Timeout`] and [`LinkFailure::Ended`].
    pub fn receive_timeout(
        &mut self,
        record: &mut Vec<u8>,
        timeout: Duration,
    ) -> Result<(), LinkFailure> {
        self.peek_timeout(timeout)?.take(record)
    }

    /// The next record, where it lies; waits while there is none.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn peek(&mut self) -> Result<Peeked<'_, C>, LinkFailure> {
        self.find(None)
    }

    /// As [`ByteRingReceiver::peek`]; waits at most so long.
    ///
    /// # Errors
    /// [`LinkFailure::Timeout`] and [`LinkFailure::Ended`].
    pub fn peek_timeout(&mut self, timeout: Duration) -> Result<Peeked<'_, C>, LinkFailure> {
        self.find(Some(timeout))
    }

    /// The next record, where it lies, or nothing if there is none now.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn try_peek(&mut self) -> Result<Option<Peeked<'_, C>>, LinkFailure> {
        let found = self.look()?;
        Ok(found.map(|record| Peeked {
            receiver: self,
            record,
        }))
    }

    fn look(&mut self) -> Result<Option<Record>, LinkFailure> {
        self.hold.may_write()?;
        let found = self.ring.peek();
        let found = found
            .and_then(judge)
            .map_err(|error| self.hold.explain(error))?;
        if found.is_none() {
            self.bell.took(&self.hold, 0);
        }
        Ok(found)
    }

    fn find(&mut self, timeout: Option<Duration>) -> Result<Peeked<'_, C>, LinkFailure> {
        let record = match self.look()? {
            Some(record) => record,
            None => {
                let (hold, ring) = (&self.hold, &mut self.ring);
                hold.wait_or_fail(timeout, || {
                    hold.verify()?;
                    ring.peek().and_then(judge)
                })?
            }
        };
        Ok(Peeked {
            receiver: self,
            record,
        })
    }

    /// How the other side's end stands.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn peer(&self) -> Result<Presence, LinkFailure> {
        self.hold.peer()
    }
}

/// Refuses a record that no application's end has written.
const fn judge(found: Option<Record>) -> Result<Option<Record>, LinkError> {
    match found {
        Some(record) if record.kind != RECORD => Err(LinkError::Violation {
            what: "the kind of a record",
            value: record.kind as u64,
        }),
        found => Ok(found),
    }
}

/// A record that lies in the ring. Dropped, it stays there and comes again.
#[derive(Debug)]
#[must_use = "without release() the record comes again"]
pub struct Peeked<'a, C: Connection> {
    receiver: &'a mut ByteRingReceiver<C>,
    record: Record,
}

impl<C: Connection> Peeked<'_, C> {
    /// Bytes of its payload.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.record.length
    }

    /// Whether it has no payload.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.record.length == 0
    }

    /// Copies payload from `offset` on into `into`, and says how many bytes there were.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`]; what `into` holds then is not the payload.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, LinkFailure> {
        let receiver = &*self.receiver;
        receiver.hold.check()?;
        let read = receiver.ring.read(self.record, offset, into);
        read.map_err(|error| receiver.hold.explain(error))
    }

    /// Gives the record's place back: the next one follows.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn release(self) -> Result<(), LinkFailure> {
        let receiver = self.receiver;
        receiver.hold.may_write()?;
        let released = receiver.ring.release(self.record);
        released.map_err(|error| receiver.hold.explain(error))?;
        let taken = HEADER + self.record.length.next_multiple_of(8);
        receiver.bell.took(&receiver.hold, taken);
        Ok(())
    }

    /// Copies the whole payload and releases the record.
    fn take(self, record: &mut Vec<u8>) -> Result<(), LinkFailure> {
        let length = usize::try_from(self.record.length).map_err(|_| LinkFailure::TooLong {
            length: self.record.length,
            limit: usize::MAX as u64,
        })?;
        record.resize(length, 0);
        self.read(0, record)?;
        self.release()
    }
}
