//! What one mapping of a process looks like from outside: the raw material from
//! which RAM blocks are chosen. It judges nothing.

use crate::address::VmmVirtual;

/// Which file lies behind a mapping, and where in it the mapping starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// The file's number on that device.
    pub inode: u64,
    /// Where in the file the mapping starts.
    pub offset: u64,
}

impl FileIdentity {
    /// Whether both name the same file, wherever the mappings start in it.
    #[must_use]
    pub fn same_file(&self, other: &Self) -> bool {
        self.device == other.device && self.inode == other.inode
    }
}

/// One mapping of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryMapping {
    /// First address.
    pub start: VmmVirtual,
    /// Length in bytes, not zero.
    pub length: u64,
    /// May be read.
    pub readable: bool,
    /// May be written.
    pub writable: bool,
    /// May be executed.
    pub executable: bool,
    /// Stores reach the file, and with it everybody else who maps it.
    pub shared: bool,
    /// The file, unless the memory is anonymous.
    pub file: Option<FileIdentity>,
    /// The file's path or the kernel's name for the mapping; may be empty.
    pub name: String,
}

impl MemoryMapping {
    /// The first address after the mapping.
    #[must_use]
    pub const fn end(&self) -> VmmVirtual {
        VmmVirtual(self.start.0.saturating_add(self.length))
    }

    /// Whether it is ordinary private memory of the process with no file behind it.
    /// Named anonymous memory counts, the stack and the kernel's own pages do not.
    #[must_use]
    pub fn is_private_anonymous(&self) -> bool {
        !self.shared
            && self.file.is_none()
            && (self.name.is_empty() || self.name == "[heap]" || self.name.starts_with("[anon:"))
    }

    /// Whether it is a memory file (memfd), and under which name.
    #[must_use]
    pub fn memfd_name(&self) -> Option<&str> {
        let name = self.name.strip_prefix("/memfd:")?;
        Some(name.strip_suffix(" (deleted)").unwrap_or(name))
    }
}
