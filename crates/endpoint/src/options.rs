//! What an application says of a region before it opens a link there, and the checks that
//! need no other side: a bad name or size is refused before anybody is asked.

use std::sync::Arc;
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::beacon::PAGE;
use vmshm_link::control::Role;
use vmshm_link::directory::{RegionKind, is_valid_name, is_valid_size};
use vmshm_link::fixed_ring::FixedRingLayout;
use vmshm_link::latest::LatestLayout;
use vmshm_link::ring::RingLayout;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::byte_ring::ByteRing;
use crate::connection::{Connection, Wish};
use crate::error::OpenError;
use crate::hold::Hold;
use crate::latest::Latest;
use crate::latest_bytes::LatestBytes;
use crate::latest_watch::{LatestBytesWatch, LatestWatch};
use crate::raw::Raw;
use crate::ring::Ring;
use crate::stream::Stream;
use crate::wait::Manner;

/// How long opening waits for the other side, unless told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A region by its name, and how it shall be used. Made by a connection's `region(name)`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use vmshm_endpoint::{OpenError, loopback};
///
/// let (host, guest) = loopback::pair();
/// let mut numbers = host
///     .region("numbers")
///     .size(1 << 16)
///     .timeout(Duration::from_secs(5))
///     .ring::<u64>()?;
/// // It is there now, so its size need not be said again.
/// let mut same = guest.region("numbers").ring::<u64>()?;
/// numbers.send(&7)?;
/// assert_eq!(same.receive()?, 7);
///
/// let too_small = host.region("blobs").size(64).byte_ring();
/// assert!(matches!(too_small, Err(OpenError::BadSize(_))));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is opened before one of ring(), latest(), stream(), raw() … is called"]
pub struct RegionOptions<C: Connection> {
    connection: Arc<C>,
    name: String,
    size: Option<u64>,
    timeout: Duration,
    manner: Manner,
}

impl<C: Connection> RegionOptions<C> {
    /// The region called `name`, over `connection`.
    pub fn new(connection: Arc<C>, name: &str) -> Self {
        Self {
            connection,
            name: name.to_owned(),
            size: None,
            timeout: DEFAULT_TIMEOUT,
            manner: Manner::default(),
        }
    }

    /// Makes the region with so many bytes, rounded up to whole pages of 4 KiB, if it is
    /// not there. Of these, 4 KiB are for the link itself and the rest is shared out evenly
    /// between the two directions; a raw region is the application's as a whole. A region
    /// that is there keeps its size. Without a size the region must exist, save for a
    /// latest, whose size follows from its value.
    pub const fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// How long opening waits for the other side; 10 s if this is not called.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The longest sleep at once while this end waits: 5 ms on the host and 40 ms in the
    /// guest if this is not called. It bounds how late a message is seen whose doorbell got
    /// lost, or where there is none.
    pub const fn longest_sleep(mut self, bound: Duration) -> Self {
        self.manner.longest_sleep = Some(bound);
        self
    }

    /// How often this end looks, without any system call, before it lets other threads run
    /// and then sleeps. If this is not called: some 20 to 50 µs worth, and none on a machine
    /// with one processor, which the other side may need.
    pub const fn spins(mut self, looks: u32) -> Self {
        self.manner.spins = Some(looks);
        self
    }

    /// Opens a ring of records of type `T`, one each way.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn ring<T>(self) -> Result<Ring<T, C>, OpenError>
    where
        T: IntoBytes + FromBytes + Immutable,
    {
        let record = sized::<T>("record")?;
        let wish = self.wish(RegionKind::Ring, record, Role::End, |size| {
            FixedRingLayout::in_region(size, record, C::SIDE).map(drop)
        })?;
        Ring::open(self.hold(wish)?)
    }

    /// Opens a ring of records of any length, one each way.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn byte_ring(self) -> Result<ByteRing<C>, OpenError> {
        let wish = self.wish(RegionKind::Ring, 0, Role::End, |size| {
            RingLayout::in_region(size, C::SIDE).map(drop)
        })?;
        ByteRing::open(self.hold(wish)?)
    }

    /// Opens a latest of type `T`, one each way. It is made if it is not there.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn latest<T>(self) -> Result<Latest<T, C>, OpenError>
    where
        T: IntoBytes + FromBytes + Immutable,
    {
        let value = sized::<T>("value")?;
        Ok(Latest::over(self.latest_bytes(value)?))
    }

    /// Opens a latest of at most `max` bytes, one each way. It is made if it is not there.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn latest_bytes(mut self, max: u64) -> Result<LatestBytes<C>, OpenError> {
        if self.size.is_none() {
            self.size = Some(latest_size(max)?);
        }
        let wish = self.latest_wish(max, Role::End)?;
        LatestBytes::open(self.hold(wish)?, max)
    }

    /// Reads a latest of type `T` without having an end of it: any number of programs may,
    /// over connections that do not have its end. It is made only if a size is given.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn watch_latest<T>(self) -> Result<LatestWatch<T, C>, OpenError>
    where
        T: IntoBytes + FromBytes + Immutable,
    {
        let value = sized::<T>("value")?;
        Ok(LatestWatch::over(self.watch_latest_bytes(value)?))
    }

    /// Reads a latest of at most `max` bytes without having an end of it, over a connection
    /// that does not have one. It is made only if a size is given.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn watch_latest_bytes(self, max: u64) -> Result<LatestBytesWatch<C>, OpenError> {
        let wish = self.latest_wish(max, Role::Watch)?;
        LatestBytesWatch::open(self.hold(wish)?, max)
    }

    /// Opens a stream of bytes, one each way.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn stream(self) -> Result<Stream<C>, OpenError> {
        let wish = self.wish(RegionKind::Stream, 0, Role::End, |size| {
            RingLayout::in_region(size, C::SIDE).map(drop)
        })?;
        Stream::open(self.hold(wish)?)
    }

    /// Opens a region whose every byte is the application's.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn raw(self) -> Result<Raw<C>, OpenError> {
        let wish = self.wish(RegionKind::Raw, 0, Role::End, |_| Ok(()))?;
        Ok(Raw::open(self.hold(wish)?))
    }

    fn latest_wish(&self, max: u64, role: Role) -> Result<Wish, OpenError> {
        latest_size(max)?;
        self.wish(RegionKind::Latest, max, role, |size| {
            LatestLayout::in_region(size, max, C::SIDE).map(drop)
        })
    }

    /// Checks name and size, and puts the wish into words.
    fn wish(
        &self,
        kind: RegionKind,
        record: u64,
        role: Role,
        fits: impl FnOnce(u64) -> Result<(), LinkError>,
    ) -> Result<Wish, OpenError> {
        if !is_valid_name(&self.name) {
            return Err(OpenError::BadName(self.name.clone()));
        }
        let size = match self.size {
            None => 0,
            Some(bytes) => whole_pages(bytes)?,
        };
        if size > 0 {
            fits(size).map_err(|error| OpenError::BadSize(error.to_string()))?;
        }
        Ok(Wish {
            name: self.name.clone(),
            kind,
            size,
            record,
            role,
            timeout: self.timeout,
        })
    }

    fn hold(self, wish: Wish) -> Result<Arc<Hold<C>>, OpenError> {
        Hold::open(self.connection, wish, self.manner)
    }
}

/// The size of `T` in bytes, as a link's record or value.
fn sized<T>(what: &str) -> Result<u64, OpenError> {
    match size_of::<T>() {
        0 => Err(OpenError::BadSize(format!("a {what} must have bytes"))),
        bytes => Ok(bytes as u64),
    }
}

/// `bytes`, rounded up to whole pages.
fn whole_pages(bytes: u64) -> Result<u64, OpenError> {
    if bytes == 0 {
        return Err(OpenError::BadSize(
            "a region cannot have 0 bytes; give no size to open one that is there".to_owned(),
        ));
    }
    bytes
        .checked_next_multiple_of(PAGE)
        .filter(|size| is_valid_size(*size))
        .ok_or_else(|| {
            OpenError::BadSize(format!(
                "a region cannot have {bytes} bytes: that is too much"
            ))
        })
}

/// The size of a latest's region, in whole pages.
fn latest_size(max: u64) -> Result<u64, OpenError> {
    match max {
        0 => Err(OpenError::BadSize("a value must have bytes".to_owned())),
        // A stated bound far above any region, so that nothing overflows below it.
        max if max > 1 << 40 => Err(OpenError::BadSize(format!(
            "a value cannot have {max} bytes: that is too much"
        ))),
        max => whole_pages(LatestLayout::region_size(max)),
    }
}
