//! Stored dumps of guest RAM: reading one as if it were a VM, and writing one. Which
//! file is which is told by its first bytes; what is neither ELF nor LiME is taken for
//! raw memory, unless it is known to be something else. Nothing that a file states is
//! believed before it is checked against the file's length.

mod elf;
mod format;
mod lime;
mod overlap;
mod plan;
mod stored;
mod write;

pub use format::DumpFormat;
pub use plan::DumpPlan;
pub use stored::{DumpError, StoredDump};
pub use write::{DumpOutput, DumpWriteError};

#[cfg(all(test, target_os = "linux"))]
mod property_tests;
#[cfg(test)]
mod tests;
#[cfg(all(test, target_os = "linux"))]
mod write_tests;
