//! What beyond mapping and copying decides how a VM can be reached, for whoever asks why:
//! namespaces, tracers, devices with pinned memory, encryption, swap. It only looks, at
//! what the system shows; what may not be seen is left out and never guessed.

use std::fmt;

use super::{Vmm, VmmKind};
use crate::access::Obstacle;
use crate::mapping::MemoryMapping;
use crate::os::{CAN_GRAFT, Descriptor, Process, ProcessStatus};

/// A kind of namespace in which a VM's process and this one differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// User numbers and rights.
    User,
    /// Mounted file systems.
    Mount,
    /// Process numbers.
    Pid,
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Mount => "mount",
            Self::Pid => "pid",
        })
    }
}

/// How a guest's memory is kept from its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Confidential {
    /// AMD SEV, SEV-ES or SEV-SNP.
    Sev,
    /// Intel TDX.
    Tdx,
    /// Protected virtualization of another processor.
    Protected,
    /// The guest's private memory lies in the kernel's guest_memfd, which nobody can map.
    GuestMemfd,
}

impl fmt::Display for Confidential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sev => "AMD SEV",
            Self::Tdx => "Intel TDX",
            Self::Protected => "protected virtualization",
            Self::GuestMemfd => "guest_memfd",
        })
    }
}

/// What stands in the way of putting a file in the place of a piece of guest RAM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraftObstacle {
    /// The process could not be stopped and changed.
    #[error("the process may not be changed: the same right is needed as for copying")]
    NoRight,
    /// Nothing that could be grafted.
    #[error("no RAM of the VM is in sight")]
    NoRam,
    /// A device has the guest's pages pinned and would go on using the old ones.
    #[error(
        "a device is passed through to the guest ({what}), and would go on using the old pages"
    )]
    DevicePinned {
        /// What the process has open.
        what: String,
    },
    /// A process can have one tracer.
    #[error("process {tracer} traces it already (a debugger?)")]
    Traced {
        /// The tracer.
        tracer: u32,
    },
    /// Others would go on using the old pages.
    #[error("other processes map the same RAM: {}", numbers(.pids))]
    Shared {
        /// Some of them.
        pids: Vec<u32>,
    },
    /// A filter that names what is allowed would kill the process.
    #[error("the process filters its system calls, most likely by a list of what it allows")]
    CallFilter,
    /// Returning from an injected call could be a violation.
    #[error("the process runs with a shadow stack")]
    ShadowStack,
    /// No system call for it.
    #[error(
        "this system has no way to replace memory of another process: grafting works on Linux hosts"
    )]
    System,
    /// Encrypted pages cannot be replaced.
    #[error("the guest's memory is confidential ({0})")]
    Confidential(Confidential),
}

impl GraftObstacle {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoRight => Some("run as root"),
            Self::DevicePinned { .. } => Some("start the VM without the passed-through device"),
            Self::Traced { .. } => Some("end the debugger"),
            Self::Shared { .. } => {
                Some("RAM that others can map can be mapped here, too: use that method")
            }
            Self::CallFilter => {
                Some("Firecracker's --no-seccomp and the like leave the filter out")
            }
            Self::NoRam | Self::ShadowStack | Self::System | Self::Confidential(_) => None,
        }
    }
}

fn numbers(pids: &[u32]) -> String {
    let numbers: Vec<String> = pids.iter().map(u32::to_string).collect();
    numbers.join(", ")
}

/// What was found about one VM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Examination {
    /// The namespaces that are not this process's.
    pub namespaces: Vec<Namespace>,
    /// Whether, and how, the guest's memory is kept from the host.
    pub confidential: Option<Confidential>,
    /// Bytes of the VMM that are swapped out.
    pub swapped: u64,
    /// What would keep a piece of RAM from being grafted.
    pub graft: Vec<GraftObstacle>,
}

impl Vmm {
    /// Looks closer than the search did.
    #[must_use]
    pub fn examine(&self) -> Examination {
        let process = self.process();
        let status = process.status().unwrap_or_default();
        let descriptors = process.descriptors().unwrap_or_default();
        let confidential = confidential(self.kind, &self.words, &descriptors);
        Examination {
            namespaces: self.other_namespaces(&process),
            confidential,
            swapped: status.swapped.unwrap_or(0),
            graft: self.graft_obstacles(&status, &descriptors, confidential),
        }
    }

    fn other_namespaces(&self, process: &Process) -> Vec<Namespace> {
        let own = self.root.process(std::process::id());
        let kinds = [
            (Namespace::User, "user"),
            (Namespace::Mount, "mnt"),
            (Namespace::Pid, "pid"),
        ];
        kinds
            .into_iter()
            .filter(|(_, name)| {
                let both = (process.namespace(name), own.namespace(name));
                matches!(both, (Some(its), Some(ours)) if its != ours)
            })
            .map(|(kind, _)| kind)
            .collect()
    }

    fn graft_obstacles(
        &self,
        status: &ProcessStatus,
        descriptors: &[Descriptor],
        confidential: Option<Confidential>,
    ) -> Vec<GraftObstacle> {
        if !CAN_GRAFT {
            return vec![GraftObstacle::System];
        }
        let mut obstacles = Vec::new();
        match &self.reach.copy {
            Ok(()) => {}
            Err(Obstacle::NoBlock | Obstacle::KernelDriver { .. }) => {
                obstacles.push(GraftObstacle::NoRam);
            }
            Err(_) => obstacles.push(GraftObstacle::NoRight),
        }
        if let Some(device) = descriptors.iter().find(|open| pins_pages(&open.target)) {
            obstacles.push(GraftObstacle::DevicePinned {
                what: device.target.clone(),
            });
        }
        if status.tracer != 0 {
            obstacles.push(GraftObstacle::Traced {
                tracer: status.tracer,
            });
        }
        let pids = self.sharers();
        if !pids.is_empty() {
            obstacles.push(GraftObstacle::Shared { pids });
        }
        // QEMU's list is of what it forbids.
        if status.seccomp == 2 && self.kind != VmmKind::Qemu {
            obstacles.push(GraftObstacle::CallFilter);
        }
        if status.shadow_stack {
            obstacles.push(GraftObstacle::ShadowStack);
        }
        obstacles.extend(confidential.map(GraftObstacle::Confidential));
        obstacles
    }

    /// Other processes that map a file of the VM's RAM, a few of them.
    fn sharers(&self) -> Vec<u32> {
        const ENOUGH: usize = 8;
        let files: Vec<_> = self
            .blocks
            .iter()
            .filter(|block| block.backing.is_shared())
            .filter_map(|block| block.file)
            .collect();
        if files.is_empty() {
            return Vec::new();
        }
        // Other processes of this very program know what to do when a region changes.
        let program = self.root.process(std::process::id()).executable().ok();
        let pids = self.root.pids().unwrap_or_default().into_iter();
        pids.filter(|pid| *pid != self.pid)
            .filter(|pid| {
                let process = self.root.process(*pid);
                program.is_none() || process.executable().ok() != program
            })
            .filter(|pid| {
                let mappings = self.root.process(*pid).mappings().unwrap_or_default();
                let maps = |mapping: &MemoryMapping| {
                    let file = mapping.file;
                    file.is_some_and(|file| files.iter().any(|ours| ours.same_file(&file)))
                };
                mappings.iter().any(maps)
            })
            .take(ENOUGH)
            .collect()
    }
}

/// Whether an open file means that a device may have guest RAM pinned.
fn pins_pages(target: &str) -> bool {
    // /dev/vfio/vfio alone is the empty container.
    let group = target
        .strip_prefix("/dev/vfio/")
        .is_some_and(|name| name != "vfio");
    group
        || target == "/dev/iommu"
        || target.starts_with("anon_inode:[vfio-device]")
        || target.starts_with("anon_inode:kvm-vfio")
        || target.starts_with("/dev/vhost-vdpa")
}

/// Whether the guest's memory is kept from the host, by the VMM's options and open files.
fn confidential(
    kind: VmmKind,
    words: &[String],
    descriptors: &[Descriptor],
) -> Option<Confidential> {
    let by_object = |value: &str| {
        let has = |name: &str| value.starts_with(name) || value.contains(&format!("\"{name}\""));
        if has("sev-guest") || has("sev-snp-guest") {
            Some(Confidential::Sev)
        } else if has("tdx-guest") {
            Some(Confidential::Tdx)
        } else if has("s390-pv-guest") || has("pef-guest") {
            Some(Confidential::Protected)
        } else {
            None
        }
    };
    let is_option = |word: &str, name: &str| word.trim_start_matches('-') == name;
    let mut pairs = words.windows(2);
    let told = match kind {
        VmmKind::Qemu => pairs.find_map(|pair| {
            let (option, value) = (&pair[0], &pair[1]);
            if is_option(option, "object") {
                by_object(value)
            } else if is_option(option, "machine") || is_option(option, "M") {
                let confidential = value.contains("confidential-guest-support=");
                (confidential || value.contains("memory-encryption="))
                    .then_some(Confidential::Protected)
            } else {
                None
            }
        }),
        VmmKind::CloudHypervisor => pairs.find_map(|pair| {
            let platform = pair[0] == "--platform";
            if platform && pair[1].contains("tdx=on") {
                Some(Confidential::Tdx)
            } else if platform && pair[1].contains("sev_snp=on") {
                Some(Confidential::Sev)
            } else {
                None
            }
        }),
        _ => None,
    };
    // The machine's property names an object, which says more.
    let object = words
        .windows(2)
        .filter(|pair| kind == VmmKind::Qemu && is_option(&pair[0], "object"))
        .find_map(|pair| by_object(&pair[1]));
    let held = || {
        let gmem = |open: &Descriptor| open.target.contains("kvm-gmem");
        descriptors
            .iter()
            .any(gmem)
            .then_some(Confidential::GuestMemfd)
    };
    object.or(told).or_else(held)
}

#[cfg(all(test, target_os = "linux"))]
#[path = "examination_tests.rs"]
mod tests;
