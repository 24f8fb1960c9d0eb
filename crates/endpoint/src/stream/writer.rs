//! The sending direction of a stream: starts it for the program that is there, and refuses
//! to write for any other.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::app_stream::AppStreamWriter;
use vmshm_link::ends::{Presence, PresenceState, SleepWatch};

use super::{Pair, gone, io_error};
use crate::connection::Connection;
use crate::error::{Gone, LinkFailure};

/// The direction to the other side.
#[derive(Debug)]
pub struct StreamWriter<C: Connection> {
    pub(super) pair: Arc<Pair<C>>,
    stream: AppStreamWriter<C::Memory>,
    watch: SleepWatch,
    pub(super) timeout: Option<Duration>,
}

// Nothing in it is ever pinned in place.
impl<C: Connection> Unpin for StreamWriter<C> {}

/// How a look at the way out went.
type Outcome = Result<usize, LinkFailure>;

impl<C: Connection> StreamWriter<C> {
    pub(super) const fn new(pair: Arc<Pair<C>>, stream: AppStreamWriter<C::Memory>) -> Self {
        Self {
            pair,
            stream,
            watch: SleepWatch::new(),
            timeout: None,
        }
    }

    /// Ends this direction: the other side reads what was written and then the end. Waits
    /// for the other side to come, if nothing was written yet, and for room. Its bytes
    /// are still to be read by this side.
    ///
    /// # Errors
    /// As a write.
    pub fn finish(&mut self) -> io::Result<()> {
        self.wait(End).map(drop)
    }

    /// How long a write waits before it fails with [`ErrorKind::TimedOut`]; nothing, as at
    /// first: for ever.
    pub const fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Whether the other side has read all that was written.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn is_drained(&mut self) -> Result<bool, LinkFailure> {
        self.pair.hold.check()?;
        let drained = self.stream.is_drained();
        drained.map_err(|error| self.pair.hold.explain(error))
    }

    /// How the other side's end stands.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn peer(&self) -> Result<Presence, LinkFailure> {
        self.pair.hold.peer()
    }

    fn wait(&mut self, what: impl Step) -> io::Result<usize> {
        let (pair, stream) = (&self.pair, &mut self.stream);
        let outcome = pair
            .hold
            .wait_or_fail(self.timeout, || step(pair, stream, &what));
        self.tell(outcome)
    }

    /// As a wait that may not wait: nothing where it would have to.
    #[cfg(feature = "futures")]
    fn look(&mut self, what: impl Step) -> Option<io::Result<usize>> {
        let (pair, stream) = (&self.pair, &mut self.stream);
        let found = pair
            .hold
            .wait(Some(Duration::ZERO), || step(pair, stream, &what));
        found.transpose().map(|outcome| self.tell(outcome))
    }

    /// Wakes the other side after something was written, and says how it went.
    fn tell(&mut self, outcome: Result<Outcome, LinkFailure>) -> io::Result<usize> {
        let written = outcome.and_then(|outcome| outcome);
        if written.is_ok() {
            self.pair.hold.wake_peer(&mut self.watch);
        }
        written.map_err(|failure| io_error(failure, ErrorKind::BrokenPipe))
    }
}

/// What is to be put into the stream.
trait Step {
    /// Does it, and gives how many bytes it was; nothing while there is no room.
    fn try_on<M: vmshm_shm::SharedMemory>(
        &self,
        stream: &mut AppStreamWriter<M>,
    ) -> Result<Option<usize>, LinkError>;
    /// Whether it may be done after the end.
    const AFTER_END: bool;
}

struct Data<'a>(&'a [u8]);

impl Step for Data<'_> {
    const AFTER_END: bool = false;

    fn try_on<M: vmshm_shm::SharedMemory>(
        &self,
        stream: &mut AppStreamWriter<M>,
    ) -> Result<Option<usize>, LinkError> {
        let count = stream.try_write(self.0)?;
        Ok((count > 0).then_some(count))
    }
}

struct End;

impl Step for End {
    const AFTER_END: bool = true;

    fn try_on<M: vmshm_shm::SharedMemory>(
        &self,
        stream: &mut AppStreamWriter<M>,
    ) -> Result<Option<usize>, LinkError> {
        Ok(stream.try_end()?.then_some(0))
    }
}

/// One look: is the right program there, and is there room?
fn step<C: Connection>(
    pair: &Pair<C>,
    stream: &mut AppStreamWriter<C::Memory>,
    what: &impl Step,
) -> Result<Option<Outcome>, LinkError> {
    fn is_over<S: Step>(_: &S, ended: bool) -> bool {
        ended && !S::AFTER_END
    }
    if is_over(what, stream.has_ended()) {
        return Ok(Some(Err(LinkFailure::Finished)));
    }
    if stream.has_ended() {
        return Ok(Some(Ok(0)));
    }
    pair.hold.verify()?;
    let presence = pair.hold.see_peer()?;
    if let Some(count) = pair.peer()
        && let Some(how) = gone(presence, count)
    {
        return Ok(Some(Err(LinkFailure::PeerGone(how))));
    }
    if !stream.has_started() {
        if presence.state != PresenceState::Present {
            return Ok(None);
        }
        if !pair.tie(presence.count) {
            return Ok(Some(Err(LinkFailure::PeerGone(Gone::Replaced))));
        }
        if !stream.try_start(presence.count, pair.hold.own().count)? {
            return Ok(None);
        }
    }
    Ok(what.try_on(stream)?.map(Ok))
}

impl<C: Connection> Write for StreamWriter<C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.wait(Data(bytes))
    }

    /// Does nothing: what was written is with the other side already.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "futures")]
mod asynchronous {
    //! The same, in any runtime.

    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::super::Stream;
    use super::super::readiness::Direction;
    use super::{Data, End, Step, StreamWriter};
    use crate::connection::Connection;

    impl<C: Connection> StreamWriter<C> {
        fn poll(&mut self, context: &Context<'_>, what: impl Step) -> Poll<io::Result<usize>> {
            // Seen before the look: what changes after it wakes the task.
            let seen = self.pair.readiness.see();
            if let Some(outcome) = self.look(what) {
                return Poll::Ready(outcome);
            }
            let waker = context.waker().clone();
            match self.pair.readiness.wait(Direction::Write, seen, waker) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            }
        }
    }

    impl<C: Connection> futures_io::AsyncWrite for StreamWriter<C> {
        fn poll_write(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if bytes.is_empty() {
                return Poll::Ready(Ok(0));
            }
            self.get_mut().poll(context, Data(bytes))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        /// Finishes the stream.
        fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.get_mut().poll(context, End).map_ok(drop)
        }
    }

    impl<C: Connection> futures_io::AsyncWrite for Stream<C> {
        fn poll_write(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.get_mut().writer).poll_write(context, bytes)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        /// Finishes the stream.
        fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().writer).poll_close(context)
        }
    }
}
