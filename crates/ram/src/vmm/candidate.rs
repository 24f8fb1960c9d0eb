//! One process under judgement: what the recognisers look at, what they make of it,
//! and how its memory can be reached. Nothing of guest RAM is touched.

use std::cell::OnceCell;
use std::path::PathBuf;

use super::{Evidence, Machine, Vmm, VmmKind};
use crate::access::{Obstacle, Reach};
use crate::address::VmmVirtual;
use crate::block::{Backing, RamBlock};
use crate::executable::holds_constant;
use crate::mapping::MemoryMapping;
use crate::os::{
    BackingFile, Descriptor, HeldSections, Liveness, NAMES_ARE_FILES, ProcRoot, Process,
    ProcessError, ProcessMemory, ProcessStatus, code, copy_denial, denial, program_name, unseen,
};

/// What there is to judge a process by.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) process: Process,
    pub(super) root: ProcRoot,
    pub(super) start_time: u64,
    pub(super) words: Vec<String>,
    pub(super) status: ProcessStatus,
    pub(super) executable: Option<PathBuf>,
    /// Read when they are first asked for: most processes are ruled out before.
    mappings: OnceCell<Result<Vec<MemoryMapping>, ProcessError>>,
    descriptors: OnceCell<Vec<Descriptor>>,
    sections: OnceCell<Result<HeldSections, ProcessError>>,
}

impl Candidate {
    pub(super) fn read(root: &ProcRoot, pid: u32) -> Result<Self, ProcessError> {
        let process = root.process(pid);
        let start_time = process.start_time()?;
        let words = process.command_line()?;
        let status = process.status()?;
        let executable = process.executable().ok();
        Ok(Self {
            process,
            root: root.clone(),
            start_time,
            words,
            status,
            executable,
            mappings: OnceCell::new(),
            descriptors: OnceCell::new(),
            sections: OnceCell::new(),
        })
    }

    pub(super) fn mappings(&self) -> Result<&[MemoryMapping], &ProcessError> {
        self.mappings
            .get_or_init(|| self.process.mappings())
            .as_deref()
    }

    /// The file name of the first word of the command line.
    pub(super) fn first_word_name(&self) -> Option<&str> {
        Some(program_name(self.words.first()?))
    }

    /// Whether the kernel knows the process by the name it gives itself in its command
    /// line; a process that only pretends is known by its executable's.
    pub(super) fn is_called_what_it_says(&self) -> bool {
        let kernel_name = self.status.name.as_str();
        if NAMES_ARE_FILES {
            return !kernel_name.is_empty();
        }
        !kernel_name.is_empty()
            && self
                .first_word_name()
                .is_some_and(|name| name.starts_with(kernel_name))
    }

    /// What a name that [`is_called_what_it_says`](Self::is_called_what_it_says) speaks for.
    pub(super) fn by_name(&self) -> Evidence {
        if NAMES_ARE_FILES && self.executable.is_some() {
            Evidence::ProgramName
        } else {
            Evidence::ExecutableName
        }
    }

    /// Whether all that was read is of the same process: one may have ended meanwhile
    /// and another taken its number.
    pub(super) fn is_consistent(&self) -> bool {
        self.process.start_time() == Ok(self.start_time)
    }

    /// Its open files; none where they may not be seen.
    pub(super) fn descriptors(&self) -> &[Descriptor] {
        self.descriptors
            .get_or_init(|| self.process.descriptors().unwrap_or_default())
    }

    /// The sections that it holds; none on systems that have no such thing.
    pub(super) fn sections(&self) -> Result<&HeldSections, &ProcessError> {
        self.sections
            .get_or_init(|| self.process.sections())
            .as_ref()
    }

    pub(super) fn holds(&self, target: &str) -> bool {
        self.descriptors()
            .iter()
            .any(|descriptor| descriptor.target == target)
    }

    pub(super) fn holds_kvm(&self) -> bool {
        self.holds("anon_inode:kvm-vm")
    }

    /// The file name of the executable, else of what the process says it is.
    pub(super) fn program_name(&self) -> &str {
        self.executable
            .as_deref()
            .and_then(|path| Some(program_name(path.file_name()?.to_str()?)))
            .or_else(|| self.first_word_name())
            .unwrap_or("")
    }

    /// Whether the executable has a text among its constants. Where it cannot be read,
    /// its name must be `name`, in the command line and for the kernel.
    pub(super) fn is_program(&self, text: &'static [u8], name: &str) -> Option<Evidence> {
        match holds_constant(&self.process.executable_file(), text) {
            Some(true) => Some(Evidence::Executable),
            Some(false) => None,
            None => {
                let named = self
                    .first_word_name()
                    .is_some_and(|word| word.starts_with(name));
                (named && self.is_called_what_it_says()).then_some(Evidence::ExecutableName)
            }
        }
    }

    /// Why the process could not be looked at.
    pub(super) fn obstacle_of(&self, error: &ProcessError) -> Obstacle {
        match error {
            ProcessError::Denied { .. } => denial(&self.process, &self.status),
            other => obstacle_of(self.process.pid(), other),
        }
    }

    /// Why its memory could not be copied.
    pub(super) fn copy_refused(&self, number: i32) -> Obstacle {
        if !code::is_denial(number) {
            return Obstacle::System {
                what: "reading the VMM's memory",
                code: number,
            };
        }
        copy_denial(&self.root, &self.process, &self.status)
    }

    /// The value of an option that is given as `--name VALUE` or `--name=VALUE`, the last
    /// one.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        let words = self.words.get(1..)?;
        words.iter().enumerate().rev().find_map(|(index, word)| {
            let rest = word.strip_prefix(name)?;
            if rest.is_empty() {
                words.get(index + 1).map(String::as_str)
            } else {
                rest.strip_prefix('=')
            }
        })
    }
}

/// A VM before it is known how it can be reached.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) kind: VmmKind,
    pub(super) name: Option<String>,
    pub(super) ram_bytes: u64,
    pub(super) blocks: Vec<RamBlock>,
    pub(super) evidence: Vec<Evidence>,
    pub(super) machine: Machine,
    /// Whether the command line makes all RAM shared.
    pub(super) told_shared: bool,
    /// Why its RAM cannot be reached whatever the system allows.
    pub(super) barred: Option<Obstacle>,
}

impl Draft {
    pub(super) fn finish(mut self, candidate: Candidate) -> Vmm {
        let reach = match candidate.mappings() {
            Ok(_) if self.barred.is_some() => {
                Reach::none(self.barred.take().unwrap_or(Obstacle::NoBlock))
            }
            Ok(mappings) => {
                let probe = mappings.iter().find(|mapping| mapping.readable);
                let probe = probe.map(|mapping| mapping.start);
                reach(&candidate, self.kind, &mut self.blocks, probe)
            }
            // A section may be opened by its name where the process may not be looked at.
            Err(_)
                if self
                    .blocks
                    .iter()
                    .any(|block| block.backing == Backing::Section) =>
            {
                reach(&candidate, self.kind, &mut self.blocks, None)
            }
            Err(error) => Reach::none(candidate.obstacle_of(error)),
        };
        let pid = candidate.process.pid();
        Vmm {
            pid,
            start_time: candidate.start_time,
            kind: self.kind,
            name: self.name.unwrap_or_else(|| format!("{}-{pid}", self.kind)),
            ram_bytes: self.ram_bytes,
            blocks: self.blocks,
            reach,
            evidence: self.evidence,
            machine: self.machine,
            told_shared: self.told_shared,
            words: candidate.words,
            root: candidate.root,
        }
    }
}

/// Tries what can be done, without touching guest RAM. Learns on the way which files
/// are made of huge pages.
fn reach(
    candidate: &Candidate,
    kind: VmmKind,
    blocks: &mut [RamBlock],
    probe: Option<VmmVirtual>,
) -> Reach {
    if blocks.is_empty() {
        return Reach::none(Obstacle::NoBlock);
    }
    if probe.is_none()
        && let Err(error) = Liveness::new(&candidate.process, candidate.start_time)
    {
        // Nobody would notice that the section is no VM's any more.
        return Reach::none(candidate.obstacle_of(&error));
    }
    let mut mapped = 0;
    let mut obstacle = None;
    for block in blocks.iter_mut() {
        let result = match (block.backing.is_shared(), block.file, block.listed) {
            (true, Some(file), Some((start, end))) => {
                BackingFile::open(&candidate.process, &file, &block.name, start, end)
                    .map(|opened| {
                        if opened.hugetlb {
                            block.backing = Backing::Hugetlb;
                        }
                    })
                    .map_err(|code| Obstacle::FileRefused {
                        name: block.name.clone(),
                        code,
                        mode: BackingFile::mode(&candidate.process, &file, &block.name),
                        scope: match candidate.copy_refused(code) {
                            Obstacle::Yama { scope } => scope,
                            _ => 0,
                        },
                    })
            }
            _ => Err(Obstacle::Private {
                backing: block.backing,
            }),
        };
        match result {
            Ok(()) => mapped += 1,
            Err(error) => obstacle = obstacle.or(Some(error)),
        }
    }
    Reach {
        map: match obstacle {
            // Of a process that is not recognised no more than some blocks are RAM.
            Some(_) if mapped > 0 && kind.guesses_blocks() => Ok(()),
            Some(obstacle) => Err(obstacle),
            None => Ok(()),
        },
        copy: if blocks.iter().all(|block| block.backing == Backing::Section) {
            Err(Obstacle::SectionPlace)
        } else {
            try_copy(candidate, probe)
        },
    }
}

fn try_copy(candidate: &Candidate, probe: Option<VmmVirtual>) -> Result<(), Obstacle> {
    let probe = probe.ok_or(Obstacle::NoBlock)?;
    let liveness = Liveness::new(&candidate.process, candidate.start_time)
        .map_err(|error| candidate.obstacle_of(&error))?;
    let refused = |number| candidate.copy_refused(number);
    let memory = ProcessMemory::open(&candidate.process, &liveness).map_err(refused)?;
    let mut word = [0_u8; 8];
    memory.read(probe, &mut word).map_err(refused)
}

/// Why a process of which nothing more is known could not be looked at.
pub(super) fn obstacle_of(pid: u32, error: &ProcessError) -> Obstacle {
    match error {
        ProcessError::Gone => Obstacle::Gone,
        ProcessError::System { what, code } => Obstacle::System { what, code: *code },
        ProcessError::Denied { .. } => unseen(pid),
    }
}
