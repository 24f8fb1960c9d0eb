//! The broker's loop: takes connections in, each served by a thread of its own, and refuses
//! those for which there is no room. Nothing that a client does holds it up.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use vmshm_channel::credentials::{self, User};
use vmshm_host::brokered::Socket;
use vmshm_host::brokered::wire::{FromBroker, Machine, Purpose, ToBroker};
use vmshm_link::Version;
use vmshm_link::directory::RegionEntry;

use crate::connection::{Connection, LISTING, Over, send, send_listed};
use crate::guests::{Found, Guests, Refused};
use crate::limits::{Counter, Limits, Place};
use crate::listening::Listener;
use crate::rules::Rules;

/// How long a client may take to say what it wants.
const GREETING: Duration = Duration::from_secs(5);
/// The longest that a guest is waited for, whatever the client says.
const LONGEST: Duration = Duration::from_secs(60);
/// How long nobody is taken in when the system has no more descriptors.
const WANT: Duration = Duration::from_millis(100);
/// The most refused connections whose closing takes its time: whoever sent a descriptor
/// along may have it linger.
const CLOSINGS: usize = 128;
/// How long one turn waits.
const TURN: Duration = Duration::from_millis(100);
/// How long clients have to leave when the broker ends.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long a list of VMs counts: each look at them searches their memory.
const LIST_AGAIN: Duration = Duration::from_millis(500);
/// A thread for closing needs little.
const SMALL_STACK: usize = 64 << 10;

/// Whether the broker is to end.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Ends the broker soon.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is to end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Says whose a connection is.
type Whose = dyn Fn(&OwnedFd) -> io::Result<(u32, User)> + Send + Sync;

/// A broker.
pub struct Broker<G> {
    listener: Listener,
    shared: Arc<Shared<G>>,
    closings: Arc<AtomicUsize>,
    whose: Box<Whose>,
}

struct Shared<G> {
    guests: G,
    rules: PathBuf,
    counter: Counter,
    stop: Stop,
    last_list: Mutex<Option<(Instant, Arc<Vec<Listed>>)>>,
}

/// A VM, as it is told of, and its regions.
type Listed = (Found, Machine, Vec<RegionEntry>);

impl<G: Guests> Broker<G> {
    /// A broker that listens. The rules in `rules` are read anew for each connection; what a
    /// client was allowed when it connected it may do until it leaves.
    #[must_use]
    pub fn new(listener: Listener, guests: G, rules: PathBuf, limits: Limits) -> Self {
        Self {
            listener,
            shared: Arc::new(Shared {
                guests,
                rules,
                counter: Counter::new(limits),
                stop: Stop::default(),
                last_list: Mutex::default(),
            }),
            closings: Arc::default(),
            whose: Box::new(|socket| credentials::peer(socket, true)),
        }
    }

    /// What ends it.
    #[must_use]
    pub fn stop(&self) -> Stop {
        self.shared.stop.clone()
    }

    /// How many clients are connected.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.shared.counter.connections()
    }

    /// Serves until it is stopped. All that was lent is taken back then.
    ///
    /// # Errors
    /// What the system says when it cannot wait for connections.
    pub fn run(&self) -> io::Result<()> {
        while !self.shared.stop.is_set() {
            let may_accept = self.closings.load(Ordering::Relaxed) < CLOSINGS;
            let flags = if may_accept {
                PollFlags::IN
            } else {
                PollFlags::empty()
            };
            let mut fds = [PollFd::new(&self.listener, flags)];
            let patience = if may_accept { TURN } else { WANT / 10 };
            match rustix::event::poll(&mut fds, Some(&timespec(patience))) {
                Ok(_) if may_accept => self.accept(),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let deadline = Instant::now() + FAREWELL;
        while self.clients() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn accept(&self) {
        match rustix::net::accept_with(
            self.listener.as_fd(),
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        ) {
            Ok(socket) => self.admit(socket),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => {
                // Most likely descriptors or memory: looking again at once is no help.
                tracing::warn!(%error, "nobody is taken in for a while");
                std::thread::sleep(WANT);
            }
        }
    }

    fn admit(&self, socket: OwnedFd) {
        let (pid, user) = match (self.whose)(&socket) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::debug!(%error, "a client of nobody is refused");
                return self.close(Socket::new(socket));
            }
        };
        let socket = Socket::new(socket);
        let place = match self.shared.counter.connect(&user) {
            Ok(place) => place,
            Err(why) => {
                tracing::debug!(uid = user.uid, why, "a client is refused");
                let refused = Refused::new(why, None);
                // Whether it arrives or not, the connection ends here.
                let _ = refuse(&socket, &refused);
                return self.close(socket);
            }
        };
        let shared = Arc::clone(&self.shared);
        let spawned = std::thread::Builder::new()
            .name("vmshm-client".to_owned())
            .spawn(move || shared.serve(socket, pid, &user, place));
        if let Err(error) = spawned {
            tracing::warn!(%error, "there is no thread for a client");
            std::thread::sleep(WANT);
        }
    }

    /// Closes a connection in a thread of its own: it may carry a descriptor that takes its
    /// time.
    fn close(&self, socket: Socket) {
        let closings = Arc::clone(&self.closings);
        closings.fetch_add(1, Ordering::Relaxed);
        let spawned = std::thread::Builder::new()
            .name("vmshm-closing".to_owned())
            .stack_size(SMALL_STACK)
            .spawn({
                let closings = Arc::clone(&closings);
                move || {
                    drop(socket);
                    closings.fetch_sub(1, Ordering::Relaxed);
                }
            });
        if spawned.is_err() {
            closings.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<G: Guests> Shared<G> {
    /// A client's thread, from its greeting to its end.
    fn serve(&self, socket: Socket, pid: u32, user: &User, place: Place) {
        let result = self.talk(&socket, user);
        match result {
            Err(Over::Client(why)) => {
                tracing::debug!(pid, uid = user.uid, why, "a client's connection is over");
            }
            Err(Over::Session(end)) => {
                tracing::debug!(pid, uid = user.uid, %end, "a client's session is over");
            }
            Ok(()) => {}
        }
        // It counts until it is closed.
        drop(socket);
        drop(place);
    }

    fn talk(&self, socket: &Socket, user: &User) -> Result<(), Over> {
        let (purpose, patience) = self.greeting(socket)?;
        let rules = match Rules::read(&self.rules) {
            Ok(rules) => rules,
            Err(error) => {
                tracing::warn!(%error, "the rules cannot be used, and nobody gets anything");
                return refuse(socket, &Refused::new(error.to_string(), error.hint()));
            }
        };
        if let Err(why) = rules.know(user) {
            let hint = format!(
                "an entry in {} would: uid = {}",
                self.rules.display(),
                user.uid
            );
            return refuse(socket, &Refused::new(why, Some(hint)));
        }
        let selector = match purpose {
            Purpose::Session(selector) => selector,
            Purpose::List => return self.list(socket, user, &rules),
        };
        match self.session(user, &rules, &selector, patience) {
            Err(refused) => refuse(socket, &refused),
            Ok((found, connection, _place)) => {
                let (guest, allowed) = connection;
                let welcome = FromBroker::Welcome {
                    pid: found.pid,
                    start_time: found.start_time,
                    slot: guest.slot() as u64,
                    name: found.name,
                };
                send(socket, &welcome, None)?;
                // The place is given up after the session.
                Err(Connection::new(socket, guest, allowed).serve(&self.stop))
            }
        }
    }

    #[allow(clippy::type_complexity, reason = "used in one place")]
    fn session(
        &self,
        user: &User,
        rules: &Rules,
        selector: &str,
        patience: Duration,
    ) -> Result<
        (
            Found,
            (Box<dyn crate::guests::Guest>, crate::rules::Allowed),
            Place,
        ),
        Refused,
    > {
        let found = self.guests.find(selector)?;
        let allowed = rules.of(user, &found).ok_or_else(|| {
            let hint = format!(
                "an entry in {} would: uid = {}",
                self.rules.display(),
                user.uid
            );
            Refused::new(rules.why_not(user, &found), Some(hint))
        })?;
        self.guests.obstacle(&found).map_or(Ok(()), Err)?;
        let place = self.counter.attach(user, found.pid);
        let place = place.map_err(|why| Refused::new(why, None))?;
        let guest = self.guests.attach(&found, patience)?;
        Ok((found, (guest, allowed), place))
    }

    /// What a client wants, and how long it waits.
    fn greeting(&self, socket: &Socket) -> Result<(Purpose, Duration), Over> {
        let deadline = Instant::now() + GREETING;
        loop {
            match socket.try_receive_plain() {
                Ok(Some(received)) if received.had_more => {
                    return Err(Over::Client("it sends descriptors"));
                }
                Ok(Some(received)) => match ToBroker::parse(received.bytes()) {
                    Ok(ToBroker::Hello {
                        version,
                        purpose,
                        patience_millis,
                    }) => {
                        if let Err(error) = Version::accept(version) {
                            refuse(socket, &Refused::new(error.to_string(), None))?;
                            return Err(Over::Client("it speaks another protocol"));
                        }
                        let patience = Duration::from_millis(patience_millis).min(LONGEST);
                        return Ok((purpose, patience));
                    }
                    Ok(_) | Err(_) => return Err(Over::Client("it does not greet")),
                },
                Ok(None) => return Err(Over::Client("it has left")),
                Err(Errno::AGAIN) => {}
                Err(_) => return Err(Over::Client("its socket fails")),
            }
            if Instant::now() >= deadline || self.stop.is_set() {
                return Err(Over::Client("it says nothing"));
            }
            let waited = socket.wait(TURN);
            waited.map_err(|_| Over::Client("its socket fails"))?;
        }
    }

    /// What there is, looked up at most twice a second however many ask.
    fn listed(&self) -> Arc<Vec<Listed>> {
        let mut last = self
            .last_list
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((when, listed)) = &*last
            && when.elapsed() < LIST_AGAIN
        {
            return Arc::clone(listed);
        }
        let listed = Arc::new(self.guests.list());
        *last = Some((Instant::now(), Arc::clone(&listed)));
        listed
    }

    fn list(&self, socket: &Socket, user: &User, rules: &Rules) -> Result<(), Over> {
        let listed = self.listed();
        let allowed = listed.iter().filter_map(|(found, machine, regions)| {
            let allowed = rules.of(user, found)?;
            // It would be refused, whatever the rules say.
            let may_be_lent = self.guests.obstacle(found).is_none();
            may_be_lent.then_some((machine, regions, allowed))
        });
        let allowed: Vec<_> = allowed.collect();
        let deadline = Instant::now() + LISTING;
        for (machine, regions, allowed) in allowed {
            let tag = u64::from(machine.pid);
            send_listed(
                socket,
                &FromBroker::Machine(Box::new(machine.clone())),
                deadline,
            )?;
            for entry in regions {
                if allowed.may_open(entry.name.as_str()).is_ok() {
                    let entry = *entry;
                    send_listed(socket, &FromBroker::Entry { tag, entry }, deadline)?;
                }
            }
        }
        send_listed(socket, &FromBroker::EndOfList { tag: 0 }, deadline)
    }
}

fn refuse(socket: &Socket, refused: &Refused) -> Result<(), Over> {
    let message = FromBroker::Refused {
        explanation: refused.explanation.clone(),
        hint: refused.hint.clone().unwrap_or_default(),
    };
    send(socket, &message, None)
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
