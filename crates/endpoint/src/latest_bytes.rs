//! The newest value of each side, as bytes: a writer never waits, and a reader gets whole
//! values only, the newest there is. Values in between are lost.

use std::sync::Arc;
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::duplex::Side;
use vmshm_link::ends::{Presence, SleepWatch};
use vmshm_link::latest::{LatestLayout, LatestReader, LatestWriter};
use vmshm_shm::SharedMemory;

use crate::connection::Connection;
use crate::error::{LinkFailure, OpenError};
use crate::hold::Hold;

/// How long a reader tries to get a whole value from a writer that overtakes it all the
/// time. An honest one can do so only for moments.
const OVERTAKEN: Duration = Duration::from_secs(1);

/// Both sides' newest values of at most so many bytes.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use vmshm_endpoint::loopback;
///
/// let (host, guest) = loopback::pair();
/// let mut ours = host.region("status").latest_bytes(100)?;
/// let mut theirs = guest.region("status").latest_bytes(100)?;
///
/// let mut value = Vec::new();
/// assert_eq!(theirs.read(&mut value)?, None);
/// ours.publish(b"starting")?;
/// let version = ours.publish(b"running")?;
/// assert_eq!(theirs.read(&mut value)?, Some(version));
/// assert_eq!(value, b"running");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct LatestBytes<C: Connection> {
    writer: LatestWriter<C::Memory>,
    watch: SleepWatch,
    reader: Newest<C>,
}

impl<C: Connection> LatestBytes<C> {
    pub(crate) fn open(hold: Arc<Hold<C>>, max: u64) -> Result<Self, OpenError> {
        let memory = hold.memory();
        let resumed = LatestLayout::in_region(memory.size(), max, C::SIDE)
            .and_then(|layout| LatestWriter::resume(memory.clone(), layout));
        Ok(Self {
            writer: resumed.map_err(|error| hold.explain_open(error))?,
            watch: SleepWatch::new(),
            reader: Newest::open(hold, max, C::SIDE.other())?,
        })
    }

    /// Publishes `value`, and says its version: one more than that of this side's value
    /// before it, whichever process published that.
    ///
    /// # Errors
    /// [`LinkFailure::TooLong`] and [`LinkFailure::Ended`]; nothing is published then.
    #[inline]
    pub fn publish(&mut self, value: &[u8]) -> Result<u64, LinkFailure> {
        let hold = &self.reader.hold;
        hold.may_write()?;
        let version = self
            .writer
            .publish(value)
            .map_err(|error| hold.explain(error))?;
        hold.wake_peer(&mut self.watch);
        Ok(version)
    }

    /// The version of the value that this side published last; zero before the first.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.writer.version()
    }

    /// Reads the other side's newest value: `value` is that then, and nothing else. Gives
    /// its version, or nothing before the first.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`], and [`LinkFailure::Timeout`] when the other side publishes
    /// so fast that no value could be read whole.
    pub fn read(&mut self, value: &mut Vec<u8>) -> Result<Option<u64>, LinkFailure> {
        self.reader.read_vec(value)
    }

    /// Waits for a value of the other side with a version above `version`, and reads it.
    ///
    /// # Errors
    /// [`LinkFailure::Timeout`] when none comes within `timeout`, and
    /// [`LinkFailure::Ended`].
    pub fn wait_newer(
        &mut self,
        version: u64,
        value: &mut Vec<u8>,
        timeout: Duration,
    ) -> Result<u64, LinkFailure> {
        self.reader.wait_newer_vec(version, value, timeout)
    }

    pub(crate) const fn reader(&mut self) -> &mut Newest<C> {
        &mut self.reader
    }

    /// The version of the other side's newest value, without reading it: one load.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn newest(&mut self) -> Result<u64, LinkFailure> {
        self.reader.newest()
    }

    /// How the other side's end stands.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn peer(&self) -> Result<Presence, LinkFailure> {
        self.reader.hold.peer()
    }

    /// Opens the region again after its end, with a new session where the last one is over.
    /// Values that were published are still there, if the region is.
    ///
    /// # Errors
    /// [`OpenError`]; the link stays over then, and this may be called again.
    pub fn reconnect(&mut self, timeout: Duration) -> Result<(), OpenError> {
        *self = Self::open(self.reader.hold.reopen(timeout)?, self.reader.max)?;
        Ok(())
    }

    /// Lets go of the region. The value that was published last stays in it.
    pub fn close(self) {
        drop(self);
    }
}

/// Reads one side's newest value.
#[derive(Debug)]
pub(crate) struct Newest<C: Connection> {
    pub(crate) hold: Arc<Hold<C>>,
    reader: LatestReader<C::Memory>,
    pub(crate) max: u64,
}

impl<C: Connection> Newest<C> {
    /// Reads what the end of `writer` publishes.
    pub(crate) fn open(hold: Arc<Hold<C>>, max: u64, writer: Side) -> Result<Self, OpenError> {
        let memory = hold.memory();
        let reader = LatestLayout::in_region(memory.size(), max, writer)
            .and_then(|layout| LatestReader::open(memory.clone(), layout))
            .map_err(|error| hold.explain_open(error))?;
        Ok(Self { hold, reader, max })
    }

    pub(crate) fn newest(&mut self) -> Result<u64, LinkFailure> {
        self.hold.check()?;
        let newest = self.reader.newest();
        newest.map_err(|error| self.hold.explain(error))
    }

    /// Reads into `value`, and gives version and length.
    #[inline]
    pub(crate) fn read(&mut self, value: &mut [u8]) -> Result<Option<(u64, usize)>, LinkFailure> {
        let (hold, reader) = (&self.hold, &mut self.reader);
        hold.wait_or_fail(Some(OVERTAKEN), || match reader.try_read(value)? {
            Some(found) => Ok(Some(Some(found))),
            // Nothing to read is an answer; a value that was overtaken is none.
            None => Ok((reader.newest()? == 0).then_some(None)),
        })
    }

    /// As [`Newest::read`], once there is a newer one than `version`.
    pub(crate) fn wait_newer(
        &mut self,
        version: u64,
        value: &mut [u8],
        timeout: Duration,
    ) -> Result<(u64, usize), LinkFailure> {
        let (hold, reader) = (&self.hold, &mut self.reader);
        hold.wait_or_fail(Some(timeout), || {
            if reader.newest()? <= version {
                return Ok(None);
            }
            Ok(reader.try_read(value)?.filter(|found| found.0 > version))
        })
    }

    pub(crate) fn read_vec(&mut self, value: &mut Vec<u8>) -> Result<Option<u64>, LinkFailure> {
        value.resize(self.longest(), 0);
        let found = self.read(value);
        value.truncate(
            found
                .as_ref()
                .map_or(0, |found| found.map_or(0, |found| found.1)),
        );
        Ok(found?.map(|found| found.0))
    }

    pub(crate) fn wait_newer_vec(
        &mut self,
        version: u64,
        value: &mut Vec<u8>,
        timeout: Duration,
    ) -> Result<u64, LinkFailure> {
        value.resize(self.longest(), 0);
        let found = self.wait_newer(version, value, timeout);
        value.truncate(found.as_ref().map_or(0, |found| found.1));
        Ok(found?.0)
    }

    fn longest(&self) -> usize {
        // The region is in this process's reach, so its part is no longer than a length.
        usize::try_from(self.max).unwrap_or(usize::MAX)
    }

    /// Refuses a value of another length than that of the type it is read as.
    pub(crate) fn judge(&self, length: usize, wanted: usize) -> Result<(), LinkFailure> {
        if length == wanted {
            return Ok(());
        }
        Err(self.hold.explain(LinkError::Violation {
            what: "the length of a latest's value",
            value: length as u64,
        }))
    }
}
