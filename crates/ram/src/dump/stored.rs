//! A stored dump, opened: its ranges as RAM blocks of one file, and the layout that its
//! headers state. It is never written.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmshm_link::{Extent, GuestPhysical};

use super::format::{DumpFormat, detect};
use super::{elf, lime};
use crate::address::{BlockOffset, VmmVirtual};
use crate::block::{Backing, RamBlock};
use crate::layout::{Layout, LayoutError, LayoutRange, Source};
use crate::mapping::FileIdentity;
use crate::os::BackingFile;

/// Most ranges that are believed of one file: a machine has a handful, a dump of
/// resident pages alone may have many.
pub(super) const MOST_SEGMENTS: usize = 1 << 20;

/// What a guest puts at address 0 may look like anything.
const FORCE_RAW: &str =
    "raw memory that only begins like another format is read as `dump:raw:FILE`";

/// A run of guest-physical addresses and where its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) place: Place,
}

/// Where the bytes of a segment are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At this place of the file.
    At(u64),
    /// Nowhere: they are zeros that the file does not hold.
    Zeros,
}

/// Why a file cannot be read as a dump.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// The file could not be opened.
    #[error("cannot open the dump {}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It could not be read.
    #[error("cannot read the dump")]
    Read(#[source] io::Error),
    /// Not a file that holds bytes at places.
    #[error("{} is no regular file", .0.display())]
    NoFile(PathBuf),
    /// Nothing in it.
    #[error("the dump holds no memory")]
    Empty,
    /// The headers promise more than the file has.
    #[error("the dump is cut short: its headers need {needed} bytes, it has {length}")]
    Truncated {
        /// How long it would have to be.
        needed: u64,
        /// How long it is.
        length: u64,
    },
    /// The headers contradict themselves.
    #[error("the dump is damaged at byte {at}: {what}")]
    Damaged {
        /// Where.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Two ranges claim the same addresses, or run past the largest one.
    #[error("the dump is damaged: {0}")]
    Layout(#[from] LayoutError),
    /// Another format.
    #[error("the file is {what}, which cannot be read as guest RAM")]
    Foreign {
        /// What it is.
        what: &'static str,
    },
}

impl DumpError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Foreign { what } if what.starts_with("compressed") => {
                Some(format!("decompress it first; {FORCE_RAW}"))
            }
            Self::Foreign { .. } => Some(format!(
                "dumps as ELF cores, in LiME's format, or raw can be read; `vmshm dump` and QEMU's `dump-guest-memory` make such; {FORCE_RAW}"
            )),
            Self::Damaged { .. } | Self::Layout(_) => Some(FORCE_RAW.to_owned()),
            Self::Truncated { .. } => Some(format!(
                "was the dump, or the copy of it, interrupted? {FORCE_RAW}"
            )),
            _ => None,
        }
    }
}

/// A stored dump of a guest's RAM.
#[derive(Debug, Clone)]
pub struct StoredDump {
    path: PathBuf,
    format: DumpFormat,
    blocks: Vec<RamBlock>,
    layout: Layout,
    /// The file behind each block.
    files: Vec<Arc<BackingFile>>,
}

impl StoredDump {
    /// Opens a dump and checks its headers.
    ///
    /// # Errors
    /// [`DumpError`].
    pub fn open(path: &Path) -> Result<Self, DumpError> {
        Self::open_as(path, |head| {
            detect(head).map_err(|what| DumpError::Foreign { what })
        })
    }

    /// Opens a file as raw memory, whatever it begins with.
    ///
    /// # Errors
    /// [`DumpError`].
    pub fn open_raw(path: &Path) -> Result<Self, DumpError> {
        Self::open_as(path, |_| Ok(DumpFormat::Raw))
    }

    fn open_as(
        path: &Path,
        format_of: impl FnOnce(&[u8]) -> Result<DumpFormat, DumpError>,
    ) -> Result<Self, DumpError> {
        let failed = |source| DumpError::Open {
            path: path.to_owned(),
            source,
        };
        // What is no regular file must not even be opened: a pipe would hang.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(DumpError::NoFile(path.to_owned()));
        }
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut head = Vec::new();
        (&file)
            .take(16)
            .read_to_end(&mut head)
            .map_err(DumpError::Read)?;
        let format = format_of(&head)?;
        let segments = match format {
            DumpFormat::Raw => vec![Segment {
                start: 0,
                length,
                place: Place::At(0),
            }],
            DumpFormat::Lime => lime::segments(length, |at| reader_at(&file, at))?,
            DumpFormat::Elf => elf::segments(&file, length)?,
        };
        if segments.iter().all(|segment| segment.length == 0) {
            return Err(DumpError::Empty);
        }
        if segments.len() > MOST_SEGMENTS {
            return Err(DumpError::Damaged {
                at: 0,
                what: "it has more ranges than any machine",
            });
        }
        let source = match format {
            DumpFormat::Raw => Source::FileOrder,
            DumpFormat::Elf | DumpFormat::Lime => Source::DumpHeaders,
        };
        let ranges = segments
            .iter()
            .enumerate()
            .map(|(block, segment)| LayoutRange {
                extent: Extent {
                    start: GuestPhysical(segment.start),
                    length: segment.length,
                },
                at: BlockOffset { block, offset: 0 },
                source,
            });
        let layout = Layout::new(ranges.collect())?;
        let unreadable = |code| DumpError::Read(io::Error::from_raw_os_error(code));
        let stored = Arc::new(BackingFile::stored(file).map_err(unreadable)?);
        // One file of zeros, as long as the longest run of them, serves all.
        let zeros = segments
            .iter()
            .filter(|segment| segment.place == Place::Zeros)
            .map(|segment| segment.length)
            .max()
            .map(|length| BackingFile::zeros(length).map(Arc::new))
            .transpose()
            .map_err(unreadable)?;
        let name = path.display().to_string();
        let mut blocks = Vec::with_capacity(segments.len());
        let mut files = Vec::with_capacity(segments.len());
        for segment in &segments {
            let (file, offset, name) = match (segment.place, &zeros) {
                (Place::At(offset), _) => (&stored, offset, name.clone()),
                (Place::Zeros, zeros) => (
                    zeros.as_ref().unwrap_or(&stored),
                    0,
                    format!("{name} (zeros that it leaves out)"),
                ),
            };
            blocks.push(RamBlock {
                backing: Backing::SharedFile,
                name,
                start: VmmVirtual(offset),
                length: segment.length,
                file: Some(FileIdentity {
                    offset,
                    ..file.identity()
                }),
                listed: None,
            });
            files.push(Arc::clone(file));
        }
        Ok(Self {
            path: path.to_owned(),
            format,
            blocks,
            layout,
            files,
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format.
    #[must_use]
    pub const fn format(&self) -> DumpFormat {
        self.format
    }

    /// Its ranges as RAM blocks; a block's start is its place in the file.
    #[must_use]
    pub fn blocks(&self) -> &[RamBlock] {
        &self.blocks
    }

    /// Where each address lies, as the file states it.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How much memory it holds, in bytes.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.length).sum()
    }

    /// Its blocks, each with the file that holds it.
    pub(crate) fn blocks_and_files(&self) -> impl Iterator<Item = (&RamBlock, &Arc<BackingFile>)> {
        self.blocks.iter().zip(&self.files)
    }
}

fn reader_at(file: &File, at: u64) -> io::Result<impl Read + use<'_>> {
    use std::io::{Seek, SeekFrom};
    let mut file = file;
    file.seek(SeekFrom::Start(at))?;
    Ok(file)
}
