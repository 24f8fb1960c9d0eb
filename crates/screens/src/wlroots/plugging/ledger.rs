//! Which outputs were plugged in here, in a file beside sway's socket: a source that was killed
//! leaves outputs behind, and the next one unplugs them.
//!
//! The file belongs to the desktop's user, like everything here. It is small, and what is no
//! plain name of an output without a monitor is left out.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use super::super::outputs::is_virtual;
use super::super::sway::is_plain;

/// Bytes of the file that are read.
const LIMIT: u64 = 16 << 10;

/// Names of outputs that were plugged in.
#[derive(Debug, Default)]
pub struct Ledger {
    path: Option<PathBuf>,
    names: BTreeSet<String>,
}

impl Ledger {
    /// Reads what an earlier source left, if there is sway at all.
    pub fn open(sway: Option<&str>) -> Self {
        let path = sway.map(|socket| PathBuf::from(format!("{socket}.vmshm")));
        let mut text = String::new();
        if let Some(file) = path.as_ref().and_then(|path| File::open(path).ok()) {
            // Half a file is as good as none.
            let _ = file.take(LIMIT).read_to_string(&mut text);
        }
        let names = text
            .lines()
            .filter(|name| is_plain(name) && is_virtual(name))
            .map(str::to_owned)
            .collect();
        Self { path, names }
    }

    /// All names.
    pub fn names(&self) -> Vec<String> {
        self.names.iter().cloned().collect()
    }

    /// An output was plugged in.
    pub fn note(&mut self, name: &str) {
        if self.names.insert(name.to_owned()) {
            self.save();
        }
    }

    /// It is gone.
    pub fn forget(&mut self, name: &str) {
        if self.names.remove(name) {
            self.save();
        }
    }

    fn save(&self) {
        let Some(path) = &self.path else {
            return;
        };
        let saved = if self.names.is_empty() {
            fs::remove_file(path)
        } else {
            let mut text = self.names().join("\n");
            text.push('\n');
            let new = path.with_extension("new");
            fs::write(&new, text).and_then(|()| fs::rename(&new, path))
        };
        if let Err(error) = saved {
            tracing::debug!("monitors that were added are not noted: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_source_knows_what_was_left() {
        let directory = tempfile::tempdir().expect("succeeds");
        let socket = directory.path().join("sway-ipc.1.2.sock");
        let socket = socket.to_str().expect("is text");
        let mut ledger = Ledger::open(Some(socket));
        assert!(ledger.names().is_empty());
        ledger.note("HEADLESS-2");
        ledger.note("HEADLESS-3");
        ledger.forget("HEADLESS-2");
        let mut next = Ledger::open(Some(socket));
        assert_eq!(next.names(), ["HEADLESS-3"]);
        next.forget("HEADLESS-3");
        let left = fs::read_dir(directory.path()).expect("succeeds").count();
        assert_eq!(left, 0);
    }

    #[test]
    fn what_is_no_name_of_ours_is_left_out() {
        let directory = tempfile::tempdir().expect("succeeds");
        let socket = directory.path().join("s");
        let socket = socket.to_str().expect("is text");
        let text = "DP-1\nHEADLESS-4; exit\n\nHEADLESS-5\n";
        fs::write(format!("{socket}.vmshm"), text).expect("succeeds");
        assert_eq!(Ledger::open(Some(socket)).names(), ["HEADLESS-5"]);
        assert!(Ledger::open(None).names().is_empty());
    }
}
