//! The broker's process: its signals, its socket, and the end. What it does is in
//! `vmshm-broker`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use vmshm_broker::rules::Rules;
use vmshm_broker::{Broker as Service, Limits, ListenError, Listener, Machines};

use crate::arguments::Global;
use crate::commands::broker::Broker;
use crate::failure::Failure;
use crate::output;

/// How often signals are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Runs it.
pub(crate) fn run_broker(broker: &Broker, global: &Global) -> Result<(), Failure> {
    let ended = Arc::new(AtomicBool::new(false));
    let watching =
        |error: std::io::Error| Failure::from_error(&error, None).because("watching for signals");
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended)).map_err(watching)?;
    }
    // Rules are read for each connection; whoever says so by a signal is right already.
    signal_hook::flag::register(SIGHUP, Arc::default()).map_err(watching)?;
    raise_limit();
    let handed_over = handed_over(broker)?;
    // Said at once rather than to the first client; but whoever comes by systemd's socket has
    // nobody else to hear it from: a broker that ends is started for them again and again.
    if let Err(error) = Rules::read(&broker.rules)
        && handed_over.is_none()
    {
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
    let listener = match handed_over {
        Some(listener) => listener,
        None => Listener::bind(place(broker)).map_err(not_listening)?,
    };
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

/// The socket that systemd has made, where no other one is asked for.
fn handed_over(broker: &Broker) -> Result<Option<Listener>, Failure> {
    match broker.socket {
        Some(_) => Ok(None),
        None => vmshm_broker::activated().map_err(not_listening),
    }
}

fn place(broker: &Broker) -> &Path {
    let usual = || vmshm_broker::SOCKET.as_ref();
    broker.socket.as_deref().unwrap_or_else(usual)
}

fn not_listening(error: ListenError) -> Failure {
    let hint = error.hint();
    Failure::from_error(&error, hint)
}

/// Each client's session has some descriptors.
fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays");
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::arguments::{Arguments, Command};

    #[test]
    fn the_usual_places_are_those_of_the_broker() {
        let parsed = Arguments::try_parse_from(["vmshm", "broker"]).expect("right");
        let Command::Broker(broker) = parsed.command else {
            panic!("another command");
        };
        assert_eq!(broker.rules.to_str(), Some(vmshm_broker::rules::DEFAULT));
        assert_eq!(broker.state.to_str(), Some(vmshm_broker::STATE));
        assert!(crate::commands::broker::AFTER_HELP.contains(vmshm_broker::SOCKET));
    }
}
