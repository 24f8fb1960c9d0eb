//! `vmshm broker`: hands regions to programs of other users, until it is told to end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use vmshm_broker::rules::{self, Rules};
use vmshm_broker::{Broker as Service, Limits, Listener, Machines};

use crate::arguments::Global;
use crate::failure::Failure;
use crate::output;

/// How often signals are looked at.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) const AFTER_HELP: &str = "Run it as root, or as the user of the VMs. It hands out what its rules allow, and nothing without them:\n\n  [[allow]]\n  uid = 1000                      # or gid, or both\n  vms = [\"web\", \"qemu:test-*\"]    # names, vmm:name or process numbers; a star is anything\n  regions = [\"numbers\", \"web-*\"]  # names\n  make = true                     # may also make and remove them\n  screens = true                  # may see screens\n  input = true                    # may type and point there\n\nRules are read anew for each program that connects. Each region is made a file of its own in the\nVM's process (a graft); it is the VM's own again when the last program leaves, and when the\nguest boots anew. Ends at Ctrl-C or SIGTERM, and takes all back.\n\nExamples:\n  sudo vmshm broker\n  vmshm list --broker /run/vmshm/broker.sock";

/// `vmshm broker`.
#[derive(Debug, Args)]
pub(crate) struct Broker {
    /// Where to listen [default: the socket that systemd hands over, else /run/vmshm/broker.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The rules
    #[arg(long, value_name = "FILE", default_value = rules::DEFAULT)]
    pub(crate) rules: PathBuf,
    /// Where to note what is lent, for the next broker if this one is killed
    #[arg(long, value_name = "DIRECTORY", default_value = vmshm_broker::STATE)]
    pub(crate) state: PathBuf,
}

/// Runs it.
pub(crate) fn run(broker: &Broker, global: &Global) -> Result<(), Failure> {
    let ended = Arc::new(AtomicBool::new(false));
    let watching =
        |error: std::io::Error| Failure::from_error(&error, None).because("watching for signals");
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended)).map_err(watching)?;
    }
    // Rules are read for each connection; whoever says so by a signal is right already.
    signal_hook::flag::register(SIGHUP, Arc::default()).map_err(watching)?;
    raise_limit();
    // Said at once rather than to the first client.
    if let Err(error) = Rules::read(&broker.rules) {
        let hint = error.hint();
        return Err(Failure::from_error(&error, hint));
    }
    let state = broker.state.display();
    // Before anybody connects: what an earlier broker has left is taken back here.
    let machines = Machines::new(&broker.state).map_err(|error| {
        Failure::from_error(
            &error,
            Some("run as root, or give --state DIRECTORY".to_owned()),
        )
        .because(&format!("cannot keep notes in {state}"))
    })?;
    let listener = listener(broker)?;
    let service = Service::new(listener, machines, broker.rules.clone(), Limits::default());
    let stop = service.stop();
    std::thread::Builder::new()
        .name("vmshm-signals".to_owned())
        .spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK);
            }
            stop.set();
        })
        .map_err(watching)?;
    if !global.quiet {
        output::tell("ready", false);
    }
    service
        .run()
        .map_err(|error| Failure::from_error(&error, None).because("waiting for programs"))
}

fn listener(broker: &Broker) -> Result<Listener, Failure> {
    let made = match &broker.socket {
        Some(path) => Listener::bind(path),
        None => match vmshm_broker::activated() {
            Ok(Some(listener)) => Ok(listener),
            Ok(None) => Listener::bind(vmshm_broker::SOCKET.as_ref()),
            Err(error) => Err(error),
        },
    };
    made.map_err(|error| {
        let hint = error.hint();
        Failure::from_error(&error, hint)
    })
}

/// Each client's session has some descriptors.
fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays");
    }
}
