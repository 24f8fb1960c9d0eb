//! A byte stream, one each way, between one program of each side: `Read` and `Write`.
//!
//! A stream is tied to the two programs that began it. It refuses to hand out bytes of any
//! other, and tells an end that was meant (`finish`) from one that was not.

mod reader;
#[cfg(feature = "futures")]
mod readiness;
mod writer;

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vmshm_link::app_stream::{AppStreamReader, AppStreamWriter};
use vmshm_link::ends::{Presence, PresenceState};
use vmshm_link::ring::RingLayout;
use vmshm_shm::SharedMemory;

pub use reader::StreamReader;
pub use writer::StreamWriter;

use crate::connection::Connection;
use crate::error::{Gone, LinkFailure, NotJoined, OpenError};
use crate::hold::Hold;

/// Both directions of a stream.
///
/// The first write waits until the other side has opened its end. What is written belongs
/// to that program: if it goes, writing fails with [`ErrorKind::BrokenPipe`], and reading
/// with [`ErrorKind::ConnectionReset`] once all that it had sent is read, unless it had
/// finished. To go on with another one, open the stream again or call
/// [`Stream::reconnect`]; it starts anew then. If the session or the region is over, both
/// fail with [`ErrorKind::ConnectionAborted`]. The reason is the error's inner
/// [`LinkFailure`].
///
/// Dropping a stream does not finish it: the other side sees that it is incomplete.
///
/// With the feature `futures` it is `AsyncRead` and `AsyncWrite`, too, in any runtime.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::io::{Read, Write};
/// use vmshm_endpoint::loopback;
///
/// let (host, guest) = loopback::pair();
/// let mut ours = host.region("file").size(1 << 16).stream()?;
/// let mut theirs = guest.region("file").stream()?;
///
/// let sent = vec![7_u8; 100_000];
/// let length = sent.len();
/// let sender = std::thread::spawn(move || -> std::io::Result<()> {
///     ours.write_all(&sent)?;
///     ours.finish()
/// });
/// let mut received = Vec::new();
/// theirs.read_to_end(&mut received)?;
/// assert_eq!(received.len(), length);
/// sender.join().expect("no panic")?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Stream<C: Connection> {
    writer: StreamWriter<C>,
    reader: StreamReader<C>,
}

/// What both directions share.
#[derive(Debug)]
struct Pair<C: Connection> {
    #[cfg(feature = "futures")]
    readiness: readiness::Readiness<C>,
    hold: Arc<Hold<C>>,
    /// The count of the other side's program that this stream is tied to; zero: none yet.
    peer: AtomicU64,
}

impl<C: Connection> Pair<C> {
    fn peer(&self) -> Option<u64> {
        match self.peer.load(Ordering::Relaxed) {
            0 => None,
            count => Some(count),
        }
    }

    /// Ties the stream to the program of `count`; whether it is tied to that one now.
    fn tie(&self, count: u64) -> bool {
        let tied = self
            .peer
            .compare_exchange(0, count, Ordering::Relaxed, Ordering::Relaxed);
        tied.map_or_else(|found| found == count, |_| true)
    }
}

/// How the program of `count` has gone, seen by its side's presence; nothing if it has not.
fn gone(presence: Presence, count: u64) -> Option<Gone> {
    if presence.count != count {
        return Some(Gone::Replaced);
    }
    match presence.state {
        PresenceState::Present => None,
        PresenceState::Left => Some(Gone::Left),
        PresenceState::Absent | PresenceState::Lost => Some(Gone::Lost),
    }
}

/// A failure in the words of `std::io`; `broken` is the kind for a program that has gone.
fn io_error(failure: LinkFailure, broken: ErrorKind) -> io::Error {
    let kind = match failure {
        LinkFailure::PeerGone(_) | LinkFailure::Finished => broken,
        LinkFailure::Timeout(_) => ErrorKind::TimedOut,
        LinkFailure::Ended(_) => ErrorKind::ConnectionAborted,
        _ => ErrorKind::InvalidInput,
    };
    io::Error::new(kind, failure)
}

impl<C: Connection> Stream<C> {
    pub(crate) fn open(hold: Arc<Hold<C>>) -> Result<Self, OpenError> {
        let memory = hold.memory();
        let parts = RingLayout::in_region(memory.size(), C::SIDE).and_then(|outgoing| {
            let incoming = RingLayout::in_region(memory.size(), C::SIDE.other())?;
            let writer = AppStreamWriter::resume(memory.clone(), outgoing)?;
            let own = hold.own().count;
            let reader = AppStreamReader::resume(memory.clone(), incoming, own)?;
            Ok((writer, reader, incoming.capacity))
        });
        let (writer, reader, capacity) = parts.map_err(|error| hold.explain_open(error))?;
        let pair = Arc::new(Pair {
            #[cfg(feature = "futures")]
            readiness: readiness::Readiness::new(&hold),
            hold,
            peer: AtomicU64::new(0),
        });
        Ok(Self {
            writer: StreamWriter::new(Arc::clone(&pair), writer),
            reader: StreamReader::new(pair, reader, capacity),
        })
    }

    /// The two directions, for two threads. The region is let go of when both are dropped.
    #[must_use]
    pub fn split(self) -> (StreamReader<C>, StreamWriter<C>) {
        (self.reader, self.writer)
    }

    /// Puts together again what [`Stream::split`] gave.
    ///
    /// # Errors
    /// [`NotJoined`], with both, when they are not of one stream.
    pub fn join(
        reader: StreamReader<C>,
        writer: StreamWriter<C>,
    ) -> Result<Self, NotJoined<StreamReader<C>, StreamWriter<C>>> {
        if Arc::ptr_eq(&reader.pair, &writer.pair) {
            Ok(Self { writer, reader })
        } else {
            Err(NotJoined::new(reader, writer))
        }
    }

    /// See [`StreamWriter::finish`].
    ///
    /// # Errors
    /// As there.
    pub fn finish(&mut self) -> io::Result<()> {
        self.writer.finish()
    }

    /// How long a read or a write waits before it fails with [`ErrorKind::TimedOut`];
    /// nothing, as at first: for ever.
    pub const fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.reader.set_timeout(timeout);
        self.writer.set_timeout(timeout);
    }

    /// How the other side's end stands.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn peer(&self) -> Result<Presence, LinkFailure> {
        self.reader.peer()
    }

    /// Opens the region again, with a new session where the last one is over. A new stream
    /// starts then, for whichever program has the other side's end.
    ///
    /// # Errors
    /// [`OpenError`]; the stream stays over then, and this may be called again.
    pub fn reconnect(&mut self, timeout: Duration) -> Result<(), OpenError> {
        #[cfg(feature = "futures")]
        self.reader.pair.readiness.stop();
        let timeouts = (self.reader.timeout, self.writer.timeout);
        *self = Self::open(self.reader.pair.hold.reopen(timeout)?)?;
        (self.reader.timeout, self.writer.timeout) = timeouts;
        Ok(())
    }

    /// Lets go of the region. Without [`Stream::finish`] before it, the other side sees
    /// that the stream is incomplete.
    pub fn close(self) {
        drop(self);
    }
}

impl<C: Connection> Read for Stream<C> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reader.read(into)
    }
}

impl<C: Connection> Write for Stream<C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
