//! One connection to the agent: questions and answers, and a thread that reads.
//!
//! The thread ends with the connection, and the connection with the last handle of the
//! [`crate::Agent`]. What the agent sends is checked; what makes no sense ends the session.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use vmshm_endpoint::{End, OpenError};
use vmshm_link::LinkError;
use vmshm_link::control::{Reply, Request};
use vmshm_link::local::{self, Datagram};

use crate::book::{Answer, Book};
use crate::deadline::Deadline;
use crate::socket::{Received, Socket};
use crate::unreachable;

/// How long the agent may take to read and confirm that a region is let go of, or that a
/// question is taken back.
const PARTING: Duration = Duration::from_secs(1);

/// Why a question has no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// Nothing came in time.
    Late,
    /// The session is over.
    Over(End),
}

/// A connection to the agent that runs.
#[derive(Debug)]
pub(crate) struct Session {
    socket: Socket,
    book: Mutex<Book>,
    arrived: Condvar,
}

impl Session {
    /// Connects, says hello, and starts to read.
    pub(crate) fn start(path: &Path, until: Deadline) -> Result<Arc<Self>, OpenError> {
        let socket = Socket::connect(path, until).map_err(|error| unreachable::at(path, error))?;
        let talk = |error| unreachable::silent(path, error);
        match socket.send(&Datagram::hello(vmshm_link::VERSION), until) {
            // An agent that takes nobody more says why before it hangs up.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(error) => return Err(talk(error)),
        }
        let welcome = socket.receive(until).map_err(talk)?;
        let Some(welcome) = welcome else {
            return Err(unreachable::silent(path, Errno::CONNRESET));
        };
        match parse(&welcome).map_err(|error| OpenError::Ended(End::Link(error)))? {
            (_, Reply::Refused { code, explanation }) => {
                return Err(OpenError::Refused {
                    code,
                    explanation: explanation.as_str().to_owned(),
                    hint: None,
                });
            }
            (_, Reply::Done) => {}
            _ => return Err(unreachable::silent(path, Errno::PROTO)),
        }
        let session = Arc::new(Self {
            socket,
            book: Mutex::default(),
            arrived: Condvar::new(),
        });
        let reader = Arc::clone(&session);
        thread::Builder::new()
            .name("vmshm-agent".to_owned())
            .spawn(move || reader.read())
            .map_err(unreachable::thread)?;
        Ok(session)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing that holds the lock can leave the book half changed.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it is over, if it is.
    pub(crate) fn end(&self) -> Option<End> {
        self.book().end().cloned()
    }

    fn finish(&self, end: End) {
        self.book().finish(end);
        self.arrived.notify_all();
    }

    /// Ends the connection from this side, with everything that is held through it.
    pub(crate) fn hang_up(&self) {
        let regions = self.book().held();
        // In the agent's eyes each is let go of in good order, if it reads this.
        regions
            .into_iter()
            .for_each(|region| self.give_back(region));
        self.finish(End::Closed);
        self.socket.hang_up();
    }

    /// Reads until the connection is over.
    fn read(&self) {
        let never = Deadline::after(Duration::MAX);
        let end = loop {
            let received = match self.socket.receive(never) {
                Ok(Some(received)) => received,
                Ok(None) | Err(_) => break self.book().reason(),
            };
            let (tag, reply) = match parse(&received) {
                Ok(message) => message,
                Err(error) => break End::Link(error),
            };
            let unwanted = self.book().arrived(tag, reply, received.file);
            self.arrived.notify_all();
            if let Some(region) = unwanted {
                self.give_back(region);
            }
        };
        self.finish(end);
        self.socket.hang_up();
    }

    /// Sends what needs no answer, if the agent has room for it now.
    fn say(&self, request: &Request) -> Result<(), Errno> {
        self.socket.try_send(&Datagram::new(&request.to_message(0)))
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&self, request: Request, until: Deadline) -> Result<Answer, Unanswered> {
        let (tag, send) = self.book().ask(request).map_err(Unanswered::Over)?;
        if send && let Err(error) = self.send(&request, tag, until) {
            self.book().forget(tag);
            return Err(error);
        }
        let mut book = self.book();
        loop {
            if let Some(answer) = book.take(tag).map_err(Unanswered::Over)? {
                return Ok(answer);
            }
            let left = until.left();
            if left.is_zero() {
                break;
            }
            let waited = self.arrived.wait_timeout(book, left);
            (book, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        drop(book);
        self.cancel(&request, tag)
    }

    /// Takes a question back, so that it stands in nobody's way. An answer that was on its
    /// way already comes before the agent's word that nothing waits any more, and counts.
    fn cancel(&self, request: &Request, tag: u64) -> Result<Answer, Unanswered> {
        let cancelling = Datagram::new(&Request::Close { region: 0 }.to_message(tag));
        let is_link = matches!(request, Request::Link { .. });
        if !is_link || self.socket.try_send(&cancelling).is_err() {
            // It stays open, and is the same question when it is asked again.
            self.book().abandon(tag);
            return Err(Unanswered::Late);
        }
        let until = Deadline::after(PARTING);
        let mut book = self.book();
        loop {
            match book.take(tag).map_err(Unanswered::Over)? {
                Some(Answer::Done) => return Err(Unanswered::Late),
                Some(answer) => return Ok(answer),
                None => {}
            }
            let left = until.left();
            if left.is_zero() {
                // A grant that still comes answers nothing, and is given back.
                book.forget(tag);
                return Err(Unanswered::Late);
            }
            let waited = self.arrived.wait_timeout(book, left);
            (book, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn send(&self, request: &Request, tag: u64, until: Deadline) -> Result<(), Unanswered> {
        let datagram = Datagram::new(&request.to_message(tag));
        match self.socket.send(&datagram, until) {
            Ok(()) => Ok(()),
            Err(Errno::TIMEDOUT) => Err(Unanswered::Late),
            Err(_) => {
                // The reader may not have noticed yet.
                self.finish(End::AgentDied);
                Err(Unanswered::Over(self.end().unwrap_or(End::AgentDied)))
            }
        }
    }

    /// Rings the other side's doorbell. A ring that finds no room is lost; the sleeper
    /// looks by itself.
    pub(crate) fn ring(&self, region: u64) {
        let _ = self.say(&Request::Bell { region });
    }

    /// Has the agent take a region back, without waiting for it.
    fn give_back(&self, region: u64) {
        // An agent that does not read this has other troubles.
        let _ = self.say(&Request::Close { region });
    }

    /// A holder lets go of a region. The agent knows when this returns, if it answers at
    /// all, so that another program may have the end at once.
    pub(crate) fn release(&self, region: u64) {
        let _ = self.ask(Request::Close { region }, Deadline::after(PARTING));
    }
}

fn parse(received: &Received) -> Result<(u64, Reply), LinkError> {
    let (kind, payload) = local::parse(received.bytes())?;
    Reply::from_payload(kind, payload)
}
