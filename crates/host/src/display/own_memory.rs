//! Memory of this process that another one maps. It refuses pictures beyond a size that no
//! screen has.

use std::io;

use vmshm_channel::sink::Run;
use vmshm_channel::{Handed, HandedRef};
use vmshm_link::beacon::PAGE;
use vmshm_shm::{MapError, Mapping, Protection};

use crate::os;

/// The most bytes of one picture.
pub(super) const MOST_PICTURE: u64 = 256 << 20;
/// Pictures in one pixels memory: the one that is shown, the newest, and the next.
pub(super) const SLOTS: usize = 3;

/// A memory file of fixed size, mapped here.
#[derive(Debug)]
pub(super) struct OwnMemory {
    file: Handed,
    size: u64,
}

impl OwnMemory {
    /// Makes one of `size` bytes, and maps it.
    pub(super) fn new(name: &str, size: u64) -> io::Result<(Self, Mapping)> {
        let file = os::make_memory_file(name, size)?;
        let mapping = Mapping::whole(&file, size, Protection::ReadWrite);
        let mapping = mapping.map_err(|error| match error {
            MapError::System(error) => io::Error::from_raw_os_error(error.raw_os_error()),
            MapError::BadPiece { .. } => io::Error::from(io::ErrorKind::InvalidInput),
        })?;
        Ok((Self { file, size }, mapping))
    }

    /// The whole of it, as another process maps it.
    pub(super) fn runs(&self) -> Vec<Run> {
        vec![Run {
            offset: 0,
            length: self.size,
        }]
    }

    /// For handing it over to be read and written.
    pub(super) fn to_write(&self) -> HandedRef<'_> {
        vmshm_channel::borrowed(&self.file)
    }

    /// For handing it over to be read only.
    pub(super) fn to_read(&self) -> io::Result<Handed> {
        os::only_readable(&self.file)
    }
}

/// Memory for some pictures of this process's own.
#[derive(Debug)]
pub(super) struct OwnPixels {
    /// Its number in frames.
    pub(super) region: u64,
    /// Its file.
    pub(super) file: OwnMemory,
    /// Its bytes.
    pub(super) memory: Mapping,
    /// Bytes from one slot to the next.
    pub(super) slot_bytes: u64,
}

impl OwnPixels {
    /// Room for pictures of `picture` bytes.
    pub(super) fn new(region: u64, picture: u64) -> io::Result<Self> {
        let slot_bytes = picture.next_multiple_of(PAGE);
        let (file, memory) = OwnMemory::new("vmshm-pixels", slot_bytes * SLOTS as u64)?;
        Ok(Self {
            region,
            file,
            memory,
            slot_bytes,
        })
    }

    /// Whether pictures of so many bytes fit, without wasting most of it.
    pub(super) const fn suits(&self, picture: u64) -> bool {
        picture <= self.slot_bytes && self.slot_bytes <= picture.saturating_mul(4) + (1 << 20)
    }
}
