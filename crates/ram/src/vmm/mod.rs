//! Virtual machines on this host: which processes run one, what they are called and
//! where their RAM is. A process counts as a VM by evidence and never by its name
//! alone; copies that a VMM makes of itself do not count.

mod bochs;
mod candidate;
mod cloud_hypervisor;
mod examination;
mod find;
mod firecracker;
mod kvm;
mod qemu;
mod qemu_arguments;
mod qemu_options;
mod qmp;
mod signs;
mod uml;
mod virtualbox;
mod vmware;
mod vmware_sections;

pub use examination::{Confidential, Examination, Namespace};
pub use find::{find_all, find_all_in, find_among, find_by_pid, find_by_pid_in};
pub use qmp::MonitorError;

use std::fmt;
use std::time::Duration;

use crate::access::{Access, Obstacle, Reach};
use crate::block::RamBlock;
use crate::firmware;
use crate::guest_ram::GuestRam;
use crate::layout::{Layout, LayoutError};
use crate::layout_rule;
use crate::os::{ProcRoot, Process};
use crate::scan::Step;

/// What kind of program runs the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VmmKind {
    /// User-mode Linux.
    Uml,
    /// QEMU, under any name.
    Qemu,
    /// Bochs.
    Bochs,
    /// VMware Workstation or Player.
    Vmware,
    /// VirtualBox.
    VirtualBox,
    /// Firecracker.
    Firecracker,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// A program of another kind that holds a KVM virtual machine.
    Kvm,
    /// A process that was named by hand and is none of the others.
    Unknown,
}

impl fmt::Display for VmmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uml => "uml",
            Self::Qemu => "qemu",
            Self::Bochs => "bochs",
            Self::Vmware => "vmware",
            Self::VirtualBox => "virtualbox",
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Kvm => "kvm",
            Self::Unknown => "unknown",
        })
    }
}

impl VmmKind {
    /// Whether some of the blocks that are taken for RAM may be something else.
    pub(crate) const fn guesses_blocks(self) -> bool {
        matches!(self, Self::Unknown | Self::Kvm)
    }

    /// The steps by which a guest's pages are searched, the cheapest first. Where the
    /// program may hold RAM at any address, so may its pages lie.
    #[must_use]
    pub const fn steps(self) -> &'static [Step] {
        match self {
            Self::Unknown => &[Step::HugePage, Step::Page, Step::Byte],
            _ => &[Step::HugePage, Step::Page],
        }
    }
}

/// What spoke for a process being a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Evidence {
    /// The executable holds what only this VMM's does.
    Executable,
    /// The executable cannot be read, but is called like this VMM's.
    ExecutableName,
    /// The executable is called like this VMM's, and the system vouches for that name.
    ProgramName,
    /// The command line has this VMM's options.
    CommandLine,
    /// A mapping is exactly the RAM that was configured.
    RamMapping,
    /// The process holds a KVM virtual machine.
    KvmDescriptor,
    /// The process holds another hypervisor's device.
    DriverDescriptor,
    /// The process holds the section that is called as this VMM calls a guest's RAM.
    NamedSection,
    /// A section that the process holds has exactly the size of the RAM that was configured.
    SectionOfSize,
    /// Several sections may be the RAM: what the guest wrote into one of them decides.
    SeveralSections,
    /// No section has the size that was configured, or none is known; these are large enough.
    LargeSections,
    /// A section with the right name is not the process's, and was left aside.
    ForeignSection,
    /// The same, where it could not be found out whose it is.
    UnclearSection,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Executable => "the executable is this VMM's",
            Self::ExecutableName => {
                "the executable, which cannot be read, is called like this VMM's"
            }
            Self::ProgramName => "the executable is called like this VMM's",
            Self::CommandLine => "the command line has this VMM's options",
            Self::RamMapping => "a mapping is exactly the RAM that was configured",
            Self::KvmDescriptor => "the process holds a KVM virtual machine",
            Self::DriverDescriptor => "the process holds another hypervisor's device",
            Self::NamedSection => "the process holds the section that this VMM names after it",
            Self::SectionOfSize => {
                "a section that the process holds is exactly the RAM that was configured"
            }
            Self::SeveralSections => {
                "several sections may be the RAM: the beacon in one of them decides"
            }
            Self::LargeSections => "sections that the process holds are large enough to be RAM",
            Self::ForeignSection => {
                "not taken: a section has this VMM's name, but the process does not hold it"
            }
            Self::UnclearSection => {
                "not taken: a section has this VMM's name, but whose it is cannot be told"
            }
        })
    }
}

/// The machine a VMM plays, as far as it decides where RAM appears to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Machine {
    /// User-mode Linux: guest-physical address is file offset.
    Uml,
    /// QEMU's `pc`.
    Pc {
        /// `max-ram-below-4g`, if given.
        below_4g: Option<u64>,
    },
    /// QEMU's `q35`.
    Q35 {
        /// `max-ram-below-4g`, if given.
        below_4g: Option<u64>,
    },
    /// QEMU's `microvm`.
    Microvm,
    /// Firecracker on x86.
    Firecracker,
    /// Cloud Hypervisor on x86.
    CloudHypervisor,
    /// VMware: RAM without gaps in one section.
    Vmware {
        /// Where the hole for PCI devices starts, in bytes.
        below_4g: u64,
    },
    /// RAM is handed out in small pieces as the guest touches them: no rule can say where
    /// an address lies.
    Scattered,
    /// Not known; addresses are counted from the start of the largest block, as a guess.
    Counted,
    /// Not known: no rule applies.
    Unknown,
}

/// A virtual machine, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vmm {
    /// The VMM's process.
    pub pid: u32,
    /// When that process started, in the system's own unit (Linux: clock ticks since boot,
    /// Windows: 100 ns since 1601); with its number it names it for good.
    pub start_time: u64,
    /// The kind of VMM.
    pub kind: VmmKind,
    /// The VM's name; `<vmm>-<pid>` where it has none.
    pub name: String,
    /// RAM as configured.
    pub ram_bytes: u64,
    /// Where the RAM is. Empty where the process may not be looked at.
    pub blocks: Vec<RamBlock>,
    /// How the RAM can be reached.
    pub reach: Reach,
    /// What spoke for it being a VM.
    pub evidence: Vec<Evidence>,
    /// The machine it plays.
    pub machine: Machine,
    told_shared: bool,
    /// The command line.
    words: Vec<String>,
    root: ProcRoot,
}

/// Why the search for VMs failed as a whole, or the named process is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// The list of processes cannot be read.
    #[error("the list of processes cannot be read: {0}")]
    Processes(String),
    /// No process has this number.
    #[error("there is no process {pid}")]
    NoProcess {
        /// The number.
        pid: u32,
    },
    /// The process may not be looked at.
    #[error("process {pid} cannot be looked at: {obstacle}")]
    Refused {
        /// The number.
        pid: u32,
        /// Why.
        obstacle: Obstacle,
    },
}

impl FindError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { obstacle, .. } => obstacle.hint(),
            Self::NoProcess { .. } => Some("list the VMs to see their process numbers".to_owned()),
            Self::Processes(_) => None,
        }
    }
}

impl Vmm {
    /// The best way to reach its RAM.
    #[must_use]
    pub fn access(&self) -> Access {
        self.reach.best()
    }

    /// Whether all of its RAM is shared memory. Where the process may not be looked at,
    /// this is what its command line says.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        if self.blocks.is_empty() {
            self.told_shared
        } else {
            self.blocks.iter().all(|block| block.backing.is_shared())
        }
    }

    /// The layout by the rule of the machine it plays.
    ///
    /// # Errors
    /// [`LayoutError::NoRule`] where no rule is known.
    pub fn rule_layout(&self) -> Result<Layout, LayoutError> {
        layout_rule::by_machine(self.machine, self.ram_bytes, &self.blocks)
    }

    /// The layouts by the rule of the machine it plays: one, or where the rule cannot know
    /// which of several blocks is the RAM, one for each block.
    #[must_use]
    pub fn rule_layouts(&self) -> Vec<Layout> {
        layout_rule::alternatives(self.machine, self.ram_bytes, &self.blocks)
    }

    /// The layout as well as it can be told without an agent: by the tables that firmware
    /// and kernel left in the opened RAM, where these do not speak by the machine's rule.
    /// Takes up to about twice `budget`, and where a guest's tables lead on and on no more
    /// than five times as much.
    ///
    /// # Errors
    /// [`LayoutError::NoRule`] where neither tells anything.
    pub fn layout_without_agent(
        &self,
        ram: &GuestRam,
        budget: Duration,
    ) -> Result<Layout, LayoutError> {
        let hypotheses = layout_rule::hypotheses(self.machine, self.ram_bytes, &self.blocks);
        if self.machine == Machine::Uml {
            return self.rule_layout();
        }
        firmware::judge(ram, &hypotheses, budget).map_or_else(|| self.rule_layout(), Ok)
    }

    /// How many pages the VMM has mapped now: as long as the number stays, so do its
    /// blocks. Nothing once the process is gone, or where it may not be asked.
    #[must_use]
    pub fn mapped_pages(&self) -> Option<u64> {
        self.process().mapped_pages().ok()
    }

    pub(crate) fn process(&self) -> Process {
        self.root.process(self.pid)
    }
}
