//! The receiving direction of a ring of typed records: one by one and in batches, with and
//! without waiting for them.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use vmshm_link::ends::Presence;
use vmshm_link::fixed_ring::FixedConsumer;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::connection::Connection;
use crate::error::LinkFailure;
use crate::hold::Hold;
use crate::room_bell::RoomBell;

/// The direction from the other side.
#[derive(Debug)]
pub struct RingReceiver<T, C: Connection> {
    pub(super) hold: Arc<Hold<C>>,
    pub(super) ring: FixedConsumer<C::Memory>,
    pub(super) bell: RoomBell,
    pub(super) record: PhantomData<fn() -> T>,
}

impl<T, C> RingReceiver<T, C>
where
    T: IntoBytes + FromBytes + Immutable,
    C: Connection,
{
    /// Receives a record; waits while there is none.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    #[inline]
    pub fn receive(&mut self) -> Result<T, LinkFailure> {
        self.pop(None)
    }

    /// Receives a record if there is one.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    #[inline]
    pub fn try_receive(&mut self) -> Result<Option<T>, LinkFailure> {
        let mut record = T::new_zeroed();
        let ring = &mut self.ring;
        let found = self.hold.attempt(|| ring.try_pop(record.as_mut_bytes()))?;
        self.bell.took(&self.hold, u64::from(found));
        Ok(found.then_some(record))
    }

    /// Receives a record; waits at most so long while there is none.
    ///
    /// # Errors
    /// [`LinkFailure::Timeout`] and [`LinkFailure::Ended`].
    pub fn receive_timeout(&mut self, timeout: Duration) -> Result<T, LinkFailure> {
        self.pop(Some(timeout))
    }

    #[inline]
    fn pop(&mut self, timeout: Option<Duration>) -> Result<T, LinkFailure> {
        if let Some(record) = self.try_receive()? {
            return Ok(record);
        }
        let mut record = T::new_zeroed();
        let (hold, ring) = (&self.hold, &mut self.ring);
        hold.wait_or_fail(timeout, || {
            hold.verify()?;
            Ok(ring.try_pop(record.as_mut_bytes())?.then_some(()))
        })?;
        self.bell.took(hold, 1);
        Ok(record)
    }

    /// Receives at least one record, and as many more as are there, into the front of
    /// `records`, and says how many; waits while there is none. Zero only for an empty
    /// `records`.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn receive_into(&mut self, records: &mut [T]) -> Result<usize, LinkFailure> {
        let mut count = self.try_receive_into(records)?;
        if count == 0 && !records.is_empty() {
            let (hold, ring) = (&self.hold, &mut self.ring);
            count = hold.wait_or_fail(None, || {
                hold.verify()?;
                let count = ring.try_pop_all(records.as_mut_bytes())?;
                Ok((count > 0).then_some(count))
            })?;
            self.bell.took(hold, count as u64);
        }
        Ok(count)
    }

    /// Receives as many records as are there, into the front of `records`, and says how
    /// many.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    #[inline]
    pub fn try_receive_into(&mut self, records: &mut [T]) -> Result<usize, LinkFailure> {
        let ring = &mut self.ring;
        let count = self
            .hold
            .attempt(|| ring.try_pop_all(records.as_mut_bytes()))?;
        self.bell.took(&self.hold, count as u64);
        Ok(count)
    }

    /// How the other side's end stands.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn peer(&self) -> Result<Presence, LinkFailure> {
        self.hold.peer()
    }
}
