//! The broker's process: its signals, its socket, and the end. What it does is in
//! `vmshm-broker`.

use std::path::{Path, PathBuf};
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
    let place_of_rules = place_of_rules(broker)?;
    match Rules::read(&place_of_rules) {
        Ok(rules) if !rules.exist() => output::tell(&no_rules(&place_of_rules), global.quiet),
        Err(error) if handed_over.is_none() => {
            let hint = error.hint();
            return Err(Failure::from_error(&error, hint));
        }
        _ => {}
    }
    // Before anybody connects: what an earlier broker has left is taken back here.
    let machines = Machines::new(&broker.state).map_err(|error| {
        let hint = error.hint();
        Failure::from_error(&error, hint)
    })?;
    let listener = match handed_over {
        Some(listener) => listener,
        None => Listener::bind(place(broker)).map_err(not_listening)?,
    };
    let service = Service::new(listener, machines, place_of_rules, Limits::default());
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

/// Clients read of it in refusals, and do not know where the broker was started.
fn place_of_rules(broker: &Broker) -> Result<PathBuf, Failure> {
    std::path::absolute(&broker.rules)
        .map_err(|error| Failure::from_error(&error, None).because("finding the rules"))
}

/// No error: they may come later.
fn no_rules(place: &Path) -> String {
    let place = place.display();
    format!("warning: there are no rules at {place}: until there are, only root may use anything")
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

    use super::*;
    use crate::arguments::{Arguments, Command};
    use crate::commands::broker::AFTER_HELP;

    fn parse(arguments: &[&str]) -> Broker {
        let all = ["vmshm", "broker"].iter().chain(arguments);
        let parsed = Arguments::try_parse_from(all).expect("right");
        match parsed.command {
            Command::Broker(broker) => broker,
            _ => panic!("another command"),
        }
    }

    #[test]
    fn the_usual_places_are_those_of_the_broker() {
        let broker = parse(&[]);
        assert_eq!(broker.rules.to_str(), Some(vmshm_broker::rules::DEFAULT));
        assert_eq!(broker.state.to_str(), Some(vmshm_broker::STATE));
        assert!(AFTER_HELP.contains(vmshm_broker::SOCKET));
    }

    #[test]
    fn the_help_shows_rules_with_every_key() {
        let example: Vec<&str> = AFTER_HELP
            .lines()
            .skip_while(|line| line.trim() != "[[allow]]")
            .take_while(|line| !line.is_empty())
            .collect();
        Rules::parse(Path::new("help"), &example.join("\n")).expect("good rules");
        // What the rules know is what they name where a key is mistyped.
        let mistyped = "[[allow]]\nmistyped = 1";
        let error = Rules::parse(Path::new("rules"), mistyped).expect_err("no key");
        let error = error.to_string();
        let keys: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        assert!(keys.contains(&"max_size"), "{error}");
        for key in keys {
            let mut lines = example.iter().map(|line| line.trim());
            let line = lines.find(|line| line.starts_with(&format!("{key} = ")));
            let line = line.unwrap_or_else(|| panic!("{key} is not in the help"));
            assert!(line.contains("default: ") || key == "uid" || key == "vms" || key == "gid");
        }
    }

    #[test]
    fn rules_are_named_as_others_find_them() {
        let place = place_of_rules(&parse(&["--rules", "br/rules.toml"])).expect("known");
        assert!(place.is_absolute() && place.ends_with("br/rules.toml"));
        assert!(no_rules(&place).contains(&place.display().to_string()));
    }
}
