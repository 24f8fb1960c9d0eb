//! A ring of typed records, one each way: every record arrives once and in order.
//!
//! Records are of one type with no padding and no forbidden bytes, so that whatever the
//! other side wrote is one. Nothing here allocates.

mod receiver;
mod sender;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::ends::{Presence, SleepWatch};
use vmshm_link::fixed_ring::{FixedConsumer, FixedProducer, FixedRingLayout};
use vmshm_shm::SharedMemory;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub use receiver::RingReceiver;
pub use sender::RingSender;

use crate::connection::Connection;
use crate::error::{LinkFailure, NotJoined, OpenError};
use crate::hold::Hold;
use crate::room_bell::RoomBell;

/// Both directions of a ring of `T`.
///
/// A send waits while the ring is full, also when nobody is there to receive: the records
/// stay in the region, and whoever opens the other side's end next receives them.
/// [`Ring::peer`] tells who is there.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use vmshm_endpoint::loopback;
///
/// let (host, guest) = loopback::pair();
/// let mut ours = host.region("numbers").size(1 << 16).ring::<u64>()?;
/// let mut theirs = guest.region("numbers").ring::<u64>()?;
///
/// ours.send(&7)?;
/// ours.send_all(&[8, 9, 10])?;
/// assert_eq!(theirs.receive()?, 7);
/// let mut batch = [0; 8];
/// let count = theirs.receive_into(&mut batch)?;
/// assert_eq!(batch[..count], [8, 9, 10]);
/// assert_eq!(theirs.try_receive()?, None);
///
/// let (mut sender, _receiver) = theirs.split();
/// std::thread::spawn(move || sender.send(&11));
/// assert_eq!(ours.receive()?, 11);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Ring<T, C: Connection> {
    sender: RingSender<T, C>,
    receiver: RingReceiver<T, C>,
}

/// Two directions that were not of one ring.
type Apart<T, C> = NotJoined<RingSender<T, C>, RingReceiver<T, C>>;

impl<T, C> Ring<T, C>
where
    T: IntoBytes + FromBytes + Immutable,
    C: Connection,
{
    pub(crate) fn open(hold: Arc<Hold<C>>) -> Result<Self, OpenError> {
        let resumed = || -> Result<_, LinkError> {
            let memory = hold.memory();
            let (size, record) = (memory.size(), size_of::<T>() as u64);
            let outgoing = FixedRingLayout::in_region(size, record, C::SIDE)?;
            let incoming = FixedRingLayout::in_region(size, record, C::SIDE.other())?;
            let producer = FixedProducer::resume(memory.clone(), outgoing)?;
            let consumer = FixedConsumer::resume(memory.clone(), incoming)?;
            Ok((producer, consumer, incoming.capacity))
        };
        let (producer, consumer, capacity) = resumed().map_err(|error| hold.explain_open(error))?;
        Ok(Self {
            sender: RingSender {
                hold: Arc::clone(&hold),
                ring: producer,
                watch: SleepWatch::new(),
                record: PhantomData,
            },
            receiver: RingReceiver {
                hold,
                ring: consumer,
                bell: RoomBell::new(capacity),
                record: PhantomData,
            },
        })
    }

    /// The two directions, for two threads. The region is let go of when both are dropped.
    #[must_use]
    pub fn split(self) -> (RingSender<T, C>, RingReceiver<T, C>) {
        (self.sender, self.receiver)
    }

    /// Puts together again what [`Ring::split`] gave.
    ///
    /// # Errors
    /// [`NotJoined`], with both, when they are not of one ring.
    pub fn join(
        sender: RingSender<T, C>,
        receiver: RingReceiver<T, C>,
    ) -> Result<Self, Apart<T, C>> {
        if Arc::ptr_eq(&sender.hold, &receiver.hold) {
            Ok(Self { sender, receiver })
        } else {
            Err(NotJoined::new(sender, receiver))
        }
    }

    /// See [`RingSender::send`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn send(&mut self, record: &T) -> Result<(), LinkFailure> {
        self.sender.send(record)
    }

    /// See [`RingSender::try_send`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_send(&mut self, record: &T) -> Result<bool, LinkFailure> {
        self.sender.try_send(record)
    }

    /// See [`RingSender::send_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn send_timeout(&mut self, record: &T, timeout: Duration) -> Result<(), LinkFailure> {
        self.sender.send_timeout(record, timeout)
    }

    /// See [`RingSender::send_all`].
    ///
    /// # Errors
    /// As there.
    pub fn send_all(&mut self, records: &[T]) -> Result<(), LinkFailure> {
        self.sender.send_all(records)
    }

    /// See [`RingReceiver::receive`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn receive(&mut self) -> Result<T, LinkFailure> {
        self.receiver.receive()
    }

    /// See [`RingReceiver::try_receive`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn try_receive(&mut self) -> Result<Option<T>, LinkFailure> {
        self.receiver.try_receive()
    }

    /// See [`RingReceiver::receive_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn receive_timeout(&mut self, timeout: Duration) -> Result<T, LinkFailure> {
        self.receiver.receive_timeout(timeout)
    }

    /// See [`RingReceiver::receive_into`].
    ///
    /// # Errors
    /// As there.
    pub fn receive_into(&mut self, records: &mut [T]) -> Result<usize, LinkFailure> {
        self.receiver.receive_into(records)
    }

    /// Records that the ring holds in each direction.
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.sender.capacity()
    }

    /// How the other side's end stands.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn peer(&self) -> Result<Presence, LinkFailure> {
        self.sender.peer()
    }

    /// Opens the region again after its end, with a new session where the last one is over.
    /// Records that were sent and not received yet are still there, if the region is.
    ///
    /// # Errors
    /// [`OpenError`]; the ring stays over then, and this may be called again.
    pub fn reconnect(&mut self, timeout: Duration) -> Result<(), OpenError> {
        *self = Self::open(self.sender.hold.reopen(timeout)?)?;
        Ok(())
    }

    /// Lets go of the region. Records that were sent stay in it.
    pub fn close(self) {
        drop(self);
    }
}
