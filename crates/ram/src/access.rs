//! How the host may reach a VM's RAM, and what stands in the way where it may not.

use std::fmt;

use crate::block::Backing;
use crate::os::{advice, user_label};

/// The way to reach guest RAM that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Method {
    /// Map where that works, else copy.
    #[default]
    Auto,
    /// Map the extents that are used; zero copy.
    Map,
    /// Have the system copy to and from the VMM's memory.
    Copy,
    /// As `Auto`; and each region that is opened is made a file of its own first, in the
    /// VMM's process (graft).
    Graft,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Map => "map",
            Self::Copy => "copy",
            Self::Graft => "graft",
        })
    }
}

/// The best way to reach a VM's RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// All of it can be mapped.
    Map,
    /// It can be read and written by copying.
    Copy,
    /// It cannot be reached.
    None,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Map => "map",
            Self::Copy => "copy",
            Self::None => "none",
        })
    }
}

/// What stands in the way of reaching a VM's RAM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Obstacle {
    /// Only the process's own user and root may look.
    #[error("the process belongs to {}, and you are {}", user_label(*owner), user_label(*own))]
    OtherUser {
        /// Who runs the VMM.
        owner: u32,
        /// Who asks.
        own: u32,
    },
    /// The right user, yet the process is marked not dumpable: its program has more rights
    /// than its user, or asked for it.
    #[error("the process runs as the same user, but is marked not dumpable: only root may look")]
    NotDumpable,
    /// The right user and a dumpable process, yet refused.
    #[error(
        "the system refuses to show the process, although it runs as the same user: it is in another user namespace, has more capabilities, or a security module (AppArmor, SELinux) forbids it"
    )]
    Confined,
    /// Root, yet without the right that root has by default.
    #[error("you are root, but without the right to look into other users' processes")]
    MissingCapability,
    /// The RAM is the hypervisor's driver's own.
    #[error(
        "the guest's RAM is held by the kernel driver {driver}; the process maps only small windows of it"
    )]
    KernelDriver {
        /// The driver's device.
        driver: &'static str,
    },
    /// Yama forbids to trace processes that are not one's own children.
    #[error("the system forbids copying from other processes (ptrace_scope is {scope})")]
    Yama {
        /// The value of `kernel.yama.ptrace_scope`.
        scope: u32,
    },
    /// Private memory cannot be mapped by another process.
    #[error("the guest's RAM is {backing} of the VMM, which no other process can map")]
    Private {
        /// What lies behind the block.
        backing: Backing,
    },
    /// The file behind a block was refused.
    #[error("the file behind guest RAM ({name}{}) cannot be opened: {}", with_mode(*mode), reason(*code))]
    FileRefused {
        /// The file's name in the VMM's mappings.
        name: String,
        /// The raw `errno` value.
        code: i32,
        /// The file's access mode, where that can be seen.
        mode: Option<u32>,
        /// Yama's `ptrace_scope`: if set, the VMM's own descriptor could not be copied
        /// either.
        scope: u32,
    },
    /// The process has no memory that could be guest RAM.
    #[error("no mapping of the process looks like guest RAM")]
    NoBlock,
    /// The process ended.
    #[error("the process is gone")]
    Gone,
    /// Another user's process, or one with more rights (Windows).
    #[error(
        "the process belongs to another user or has more rights, and this one has no SeDebugPrivilege"
    )]
    NotElevated,
    /// A protected process (Windows): all rights do not help.
    #[error("the system protects the process: not even an administrator may open its memory")]
    Protected,
    /// Handles of sections that could not be copied (Windows).
    #[error("{count} handles of sections of the process cannot be copied: {}", reason(*code))]
    SectionsRefused {
        /// How many.
        count: usize,
        /// The system's code for the last of them.
        code: i32,
    },
    /// No section can be the RAM that was configured (Windows).
    #[error(
        "the largest section that the process holds has {largest} bytes, less than its configuration's {told} bytes of RAM"
    )]
    SectionsTooSmall {
        /// The largest one's size in bytes.
        largest: u64,
        /// RAM as configured, in bytes.
        told: u64,
    },
    /// Copying needs an address in the VMM (Windows).
    #[error("where the VMM maps its section cannot be told")]
    SectionPlace,
    /// Another refusal of the system.
    #[error("{what} failed: {}", reason(*code))]
    System {
        /// What was tried.
        what: &'static str,
        /// The raw `errno` value.
        code: i32,
    },
}

fn with_mode(mode: Option<u32>) -> String {
    mode.map_or_else(String::new, |mode| format!(", mode {mode:04o}"))
}

/// What the system says of its code.
fn reason(code: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(code)
}

impl Obstacle {
    /// Whether a process with more rights could do what this one may not.
    #[must_use]
    pub const fn is_lack_of_rights(&self) -> bool {
        matches!(
            self,
            Self::OtherUser { .. }
                | Self::NotDumpable
                | Self::Confined
                | Self::MissingCapability
                | Self::Yama { .. }
        )
    }

    /// Whose process it is, where that is what stands in the way: the user as people know
    /// it, and the number of who asks.
    #[must_use]
    pub fn owner(&self) -> Option<(String, u32)> {
        match self {
            Self::OtherUser { owner, own } => {
                let label = user_label(*owner);
                let name = label.split(" (uid").next().unwrap_or_default();
                Some((name.to_owned(), *own))
            }
            _ => None,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OtherUser { owner, .. } => Some(advice::other_user(*owner)),
            Self::NotDumpable | Self::Confined => Some(advice::FULL_RIGHTS.to_owned()),
            Self::MissingCapability => Some(
                "run outside the container, or give it the capability SYS_PTRACE".to_owned(),
            ),
            Self::KernelDriver { .. } => Some(
                "`VBoxManage debugvm NAME dumpvmcore --filename FILE` writes the RAM into a file, and `dump:FILE` reads that"
                    .to_owned(),
            ),
            Self::Yama { .. } => Some(
                "run as root, or set kernel.yama.ptrace_scope to 0; RAM in a memfd or a shared file can be mapped nevertheless"
                    .to_owned(),
            ),
            Self::Private { .. } => Some(advice::SHARED_RAM.to_owned()),
            Self::FileRefused { scope: 1.., .. } => Some(
                "run as root; or set kernel.yama.ptrace_scope to 0, so that the VMM's descriptor of the file can be used"
                    .to_owned(),
            ),
            Self::FileRefused { .. } => Some(format!("{}, or use the copy method", advice::FULL_RIGHTS)),
            Self::NotElevated | Self::SectionsRefused { .. } => {
                Some(advice::FULL_RIGHTS.to_owned())
            }
            Self::SectionPlace => Some("use the map method".to_owned()),
            Self::SectionsTooSmall { .. } => {
                Some("is the .vmx file the running VM's?".to_owned())
            }
            Self::NoBlock | Self::Gone | Self::Protected | Self::System { .. } => None,
        }
    }
}

/// Whether mapping and copying work, each with the reason why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Mapping.
    pub map: Result<(), Obstacle>,
    /// Copying.
    pub copy: Result<(), Obstacle>,
}

impl Reach {
    /// Neither works, for the same reason.
    #[must_use]
    pub fn none(obstacle: Obstacle) -> Self {
        Self {
            map: Err(obstacle.clone()),
            copy: Err(obstacle),
        }
    }

    /// The best way that works.
    #[must_use]
    pub fn best(&self) -> Access {
        if self.map.is_ok() {
            Access::Map
        } else if self.copy.is_ok() {
            Access::Copy
        } else {
            Access::None
        }
    }

    /// Why nothing works, if nothing does.
    #[must_use]
    pub fn obstacle(&self) -> Option<&Obstacle> {
        match (&self.map, &self.copy) {
            // Private memory is no reason: it could be copied. The other one is.
            (Err(Obstacle::Private { .. }), Err(obstacle)) | (Err(obstacle), Err(_)) => {
                Some(obstacle)
            }
            _ => None,
        }
    }
}
