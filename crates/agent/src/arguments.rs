//! The command line.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Parser, Subcommand};
use vmshm_link::quantity;

use crate::connect::Listener;
use crate::pin::Method;

/// Shares memory of this guest with programs on the host.
#[derive(Debug, Parser)]
#[command(
    name = "vmshm-agent",
    version = VERSION.as_str(),
    about = "Shares memory of this guest with programs on the host",
    disable_help_subcommand = true
)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The program's version and the protocol's.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let protocol = vmshm_link::VERSION;
    format!("{} (protocol {protocol})", env!("CARGO_PKG_VERSION"))
});

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Announce this guest and serve hosts until SIGTERM or SIGINT
    #[command(
        after_help = "Examples:\n  vmshm-agent run --max-pinned 256M\n  vmshm-agent run --connect tcp:10.0.2.2:7001     (on the host: vmshm listen 127.0.0.1:7001)\n  vmshm-agent run --connect vsock:2:7001          (on the host: vmshm listen vsock:7001)\n  vmshm-agent run --connect serial:/dev/ttyS1     (on the host: vmshm listen serial:PATH)"
    )]
    Run {
        /// The most memory to pin: bytes, or with K, M, G (default: a quarter of the RAM)
        #[arg(long, value_name = "SIZE", value_parser = quantity::parse_size)]
        max_pinned: Option<u64>,
        /// Connect out to `vmshm listen` on the host, so that it need not scan for this guest,
        /// and sleeping programs of either side can be woken
        #[arg(long, value_name = "tcp:HOST:PORT|vsock:CID:PORT|serial:/dev/…")]
        connect: Option<Listener>,
        /// Which users' programs may use which regions (default: /etc/vmshm/agent.toml; without
        /// it only root's may)
        #[arg(long, value_name = "FILE")]
        rules: Option<PathBuf>,
        /// Show hosts no screens of this guest
        #[arg(long)]
        no_screens: bool,
        /// Take no mouse and keyboard input from hosts at screens
        #[arg(long)]
        no_input: bool,
        /// Diagnostic: pin by this way only, although another would be chosen
        #[arg(long, value_name = "METHOD")]
        pin_by: Option<Method>,
    },
    /// Show the beacon, regions with their extents, sessions and programs
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Translate a process's virtual address to the guest-physical one
    Translate {
        /// The process
        pid: u32,
        /// The address: decimal or 0x…
        #[arg(value_parser = quantity::parse_number)]
        address: u64,
    },
    /// Connect standard input and output to `vmshm pipe VM/NAME` on the host
    Pipe {
        /// The pipe's name
        name: String,
    },
    /// Free what dead or silent hosts still hold (without an agent: everything that
    /// no host holds)
    Release {
        /// Also what silent hosts hold: they may only be stopped, and write later
        #[arg(long)]
        force: bool,
    },
    /// Deliver screens over standard input: `run` starts this
    #[command(hide = true)]
    Source,
    /// Hold the memory: `run` starts this where none runs
    #[command(hide = true)]
    Keeper {
        /// As for `run`
        #[arg(long, value_name = "METHOD")]
        pin_by: Option<Method>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_and_addresses_are_understood() {
        let parsed = Arguments::try_parse_from(["vmshm-agent", "run", "--max-pinned", "64M"])
            .expect("succeeds");
        let Command::Run { max_pinned, .. } = parsed.command else {
            panic!("run")
        };
        assert_eq!(max_pinned, Some(64 << 20));
        assert!(Arguments::try_parse_from(["vmshm-agent", "run", "--max-pinned", "lots"]).is_err());
        let connect = ["vmshm-agent", "run", "--connect"];
        let with = |to| Arguments::try_parse_from(connect.iter().chain([&to]));
        assert!(with("tcp:10.0.2.2:7001").is_ok() && with("10.0.2.2:7001").is_err());
        let parsed = Arguments::try_parse_from(["vmshm-agent", "run", "--no-input"]);
        let Command::Run {
            no_screens,
            no_input,
            ..
        } = parsed.expect("succeeds").command
        else {
            panic!("run")
        };
        assert!(no_input && !no_screens);
        assert!(Arguments::try_parse_from(["vmshm-agent", "translate", "1", "0x7f00"]).is_ok());
        assert!(Arguments::try_parse_from(["vmshm-agent", "run", "--pin-by", "io_uring"]).is_ok());
    }
}
