//! Everything that looking at one VM, or at a stored dump, can tell: its RAM blocks and
//! how much of them exists, the layout with how each range is known, the guest's system,
//! its agent and where its regions lie. What cannot be had is said, with what would
//! help. Guest RAM is never written; where an agent lives, a session asks it where the
//! regions' pages are.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use vmshm_link::directory::{RegionEntry, RegionKind};
use vmshm_link::{Extent, GuestPhysical};
use vmshm_ram::{DumpFormat, Evidence, GuestRam, Layout, RamBlock, Source, Vmm, guest_os_in};

use crate::attach::{self, AttachError, AttachOptions};
use crate::deadline::Deadline;
use crate::machines::{self, AgentState, AgentView, Subject, by_broker};
use crate::physical::{self, Physical, PhysicalError};
use crate::session::RequestError;

/// Into how many pieces a block is cut to show which parts of it exist.
const PIECES: u64 = 2048;
/// How long a stored dump is searched for its kernel.
const BANNER_BUDGET: Duration = Duration::from_millis(1500);
/// How long the agent has for each answer about a region.
const ANSWER: Duration = Duration::from_secs(2);

/// What was looked at.
#[derive(Debug, Clone)]
pub enum Identity {
    /// A VM that runs.
    Running(Box<Vmm>),
    /// A file.
    Stored {
        /// Where it is.
        path: PathBuf,
        /// Its format.
        format: DumpFormat,
    },
}

/// A block, and how much of it exists.
#[derive(Debug, Clone)]
pub struct BlockView {
    /// The block.
    pub block: RamBlock,
    /// Bytes of pages that exist; nothing where that cannot be told.
    pub resident: Option<u64>,
    /// The same for equal pieces of the block, in order, and how long a piece is.
    pieces: Vec<u64>,
    piece: u64,
}

impl BlockView {
    fn read(ram: &GuestRam, index: usize, block: &RamBlock) -> Self {
        let piece = block
            .length
            .div_ceil(PIECES)
            .next_multiple_of(4096)
            .max(4096);
        let count = usize::try_from(block.length.div_ceil(piece)).unwrap_or(0);
        let mut pieces = vec![0; count];
        let mut total = 0;
        let told = ram.resident_runs(index, 0..block.length, &mut |run| {
            total += run.end.min(block.length) - run.start;
            add(&mut pieces, piece, &run);
            true
        });
        Self {
            block: block.clone(),
            resident: told
                .ok()
                .filter(|()| ram.knows_existing(index))
                .map(|()| total),
            pieces,
            piece,
        }
    }

    /// What share of the bytes in `range` (offsets into the block) exists, from 0 to 1.
    #[must_use]
    pub fn share(&self, range: &Range<u64>) -> f64 {
        let (first, last) = (range.start / self.piece, range.end.div_ceil(self.piece));
        let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let part = self
            .pieces
            .get(index(first)..index(last).min(self.pieces.len()));
        let present: u64 = part.unwrap_or_default().iter().sum();
        let length = last.saturating_mul(self.piece).min(self.block.length)
            - first.saturating_mul(self.piece).min(self.block.length);
        if length == 0 {
            return 0.0;
        }
        (present as f64 / length as f64).min(1.0)
    }
}

/// Adds a run of existing bytes to the pieces that it touches.
fn add(pieces: &mut [u64], piece: u64, run: &Range<u64>) {
    let mut at = run.start;
    while at < run.end {
        let end = (at / piece + 1).saturating_mul(piece).min(run.end);
        if let Some(sum) = usize::try_from(at / piece)
            .ok()
            .and_then(|index| pieces.get_mut(index))
        {
            *sum += end - at;
        }
        at = end;
    }
}

/// A region, and where it lies if its agent told.
#[derive(Debug, Clone)]
pub struct RegionView {
    /// As the guest lists it.
    pub entry: RegionEntry,
    /// Its pages.
    pub extents: Option<Vec<Extent>>,
}

/// Something that could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What, and why.
    pub what: String,
    /// What would help.
    pub hint: Option<String>,
}

/// What there is to know.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// What it is called.
    pub name: String,
    /// What was looked at.
    pub identity: Identity,
    /// RAM as configured, or as stored.
    pub ram_bytes: u64,
    /// Its blocks.
    pub blocks: Vec<BlockView>,
    /// Where guest-physical addresses lie; without ranges where nothing is known.
    pub layout: Layout,
    /// The guest's system.
    pub guest_os: Option<String>,
    /// Its agent.
    pub agent: Option<AgentView>,
    /// Where the agent's beacon stands.
    pub beacon: Option<GuestPhysical>,
    /// Its regions.
    pub regions: Vec<RegionView>,
    /// What could not be had.
    pub notes: Vec<Note>,
}

/// Looks at a VM or a dump.
///
/// # Errors
/// None where there is something to show: what cannot be had becomes a note.
/// [`PhysicalError`] only for a method that was asked for and does not work.
pub fn inspect(subject: &Subject, options: &AttachOptions) -> Result<Inspection, PhysicalError> {
    match subject {
        Subject::Running(vmm) => running(vmm, options),
        Subject::Stored(dump) => {
            let ram = GuestRam::stored(dump);
            let format = dump.format();
            let mut notes = Vec::new();
            if format == DumpFormat::Raw {
                notes.push(Note {
                    what: "a raw file does not say where its memory lies; its start is taken for address 0".to_owned(),
                    hint: Some("dumps as ELF cores or in LiME's format hold the addresses".to_owned()),
                });
            }
            let mut found = Inspection {
                name: subject.name(),
                identity: Identity::Stored {
                    path: dump.path().to_owned(),
                    format,
                },
                ram_bytes: dump.ram_bytes(),
                blocks: block_views(&ram),
                layout: dump.layout().clone(),
                guest_os: guest_os_in(&ram, BANNER_BUDGET).map(|found| found.to_string()),
                agent: None,
                beacon: None,
                regions: Vec::new(),
                notes,
            };
            found.note_system();
            Ok(found)
        }
    }
}

fn block_views(ram: &GuestRam) -> Vec<BlockView> {
    let blocks: Vec<RamBlock> = ram.blocks().cloned().collect();
    blocks
        .iter()
        .enumerate()
        .map(|(index, block)| BlockView::read(ram, index, block))
        .collect()
}

/// Regions of whose places nothing is known.
fn plain(entries: Vec<RegionEntry>) -> Vec<RegionView> {
    let view = |entry| RegionView {
        entry,
        extents: None,
    };
    entries.into_iter().map(view).collect()
}

fn running(vmm: &Vmm, options: &AttachOptions) -> Result<Inspection, PhysicalError> {
    let mut looked = machines::look_by(vec![vmm.clone()], options.place);
    by_broker::complete_all(looked.iter_mut(), options.broker.as_deref());
    let view = looked.pop();
    let mut found = Inspection {
        name: vmm.name.clone(),
        identity: Identity::Running(Box::new(vmm.clone())),
        ram_bytes: vmm.ram_bytes,
        blocks: Vec::new(),
        layout: Layout::default(),
        guest_os: view.as_ref().and_then(|view| view.guest_os.clone()),
        agent: view.as_ref().and_then(|view| view.agent.clone()),
        beacon: None,
        regions: Vec::new(),
        notes: Vec::new(),
    };
    let ram = match GuestRam::open(vmm, options.method) {
        Ok(ram) => ram,
        Err(error) if vmm.reach.obstacle().is_some() => {
            found.note("its memory cannot be reached", &error, error.hint());
            found.blocks = vmm.blocks.iter().map(unknown_block).collect();
            // What a broker would give, if one told of it.
            found.regions = view.map_or_else(Vec::new, |view| plain(view.regions));
            return Ok(found);
        }
        Err(source) => {
            let name = vmm.name.clone();
            return Err(PhysicalError::Open { name, source });
        }
    };
    found.blocks = block_views(&ram);
    let entries = view.map(|view| view.regions).unwrap_or_default();
    let lives = found
        .agent
        .as_ref()
        .is_some_and(|agent| agent.state == AgentState::Seen);
    if lives {
        found.ask_agent(vmm, options, entries);
    } else {
        found.regions = plain(entries);
    }
    if found.layout.ranges().is_empty() {
        // The monitor's word is the best there is without an agent, and quick.
        match vmm.layout_by_monitor() {
            Ok(layout) => found.layout = layout,
            Err(_) => match Physical::without_agent(vmm, options) {
                Ok(known) => found.layout = known.layout().clone(),
                Err(error) => found.note("the layout is not known", &error, error.hint()),
            },
        }
    } else if !physical::is_proved(&found.layout) {
        found.layout = physical::complete(&found.layout, vmm, &ram);
    }
    found.note_missing();
    Ok(found)
}

fn unknown_block(block: &RamBlock) -> BlockView {
    BlockView {
        block: block.clone(),
        resident: None,
        pieces: Vec::new(),
        piece: 4096,
    }
}

impl Inspection {
    fn note(&mut self, what: &str, error: &dyn std::error::Error, hint: Option<String>) {
        self.notes.push(Note {
            what: format!("{what}: {error}"),
            hint,
        });
    }

    /// What the living agent tells: the proved layout, its beacon, its regions' places.
    fn ask_agent(&mut self, vmm: &Vmm, options: &AttachOptions, entries: Vec<RegionEntry>) {
        let plain = |entry| RegionView {
            entry,
            extents: None,
        };
        self.regions = entries.into_iter().map(plain).collect();
        let seen = match attach::see(vmm, options) {
            Ok(seen) => seen,
            Err(error) => {
                self.note(
                    "the agent does not tell where memory lies",
                    &error,
                    error.hint(),
                );
                return;
            }
        };
        self.beacon = Some(seen.beacon_address());
        self.layout = seen.directory.layout.clone();
        let is_raw = |region: &RegionView| region.entry.kind == RegionKind::Raw;
        if !self.regions.iter().any(is_raw) {
            return;
        }
        let mut session = match seen.into_session() {
            Ok(session) => session,
            Err(error) => {
                let hint = AttachError::hint(&error);
                self.note("where the regions lie is not known", &error, hint);
                return;
            }
        };
        let deadline = Deadline::after(options.timeout);
        for index in 0..self.regions.len() {
            let Some(region) = self.regions.get_mut(index).filter(|region| is_raw(region)) else {
                continue;
            };
            let name = region.entry.name.as_str().to_owned();
            let left = deadline.left();
            match session.region_extents(&name, left.min(ANSWER)) {
                Ok(extents) => region.extents = Some(extents),
                Err(error) => {
                    let hint = error.hint();
                    let is_silent = matches!(
                        error,
                        RequestError::NoAnswer { .. } | RequestError::Ended(_)
                    );
                    self.note(
                        &format!("where region {name:?} lies is not known"),
                        &error,
                        hint,
                    );
                    if is_silent {
                        return;
                    }
                }
            }
        }
    }

    /// Says what a user would look for and not find.
    fn note_missing(&mut self) {
        let weak = |range: &&vmshm_ram::LayoutRange| range.source >= Source::MachineRule;
        let rest: Vec<String> = self
            .layout
            .ranges()
            .iter()
            .filter(weak)
            .map(|range| format!("{}+{:#x}", range.extent.start, range.extent.length))
            .collect();
        if !rest.is_empty() {
            self.notes.push(Note {
                what: format!("nothing proves the layout at {}", rest.join(", ")),
                hint: Some(
                    "run vmshm-agent in the guest, or give the VM a monitor (-qmp unix:PATH,server=on,wait=off)"
                        .to_owned(),
                ),
            });
        }
        let ranges = self.layout.ranges().iter();
        let seen: BTreeSet<usize> = ranges.map(|range| range.at.block).collect();
        if let Some(note) = self.choice(&seen) {
            self.notes.push(note);
            self.note_system();
            return;
        }
        for index in 0..self.blocks.len() {
            if !seen.is_empty() && !seen.contains(&index) {
                self.notes.push(Note {
                    what: format!("where the guest sees block {index} is not known"),
                    hint: Some("run vmshm-agent in the guest: it reports its RAM".to_owned()),
                });
            }
        }
        self.note_system();
    }

    /// Where any of several blocks may be the RAM: which was taken, and why.
    fn choice(&self, seen: &BTreeSet<usize>) -> Option<Note> {
        let Identity::Running(vmm) = &self.identity else {
            return None;
        };
        let may_be_any = vmm.evidence.contains(&Evidence::SeveralSections);
        let taken = *seen.first().filter(|_| may_be_any && seen.len() == 1)?;
        let others: Vec<String> = (0..self.blocks.len())
            .filter(|index| *index != taken)
            .map(|index| index.to_string())
            .collect();
        let others = others.join(", ");
        let source = self
            .layout
            .ranges()
            .iter()
            .map(|range| range.source)
            .min()?;
        Some(match source {
            Source::Proved => Note {
                what: format!(
                    "block {taken} is taken for the guest's RAM, since the beacon that lives is in it; by size it could also be block {others}, where none lives"
                ),
                hint: None,
            },
            weak if weak >= Source::MachineRule => Note {
                what: format!(
                    "block {taken} is only the first that could be the guest's RAM by its size; it could also be block {others}"
                ),
                hint: Some("run vmshm-agent in the guest: its beacon tells".to_owned()),
            },
            shown => Note {
                what: format!(
                    "block {taken} is taken for the guest's RAM, since addresses in it are {shown}; by size it could also be block {others}"
                ),
                hint: None,
            },
        })
    }

    fn note_system(&mut self) {
        if self.guest_os.is_none() {
            self.notes.push(Note {
                what: "no operating system was recognised in guest memory".to_owned(),
                hint: None,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_spread_over_the_pieces_that_they_touch() {
        let mut pieces = vec![0; 4];
        add(&mut pieces, 4096, &(0..4096));
        add(&mut pieces, 4096, &(8192..16384));
        add(&mut pieces, 4096, &(16384..99999));
        assert_eq!(pieces, [4096, 0, 4096, 4096]);
    }
}
