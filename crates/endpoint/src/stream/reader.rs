//! The receiving direction of a stream: hands out what one program wrote, and tells its end
//! from its disappearance.

use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::app_stream::{AppStreamReader, Received};
use vmshm_link::ends::Presence;

use super::{Pair, gone, io_error};
use crate::connection::Connection;
use crate::error::{Gone, LinkFailure};
use crate::room_bell::RoomBell;

/// The direction from the other side.
#[derive(Debug)]
pub struct StreamReader<C: Connection> {
    pub(super) pair: Arc<Pair<C>>,
    stream: AppStreamReader<C::Memory>,
    bell: RoomBell,
    /// Whether the last look found nothing, but skipped records of others.
    skipped: bool,
    pub(super) timeout: Option<Duration>,
}

// Nothing in it is ever pinned in place.
impl<C: Connection> Unpin for StreamReader<C> {}

/// How a look at what came in went: bytes, zero of them for the end, or why there are none.
type Outcome = Result<usize, LinkFailure>;

impl<C: Connection> StreamReader<C> {
    pub(super) const fn new(
        pair: Arc<Pair<C>>,
        stream: AppStreamReader<C::Memory>,
        capacity: u64,
    ) -> Self {
        Self {
            pair,
            stream,
            bell: RoomBell::new(capacity),
            skipped: false,
            timeout: None,
        }
    }

    /// How long a read waits before it fails with [`ErrorKind::TimedOut`]; nothing, as at
    /// first: for ever.
    pub const fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// How the other side's end stands.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn peer(&self) -> Result<Presence, LinkFailure> {
        self.pair.hold.peer()
    }

    /// Reads without waiting; nothing where it would have to.
    fn look(&mut self, into: &mut [u8]) -> Result<Option<Outcome>, LinkFailure> {
        let (pair, stream, skipped) = (&self.pair, &mut self.stream, &mut self.skipped);
        let found = pair
            .hold
            .wait(Some(Duration::ZERO), || step(pair, stream, skipped, into))?;
        if found.is_none() {
            self.bell.took(&pair.hold, 0);
        }
        Ok(found)
    }

    fn wait(&mut self, into: &mut [u8]) -> Result<usize, LinkFailure> {
        let outcome = match self.look(into)? {
            Some(outcome) => outcome,
            None => {
                let (pair, stream, skipped) = (&self.pair, &mut self.stream, &mut self.skipped);
                pair.hold
                    .wait_or_fail(self.timeout, || step(pair, stream, skipped, into))?
            }
        };
        self.took(outcome)
    }

    fn took(&mut self, outcome: Outcome) -> Result<usize, LinkFailure> {
        let count = outcome?;
        if count > 0 {
            self.bell.took(&self.pair.hold, count as u64);
        }
        Ok(count)
    }
}

/// One look: are there bytes, and if not, will there be any?
fn step<C: Connection>(
    pair: &Pair<C>,
    stream: &mut AppStreamReader<C::Memory>,
    skipped: &mut bool,
    into: &mut [u8],
) -> Result<Option<Outcome>, LinkError> {
    pair.hold.verify()?;
    if let Some(outcome) = take(pair, stream, skipped, into)? {
        return Ok(Some(outcome));
    }
    if *skipped {
        // What its peer has sent may be behind them, however that has gone.
        return Ok(None);
    }
    let Some(count) = pair.peer() else {
        return Ok(None);
    };
    let Some(how) = gone(pair.hold.see_peer()?, count) else {
        return Ok(None);
    };
    // It may have sent something between the first look and its going.
    Ok(Some(match take(pair, stream, skipped, into)? {
        Some(outcome) => outcome,
        None if *skipped => return Ok(None),
        None => Err(LinkFailure::PeerGone(how)),
    }))
}

/// Takes what is there.
fn take<C: Connection>(
    pair: &Pair<C>,
    stream: &mut AppStreamReader<C::Memory>,
    skipped: &mut bool,
    into: &mut [u8],
) -> Result<Option<Outcome>, LinkError> {
    let received = stream.try_read(into)?;
    *skipped = received == Received::Skipped;
    if let Some(writer) = stream.writer()
        && !pair.tie(writer)
    {
        return Ok(Some(Err(LinkFailure::PeerGone(Gone::Replaced))));
    }
    Ok(match received {
        Received::Bytes(count) => Some(Ok(count)),
        Received::End => Some(Ok(0)),
        Received::Replaced => Some(Err(LinkFailure::PeerGone(Gone::Replaced))),
        Received::Nothing | Received::Skipped => None,
    })
}

impl<C: Connection> Read for StreamReader<C> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        self.wait(into)
            .map_err(|failure| io_error(failure, ErrorKind::ConnectionReset))
    }
}

#[cfg(feature = "futures")]
mod asynchronous {
    //! The same, in any runtime.

    use std::io::{self, ErrorKind};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::super::readiness::Direction;
    use super::super::{Stream, io_error};
    use super::StreamReader;
    use crate::connection::Connection;

    impl<C: Connection> futures_io::AsyncRead for StreamReader<C> {
        fn poll_read(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            into: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            if into.is_empty() {
                return Poll::Ready(Ok(0));
            }
            let reader = self.get_mut();
            // Seen before the look: what changes after it wakes the task.
            let seen = reader.pair.readiness.see();
            let found = reader.look(into).transpose();
            if let Some(outcome) = found {
                let count = outcome.and_then(|outcome| reader.took(outcome));
                return Poll::Ready(
                    count.map_err(|failure| io_error(failure, ErrorKind::ConnectionReset)),
                );
            }
            if reader.skipped {
                // Nothing in memory needs to change for the next look to find more.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let waker = context.waker().clone();
            match reader.pair.readiness.wait(Direction::Read, seen, waker) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            }
        }
    }

    impl<C: Connection> futures_io::AsyncRead for Stream<C> {
        fn poll_read(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            into: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.get_mut().reader).poll_read(context, into)
        }
    }
}
