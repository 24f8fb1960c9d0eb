//! Reading a latest without having an end of it. Writes nothing into the region, so nobody
//! rings for a watcher: it looks again within the bound of each sleep.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use vmshm_link::duplex::Side;
use vmshm_link::ends::Presence;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::connection::Connection;
use crate::error::{LinkFailure, OpenError};
use crate::hold::Hold;
use crate::latest;
use crate::latest_bytes::Newest;

/// Reads the newest value of one side, as bytes. Any number of programs may.
#[derive(Debug)]
pub struct LatestBytesWatch<C: Connection> {
    newest: Newest<C>,
    side: Side,
}

impl<C: Connection> LatestBytesWatch<C> {
    pub(crate) fn open(hold: Arc<Hold<C>>, max: u64) -> Result<Self, OpenError> {
        Self::of_side(hold, max, C::SIDE.other())
    }

    fn of_side(hold: Arc<Hold<C>>, max: u64, side: Side) -> Result<Self, OpenError> {
        Ok(Self {
            newest: Newest::open(hold, max, side)?,
            side,
        })
    }

    /// Reads what the end of `side` publishes from now on; the other side's if this is not
    /// called.
    ///
    /// # Errors
    /// [`OpenError::Ended`].
    pub fn following(self, side: Side) -> Result<Self, OpenError> {
        Self::of_side(self.newest.hold, self.newest.max, side)
    }

    /// Reads the newest value: `value` is that then, and nothing else. Gives its version,
    /// or nothing before the first.
    ///
    /// # Errors
    /// As [`LatestBytes::read`](crate::LatestBytes::read).
    pub fn read(&mut self, value: &mut Vec<u8>) -> Result<Option<u64>, LinkFailure> {
        self.newest.read_vec(value)
    }

    /// Waits for a value with a version above `version`, and reads it.
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
        self.newest.wait_newer_vec(version, value, timeout)
    }

    /// The version of the newest value, without reading it.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn newest(&mut self) -> Result<u64, LinkFailure> {
        self.newest.newest()
    }

    /// How the end of the side that is watched stands.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn peer(&self) -> Result<Presence, LinkFailure> {
        let hold = &self.newest.hold;
        hold.check()?;
        Presence::read(hold.memory(), self.side).map_err(|error| hold.explain(error))
    }

    /// Opens the region again after its end.
    ///
    /// # Errors
    /// [`OpenError`]; the link stays over then, and this may be called again.
    pub fn reconnect(&mut self, timeout: Duration) -> Result<(), OpenError> {
        let hold = self.newest.hold.reopen(timeout)?;
        *self = Self::of_side(hold, self.newest.max, self.side)?;
        Ok(())
    }

    /// Lets go of the region.
    pub fn close(self) {
        drop(self);
    }
}

/// Reads the newest value of one side, of type `T`. Any number of programs may.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use vmshm_endpoint::{Side, loopback};
///
/// let (host, guest) = loopback::pair();
/// let mut sensor = guest.region("celsius").latest::<f64>()?;
/// let mut display = host.region("celsius").watch_latest::<f64>()?;
/// let another = guest.another().region("celsius").watch_latest::<f64>()?;
/// let mut another = another.following(Side::Guest)?;
///
/// sensor.publish(&21.5)?;
/// assert_eq!(display.read()?, Some((1, 21.5)));
/// assert_eq!(another.read()?, Some((1, 21.5)));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct LatestWatch<T, C: Connection> {
    bytes: LatestBytesWatch<C>,
    value: PhantomData<fn() -> T>,
}

impl<T, C> LatestWatch<T, C>
where
    T: IntoBytes + FromBytes + Immutable,
    C: Connection,
{
    pub(crate) const fn over(bytes: LatestBytesWatch<C>) -> Self {
        Self {
            bytes,
            value: PhantomData,
        }
    }

    /// Reads what the end of `side` publishes from now on; the other side's if this is not
    /// called.
    ///
    /// # Errors
    /// [`OpenError::Ended`].
    pub fn following(self, side: Side) -> Result<Self, OpenError> {
        Ok(Self::over(self.bytes.following(side)?))
    }

    /// The newest value and its version; nothing before the first.
    ///
    /// # Errors
    /// As [`Latest::read`](crate::Latest::read).
    #[inline]
    pub fn read(&mut self) -> Result<Option<(u64, T)>, LinkFailure> {
        latest::read(&mut self.bytes.newest)
    }

    /// Waits for a value with a version above `version`.
    ///
    /// # Errors
    /// [`LinkFailure::Timeout`] when none comes within `timeout`, and
    /// [`LinkFailure::Ended`].
    pub fn wait_newer(&mut self, version: u64, timeout: Duration) -> Result<(u64, T), LinkFailure> {
        latest::wait_newer(&mut self.bytes.newest, version, timeout)
    }

    /// The version of the newest value, without reading it.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn newest(&mut self) -> Result<u64, LinkFailure> {
        self.bytes.newest()
    }

    /// How the end of the side that is watched stands.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn peer(&self) -> Result<Presence, LinkFailure> {
        self.bytes.peer()
    }

    /// Opens the region again after its end.
    ///
    /// # Errors
    /// [`OpenError`]; the link stays over then, and this may be called again.
    pub fn reconnect(&mut self, timeout: Duration) -> Result<(), OpenError> {
        self.bytes.reconnect(timeout)
    }

    /// Lets go of the region.
    pub fn close(self) {
        drop(self);
    }
}
