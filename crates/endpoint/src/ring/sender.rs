//! The sending direction of a ring of typed records: one by one and in batches, with and
//! without waiting for room.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use vmshm_link::ends::{Presence, SleepWatch};
use vmshm_link::fixed_ring::FixedProducer;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::connection::Connection;
use crate::error::LinkFailure;
use crate::hold::Hold;

/// The direction to the other side.
#[derive(Debug)]
pub struct RingSender<T, C: Connection> {
    pub(super) hold: Arc<Hold<C>>,
    pub(super) ring: FixedProducer<C::Memory>,
    pub(super) watch: SleepWatch,
    pub(super) record: PhantomData<fn(T)>,
}

impl<T, C> RingSender<T, C>
where
    T: IntoBytes + FromBytes + Immutable,
    C: Connection,
{
    /// Sends a record; waits while the ring is full.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    #[inline]
    pub fn send(&mut self, record: &T) -> Result<(), LinkFailure> {
        self.push(record.as_bytes(), None)
    }

    /// Sends a record if there is room, and says so.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    #[inline]
    pub fn try_send(&mut self, record: &T) -> Result<bool, LinkFailure> {
        let ring = &mut self.ring;
        let sent = self.hold.attempt(|| ring.try_push(record.as_bytes()))?;
        if sent {
            self.hold.wake_peer(&mut self.watch);
        }
        Ok(sent)
    }

    /// Sends a record; waits at most so long while the ring is full.
    ///
    /// # Errors
    /// [`LinkFailure::Timeout`], with nothing sent, and [`LinkFailure::Ended`].
    pub fn send_timeout(&mut self, record: &T, timeout: Duration) -> Result<(), LinkFailure> {
        self.push(record.as_bytes(), Some(timeout))
    }

    #[inline]
    fn push(&mut self, record: &[u8], timeout: Option<Duration>) -> Result<(), LinkFailure> {
        let (hold, ring) = (&self.hold, &mut self.ring);
        hold.wait_or_fail(timeout, || {
            hold.verify()?;
            Ok(ring.try_push(record)?.then_some(()))
        })?;
        hold.wake_peer(&mut self.watch);
        Ok(())
    }

    /// Sends all of `records`, as many at once as there is room for; waits while the ring
    /// is full.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`]; some of the records may have been sent.
    pub fn send_all(&mut self, mut records: &[T]) -> Result<(), LinkFailure> {
        while !records.is_empty() {
            let (hold, ring) = (&self.hold, &mut self.ring);
            let sent = hold.wait_or_fail(None, || {
                hold.verify()?;
                let sent = ring.try_push_all(records.as_bytes())?;
                Ok((sent > 0).then_some(sent))
            })?;
            hold.wake_peer(&mut self.watch);
            records = records.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends as many of `records` as there is room for now, and says how many.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    #[inline]
    pub fn try_send_all(&mut self, records: &[T]) -> Result<usize, LinkFailure> {
        let ring = &mut self.ring;
        let sent = self
            .hold
            .attempt(|| ring.try_push_all(records.as_bytes()))?;
        if sent > 0 {
            self.hold.wake_peer(&mut self.watch);
        }
        Ok(sent)
    }

    /// Whether the other side has received all that was sent.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn is_drained(&mut self) -> Result<bool, LinkFailure> {
        self.hold.check()?;
        self.ring
            .is_drained()
            .map_err(|error| self.hold.explain(error))
    }

    /// Records that the ring holds.
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.ring.layout().capacity
    }

    /// How the other side's end stands.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn peer(&self) -> Result<Presence, LinkFailure> {
        self.hold.peer()
    }
}
