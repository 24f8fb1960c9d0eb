//! VMware's configuration files, of which a stand-in's command line names one.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::wine::windows_path;

/// A `.vmx` file; it goes with the value.
#[derive(Debug)]
pub struct Configuration {
    _directory: TempDir,
    path: PathBuf,
}

impl Configuration {
    /// Writes one of a VM with this name and as many MiB of RAM.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn write(name: &str, mebibytes: u64) -> Self {
        Self::with_hole(name, mebibytes, None)
    }

    /// The same of a VM whose RAM below the hole has so many MiB, where that is not as usual.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn with_hole(name: &str, mebibytes: u64, hole: Option<u64>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(format!("{name}.vmx"));
        let mut text = format!("displayName = \"{name}\"\r\nmemsize = \"{mebibytes}\"\r\n");
        if let Some(hole) = hole {
            text.push_str(&format!("pciHole.start = \"{hole}\"\r\n"));
        }
        std::fs::write(&path, text).expect("written");
        Self {
            _directory: directory,
            path,
        }
    }

    /// Its path as Windows has it.
    #[must_use]
    pub fn path(&self) -> String {
        windows_path(&self.path)
    }
}
