//! Writes dumps of guest RAM: only pages that exist are read, and pages of zeros are
//! left out, so that the output can be as sparse as the guest's memory. The VM runs on
//! meanwhile, so a dump is no picture of one instant.
//!
//! Refuses to go on once the VMM has ended or any of its memory cannot be read: half a
//! dump that looks whole is worse than none.

use std::io;
use std::ops::Range;

use vmshm_link::GuestPhysical;

use super::format::DumpFormat;
use super::plan::{DumpPlan, PAGE, Stretch};
use crate::address::BlockOffset;
use crate::guest_ram::GuestRam;
use crate::ram_error::RamError;

/// How much is read at once: enough that the calls cost nothing beside the copying, and
/// little enough to stay in the cache until it is written.
const CHUNK: u64 = 1 << 20;

/// Why a dump could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpWriteError {
    /// The layout has no memory.
    #[error("there is no memory to dump")]
    Empty,
    /// The format would need a file that cannot be.
    #[error("memory up to address {end} does not fit into one file in the {format} format")]
    TooLong {
        /// The format.
        format: DumpFormat,
        /// Where memory ends.
        end: GuestPhysical,
    },
    /// The format's header counts no further.
    #[error("the memory has {ranges} ranges, and an ELF core holds at most {most}")]
    TooManyRanges {
        /// How many there are.
        ranges: usize,
        /// How many there may be.
        most: usize,
    },
    /// The VM ended.
    #[error("the VM has ended while its memory was being dumped")]
    Gone,
    /// A part of the memory could not be read.
    #[error("the memory at address {address} cannot be read")]
    Unreadable {
        /// Where.
        address: GuestPhysical,
        /// Why.
        #[source]
        source: RamError,
    },
    /// Whoever takes the bytes failed.
    #[error("writing the dump failed")]
    Output(#[source] io::Error),
    /// The caller said so.
    #[error("the dump was stopped")]
    Stopped,
}

impl DumpWriteError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooLong {
                format: DumpFormat::Raw,
                ..
            } => Some("`--format elf` and `lime` leave out what lies between the ranges".into()),
            Self::TooManyRanges { .. } => Some("`--format lime` has no such limit".into()),
            _ => None,
        }
    }
}

/// What takes the bytes of a dump: the place in the file, and the bytes. Places only
/// rise, and what no bytes are put to reads as zeros.
pub type DumpOutput<'a> = dyn FnMut(u64, &[u8]) -> io::Result<()> + 'a;

impl DumpPlan {
    /// How many bytes of the memory exist, the most that a dump can hold beside its
    /// headers.
    ///
    /// # Errors
    /// [`DumpWriteError`].
    pub fn existing_bytes(&self, ram: &GuestRam) -> Result<u64, DumpWriteError> {
        let mut sum = 0_u64;
        for stretch in &self.stretches {
            for_each_run(ram, stretch, &mut |run| {
                sum = sum.saturating_add(run.end - run.start);
                Ok(())
            })?;
        }
        Ok(sum)
    }

    /// Writes the dump. `go_on` gets the number of bytes read so far, and says whether
    /// to continue. Returns how many bytes of the memory existed.
    ///
    /// # Errors
    /// [`DumpWriteError`]; what was put to `output` until then is no dump.
    pub fn write(
        &self,
        ram: &GuestRam,
        output: &mut DumpOutput<'_>,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<u64, DumpWriteError> {
        let mut copier = Copier {
            ram,
            buffer: vec![0; usize::try_from(CHUNK).unwrap_or(0)],
            done: 0,
            output,
            go_on,
        };
        for stretch in &self.stretches {
            if let Some((offset, header)) = &stretch.header {
                (copier.output)(*offset, header).map_err(DumpWriteError::Output)?;
            }
            for_each_run(ram, stretch, &mut |run| copier.copy(stretch, run))?;
        }
        copier.check()?;
        Ok(copier.done)
    }
}

/// Calls `visit` for each run of existing pages of a stretch, as offsets into it.
fn for_each_run(
    ram: &GuestRam,
    stretch: &Stretch,
    visit: &mut dyn FnMut(Range<u64>) -> Result<(), DumpWriteError>,
) -> Result<(), DumpWriteError> {
    let first = stretch.at.offset;
    let end = first.saturating_add(stretch.length);
    let mut result = Ok(());
    ram.resident_runs(stretch.at.block, first..end, &mut |run| {
        // Runs are whole pages of the block; a stretch need not be.
        let run = run.start.max(first)..run.end.min(end);
        if !run.is_empty() {
            result = visit(run.start - first..run.end - first);
        }
        result.is_ok()
    })
    .map_err(|error| unreadable(stretch.address, error))?;
    result
}

fn unreadable(address: GuestPhysical, source: RamError) -> DumpWriteError {
    match source {
        RamError::Gone => DumpWriteError::Gone,
        source => DumpWriteError::Unreadable { address, source },
    }
}

/// Copies runs of existing pages to the output.
struct Copier<'a, 'o> {
    ram: &'a GuestRam,
    buffer: Vec<u8>,
    done: u64,
    output: &'a mut DumpOutput<'o>,
    go_on: &'a mut dyn FnMut(u64) -> bool,
}

impl Copier<'_, '_> {
    /// Whether to go on. RAM in a file outlives its VMM, so that reading would not tell.
    fn check(&mut self) -> Result<(), DumpWriteError> {
        if !(self.go_on)(self.done) {
            return Err(DumpWriteError::Stopped);
        }
        if self.ram.liveness().is_gone() {
            return Err(DumpWriteError::Gone);
        }
        Ok(())
    }

    fn copy(&mut self, stretch: &Stretch, run: Range<u64>) -> Result<(), DumpWriteError> {
        let mut at = run.start;
        while at < run.end {
            self.check()?;
            let address = GuestPhysical(stretch.address.0 + at);
            // Chunks end between two pages of the guest, whatever they start with.
            let count = (CHUNK - address.0 % PAGE).min(run.end - at);
            let from = BlockOffset {
                block: stretch.at.block,
                offset: stretch.at.offset + at,
            };
            let length = usize::try_from(count).unwrap_or(0);
            let chunk = self.buffer.get_mut(..length).unwrap_or_default();
            self.ram
                .read_at(from, chunk)
                .map_err(|error| unreadable(address, error))?;
            put_pages(address, stretch.offset + at, chunk, self.output)
                .map_err(DumpWriteError::Output)?;
            self.done += count;
            at += count;
        }
        Ok(())
    }
}

/// Puts what is not zero, in whole pages of the guest.
fn put_pages(
    address: GuestPhysical,
    offset: u64,
    bytes: &[u8],
    output: &mut DumpOutput<'_>,
) -> io::Result<()> {
    let page = |at: usize| {
        let left = PAGE - (address.0 + at as u64) % PAGE;
        usize::try_from(left).map_or(bytes.len(), |left| bytes.len().min(at + left))
    };
    let (mut from, mut at) = (0, 0);
    while at < bytes.len() {
        let end = page(at);
        if is_zero(&bytes[at..end]) {
            if from < at {
                output(offset + from as u64, &bytes[from..at])?;
            }
            from = end;
        }
        at = end;
    }
    if from < at {
        output(offset + from as u64, &bytes[from..at])?;
    }
    Ok(())
}

/// Whether all bytes are zero; without an early exit in the small, so that the compiler
/// can compare many bytes at once.
fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(128)
        .all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}
