//! The RAM of one VM, opened: reads and writes at places in its blocks, and views of
//! chosen pieces as shared memory. Reading brings no page of the guest into being where
//! the RAM is mapped. Nothing outside the blocks is ever touched.

use std::ops::Range;
use std::sync::Arc;

use vmshm_shm::Protection;

use crate::access::{Access, Method, Obstacle};
use crate::address::{BlockOffset, BlockPiece, merge_pieces};
use crate::block::{self, Backing, RamBlock};
use crate::dump::StoredDump;
use crate::graft_runs::{OpenGraft, cut, open_grafts};
use crate::open_block::{OpenBlock, write_file};
use crate::os::{
    BackingFile, BorrowedFile, Liveness, MemoryRead, Process, ProcessMemory, Residency, code,
};
use crate::ram_error::{OpenError, RamError};
use crate::view::View;
use crate::vmm::Vmm;

/// Words are copied whole where they are aligned to their size.
const WORD: u64 = 8;
/// The largest pages in which mappings place pieces side by side.
const HUGE_PAGE: u64 = 2 << 20;

/// One read of a batch.
#[derive(Debug)]
pub struct RamRead<'a> {
    /// Where from.
    pub at: BlockOffset,
    /// Where to.
    pub into: &'a mut [u8],
}

/// Where pieces of RAM lie in a file: what another process needs for mapping them side by
/// side.
#[derive(Debug)]
pub struct FileRuns<'a> {
    file: RunsFile<'a>,
    /// Offset and length in it of each run of whole pages, in the pieces' order.
    pub runs: Vec<(u64, u64)>,
}

#[derive(Debug)]
enum RunsFile<'a> {
    Block(&'a BackingFile),
    Graft(Arc<BackingFile>),
    Whole(BorrowedFile<'a>),
}

impl<'a> FileRuns<'a> {
    /// All `size` bytes of a file that holds a region and nothing else.
    #[must_use]
    pub fn whole(file: BorrowedFile<'a>, size: u64) -> Self {
        Self {
            file: RunsFile::Whole(file),
            runs: vec![(0, size)],
        }
    }
}

impl FileRuns<'_> {
    /// The file. Its descriptor reaches all that lies in it, not only these pieces; where
    /// they are a grafted region, nothing else lies in it.
    #[must_use]
    pub fn file(&self) -> BorrowedFile<'_> {
        match &self.file {
            RunsFile::Block(file) => file.as_file(),
            RunsFile::Graft(file) => file.as_file(),
            RunsFile::Whole(file) => *file,
        }
    }
}

/// The opened RAM of one VM. Blocks with a file are read through that whatever the
/// method: it is the same memory, and reading it brings no page into being.
#[derive(Debug)]
pub struct GuestRam {
    blocks: Vec<OpenBlock>,
    liveness: Arc<Liveness>,
    /// Present where a block has no file, or where copying was asked for.
    memory: Option<Arc<ProcessMemory>>,
    copying: bool,
    method: Method,
    /// Whose RAM it is; nobody's where it is stored.
    process: Option<Process>,
}

impl GuestRam {
    /// Opens the RAM of a VM.
    ///
    /// # Errors
    /// [`OpenError`]: the VM is gone, or the method does not work, with the reason.
    pub fn open(vmm: &Vmm, method: Method) -> Result<Self, OpenError> {
        let gone = || OpenError::Gone { pid: vmm.pid };
        if let Err(obstacle) = &vmm.reach.map
            && method == Method::Map
        {
            return Err(OpenError::Method {
                method: Access::Map,
                obstacle: obstacle.clone(),
            });
        }
        if let Err(obstacle) = &vmm.reach.copy
            && method == Method::Copy
        {
            return Err(OpenError::Method {
                method: Access::Copy,
                obstacle: obstacle.clone(),
            });
        }
        if let Some(obstacle) = vmm.reach.obstacle() {
            return Err(OpenError::Unreachable(obstacle.clone()));
        }
        let process = vmm.process();
        let liveness = Liveness::new(&process, vmm.start_time).map_err(|_| gone())?;
        let copying = method == Method::Copy || vmm.reach.map.is_err();
        let mappings = process.mappings().unwrap_or_default();
        let mut blocks = Vec::with_capacity(vmm.blocks.len());
        for block in &vmm.blocks {
            let file = match (block.backing.is_shared(), block.file, block.listed) {
                (true, Some(file), Some((start, end))) => {
                    match BackingFile::open(&process, &file, &block.name, start, end) {
                        Ok(file) => Some(Arc::new(file)),
                        Err(_) if liveness.is_gone() => return Err(gone()),
                        // A process that is not recognised may drop what is no RAM.
                        Err(code) if !copying && !vmm.kind.guesses_blocks() => {
                            return Err(OpenError::Method {
                                method: Access::Map,
                                obstacle: Obstacle::FileRefused {
                                    name: block.name.clone(),
                                    code,
                                    mode: BackingFile::mode(&process, &file, &block.name),
                                    scope: 0,
                                },
                            });
                        }
                        Err(_) => None,
                    }
                }
                _ => None,
            };
            let origin = match (block.backing, block.file, block.listed) {
                (Backing::PrivateFile, Some(file), Some((start, end))) => {
                    BackingFile::open_to_read(&process, &file, &block.name, start, end).ok()
                }
                _ => None,
            };
            let residency = Residency::choose(&process, file.as_deref());
            let grafts = if file.is_some() || origin.is_some() {
                open_grafts(&process, block, &mappings).map_err(graft_refused)?
            } else {
                Vec::new()
            };
            blocks.push(OpenBlock {
                block: block.clone(),
                file,
                origin: origin.map(Arc::new),
                residency,
                grafts,
            });
        }
        let all_files = blocks.iter().all(|open| open.file.is_some());
        let memory = if method == Method::Map || (all_files && !copying) {
            None
        } else {
            match ProcessMemory::open(&process, &liveness) {
                Ok(memory) => {
                    // The memory is bound to the program that runs now. It must be the
                    // one whose blocks were found: a process may replace itself.
                    if !process
                        .mappings()
                        .is_ok_and(|now| block::are_still_there(&now, &vmm.blocks))
                    {
                        return Err(OpenError::Moved { pid: vmm.pid });
                    }
                    Some(Arc::new(memory))
                }
                Err(_) if liveness.is_gone() => return Err(gone()),
                Err(code) if copying => {
                    return Err(OpenError::Unreachable(Obstacle::System {
                        what: "opening the VMM's memory",
                        code,
                    }));
                }
                Err(_) => None,
            }
        };
        // What was opened by number belongs to the right process only if it still lives.
        if liveness.is_gone() {
            return Err(gone());
        }
        tracing::debug!(
            pid = vmm.pid,
            copying,
            blocks = blocks.len(),
            "guest RAM opened"
        );
        Ok(Self {
            blocks,
            liveness: Arc::new(liveness),
            memory,
            copying,
            method,
            process: Some(process),
        })
    }

    /// The memory in a stored dump, as if it were a VM's; it can only be read.
    #[must_use]
    pub fn stored(dump: &StoredDump) -> Self {
        let open = |(block, file): (&RamBlock, &Arc<BackingFile>)| OpenBlock {
            block: block.clone(),
            file: Some(Arc::clone(file)),
            origin: None,
            residency: Residency::of_stored(),
            grafts: Vec::new(),
        };
        Self {
            blocks: dump.blocks_and_files().map(open).collect(),
            liveness: Arc::new(Liveness::stored()),
            memory: None,
            copying: false,
            method: Method::Map,
            process: None,
        }
    }

    /// How the RAM is reached.
    #[must_use]
    pub fn access(&self) -> Access {
        if self.copying {
            Access::Copy
        } else {
            Access::Map
        }
    }

    /// Whether it was asked for that regions be grafted as they are opened.
    #[must_use]
    pub const fn is_to_be_grafted(&self) -> bool {
        matches!(self.method, Method::Graft)
    }

    /// The blocks, in the order in which [`BlockOffset`] counts them.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = &RamBlock> {
        self.blocks.iter().map(|open| &open.block)
    }

    /// One of the [`blocks`](Self::blocks).
    #[must_use]
    pub fn block(&self, index: usize) -> Option<&RamBlock> {
        self.blocks.get(index).map(|open| &open.block)
    }

    /// The hold on the VMM's process.
    #[must_use]
    pub fn liveness(&self) -> &Arc<Liveness> {
        &self.liveness
    }

    /// Reads `into.len()` bytes. Pages that the guest never touched read as zeros.
    ///
    /// # Errors
    /// [`RamError`]; what was filled in until then has no meaning.
    pub fn read_at(&self, at: BlockOffset, into: &mut [u8]) -> Result<(), RamError> {
        let open = self.checked(at, into.len())?;
        match (&open.file, &self.memory) {
            (Some(file), _) => open.in_files(file, at.offset, into.len(), |file, offset, part| {
                file.read_at(offset, into.get_mut(part).unwrap_or_default())
            }),
            (None, Some(memory)) => open.read_from(memory, &self.liveness, at, into),
            (None, None) => Err(code::BAD_DESCRIPTOR),
        }
        .map_err(|code| self.ram_error(at, code))
    }

    /// Reads many short pieces with few calls. Each must lie inside a block. The ones
    /// that cannot be reached are reported to `failed` by their index, and the others
    /// are filled.
    ///
    /// # Errors
    /// [`RamError::Outside`] before anything is read; [`RamError::Gone`] when nothing
    /// that was read may be used.
    pub fn read_many(
        &self,
        reads: &mut [RamRead<'_>],
        failed: &mut dyn FnMut(usize, RamError),
    ) -> Result<(), RamError> {
        for read in reads.iter() {
            self.checked(read.at, read.into.len())?;
        }
        let mut remote: Vec<MemoryRead<'_>> = Vec::new();
        let mut remote_index: Vec<(usize, BlockOffset)> = Vec::new();
        for (index, read) in reads.iter_mut().enumerate() {
            let open = self.checked(read.at, read.into.len())?;
            if open.file.is_some() || open.origin.is_some() {
                if let Err(error) = self.read_at(read.at, read.into) {
                    failed(index, error);
                }
            } else {
                remote_index.push((index, read.at));
                remote.push(MemoryRead {
                    from: open.address(read.at),
                    into: read.into,
                });
            }
        }
        let (Some(memory), Some(&(_, first))) = (&self.memory, remote_index.first()) else {
            return Ok(());
        };
        memory
            .read_many(&self.liveness, &mut remote, &mut |index, code| {
                if let Some(&(index, at)) = remote_index.get(index) {
                    failed(index, self.ram_error(at, code));
                }
            })
            .map_err(|code| self.ram_error(first, code))
    }

    /// Writes `from`.
    ///
    /// # Errors
    /// [`RamError`]; a part may have been written.
    pub fn write_at(&self, at: BlockOffset, from: &[u8]) -> Result<(), RamError> {
        let open = self.checked(at, from.len())?;
        let file = open
            .file
            .as_ref()
            .filter(|_| !self.copying || open.has_no_place());
        match (file, &self.memory) {
            (Some(file), _) if !file.writable => return Err(RamError::ReadOnly),
            (Some(file), _) => {
                if self.liveness.is_gone() {
                    return Err(RamError::Gone);
                }
                open.in_files(file, at.offset, from.len(), |file, offset, part| {
                    write_file(file, offset, from.get(part).unwrap_or_default())
                })
            }
            (None, Some(memory)) => memory.write(open.address(at), from),
            (None, None) => Err(code::BAD_DESCRIPTOR),
        }
        .map_err(|code| self.ram_error(at, code))
    }

    /// Pieces of RAM, in their order, as one linear memory. Only these pieces are mapped
    /// where the method is map. Each must be a run of whole pages; where they are copied,
    /// the VMM may hold a guest's page at any place that is aligned for words.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn view(&self, pieces: &[BlockPiece], protection: Protection) -> Result<View, OpenError> {
        let grafts = self.grafts_now(pieces)?;
        let located = self.locate(pieces, &grafts);
        let copied = self.memory.as_ref().filter(|_| located.is_none());
        let step = if copied.is_some() {
            WORD
        } else {
            vmshm_shm::PAGE_SIZE
        };
        for piece in pieces {
            let bad = OpenError::BadPiece {
                at: piece.at,
                length: piece.length,
            };
            let whole = piece.length > 0
                && piece.length.is_multiple_of(vmshm_shm::PAGE_SIZE)
                && piece.at.offset.is_multiple_of(step);
            let length = usize::try_from(piece.length).map_err(|_| bad.clone())?;
            if !whole || self.checked(piece.at, length).is_err() {
                return Err(bad);
            }
        }
        if pieces.is_empty() {
            return Err(OpenError::BadPiece {
                at: BlockOffset::default(),
                length: 0,
            });
        }
        let merged = merge_pieces(pieces);
        if let Some(memory) = copied {
            let located = merged.iter().filter_map(|piece| {
                let open = self.blocks.get(piece.at.block)?;
                Some((open.address(piece.at), piece.length))
            });
            return Ok(View::copied(
                Arc::clone(memory),
                Arc::clone(&self.liveness),
                located,
                protection,
            ));
        }
        let located = located.ok_or(OpenError::BadPiece {
            at: BlockOffset::default(),
            length: 0,
        })?;
        if protection == Protection::ReadWrite && located.iter().any(|(file, ..)| !file.writable) {
            return Err(OpenError::ReadOnly);
        }
        let view = View::mapped(&located, protection).map_err(|cause| OpenError::Map {
            pieces: located.len(),
            cause,
        })?;
        // One file may have many runs; those of other regions are no business of this view.
        let mut used: Vec<Arc<BackingFile>> = Vec::new();
        for graft in grafts.iter().flat_map(|(_, grafts)| grafts) {
            let file = &graft.file;
            let is_mapped = located
                .iter()
                .any(|(mapped, ..)| std::ptr::eq(*mapped, &**file));
            if is_mapped && !used.iter().any(|known| Arc::ptr_eq(known, file)) {
                used.push(Arc::clone(file));
            }
        }
        Ok(view.over_grafts(used))
    }

    /// The grafts in the blocks of these pieces at this moment; none where all is copied,
    /// since the VMM's memory has them in place.
    fn grafts_now(&self, pieces: &[BlockPiece]) -> Result<Vec<(usize, Vec<OpenGraft>)>, OpenError> {
        let mut found = Vec::new();
        let Some(process) = &self.process else {
            return Ok(found);
        };
        if self.method == Method::Copy {
            return Ok(found);
        }
        let mappings = process.mappings().unwrap_or_default();
        for piece in pieces {
            let index = piece.at.block;
            let Some(open) = self.blocks.get(index) else {
                continue;
            };
            if found.iter().any(|(known, _)| *known == index) {
                continue;
            }
            let grafts = match open_grafts(process, &open.block, &mappings) {
                Ok(grafts) => grafts,
                // Its memory can be copied all the same.
                Err(_) if open.file.is_none() => Vec::new(),
                Err(code) => return Err(graft_refused(code)),
            };
            found.push((index, grafts));
        }
        Ok(found)
    }

    /// Where pieces lie in files, if all of them do and may be mapped.
    fn locate<'s>(
        &'s self,
        pieces: &[BlockPiece],
        grafts: &'s [(usize, Vec<OpenGraft>)],
    ) -> Option<Vec<(&'s BackingFile, u64, u64)>> {
        let has_no_place = |piece: &BlockPiece| {
            let open = self.blocks.get(piece.at.block);
            open.is_some_and(OpenBlock::has_no_place)
        };
        let may_map = !self.copying || pieces.iter().all(has_no_place);
        let mut located = Vec::with_capacity(pieces.len());
        for piece in merge_pieces(pieces) {
            let open = self.blocks.get(piece.at.block)?;
            let own = open.file.as_deref().filter(|_| may_map);
            let here = grafts.iter().find(|(block, _)| *block == piece.at.block);
            let grafts = here
                .map(|(_, grafts)| grafts.as_slice())
                .unwrap_or_default();
            let end = piece.at.offset.checked_add(piece.length)?;
            for (part, graft) in cut(grafts, piece.at.offset..end) {
                let (file, offset) = match graft {
                    Some(graft) => {
                        let into = part.start - graft.range.start;
                        (&*graft.file, graft.file_offset.checked_add(into)?)
                    }
                    None => (own?, open.block.file_offset().checked_add(part.start)?),
                };
                located.push((file, offset, part.end - part.start));
            }
        }
        Some(located)
    }

    /// Where pieces lie in the one file that holds them all, for a process that shall map
    /// them with this protection. Nothing where that cannot be: RAM that is copied, pieces
    /// in several files, a file that may not be written, or huge pages that would have to
    /// be mapped beyond the pieces.
    #[must_use]
    pub fn file_runs(&self, pieces: &[BlockPiece], protection: Protection) -> Option<FileRuns<'_>> {
        let merged = merge_pieces(pieces);
        for piece in &merged {
            let length = usize::try_from(piece.length).ok()?;
            self.checked(piece.at, length).ok()?;
        }
        let grafts = self.grafts_now(&merged).ok()?;
        let located = self.locate(&merged, &grafts)?;
        let (first, ..) = *located.first()?;
        let unit = first.page_size();
        let is_mappable = unit <= HUGE_PAGE
            && (protection == Protection::Read || first.writable)
            && merged.iter().all(|piece| piece.length > 0);
        let same = first.identity();
        let run = |(file, offset, length): &(&BackingFile, u64, u64)| {
            let identity = file.identity();
            let fits = (identity.device, identity.inode) == (same.device, same.inode)
                && offset.is_multiple_of(unit)
                && length.is_multiple_of(unit);
            fits.then_some((*offset, *length))
        };
        let runs: Option<Vec<_>> = located.iter().map(run).collect();
        let runs = runs.filter(|_| is_mappable)?;
        let graft = grafts.iter().flat_map(|(_, grafts)| grafts);
        let graft = graft
            .map(|graft| &graft.file)
            .find(|file| std::ptr::eq(&***file, first));
        let file = match graft {
            Some(file) => RunsFile::Graft(Arc::clone(file)),
            None => RunsFile::Block(self.blocks.get(merged.first()?.at.block)?.file.as_deref()?),
        };
        Some(FileRuns { file, runs })
    }

    /// Calls `visit` for each run of existing pages of a block inside `range`, in order,
    /// until it says no. Where existence cannot be told, all pages count.
    ///
    /// # Errors
    /// [`RamError`].
    pub fn resident_runs(
        &self,
        block: usize,
        range: Range<u64>,
        visit: &mut dyn FnMut(Range<u64>) -> bool,
    ) -> Result<(), RamError> {
        let at = BlockOffset {
            block,
            offset: range.start,
        };
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let open = self.checked(at, length)?;
        open.runs(range, visit)
            .map_err(|code| self.ram_error(at, code))
    }

    /// Whether it can be told which pages of a block exist; where not, all count.
    #[must_use]
    pub fn knows_existing(&self, block: usize) -> bool {
        self.blocks
            .get(block)
            .is_some_and(|open| open.origin.is_some() || open.residency.is_known())
    }

    /// Whether the system tells where a run of existing pages ends only by walking to its
    /// end, however far that is.
    pub(crate) fn sees_whole_runs(&self, block: usize) -> bool {
        self.blocks
            .get(block)
            .is_some_and(|open| open.origin.is_some() || open.residency.is_by_file())
    }

    /// Whether anything of a block can be reached.
    pub(crate) fn is_reachable(&self, block: usize) -> bool {
        self.memory.is_some()
            || self
                .blocks
                .get(block)
                .is_some_and(|open| open.file.is_some())
    }

    /// Of the given offsets into a block, those whose page exists.
    pub(crate) fn existing(&self, block: usize, offsets: Vec<u64>) -> Vec<u64> {
        let Some(open) = self.blocks.get(block) else {
            return Vec::new();
        };
        if open.residency.is_by_file() {
            // Reading a hole of the file is cheaper than asking, and harmless.
            return offsets;
        }
        offsets
            .into_iter()
            .filter(|offset| open.exists(*offset))
            .collect()
    }

    /// The block of an access that lies inside it.
    fn checked(&self, at: BlockOffset, length: usize) -> Result<&OpenBlock, RamError> {
        let outside = RamError::Outside {
            at,
            length: length as u64,
        };
        let open = self.blocks.get(at.block).ok_or(outside)?;
        match at.offset.checked_add(length as u64) {
            Some(end) if end <= open.block.length => Ok(open),
            _ => Err(outside),
        }
    }

    fn ram_error(&self, at: BlockOffset, code: i32) -> RamError {
        if code == code::NO_PROCESS || self.liveness.is_gone() {
            RamError::Gone
        } else {
            RamError::Unreachable { at, code }
        }
    }
}

fn graft_refused(code: i32) -> OpenError {
    OpenError::Unreachable(Obstacle::System {
        what: "opening the file of a grafted region",
        code,
    })
}

#[cfg(all(test, target_os = "linux"))]
#[path = "guest_ram_tests.rs"]
mod tests;
