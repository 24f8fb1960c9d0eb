//! A ring of records of any length, one each way, with writing and reading in place: a
//! large payload is put straight into the region, and taken out by parts.
//!
//! Over copying memory each part written or read is a system call of its own.

mod receiver;
mod sender;

use std::sync::Arc;
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::ends::{Presence, SleepWatch};
use vmshm_link::ring::{Consumer, Producer, RingLayout};
use vmshm_shm::SharedMemory;

use crate::connection::Connection;
use crate::error::{LinkFailure, NotJoined, OpenError};
use crate::hold::Hold;
use crate::room_bell::RoomBell;

pub use receiver::{ByteRingReceiver, Peeked};
pub use sender::{ByteRingSender, Room};

/// The kind of all records of an application.
const RECORD: u16 = 0;

/// Both directions of a ring of records of any length.
///
/// As with [`Ring`](crate::Ring), a send waits while the ring is full.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use vmshm_endpoint::loopback;
///
/// let (host, guest) = loopback::pair();
/// let mut ours = host.region("blobs").size(1 << 20).byte_ring()?;
/// let mut theirs = guest.region("blobs").byte_ring()?;
///
/// ours.send(b"short")?;
/// let mut record = Vec::new();
/// theirs.receive(&mut record)?;
/// assert_eq!(record, b"short");
///
/// // In place: room first, then the payload, then how long it has become.
/// let mut room = ours.reserve(100_000)?;
/// room.write(0, b"head ")?.write(5, b"and tail")?;
/// room.commit(13)?;
/// let found = theirs.peek()?;
/// let mut tail = [0; 8];
/// found.read(5, &mut tail)?;
/// assert_eq!((found.len(), &tail), (13, b"and tail"));
/// found.release()?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ByteRing<C: Connection> {
    sender: ByteRingSender<C>,
    receiver: ByteRingReceiver<C>,
}

impl<C: Connection> ByteRing<C> {
    pub(crate) fn open(hold: Arc<Hold<C>>) -> Result<Self, OpenError> {
        let resumed = || -> Result<_, LinkError> {
            let memory = hold.memory();
            let outgoing = RingLayout::in_region(memory.size(), C::SIDE)?;
            let incoming = RingLayout::in_region(memory.size(), C::SIDE.other())?;
            let producer = Producer::resume(memory.clone(), outgoing)?;
            let consumer = Consumer::resume(memory.clone(), incoming)?;
            Ok((producer, consumer, incoming.capacity))
        };
        let (producer, consumer, capacity) = resumed().map_err(|error| hold.explain_open(error))?;
        Ok(Self {
            sender: ByteRingSender {
                hold: Arc::clone(&hold),
                ring: producer,
                watch: SleepWatch::new(),
            },
            receiver: ByteRingReceiver {
                hold,
                ring: consumer,
                bell: RoomBell::new(capacity),
            },
        })
    }

    /// The two directions, for two threads. The region is let go of when both are dropped.
    #[must_use]
    pub fn split(self) -> (ByteRingSender<C>, ByteRingReceiver<C>) {
        (self.sender, self.receiver)
    }

    /// Puts together again what [`ByteRing::split`] gave.
    ///
    /// # Errors
    /// [`NotJoined`], with both, when they are not of one ring.
    pub fn join(
        sender: ByteRingSender<C>,
        receiver: ByteRingReceiver<C>,
    ) -> Result<Self, NotJoined<ByteRingSender<C>, ByteRingReceiver<C>>> {
        if Arc::ptr_eq(&sender.hold, &receiver.hold) {
            Ok(Self { sender, receiver })
        } else {
            Err(NotJoined::new(sender, receiver))
        }
    }

    /// See [`ByteRingSender::send`].
    ///
    /// # Errors
    /// As there.
    pub fn send(&mut self, record: &[u8]) -> Result<(), LinkFailure> {
        self.sender.send(record)
    }

    /// See [`ByteRingSender::try_send`].
    ///
    /// # Errors
    /// As there.
    pub fn try_send(&mut self, record: &[u8]) -> Result<bool, LinkFailure> {
        self.sender.try_send(record)
    }

    /// See [`ByteRingSender::send_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn send_timeout(&mut self, record: &[u8], timeout: Duration) -> Result<(), LinkFailure> {
        self.sender.send_timeout(record, timeout)
    }

    /// See [`ByteRingSender::reserve`].
    ///
    /// # Errors
    /// As there.
    pub fn reserve(&mut self, length: u64) -> Result<Room<'_, C>, LinkFailure> {
        self.sender.reserve(length)
    }

    /// See [`ByteRingReceiver::receive`].
    ///
    /// # Errors
    /// As there.
    pub fn receive(&mut self, record: &mut Vec<u8>) -> Result<(), LinkFailure> {
        self.receiver.receive(record)
    }

    /// See [`ByteRingReceiver::try_receive`].
    ///
    /// # Errors
    /// As there.
    pub fn try_receive(&mut self, record: &mut Vec<u8>) -> Result<bool, LinkFailure> {
        self.receiver.try_receive(record)
    }

    /// See [`ByteRingReceiver::receive_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn receive_timeout(
        &mut self,
        record: &mut Vec<u8>,
        timeout: Duration,
    ) -> Result<(), LinkFailure> {
        self.receiver.receive_timeout(record, timeout)
    }

    /// See [`ByteRingReceiver::peek`].
    ///
    /// # Errors
    /// As there.
    pub fn peek(&mut self) -> Result<Peeked<'_, C>, LinkFailure> {
        self.receiver.peek()
    }

    /// See [`ByteRingReceiver::try_peek`].
    ///
    /// # Errors
    /// As there.
    pub fn try_peek(&mut self) -> Result<Option<Peeked<'_, C>>, LinkFailure> {
        self.receiver.try_peek()
    }

    /// Bytes of the longest record that fits.
    #[must_use]
    pub const fn longest_record(&self) -> u64 {
        self.sender.longest_record()
    }

    /// How the other side's end stands.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn peer(&self) -> Result<Presence, LinkFailure> {
        self.sender.peer()
    }

    /// Opens the region again after its end; see [`Ring::reconnect`](crate::Ring::reconnect).
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
