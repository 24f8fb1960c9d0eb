//! `vmshm broker`: hands regions to programs of other users, until it is told to end.

use std::path::PathBuf;

use clap::Args;

use crate::arguments::Global;
use crate::failure::Failure;

pub(crate) const AFTER_HELP: &str = "Run it as root, or as the user of the VMs. It hands out what its rules allow, and nothing without them:\n\n  [[allow]]\n  uid = 1000                      # or gid, or both\n  vms = [\"web\", \"qemu:test-*\"]    # names, vmm:name or process numbers; a star is anything\n  regions = [\"numbers\", \"web-*\"]  # names\n  make = true                     # may also make and remove them\n  screens = true                  # may see screens\n  input = true                    # may type and point there\n\nRules are read anew for each program that connects. Each region is made a file of its own in the\nVM's process (a graft); it is the VM's own again when the last program leaves, and when the\nguest boots anew. Ends at Ctrl-C or SIGTERM, and takes all back.\n\nExamples:\n  sudo vmshm broker\n  vmshm list --broker /run/vmshm/broker.sock";

/// `vmshm broker`.
#[derive(Debug, Args)]
pub(crate) struct Broker {
    /// Where to listen [default: the socket that systemd hands over, else /run/vmshm/broker.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The rules
    #[arg(long, value_name = "FILE", default_value = "/etc/vmshm/broker.toml")]
    pub(crate) rules: PathBuf,
    /// Where to note what is lent, for the next broker if this one is killed
    #[arg(long, value_name = "DIRECTORY", default_value = "/run/vmshm/broker")]
    pub(crate) state: PathBuf,
}

/// Runs it.
pub(crate) fn run(broker: &Broker, global: &Global) -> Result<(), Failure> {
    crate::os::run_broker(broker, global)
}
