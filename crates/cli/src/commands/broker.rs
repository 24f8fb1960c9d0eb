//! `vmshm broker`: hands regions to programs of other users, until it is told to end.

use std::path::PathBuf;

use clap::Args;

use crate::arguments::Global;
use crate::failure::Failure;

pub(crate) const AFTER_HELP: &str = "\
Run it as root, or as the user of the VMs. It hands out what its rules allow, and nothing without them.
All keys; an entry needs uid or gid, vms, and regions or screens:

  [[allow]]
  uid = 1000                      # a user
  gid = 100                       # a group; where both stand, both must match
  vms = [\"web\", \"qemu:test-*\"]    # names, vmm:name or process numbers; a star is anything
  owner = 64055                   # only where the VMM runs as this user (default: any)
  regions = [\"numbers\", \"web-*\"]  # names; a star is anything (default: none)
  make = true                     # may also make and remove them (default: false)
  max_size = \"64M\"                # the largest that may be made (default: any)
  screens = true                  # may see, plug and set screens (default: false)
  input = true                    # may type and point there (default: false)

Rules are read anew for each program that connects. Only root, or the broker's own user, may be
able to change or replace the file. Each region is made a file of its own in the
VM's process (a graft); it is the VM's own again when the last program leaves, and when the
guest boots anew. Ends at Ctrl-C or SIGTERM, and takes all back.

Examples:
  sudo vmshm broker
  vmshm list --broker /run/vmshm/broker.sock";

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
