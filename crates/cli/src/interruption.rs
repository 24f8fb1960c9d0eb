//! Ctrl-C and its like, for commands that must clean up before they end, or that end
//! only so.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::failure::Failure;
use crate::os::{self, Descriptor, Signals};

/// Whether the user asked to stop.
#[derive(Debug)]
pub(crate) struct Interruption(Signals);

impl Interruption {
    /// From here on what would end the process sets a flag instead.
    pub(crate) fn watch() -> Result<Self, Failure> {
        let signals = Signals::watch();
        signals
            .map(Self)
            .map_err(|error| Failure::from_error(&error, None).because("watching for signals"))
    }

    /// Whether the user asked.
    pub(crate) fn came(&self) -> bool {
        self.0.came()
    }

    /// What a wait for it, and for others, is given; ready from the moment it came.
    pub(crate) fn descriptor(&self) -> Descriptor<'_> {
        self.0.descriptor()
    }

    /// Waits for a while; whether the user asked to stop, or nobody reads stdout any more.
    pub(crate) fn wait(&self, pause: Duration) -> io::Result<bool> {
        os::wait(&self.0, pause)
    }
}

/// What is said of a file that was to be written.
pub(crate) fn not_written(path: &Path) -> String {
    format!("interrupted; {} is not written", path.display())
}
