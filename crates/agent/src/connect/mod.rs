//! `--connect`: a thread that connects out to `vmshm listen` on the host, so that the
//! host need not search this guest's memory for the beacon.
//!
//! The thread never gets into the way of serving: it resolves, connects and waits by
//! itself, and tries again, ever less often, when nobody is there. Nothing is said to
//! whoever listens before it has greeted rightly, and nothing is believed of it before
//! it has shown that it reads this guest's memory.

mod resolve;
mod talk;

use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmshm_link::rendezvous::endpoint::{self, Endpoint};
use vmshm_link::rendezvous::message::Announce;

use crate::window::Window;
use talk::TalkError;

/// How long one address may take to be connected to.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The first pause between two attempts, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));
/// How long the other side may take for each answer. Others may be served before us.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How long a connection may be quiet before the system asks whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Where `vmshm listen` listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    host: String,
    port: u16,
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected tcp:HOST:PORT, such as tcp:10.0.2.2:7001";
        if !text.starts_with("tcp:") {
            return Err(FORM.to_owned());
        }
        let Endpoint { host, port } = endpoint::parse(text).map_err(|error| error.to_string())?;
        if port == 0 {
            return Err("nobody listens at port 0".to_owned());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.host.as_str(), self.port);
        write!(f, "tcp:{}", Endpoint { host, port })
    }
}

/// How the connection stands, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionInfo {
    /// Where it leads.
    pub to: String,
    /// How it stands.
    pub state: ConnectionState,
    /// Why there is none.
    pub reason: Option<String>,
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConnectionState {
    /// It is being made.
    Connecting,
    /// It is there, and the host has shown that it reads this guest's memory.
    Tied,
    /// It failed or ended, and is tried again.
    Waiting,
}

/// What thread and agent share.
#[derive(Debug)]
struct Shared {
    info: Mutex<ConnectionInfo>,
    /// The connection, for whoever ends the thread.
    socket: Mutex<Option<TcpStream>>,
}

/// The connecting thread; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Connector {
    shared: Arc<Shared>,
    /// Its end tells the thread to stop.
    stop: Option<Sender<()>>,
}

impl Connector {
    /// Starts connecting, with `tell` for what the user should know.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(
        listener: Listener,
        announce: Announce,
        directory: Arc<Window>,
        tell: fn(&str),
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            info: Mutex::new(ConnectionInfo {
                to: listener.to_string(),
                state: ConnectionState::Connecting,
                reason: None,
            }),
            socket: Mutex::new(None),
        });
        let (stop, stopped) = channel();
        let connection = Connection {
            listener,
            announce,
            directory,
            shared: Arc::clone(&shared),
            stopped,
            tell,
            told: None,
        };
        thread::Builder::new()
            .name("connect".to_owned())
            .spawn(move || connection.keep_up())?;
        Ok(Self {
            shared,
            stop: Some(stop),
        })
    }

    /// How the connection stands.
    pub(crate) fn info(&self) -> ConnectionInfo {
        lock(&self.shared.info).clone()
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(socket) = lock(&self.shared.socket).take() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// What is behind the lock is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's side.
struct Connection {
    listener: Listener,
    announce: Announce,
    directory: Arc<Window>,
    shared: Arc<Shared>,
    stopped: Receiver<()>,
    tell: fn(&str),
    /// What was said last, to say nothing twice in a row.
    told: Option<String>,
}

impl Connection {
    /// Connects again and again until it is told to stop.
    fn keep_up(mut self) {
        let mut pause = PAUSES.0;
        loop {
            self.set(ConnectionState::Connecting, None);
            let error = match self.connect() {
                Ok(()) => TalkError::Closed,
                Err(error) => error,
            };
            if lock(&self.shared.info).state == ConnectionState::Tied {
                pause = PAUSES.0;
            }
            *lock(&self.shared.socket) = None;
            if self.shall_stop(Duration::ZERO) {
                return;
            }
            self.set(ConnectionState::Waiting, Some(error.to_string()));
            let line = format!("not connected to {}: {error}; trying again", self.listener);
            self.say(line);
            if self.shall_stop(pause) {
                return;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Waits for `pause`, unless the agent leaves.
    fn shall_stop(&self, pause: Duration) -> bool {
        self.stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout)
    }

    fn set(&self, state: ConnectionState, reason: Option<String>) {
        let mut info = lock(&self.shared.info);
        // The reason of the last failure stands until there is news.
        if state != ConnectionState::Connecting {
            info.reason = reason;
        }
        info.state = state;
    }

    fn say(&mut self, line: String) {
        if self.told.as_ref() != Some(&line) {
            (self.tell)(&line);
            self.told = Some(line);
        }
    }

    /// One attempt, and the whole life of its connection.
    fn connect(&mut self) -> Result<(), TalkError> {
        let addresses = resolve::resolve(&self.listener.host, self.listener.port)?;
        let mut last = None;
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
                Ok(socket) => return self.talk(&socket),
                Err(error) => last = Some(error),
            }
        }
        Err(TalkError::Connect(last.unwrap_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "the name has no address")
        })))
    }

    fn talk(&mut self, socket: &TcpStream) -> Result<(), TalkError> {
        *lock(&self.shared.socket) = Some(socket.try_clone()?);
        // Whoever stopped us before the socket was there to be shut down.
        if self.shall_stop(Duration::ZERO) {
            return Ok(());
        }
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        socket.set_write_timeout(Some(ANSWER_LIMIT))?;
        // A host that vanishes without a word is noticed by these.
        rustix::net::sockopt::set_socket_keepalive(socket, true).map_err(io::Error::from)?;
        rustix::net::sockopt::set_tcp_keepidle(socket, KEEP_ALIVE).map_err(io::Error::from)?;
        rustix::net::sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE).map_err(io::Error::from)?;
        let directory = Arc::clone(&self.directory);
        let inbox = talk::tie(socket, &self.announce, &*directory)?;
        // A tied channel is silent for as long as nobody needs it.
        socket.set_read_timeout(None)?;
        self.set(ConnectionState::Tied, None);
        let line = format!("connected to {}: tied to this guest's host", self.listener);
        self.say(line);
        talk::listen(socket, inbox)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Instant;

    use rustix::fs::MemfdFlags;
    use vmshm_link::GuestPhysical;
    use vmshm_link::directory::DIRECTORY_SIZE;
    use vmshm_link::fields::Text;
    use vmshm_link::rendezvous::message::{GREETING_BYTES, greeting};
    use vmshm_shm::Protection;

    use super::*;

    fn start(port: u16) -> Connector {
        let file = rustix::fs::memfd_create("directory", MemfdFlags::CLOEXEC).expect("a memfd");
        rustix::fs::ftruncate(&file, DIRECTORY_SIZE).expect("a size");
        let directory = Window::open(&file, 0, DIRECTORY_SIZE, Protection::ReadWrite);
        let announce = Announce {
            beacon: GuestPhysical(0x20_0000),
            epoch: 7,
            boot_id: [1; 16],
            version: Text::new("0.1.0"),
            name: Text::new("guest"),
        };
        let listener = format!("tcp:127.0.0.1:{port}").parse().expect("right");
        let directory = Arc::new(directory.expect("maps"));
        Connector::start(listener, announce, directory, |_| {}).expect("a thread")
    }

    fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < deadline, "no {what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn it_tries_again_until_somebody_is_there_speaks_second_and_ends_with_the_agent() {
        let port = {
            let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
            taken.local_addr().expect("an address").port()
        };
        let connector = start(port);
        wait_for("failure", || {
            connector.info().state == ConnectionState::Waiting
        });
        let reason = connector.info().reason.unwrap_or_default();
        assert!(reason.contains("refused"), "{reason}");

        let listener = TcpListener::bind(("127.0.0.1", port)).expect("binds");
        let (mut socket, _) = listener.accept().expect("it connects");
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("set");
        let early = socket.read(&mut [0; 16]);
        assert!(early.is_err(), "said before it was greeted: {early:?}");
        socket.write_all(&greeting()).expect("sent");
        socket
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("set");
        let mut answer = [0; GREETING_BYTES];
        socket.read_exact(&mut answer).expect("it greets");
        assert_eq!(answer, greeting());

        // One that hangs up is connected to again.
        drop(socket);
        let (mut socket, _) = listener.accept().expect("it connects again");
        drop(connector);
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest);
        assert!(rest.is_empty(), "said to who does not greet: {rest:?}");
    }

    #[test]
    fn listeners_are_named_with_tcp_before_them() {
        for text in [
            "tcp:10.0.2.2:7001",
            "tcp:[::1]:7001",
            "tcp:host.example:7001",
        ] {
            let listener: Listener = text.parse().expect("right");
            assert_eq!(listener.to_string(), text);
        }
        for text in [
            "10.0.2.2:7001",
            "tcp:10.0.2.2",
            "tcp:host:0",
            "vsock:2:7001",
        ] {
            assert!(text.parse::<Listener>().is_err(), "{text}");
        }
    }
}
