//! The command line. Sizes are in MiB, so that no parser is needed.

use clap::Parser;

/// Who looks into the executable for what makes it QEMU finds it here.
const VERSION: &str = "0, where it is asked for: QEMU emulator version 0";

/// Stands in for a VMM on Windows
#[derive(Debug, Parser)]
#[command(version = VERSION)]
pub(crate) struct Arguments {
    /// Guest RAM in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub(crate) size: u64,
    /// RAM in MiB below the hole; the rest starts at 4 GiB
    #[arg(long, value_name = "MIB", default_value_t = 3072)]
    pub(crate) hole: u64,
    /// The section's name; {pid} becomes the process's number. Without it the section has none
    #[arg(long, value_name = "NAME", conflicts_with = "private")]
    pub(crate) name: Option<String>,
    /// RAM is memory of this process instead of a section
    #[arg(long)]
    pub(crate) private: bool,
    /// So many sections of the same size beside it: by turns with a stale copy of the beacon, with its brand at
    /// another place, and with nothing
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) decoys: usize,
    /// So many handles to other things beside them
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) handles: usize,
    /// No agent runs in the guest, until the order `reboot`
    #[arg(long)]
    pub(crate) no_agent: bool,
    /// What else a VMM's command line has, such as its .vmx file; not looked at
    pub(crate) rest: Vec<String>,
}
