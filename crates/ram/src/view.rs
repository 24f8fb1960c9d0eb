//! Chosen pieces of guest RAM as one linear shared memory, by mapping them or by having
//! the system copy. Whoever talks through a view need not know which.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use vmshm_shm::{Fault, MapError, Mapping, PAGE_SIZE, Piece, Protection, SharedMemory};

use crate::access::Method;
use crate::address::VmmVirtual;
use crate::os::{BackingFile, Liveness, ProcessMemory};

/// Pieces of guest RAM as one memory.
#[derive(Debug)]
pub struct View {
    reach: Reach,
    /// The files of grafted regions among what is mapped.
    grafts: Vec<Arc<BackingFile>>,
}

#[derive(Debug)]
enum Reach {
    /// The usual case: everything in one mapping.
    Linear(Mapping),
    /// Several files, or pages that cannot be placed side by side.
    Parts(Vec<MappedPart>),
    Copied(Copied),
}

/// A run of the view inside a mapping of its own.
#[derive(Debug)]
struct MappedPart {
    /// Where the run starts in the view.
    start: u64,
    length: u64,
    /// Where it starts in the mapping.
    inside: u64,
    mapping: Mapping,
}

#[derive(Debug)]
struct Copied {
    memory: Arc<ProcessMemory>,
    liveness: Arc<Liveness>,
    parts: Vec<CopiedPart>,
    size: u64,
    writable: bool,
    /// Nothing of it is written any more.
    abandoned: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
struct CopiedPart {
    start: u64,
    length: u64,
    address: VmmVirtual,
}

impl View {
    /// Maps runs of files, each given with its offset and length.
    pub(crate) fn mapped(
        pieces: &[(&BackingFile, u64, u64)],
        protection: Protection,
    ) -> Result<Self, MapError> {
        let mut parts: Vec<MappedPart> = Vec::new();
        let mut start = 0;
        let mut next = 0;
        while let Some(&(file, offset, length)) = pieces.get(next) {
            let unit = file.page_size();
            let part = if unit > PAGE_SIZE {
                // Huge pages can only be mapped whole: map more, and show the part.
                next += 1;
                let first = offset - offset % unit;
                let index = next - 1;
                let end = offset
                    .checked_add(length)
                    .and_then(|end| end.checked_next_multiple_of(unit))
                    .ok_or(MapError::BadPiece { index })?;
                let piece = Piece {
                    offset: first,
                    length: end - first,
                };
                MappedPart {
                    start,
                    length,
                    inside: offset - first,
                    mapping: Mapping::new(file, &[piece], protection)?,
                }
            } else {
                let same_file = pieces[next..]
                    .iter()
                    .take_while(|piece| std::ptr::eq(piece.0, file))
                    .map(|&(_, offset, length)| Piece { offset, length });
                let run: Vec<Piece> = same_file.collect();
                next += run.len();
                MappedPart {
                    start,
                    length: run.iter().map(|piece| piece.length).sum(),
                    inside: 0,
                    mapping: Mapping::new(file, &run, protection)?,
                }
            };
            start += part.length;
            parts.push(part);
        }
        let reach = match parts.pop() {
            Some(only)
                if parts.is_empty() && only.inside == 0 && only.length == only.mapping.size() =>
            {
                Reach::Linear(only.mapping)
            }
            Some(last) => {
                parts.push(last);
                Reach::Parts(parts)
            }
            None => return Err(MapError::BadPiece { index: 0 }),
        };
        Ok(Self::over(reach))
    }

    /// A mapping as it is.
    #[allow(dead_code, reason = "only some systems have grafts")]
    pub(crate) const fn linear(mapping: Mapping) -> Self {
        Self::over(Reach::Linear(mapping))
    }

    /// The files of grafts among what it maps.
    #[allow(dead_code, reason = "only some systems have grafts")]
    pub(crate) fn grafts(&self) -> &[Arc<BackingFile>] {
        &self.grafts
    }

    /// What it maps; nothing where it copies.
    #[allow(dead_code, reason = "only some systems can let go of it")]
    pub(crate) fn mappings(&self) -> impl Iterator<Item = &Mapping> {
        let (linear, parts): (Option<&Mapping>, &[MappedPart]) = match &self.reach {
            Reach::Linear(mapping) => (Some(mapping), &[]),
            Reach::Parts(parts) => (None, parts),
            Reach::Copied(_) => (None, &[]),
        };
        linear
            .into_iter()
            .chain(parts.iter().map(|part| &part.mapping))
    }

    /// Writes nothing any more where it copies.
    #[allow(dead_code, reason = "only some systems can let go of it")]
    pub(crate) fn stop_copying(&self) {
        if let Reach::Copied(copied) = &self.reach {
            copied.abandoned.store(true, Ordering::Relaxed);
        }
    }

    /// Whether some of it lies in a file of a grafted region.
    #[must_use]
    pub const fn lies_in_grafts(&self) -> bool {
        !self.grafts.is_empty()
    }

    /// Whether the file of a graft that it maps was taken away from the VM: nobody else
    /// sees any more what is written.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.grafts.iter().any(|file| file.is_withdrawn())
    }

    /// Copies to and from runs of the VMM's memory.
    pub(crate) fn copied(
        memory: Arc<ProcessMemory>,
        liveness: Arc<Liveness>,
        pieces: impl Iterator<Item = (VmmVirtual, u64)>,
        protection: Protection,
    ) -> Self {
        let mut size = 0;
        let parts = pieces
            .map(|(address, length)| {
                let start = size;
                size += length;
                CopiedPart {
                    start,
                    length,
                    address,
                }
            })
            .collect();
        Self::over(Reach::Copied(Copied {
            memory,
            liveness,
            parts,
            size,
            writable: protection == Protection::ReadWrite,
            abandoned: AtomicBool::new(false),
        }))
    }

    /// Remembers that it maps files of grafts.
    pub(crate) fn over_grafts(self, grafts: Vec<Arc<BackingFile>>) -> Self {
        Self { grafts, ..self }
    }

    const fn over(reach: Reach) -> Self {
        Self {
            reach,
            grafts: Vec::new(),
        }
    }

    /// Whether accesses go straight to the guest's memory, and not through the system.
    #[must_use]
    pub const fn is_mapped(&self) -> bool {
        !matches!(self.reach, Reach::Copied(_))
    }

    /// How the memory is reached, however it was asked for.
    #[must_use]
    pub const fn method(&self) -> Method {
        if !self.is_mapped() {
            Method::Copy
        } else if self.lies_in_grafts() {
            Method::Graft
        } else {
            Method::Map
        }
    }
}

/// The parts that `offset..offset + length` runs through: for each its index, where in
/// it the run starts, and how many bytes it has there.
fn spans<'p, P>(
    parts: &'p [P],
    bounds: impl Fn(&P) -> (u64, u64),
    offset: u64,
    length: usize,
    size: u64,
    mut visit: impl FnMut(&'p P, u64, std::ops::Range<usize>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let outside = Fault::OutOfBounds {
        offset,
        length: length as u64,
        size,
    };
    let end = offset.checked_add(length as u64).ok_or(outside)?;
    if end > size {
        return Err(outside);
    }
    let mut done = 0_usize;
    let mut index = parts
        .partition_point(|part| bounds(part).0 <= offset)
        .saturating_sub(1);
    while done < length {
        let part = parts.get(index).ok_or(outside)?;
        let (start, part_length) = bounds(part);
        let inside = offset + done as u64 - start;
        let left = usize::try_from(part_length - inside).unwrap_or(usize::MAX);
        let count = left.min(length - done);
        visit(part, inside, done..done + count)?;
        done += count;
        index += 1;
    }
    Ok(())
}

const fn part_bounds(part: &MappedPart) -> (u64, u64) {
    (part.start, part.length)
}

const fn copied_bounds(part: &CopiedPart) -> (u64, u64) {
    (part.start, part.length)
}

fn parts_size(parts: &[MappedPart]) -> u64 {
    parts.last().map_or(0, |part| part.start + part.length)
}

/// The part that holds the word at `offset`; words do not cross parts, since these are
/// made of whole pages.
fn word_part(parts: &[MappedPart], offset: u64) -> Result<(&Mapping, u64), Fault> {
    if !offset.is_multiple_of(8) {
        return Err(Fault::Misaligned { offset });
    }
    let mut found = Err(Fault::Misaligned { offset });
    spans(
        parts,
        part_bounds,
        offset,
        8,
        parts_size(parts),
        |part, inside, _| {
            found = Ok((&part.mapping, part.inside + inside));
            Ok(())
        },
    )?;
    found
}

impl Copied {
    fn load(&self, offset: u64) -> Result<u64, Fault> {
        let mut bytes = [0_u8; 8];
        if !offset.is_multiple_of(8) {
            return Err(Fault::Misaligned { offset });
        }
        self.read(offset, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn store(&self, offset: u64, value: u64) -> Result<(), Fault> {
        if !offset.is_multiple_of(8) {
            return Err(Fault::Misaligned { offset });
        }
        self.write(offset, &value.to_ne_bytes())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let length = into.len();
        let mut pieces: Vec<(VmmVirtual, usize)> = Vec::new();
        let mut alone: Option<VmmVirtual> = None;
        spans(
            &self.parts,
            copied_bounds,
            offset,
            length,
            self.size,
            |part, inside, range| {
                let address = VmmVirtual(part.address.0 + inside);
                if range.len() == length {
                    alone = Some(address);
                } else {
                    pieces.push((address, range.len()));
                }
                Ok(())
            },
        )?;
        match alone {
            Some(address) => self.memory.read_whole(&self.liveness, address, into),
            None => self.memory.read_pieces(&self.liveness, &pieces, into),
        }
        .map_err(|code| Fault::Unreachable { code })
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        if !self.writable {
            return Err(Fault::ReadOnly);
        }
        if self.abandoned.load(Ordering::Relaxed) {
            return Ok(());
        }
        spans(
            &self.parts,
            copied_bounds,
            offset,
            from.len(),
            self.size,
            |part, inside, range| {
                let address = VmmVirtual(part.address.0 + inside);
                self.memory
                    .write(address, &from[range])
                    .map_err(|code| Fault::Unreachable { code })
            },
        )
    }
}

// Order over copies: each word is one system call, and the processors this runs on (x86)
// keep loads in order among loads and stores among stores. The fences keep the compiler
// to that, and state what is meant.
impl SharedMemory for View {
    #[inline]
    fn size(&self) -> u64 {
        match &self.reach {
            Reach::Linear(mapping) => mapping.size(),
            Reach::Parts(parts) => parts_size(parts),
            Reach::Copied(copied) => copied.size,
        }
    }

    #[inline]
    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
        match &self.reach {
            Reach::Linear(mapping) => mapping.load_relaxed(offset),
            Reach::Parts(parts) => {
                let (mapping, at) = word_part(parts, offset)?;
                mapping.load_relaxed(at)
            }
            Reach::Copied(copied) => copied.load(offset),
        }
    }

    #[inline]
    fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
        match &self.reach {
            Reach::Linear(mapping) => mapping.load_acquire(offset),
            Reach::Parts(parts) => {
                let (mapping, at) = word_part(parts, offset)?;
                mapping.load_acquire(at)
            }
            Reach::Copied(copied) => {
                let value = copied.load(offset);
                fence(Ordering::Acquire);
                value
            }
        }
    }

    #[inline]
    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
        match &self.reach {
            Reach::Linear(mapping) => mapping.store_relaxed(offset, value),
            Reach::Parts(parts) => {
                let (mapping, at) = word_part(parts, offset)?;
                mapping.store_relaxed(at, value)
            }
            Reach::Copied(copied) => copied.store(offset, value),
        }
    }

    #[inline]
    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
        match &self.reach {
            Reach::Linear(mapping) => mapping.store_release(offset, value),
            Reach::Parts(parts) => {
                let (mapping, at) = word_part(parts, offset)?;
                mapping.store_release(at, value)
            }
            Reach::Copied(copied) => {
                fence(Ordering::Release);
                copied.store(offset, value)
            }
        }
    }

    #[inline]
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        match &self.reach {
            Reach::Linear(mapping) => mapping.read(offset, into),
            Reach::Parts(parts) => spans(
                parts,
                part_bounds,
                offset,
                into.len(),
                parts_size(parts),
                |part, inside, range| part.mapping.read(part.inside + inside, &mut into[range]),
            ),
            Reach::Copied(copied) => copied.read(offset, into),
        }
    }

    #[inline]
    fn prefetch(&self, offset: u64, length: u64) {
        if let Reach::Linear(mapping) = &self.reach {
            mapping.prefetch(offset, length);
        }
    }

    #[inline]
    fn prefetch_to_write(&self, offset: u64) {
        if let Reach::Linear(mapping) = &self.reach {
            mapping.prefetch_to_write(offset);
        }
    }

    #[inline]
    fn is_costly(&self) -> bool {
        matches!(self.reach, Reach::Copied(_))
    }

    #[inline]
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
        match &self.reach {
            Reach::Linear(mapping) => mapping.write(offset, from),
            Reach::Parts(parts) => spans(
                parts,
                part_bounds,
                offset,
                from.len(),
                parts_size(parts),
                |part, inside, range| part.mapping.write(part.inside + inside, &from[range]),
            ),
            Reach::Copied(copied) => copied.write(offset, from),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
#[path = "view_tests.rs"]
mod tests;
