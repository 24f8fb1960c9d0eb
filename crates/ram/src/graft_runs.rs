//! Where a VMM has files of grafted regions in the place of a RAM block's own memory. What
//! lies there is in no other file: a block's own file has only what was there before.
//! Grafts are known by the name of their memory files, and come and go while a VM runs.

use std::ops::Range;
use std::sync::Arc;

use crate::block::{RamBlock, is_graft};
use crate::mapping::{FileIdentity, MemoryMapping};
use crate::os::{BackingFile, Process};

/// A run of a block that lies in a graft's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GraftRun<'m> {
    /// Where in the block.
    pub(crate) range: Range<u64>,
    /// Where in the file the run starts.
    pub(crate) file_offset: u64,
    mapping: &'m MemoryMapping,
}

/// The runs of a block that lie in files of grafts, in rising order.
pub(crate) fn graft_runs<'m>(block: &RamBlock, mappings: &'m [MemoryMapping]) -> Vec<GraftRun<'m>> {
    let block_end = block.start.0.saturating_add(block.length);
    let run = |mapping: &'m MemoryMapping| {
        let file = mapping.file.filter(|_| is_graft(mapping))?;
        let first = mapping.start.0.max(block.start.0);
        let last = mapping.end().0.min(block_end);
        (first < last).then(|| GraftRun {
            range: first - block.start.0..last - block.start.0,
            file_offset: file.offset.saturating_add(first - mapping.start.0),
            mapping,
        })
    };
    let mut runs: Vec<GraftRun<'m>> = mappings.iter().filter_map(run).collect();
    runs.sort_by_key(|run| run.range.start);
    runs
}

/// A run whose file is open here.
#[derive(Debug, Clone)]
pub(crate) struct OpenGraft {
    /// Where in the block.
    pub(crate) range: Range<u64>,
    /// Where in the file the run starts.
    pub(crate) file_offset: u64,
    pub(crate) file: Arc<BackingFile>,
}

/// Opens the files behind a block's grafts. The error is the system's code.
pub(crate) fn open_grafts(
    process: &Process,
    block: &RamBlock,
    mappings: &[MemoryMapping],
) -> Result<Vec<OpenGraft>, i32> {
    let mut files: Vec<(FileIdentity, Arc<BackingFile>)> = Vec::new();
    let mut grafts = Vec::new();
    for run in graft_runs(block, mappings) {
        let mapping = run.mapping;
        let Some(identity) = mapping.file else {
            continue;
        };
        let known = files
            .iter()
            .find(|(known, _)| known.same_file(&identity))
            .map(|(_, file)| Arc::clone(file));
        let file = match known {
            Some(file) => file,
            None => {
                let (start, end) = (mapping.start, mapping.end());
                let opened = BackingFile::open(process, &identity, &mapping.name, start, end)?;
                let file = Arc::new(opened);
                files.push((identity, Arc::clone(&file)));
                file
            }
        };
        grafts.push(OpenGraft {
            range: run.range,
            file_offset: run.file_offset,
            file,
        });
    }
    Ok(grafts)
}

/// Cuts a run of a block at the borders of grafts: each part with the graft in which it
/// lies, if it does.
pub(crate) fn cut(grafts: &[OpenGraft], run: Range<u64>) -> Vec<(Range<u64>, Option<&OpenGraft>)> {
    let mut parts = Vec::new();
    let mut at = run.start;
    for graft in grafts {
        let first = graft.range.start.clamp(at, run.end.max(at));
        let last = graft.range.end.clamp(at, run.end.max(at));
        if first >= last {
            continue;
        }
        if at < first {
            parts.push((at..first, None));
        }
        parts.push((first..last, Some(graft)));
        at = last;
    }
    if at < run.end {
        parts.push((at..run.end, None));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::VmmVirtual;
    use crate::block::anonymous_block;

    fn mapping(start: u64, length: u64, offset: u64, name: &str) -> MemoryMapping {
        MemoryMapping {
            start: VmmVirtual(start),
            length,
            readable: true,
            writable: true,
            executable: false,
            shared: true,
            file: Some(FileIdentity {
                device: (0, 1),
                inode: 5,
                offset,
            }),
            name: format!("/memfd:{name} (deleted)"),
        }
    }

    #[test]
    fn only_grafts_inside_the_block_count_and_are_cut_at_its_ends() {
        let block = anonymous_block(0x10000, 0x10000);
        let mappings = [
            mapping(0x18000, 0x1000, 0x5000, "vmshm-1.a"),
            mapping(0xf000, 0x2000, 0, "vmshm-2.a"),
            mapping(0x1a000, 0x1000, 0, "memory-backend-memfd"),
            mapping(0x30000, 0x1000, 0, "vmshm-3.a"),
        ];
        let found: Vec<_> = graft_runs(&block, &mappings)
            .into_iter()
            .map(|run| (run.range, run.file_offset))
            .collect();
        assert_eq!(found, [(0..0x1000, 0x1000), (0x8000..0x9000, 0x5000)]);
    }

    #[test]
    fn a_run_is_cut_where_grafts_begin_and_end() {
        let file = Arc::new(BackingFile::zeros(0x4000).expect("a file"));
        let graft = |start, end| OpenGraft {
            range: start..end,
            file_offset: 0,
            file: Arc::clone(&file),
        };
        let grafts = [
            graft(0x2000, 0x3000),
            graft(0x3000, 0x4000),
            graft(0x8000, 0x9000),
        ];
        let cut = |run: Range<u64>| {
            let parts: Vec<_> = cut(&grafts, run)
                .into_iter()
                .map(|(part, graft)| (part.start, part.end, graft.is_some()))
                .collect();
            parts
        };
        assert_eq!(cut(0..0x1000), [(0, 0x1000, false)]);
        assert_eq!(
            cut(0x1000..0x8800),
            [
                (0x1000, 0x2000, false),
                (0x2000, 0x3000, true),
                (0x3000, 0x4000, true),
                (0x4000, 0x8000, false),
                (0x8000, 0x8800, true)
            ]
        );
        assert_eq!(cut(0x2800..0x2900), [(0x2800, 0x2900, true)]);
        assert_eq!(cut(0x9000..0xa000), [(0x9000, 0xa000, false)]);
    }
}
