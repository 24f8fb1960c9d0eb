//! What the examples have in common: `host VM` or `guest`, options that all of them take,
//! how they begin and end on each side, and how they say what went wrong.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vmshm_guest::endpoint::RegionOptions;
use vmshm_guest::{Agent, LinkFailure, OpenError, Presence, PresenceState};
use vmshm_host::Vm;

/// How long an example may take to end after Ctrl-C before it is ended.
const MERCY: Duration = Duration::from_secs(2);
/// Time between two looks at what nothing rings for.
const LOOK: Duration = Duration::from_millis(1);
/// What a program says that was ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Whether somebody pressed Ctrl-C.
static INTERRUPTION: AtomicBool = AtomicBool::new(false);

/// The command line of an example with options `E` of its own.
#[derive(Debug, Parser)]
#[command(disable_help_subcommand = true)]
struct CommandLine<E: Args> {
    #[command(subcommand)]
    place: Place,
    /// The region [default: the example's name].
    #[arg(long, value_name = "REGION", global = true)]
    name: Option<String>,
    /// How long to wait for the other side, also in the middle.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, global = true)]
    timeout: u64,
    #[command(flatten)]
    own: E,
}

/// On which side an example runs.
#[derive(Debug, Subcommand)]
pub enum Place {
    /// On the host, with a virtual machine that runs there.
    Host {
        /// The VM: its process number, its name, or vmm:name.
        vm: String,
    },
    /// In the guest, where vmshm-agent runs.
    Guest,
}

/// What the user wants.
#[derive(Debug)]
pub struct Options<E> {
    /// On which side this is.
    pub place: Place,
    /// The region's name.
    pub name: String,
    /// How long to wait for the other side.
    pub timeout: Duration,
    /// The example's own options.
    pub own: E,
}

impl<E> Options<E> {
    /// Waits until `look` finds what it looks for; else the failure is that it `did not`.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn wait_until(
        &self,
        did_not: &str,
        mut look: impl FnMut() -> Result<bool, LinkFailure>,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        while !look()? {
            if begun.elapsed() > self.timeout {
                let seconds = self.timeout.as_secs();
                return Err(Failure {
                    message: format!("{did_not} within {seconds} s"),
                    hint: Some("start the other side, or give a longer --timeout".to_owned()),
                });
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Waits until the other side's program has come to a link, which this side has just
    /// opened. One that had left before that was of an earlier run.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn wait_for_peer(
        &self,
        peer: impl Fn() -> Result<Presence, LinkFailure>,
    ) -> Result<(), Failure> {
        let before = peer()?.count;
        self.wait_until("the other side did not come", || {
            let now = peer()?;
            Ok(now.state == PresenceState::Present || now.count > before)
        })
    }

    /// Waits until the guest's program, which has come, is gone.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn wait_until_gone(
        &self,
        peer: impl Fn() -> Result<Presence, LinkFailure>,
    ) -> Result<(), Failure> {
        self.wait_until("the guest did not end", || {
            Ok(peer()?.state != PresenceState::Present)
        })
    }

    /// What is in the region is not what this run has put there.
    pub fn left_over(&self, message: impl Display) -> Failure {
        let (place, vm) = match &self.place {
            Place::Host { vm } => ("", vm.as_str()),
            Place::Guest => (" on the host", "VM"),
        };
        let command = format!("vmshm region remove {vm}/{}", self.name);
        Failure {
            message: message.to_string(),
            hint: Some(format!(
                "if an earlier run has left the region: `{command}`{place}"
            )),
        }
    }
}

/// Runs an example, which is `about` something: reads its command line, and says in one
/// line what came of it.
pub fn run<E: Args>(
    name: &'static str,
    about: &'static str,
    example: impl FnOnce(&Options<E>) -> Result<String, Failure>,
) -> ExitCode {
    let command = CommandLine::<E>::command().name(name).about(about);
    let matches = command.get_matches();
    let line = CommandLine::<E>::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let options = Options {
        place: line.place,
        name: line.name.unwrap_or_else(|| name.to_owned()),
        timeout: Duration::from_secs(line.timeout),
        own: line.own,
    };
    let result = example(&options);
    let interrupted = INTERRUPTION.load(Ordering::SeqCst);
    match result {
        Ok(figures) => match writeln!(io::stdout(), "{name}: {figures}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(_) if interrupted => {
            eprintln!("{name}: interrupted");
            ExitCode::from(INTERRUPTED)
        }
        Err(failure) => {
            eprintln!("error: {}", failure.message);
            if let Some(hint) = failure.hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(2)
        }
    }
}

/// The host's side: opens the region, runs `exchange` over it, and removes the region. One
/// that could not be opened is somebody else's, and stays.
///
/// # Errors
/// [`Failure`].
pub fn on_host<E, L>(
    vm: Vm,
    options: &Options<E>,
    open: impl FnOnce(RegionOptions<Vm>) -> Result<L, Failure>,
    exchange: impl FnOnce(L) -> Result<String, Failure>,
) -> Result<String, Failure> {
    let (other, name) = (vm.clone(), options.name.clone());
    let is_open = Arc::new(AtomicBool::new(false));
    let may_remove = Arc::clone(&is_open);
    let _interruption = at_interruption(move || {
        // Whoever waits over a link learns that its region was removed.
        if may_remove.load(Ordering::SeqCst) {
            drop(other.remove(&name));
        }
    })?;
    let link = open(vm.region(&options.name).timeout(options.timeout))?;
    is_open.store(true, Ordering::SeqCst);
    // Either Ctrl-C has found it open, or it is noticed here.
    let figures = if INTERRUPTION.load(Ordering::SeqCst) {
        Err(io::Error::from(io::ErrorKind::Interrupted).into())
    } else {
        exchange(link)
    };
    // Whatever came of it, nothing shall stay pinned in the guest.
    let removed = vm.remove(&options.name);
    let figures = figures?;
    removed?;
    Ok(figures)
}

/// The guest's side: opens the region and runs `exchange` over it. It leaves the region to
/// the host, which may still read there.
///
/// # Errors
/// [`Failure`].
pub fn in_guest<E, L>(
    agent: Agent,
    options: &Options<E>,
    open: impl FnOnce(RegionOptions<Agent>) -> Result<L, Failure>,
    exchange: impl FnOnce(L) -> Result<String, Failure>,
) -> Result<String, Failure> {
    // Whoever waits over a link learns that it is closed.
    let other = agent.clone();
    let _interruption = at_interruption(move || other.disconnect())?;
    exchange(open(agent.region(&options.name).timeout(options.timeout))?)
}

/// What is done at Ctrl-C, until this is dropped. It holds a handle on the VM, whose session
/// ends with the last one.
struct Interruption<F> {
    _action: Arc<Mutex<Option<F>>>,
}

/// At Ctrl-C `action` makes the example end; where that is not enough, it is ended.
fn at_interruption<F: FnOnce() + Send + 'static>(action: F) -> io::Result<Interruption<F>> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let action = Arc::new(Mutex::new(Some(action)));
    let waiting = Arc::downgrade(&action);
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            INTERRUPTION.store(true, Ordering::SeqCst);
            let action = waiting.upgrade().and_then(|slot| slot.lock().ok()?.take());
            if let Some(action) = action {
                action();
            }
            thread::sleep(MERCY);
            std::process::exit(INTERRUPTED.into());
        }
    });
    Ok(Interruption { _action: action })
}

/// What went wrong, and what the user can do.
#[derive(Debug)]
pub struct Failure {
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// The other side's data are not what they should be.
    pub fn wrong(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            hint: None,
        }
    }

    /// The command line makes no sense.
    pub fn usage(message: &str) -> Self {
        Self {
            message: message.to_owned(),
            hint: Some("see --help".to_owned()),
        }
    }

    /// Something failed at a file.
    pub fn file(path: impl Display, error: &impl Error) -> Self {
        Self {
            message: format!("{path}: {error}"),
            hint: None,
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self {
            message: error.to_string(),
            hint: error.hint(),
        }
    }
}

impl From<LinkFailure> for Failure {
    fn from(failure: LinkFailure) -> Self {
        let hint = match &failure {
            LinkFailure::Timeout(_) => Some("is the other side still there?"),
            other => other.hint(),
        };
        Self {
            hint: hint.map(str::to_owned),
            message: failure.to_string(),
        }
    }
}

impl From<io::Error> for Failure {
    /// A stream's error, which carries the link's, or another one.
    fn from(error: io::Error) -> Self {
        let failure = error.get_ref().and_then(|inner| inner.downcast_ref());
        match failure {
            Some(failure) => Self::from(LinkFailure::clone(failure)),
            None => Self {
                message: error.to_string(),
                hint: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn options(place: Place, timeout: Duration) -> Options<()> {
        Options {
            place,
            name: "x".to_owned(),
            timeout,
            own: (),
        }
    }

    /// What is seen, one look after the other; the last one stays.
    fn seen(looks: &[(PresenceState, u64)]) -> impl Fn() -> Result<Presence, LinkFailure> {
        let next = Cell::new(0);
        move || {
            let at = next.replace((next.get() + 1).min(looks.len() - 1));
            let (state, count) = looks[at];
            Ok(Presence { state, count })
        }
    }

    #[test]
    fn whoever_had_left_before_has_not_come() {
        use PresenceState::{Absent, Left, Lost, Present};
        let patient = options(Place::Guest, Duration::MAX);
        for looks in [
            &[(Absent, 0), (Absent, 0), (Present, 1)][..],
            &[(Left, 1), (Left, 1), (Present, 2)],
            &[(Lost, 1), (Lost, 2)],
            &[(Present, 1)],
        ] {
            assert!(patient.wait_for_peer(seen(looks)).is_ok(), "{looks:?}");
        }
        let hasty = options(Place::Guest, Duration::ZERO);
        for looks in [&[(Left, 1)][..], &[(Lost, 7)], &[(Absent, 0)]] {
            assert!(hasty.wait_for_peer(seen(looks)).is_err(), "{looks:?}");
        }
    }

    #[test]
    fn whoever_is_there_has_not_gone() {
        use PresenceState::{Left, Lost, Present};
        let patient = options(Place::Guest, Duration::MAX);
        for end in [Left, Lost] {
            let looks = [(Present, 2), (end, 2)];
            assert!(patient.wait_until_gone(seen(&looks)).is_ok(), "{end:?}");
        }
        let hasty = options(Place::Guest, Duration::ZERO);
        assert!(hasty.wait_until_gone(seen(&[(Present, 2)])).is_err());
    }

    #[test]
    fn only_what_an_earlier_run_may_have_left_is_to_be_removed_and_by_a_whole_command() {
        let vm = "web".to_owned();
        let failure = options(Place::Host { vm }, Duration::ZERO).left_over("odd");
        let hint = failure.hint.expect("there is one");
        assert!(hint.contains("`vmshm region remove web/x`"), "{hint}");
        let failure = options(Place::Guest, Duration::ZERO).left_over("odd");
        let hint = failure.hint.expect("there is one");
        assert!(hint.ends_with("VM/x` on the host"), "{hint}");
        assert_eq!(Failure::wrong("odd").hint, None);
    }
}
