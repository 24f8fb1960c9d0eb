//! The newest value of each side, of one type. Refuses values of another length.

use std::marker::PhantomData;
use std::time::Duration;

use vmshm_link::ends::Presence;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::connection::Connection;
use crate::error::{LinkFailure, OpenError};
use crate::latest_bytes::{LatestBytes, Newest};

/// Both sides' newest values of type `T`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use vmshm_endpoint::loopback;
/// use zerocopy::{FromBytes, Immutable, IntoBytes};
///
/// #[derive(FromBytes, IntoBytes, Immutable, Clone, Copy, Debug, PartialEq)]
/// #[repr(C)]
/// struct Position {
///     x: f64,
///     y: f64,
/// }
///
/// let (host, guest) = loopback::pair();
/// let mut ours = host.region("position").latest::<Position>()?;
/// let mut theirs = guest.region("position").latest::<Position>()?;
///
/// assert_eq!(theirs.read()?, None);
/// ours.publish(&Position { x: 1.0, y: 2.0 })?;
/// ours.publish(&Position { x: 3.0, y: 4.0 })?;
/// let (version, newest) = theirs.wait_newer(0, Duration::from_secs(1))?;
/// assert_eq!((version, newest.x), (2, 3.0));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Latest<T, C: Connection> {
    bytes: LatestBytes<C>,
    value: PhantomData<fn(T) -> T>,
}

impl<T, C> Latest<T, C>
where
    T: IntoBytes + FromBytes + Immutable,
    C: Connection,
{
    pub(crate) const fn over(bytes: LatestBytes<C>) -> Self {
        Self {
            bytes,
            value: PhantomData,
        }
    }

    /// Publishes `value`, and says its version: one more than that of this side's value
    /// before it, whichever process published that. Never waits.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`]; nothing is published then.
    #[inline]
    pub fn publish(&mut self, value: &T) -> Result<u64, LinkFailure> {
        self.bytes.publish(value.as_bytes())
    }

    /// The version of the value that this side published last; zero before the first.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.bytes.version()
    }

    /// The other side's newest value and its version; nothing before the first.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`], and [`LinkFailure::Timeout`] when the other side publishes
    /// so fast that no value could be read whole.
    #[inline]
    pub fn read(&mut self) -> Result<Option<(u64, T)>, LinkFailure> {
        read(self.bytes.reader())
    }

    /// Waits for a value of the other side with a version above `version`.
    ///
    /// # Errors
    /// [`LinkFailure::Timeout`] when none comes within `timeout`, and
    /// [`LinkFailure::Ended`].
    pub fn wait_newer(&mut self, version: u64, timeout: Duration) -> Result<(u64, T), LinkFailure> {
        wait_newer(self.bytes.reader(), version, timeout)
    }

    /// The version of the other side's newest value, without reading it: one load.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn newest(&mut self) -> Result<u64, LinkFailure> {
        self.bytes.newest()
    }

    /// How the other side's end stands.
    ///
    /// # Errors
    /// [`LinkFailure::Ended`].
    pub fn peer(&self) -> Result<Presence, LinkFailure> {
        self.bytes.peer()
    }

    /// Opens the region again after its end; see [`LatestBytes::reconnect`].
    ///
    /// # Errors
    /// [`OpenError`]; the link stays over then, and this may be called again.
    pub fn reconnect(&mut self, timeout: Duration) -> Result<(), OpenError> {
        self.bytes.reconnect(timeout)
    }

    /// Lets go of the region. The value that was published last stays in it.
    pub fn close(self) {
        drop(self);
    }
}

/// Reads a value as a `T`.
#[inline]
pub(crate) fn read<T, C>(newest: &mut Newest<C>) -> Result<Option<(u64, T)>, LinkFailure>
where
    T: IntoBytes + FromBytes,
    C: Connection,
{
    let mut value = T::new_zeroed();
    let Some((version, length)) = newest.read(value.as_mut_bytes())? else {
        return Ok(None);
    };
    newest.judge(length, size_of::<T>())?;
    Ok(Some((version, value)))
}

/// Waits for a newer value, and reads it as a `T`.
pub(crate) fn wait_newer<T, C>(
    newest: &mut Newest<C>,
    version: u64,
    timeout: Duration,
) -> Result<(u64, T), LinkFailure>
where
    T: IntoBytes + FromBytes,
    C: Connection,
{
    let mut value = T::new_zeroed();
    let (version, length) = newest.wait_newer(version, value.as_mut_bytes(), timeout)?;
    newest.judge(length, size_of::<T>())?;
    Ok((version, value))
}
