//! Reading and writing guest RAM by guest-physical address.
//!
//! Reading works on any layout, and the caller is told how certain it is. Writing
//! needs a layout that a session has proved, unless the user takes the risk.

use std::sync::Arc;
use std::time::Duration;

use vmshm_link::{Extent, GuestPhysical};
use vmshm_ram::{BlockPiece, GuestRam, Layout, LayoutError, OpenError, RamError, Source, Vmm};

use crate::attach::{self, AttachError, AttachOptions};
use crate::machines::Subject;
use crate::session::Session;
use crate::sighting::Where;

/// How long firmware's and the kernel's tables are searched for.
const LAYOUT_BUDGET: Duration = Duration::from_millis(1500);
/// How much is copied at once.
const CHUNK: usize = 1 << 20;

/// Why an address range could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PhysicalError {
    /// The VM's memory could not be opened.
    #[error("cannot reach the memory of {name}")]
    Open {
        /// The VM.
        name: String,
        /// The reason.
        #[source]
        source: OpenError,
    },
    /// The address is not RAM, or no layout is known.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The memory failed.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Nothing was asked for.
    #[error("a length of 0 bytes makes no sense")]
    Empty,
    /// The range goes beyond what an address can be.
    #[error("{length} bytes at {start} go beyond the end of all addresses")]
    Overflow {
        /// First address.
        start: GuestPhysical,
        /// Length.
        length: u64,
    },
    /// Writing needs proof.
    #[error("the place of {start} in the VM's memory is not proved ({source_name})")]
    NotProved {
        /// First address.
        start: GuestPhysical,
        /// How the layout is known.
        source_name: String,
    },
    /// The guest's agent could not prove it.
    #[error("the VM's memory layout cannot be proved")]
    Attach(#[source] AttachError),
    /// The beacon is not where the user said.
    #[error(transparent)]
    Beacon(AttachError),
    /// Whoever takes the bytes failed.
    #[error("writing the output failed")]
    Output(#[source] std::io::Error),
}

impl PhysicalError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Open { source, .. } => source.hint(),
            Self::Layout(error) => error.hint(),
            Self::Beacon(error) => error.hint(),
            Self::NotProved { .. } => {
                Some("`--unverified` writes nevertheless, at your own risk".to_owned())
            }
            // Without proof the memory would be opened just the same.
            Self::Attach(error @ AttachError::Open { .. }) => error.hint(),
            Self::Attach(error) => Some(format!(
                "{}; or `--unverified` writes without proof, at your own risk",
                error.hint().unwrap_or_else(|| "attach again".to_owned())
            )),
            _ => None,
        }
    }
}

/// A VM's RAM by guest-physical address.
#[derive(Debug)]
pub struct Physical {
    ram: Arc<GuestRam>,
    layout: Layout,
    /// Keeps the proof alive while it is used.
    _session: Option<Session>,
}

/// A layout with what the VMM's monitor knows better or besides; where that tells
/// nothing and an agent proved but a part, with what firmware and kernel left. Without
/// proof the monitor has the last word.
pub(crate) fn complete(layout: &Layout, vmm: &Vmm, ram: &GuestRam) -> Layout {
    let mut ranges = layout.ranges().iter();
    let has_proof = ranges.any(|range| range.source == Source::Proved);
    match vmm.layout_by_monitor() {
        Ok(told) if has_proof => return layout.completed_by(&told),
        Ok(told) => return told,
        Err(error) => tracing::debug!(%error, "the VMM's monitor tells nothing"),
    }
    if has_proof && let Ok(found) = vmm.layout_without_agent(ram, LAYOUT_BUDGET) {
        return layout.completed_by(&found);
    }
    layout.clone()
}

/// Whether an agent proved all of it.
pub(crate) fn is_proved(layout: &Layout) -> bool {
    let mut ranges = layout.ranges().iter();
    ranges.all(|range| range.source == Source::Proved)
}

impl Physical {
    /// Opens a running VM or a stored dump for looking.
    ///
    /// # Errors
    /// [`PhysicalError`].
    pub fn for_looking(subject: &Subject, options: &AttachOptions) -> Result<Self, PhysicalError> {
        match subject {
            Subject::Running(vmm) => Self::for_reading(vmm, options),
            Subject::Stored(dump) => Ok(Self {
                ram: Arc::new(GuestRam::stored(dump)),
                layout: dump.layout().clone(),
                _session: None,
            }),
        }
    }

    /// Opens a VM for looking: by its agent's layout where one lives, else as
    /// [`without_agent`](Self::without_agent).
    ///
    /// # Errors
    /// [`PhysicalError`].
    pub fn for_reading(vmm: &Vmm, options: &AttachOptions) -> Result<Self, PhysicalError> {
        match attach::see(vmm, options) {
            Ok(seen) => Ok(Self {
                ram: seen.ram,
                layout: seen.directory.layout,
                _session: None,
            }),
            Err(AttachError::Open { name, source }) => Err(PhysicalError::Open { name, source }),
            // An address that was given is no guess that may be wrong.
            Err(error @ AttachError::NotThere { .. }) if options.place != Where::Learned => {
                Err(PhysicalError::Beacon(error))
            }
            Err(_) => Self::without_agent(vmm, options),
        }
    }

    /// Opens a VM for writing where a session proves the layout.
    ///
    /// # Errors
    /// [`PhysicalError::Attach`] when there is no proof.
    pub fn for_writing(vmm: &Vmm, options: &AttachOptions) -> Result<Self, PhysicalError> {
        let session = attach::attach(vmm, options).map_err(PhysicalError::Attach)?;
        let lost = || PhysicalError::Attach(crate::ending::SessionEnd::AgentLeft.into());
        let direct = session.direct().ok_or_else(lost)?;
        Ok(Self {
            ram: Arc::clone(direct.ram()),
            layout: direct.layout().clone(),
            _session: Some(session),
        })
    }

    /// Opens a VM as well as that goes without its agent: by what firmware and kernel
    /// left in its memory, else by its machine's rule.
    ///
    /// # Errors
    /// [`PhysicalError`].
    pub fn without_agent(vmm: &Vmm, options: &AttachOptions) -> Result<Self, PhysicalError> {
        let open = |source| PhysicalError::Open {
            name: vmm.name.clone(),
            source,
        };
        let ram = Arc::new(GuestRam::open(vmm, options.method).map_err(open)?);
        let layout = vmm.layout_without_agent(&ram, LAYOUT_BUDGET)?;
        Ok(Self {
            ram,
            layout,
            _session: None,
        })
    }

    /// Opens a running VM or a stored dump, and asks everybody who may know where its
    /// RAM lies, the VMM's own monitor included where that is free.
    ///
    /// # Errors
    /// [`PhysicalError`].
    pub fn for_translating(
        subject: &Subject,
        options: &AttachOptions,
    ) -> Result<Self, PhysicalError> {
        let known = Self::for_looking(subject, options);
        let Subject::Running(vmm) = subject else {
            return known;
        };
        match known {
            Ok(known) if is_proved(&known.layout) => Ok(known),
            Ok(mut known) => {
                known.layout = complete(&known.layout, vmm, &known.ram);
                Ok(known)
            }
            Err(PhysicalError::Layout(error)) => {
                let layout = vmm.layout_by_monitor().map_err(|_| error)?;
                let open = |source| PhysicalError::Open {
                    name: vmm.name.clone(),
                    source,
                };
                let ram = Arc::new(GuestRam::open(vmm, options.method).map_err(open)?);
                Ok(Self {
                    ram,
                    layout,
                    _session: None,
                })
            }
            Err(error) => Err(error),
        }
    }

    /// The memory itself.
    #[must_use]
    pub const fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// Where each guest-physical address lies, with how each range is known.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    fn pieces(
        &self,
        start: GuestPhysical,
        length: u64,
    ) -> Result<(Vec<BlockPiece>, Option<Source>), PhysicalError> {
        if length == 0 {
            return Err(PhysicalError::Empty);
        }
        let extent = Extent { start, length };
        if extent.end().is_none() {
            return Err(PhysicalError::Overflow { start, length });
        }
        Ok((
            self.layout.pieces(&[extent])?,
            self.layout.weakest_source(&[extent])?,
        ))
    }

    /// Reads `length` bytes from `start` on and hands them to `output` chunk by chunk.
    /// The whole range is checked before the first byte. Says how the weakest part of
    /// the range is known.
    ///
    /// # Errors
    /// [`PhysicalError`].
    pub fn read(
        &self,
        start: GuestPhysical,
        length: u64,
        output: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<Option<Source>, PhysicalError> {
        let (pieces, source) = self.pieces(start, length)?;
        let mut buffer = vec![0; CHUNK];
        for piece in pieces {
            let mut done = 0;
            while done < piece.length {
                let count = usize::try_from(piece.length - done).map_or(CHUNK, |n| n.min(CHUNK));
                let chunk = buffer.get_mut(..count).unwrap_or_default();
                let at = piece.at.checked_add(done).unwrap_or(piece.at);
                self.ram.read_at(at, chunk)?;
                output(chunk).map_err(PhysicalError::Output)?;
                done += count as u64;
            }
        }
        Ok(source)
    }

    /// Writes `bytes` from `start` on, if the place is proved or `unverified` is set.
    /// The whole range is checked before the first byte.
    ///
    /// # Errors
    /// [`PhysicalError`].
    pub fn write(
        &self,
        start: GuestPhysical,
        bytes: &[u8],
        unverified: bool,
    ) -> Result<Option<Source>, PhysicalError> {
        let (pieces, source) = self.pieces(start, bytes.len() as u64)?;
        if source != Some(Source::Proved) && !unverified {
            return Err(PhysicalError::NotProved {
                start,
                source_name: source.map_or_else(String::new, |source| source.to_string()),
            });
        }
        let mut rest = bytes;
        for piece in pieces {
            let count = usize::try_from(piece.length).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(count.min(rest.len()));
            self.ram.write_at(piece.at, now)?;
            rest = later;
        }
        Ok(source)
    }
}

#[cfg(test)]
mod tests {
    use vmshm_ram::Obstacle;

    use super::*;

    #[test]
    fn what_would_fail_just_the_same_is_not_advised() {
        let name = || "web".to_owned();
        let source = OpenError::Unreachable(Obstacle::NotDumpable);
        let error = PhysicalError::Attach(AttachError::Open {
            name: name(),
            source,
        });
        let hint = error.hint().expect("root may");
        assert!(!hint.contains("--unverified"), "{hint}");
        let error = PhysicalError::Attach(AttachError::NoAgent { name: name() });
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("--unverified"))
        );
    }
}
