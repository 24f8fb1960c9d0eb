//! One client: its requests are checked by the rules and forwarded, and what the agent grants
//! is lent. A client that breaks the rules of the talk, or does not read, loses its
//! connection; nothing here waits for it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vmshm_host::brokered::Socket;
use vmshm_host::brokered::wire::{FromBroker, ToBroker};
use vmshm_host::{Condition, SessionEnd};
use vmshm_link::control::{RefusalCode, RegionReply, Reply, Request, Role};
use vmshm_link::directory::RegionKind;
use vmshm_link::fields::Text;
use vmshm_link::screens::ScreenRequest;

use crate::guests::{Guest, Use};
use crate::rules::Allowed;
use crate::service::Stop;

/// The most requests of one client that have no answer yet.
const MOST_ASKED: usize = 32;
/// The most datagrams that are taken in at a time.
const PER_TURN: usize = 32;
/// How often the guest is looked at while nobody asks.
const IDLE: Duration = Duration::from_millis(50);
/// How long a client may take to read a list.
pub(crate) const LISTING: Duration = Duration::from_secs(2);
/// How long a client has for hanging up when the broker ends.
const LEAVING: Duration = Duration::from_millis(500);
/// How often its table is.
const TABLE: Duration = Duration::from_millis(100);

/// Why a connection is over.
#[derive(Debug)]
pub(crate) enum Over {
    /// The client has left, or was hung up for this reason.
    Client(&'static str),
    /// The session has ended.
    Session(SessionEnd),
}

impl From<SessionEnd> for Over {
    fn from(end: SessionEnd) -> Self {
        Self::Session(end)
    }
}

/// What a request's answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// No region.
    Plain,
    /// A region, for this use; of this screen.
    Region { how: Use, screen: Option<u64> },
}

/// A region that the client holds; once for each time that it was granted.
#[derive(Debug)]
struct Held {
    region: u64,
    how: Use,
    screen: Option<u64>,
    /// Whether the file has been taken back while the client still holds the region.
    is_back: bool,
}

/// A request that the agent may hear only once these regions may be let go of.
#[derive(Debug)]
struct Delayed {
    regions: Vec<u64>,
    tag: u64,
    request: Request,
}

/// A client's session.
pub(crate) struct Connection<'a> {
    socket: &'a Socket,
    guest: Box<dyn Guest>,
    allowed: Allowed,
    asked: BTreeMap<u64, Asked>,
    /// A request for which the agent had no room.
    waiting: Option<(u64, Request, Asked)>,
    delayed: Vec<Delayed>,
    held: Vec<Held>,
    condition: Condition,
    looked: Instant,
}

/// Sends to a client; one that takes nothing is over.
pub(crate) fn send(
    socket: &Socket,
    message: &FromBroker,
    file: Option<BorrowedFd<'_>>,
) -> Result<(), Over> {
    match socket.try_send(&message.to_packet(), file) {
        Ok(()) => Ok(()),
        Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(Over::Client("it has left")),
        Err(_) => Err(Over::Client("it does not read")),
    }
}

/// Sends one of many: whoever reads has some time for them.
pub(crate) fn send_listed(
    socket: &Socket,
    message: &FromBroker,
    deadline: Instant,
) -> Result<(), Over> {
    loop {
        match socket.try_send(&message.to_packet(), None) {
            Ok(()) => return Ok(()),
            Err(Errno::AGAIN | Errno::NOBUFS) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => return send(socket, message, None),
        }
    }
}

impl<'a> Connection<'a> {
    pub(crate) fn new(socket: &'a Socket, guest: Box<dyn Guest>, allowed: Allowed) -> Self {
        Self {
            socket,
            guest,
            allowed,
            asked: BTreeMap::new(),
            waiting: None,
            delayed: Vec::new(),
            held: Vec::new(),
            condition: Condition::Running,
            looked: Instant::now(),
        }
    }

    /// Serves the client until it leaves, its session ends, or the broker does.
    pub(crate) fn serve(mut self, stop: &Stop) -> Over {
        loop {
            if stop.is_set() {
                let end = FromBroker::Ended(SessionEnd::BrokerGone);
                if send(self.socket, &end, None).is_ok() {
                    // What it writes until it knows still reaches the guest.
                    let _ = self.socket.wait_for_end(LEAVING);
                }
                return Over::Session(SessionEnd::BrokerGone);
            }
            match self.turn() {
                Ok(()) => {}
                Err(Over::Session(end)) => {
                    let _ = send(self.socket, &FromBroker::Ended(end), None);
                    return Over::Session(end);
                }
                Err(over) => return over,
            }
        }
    }

    fn turn(&mut self) -> Result<(), Over> {
        let condition = self.guest.keep()?;
        if condition != self.condition {
            self.condition = condition;
            send(self.socket, &FromBroker::Condition(condition), None)?;
        }
        for (tag, reply) in self.guest.answers()? {
            self.answer(tag, reply)?;
        }
        if self.looked.elapsed() >= TABLE {
            self.looked = Instant::now();
            self.end_regions()?;
        }
        self.ask_delayed()?;
        if let Some((tag, request, asked)) = self.waiting.take() {
            self.ask(tag, request, asked)?;
        }
        let mut any = false;
        for _ in 0..PER_TURN {
            if self.waiting.is_some() || self.asked.len() + self.delayed.len() >= MOST_ASKED {
                break;
            }
            match self.socket.try_receive_plain() {
                Ok(Some(received)) => {
                    if received.had_more {
                        return Err(Over::Client("it sends descriptors"));
                    }
                    any = true;
                    let message = ToBroker::parse(received.bytes());
                    self.take(message.map_err(|_| Over::Client("it sends garbage"))?)?;
                }
                Ok(None) => return Err(Over::Client("it has left")),
                Err(Errno::AGAIN) => break,
                Err(_) => return Err(Over::Client("its socket fails")),
            }
        }
        if !any {
            self.rest()?;
        }
        Ok(())
    }

    /// Waits until something is to be done: answers come by shared memory, which wakes nobody.
    fn rest(&self) -> Result<(), Over> {
        let is_busy = !self.asked.is_empty() || self.waiting.is_some() || !self.delayed.is_empty();
        let full = self.waiting.is_some() || self.asked.len() + self.delayed.len() >= MOST_ASKED;
        let failed = |_| Over::Client("its socket fails");
        if full {
            // It is not read now, so its end must be looked for.
            let has_left = self.socket.wait_for_end(Duration::from_millis(1));
            return match has_left.map_err(failed)? {
                true => Err(Over::Client("it has left")),
                false => Ok(()),
            };
        }
        let patience = if is_busy {
            Duration::from_micros(300)
        } else {
            IDLE
        };
        self.socket.wait(patience).map_err(failed)
    }

    fn take(&mut self, message: ToBroker) -> Result<(), Over> {
        match message {
            ToBroker::Hello { .. } => Err(Over::Client("it greets twice")),
            ToBroker::Regions { tag } => self.list(tag),
            ToBroker::Request { tag, request: None } => self.refuse(
                tag,
                RefusalCode::Unsupported,
                "the broker does not know this request",
            ),
            ToBroker::Request {
                tag,
                request: Some(request),
            } => self.request(tag, *request),
        }
    }

    fn list(&mut self, tag: u64) -> Result<(), Over> {
        let deadline = Instant::now() + LISTING;
        for entry in self.guest.regions()? {
            if self.allowed.may_open(entry.name.as_str()).is_ok() {
                send_listed(self.socket, &FromBroker::Entry { tag, entry }, deadline)?;
            }
        }
        send_listed(self.socket, &FromBroker::EndOfList { tag }, deadline)
    }

    /// A request, if the rules allow it.
    fn request(&mut self, tag: u64, request: Request) -> Result<(), Over> {
        match request {
            Request::Bell { region } => {
                if self.holds(region) {
                    self.guest.tell(&request)?;
                }
                return Ok(());
            }
            Request::Screen(ScreenRequest::Input { .. }) => {
                if self.allowed.may_give_input().is_ok() {
                    self.guest.tell(&request)?;
                }
                return Ok(());
            }
            _ => {}
        }
        let is_open = self.asked.contains_key(&tag)
            || self.delayed.iter().any(|delayed| delayed.tag == tag)
            || self.waiting.as_ref().is_some_and(|(open, ..)| *open == tag);
        if tag == 0 || is_open {
            return Err(Over::Client("it asks twice under one tag"));
        }
        match self.judge(request) {
            Ok((request, asked)) => match request {
                Request::Close { region } => self.close(tag, region),
                Request::Screen(ScreenRequest::Leave { screen }) => self.leave(tag, screen),
                request => self.ask(tag, request, asked),
            },
            Err((code, why)) => self.refuse(tag, code, &why),
        }
    }

    /// What may be asked of the agent in its place, and what may be answered.
    fn judge(&mut self, request: Request) -> Result<(Request, Asked), (RefusalCode, String)> {
        let denied = |why| (RefusalCode::Denied, why);
        let allowed = &self.allowed;
        let writes = Asked::Region {
            how: Use::Write,
            screen: None,
        };
        match request {
            Request::Create { name, size, .. } => {
                allowed.may_open(name.as_str()).map_err(denied)?;
                allowed.may_make(name.as_str(), size).map_err(denied)?;
                Ok((request, writes))
            }
            Request::Open { kind, size, name } => {
                allowed.may_open(name.as_str()).map_err(denied)?;
                if kind != RegionKind::Raw
                    && let Err(why) = allowed.may_make(name.as_str(), size)
                {
                    // The agent makes a pipe that is not there.
                    self.must_exist(name.as_str(), why)?;
                }
                Ok((request, writes))
            }
            Request::Link {
                kind,
                size,
                name,
                record,
                role,
            } => {
                allowed.may_open(name.as_str()).map_err(denied)?;
                let mut size = size;
                if size > 0
                    && let Err(why) = allowed.may_make(name.as_str(), size)
                {
                    self.must_exist(name.as_str(), why)?;
                    size = 0;
                }
                let how = match role {
                    Role::End => Use::Write,
                    Role::Watch => Use::Read,
                };
                let request = Request::Link {
                    kind,
                    size,
                    name,
                    record,
                    role,
                };
                Ok((request, Asked::Region { how, screen: None }))
            }
            Request::Remove { name } => {
                allowed.may_remove(name.as_str()).map_err(denied)?;
                Ok((request, Asked::Plain))
            }
            Request::Close { region } | Request::Bench { region, .. } => {
                if self.holds(region) {
                    return Ok((request, Asked::Plain));
                }
                let why = "this program does not hold that region".to_owned();
                Err((RefusalCode::NotFound, why))
            }
            Request::Extents { .. } | Request::Proved { .. } => Err(denied(
                "a broker's clients are not told where a region lies".to_owned(),
            )),
            Request::Screen(screen) => {
                match screen {
                    ScreenRequest::Keymap { .. } => allowed.may_give_input(),
                    _ => allowed.may_see_screens(),
                }
                .map_err(denied)?;
                let asked = match screen {
                    ScreenRequest::Watch { screen } => Asked::Region {
                        how: Use::Write,
                        screen: Some(screen),
                    },
                    ScreenRequest::Pixels { .. } => Asked::Region {
                        how: Use::ReadUnproved,
                        screen: None,
                    },
                    _ => Asked::Plain,
                };
                Ok((request, asked))
            }
            Request::Bell { .. } => Err(denied("a bell is not answered".to_owned())),
        }
    }

    /// A region that this client may not make has to be there.
    fn must_exist(&mut self, name: &str, why: String) -> Result<(), (RefusalCode, String)> {
        let listed = self.guest.regions().unwrap_or_default();
        if listed.iter().any(|entry| entry.name.as_str() == name) {
            return Ok(());
        }
        // Somebody else may make it: whoever waits for it goes on waiting.
        Err((
            RefusalCode::NotFound,
            format!("there is no region `{name}`, and {why}"),
        ))
    }

    fn holds(&self, region: u64) -> bool {
        self.held.iter().any(|held| held.region == region)
    }

    fn ask(&mut self, tag: u64, request: Request, asked: Asked) -> Result<(), Over> {
        if self.guest.ask(tag, &request)? {
            self.asked.insert(tag, asked);
        } else {
            self.waiting = Some((tag, request, asked));
        }
        Ok(())
    }

    /// The client lets a region go: first the file is taken back, then the agent is told.
    fn close(&mut self, tag: u64, region: u64) -> Result<(), Over> {
        let place = self.held.iter().position(|held| held.region == region);
        let held = place.map(|place| self.held.remove(place));
        let is_back = held.is_none_or(|held| held.is_back) || self.guest.take_back(region);
        let request = Request::Close { region };
        self.ask_when_back(tag, request, if is_back { vec![] } else { vec![region] })
    }

    /// The client leaves a screen, which lets go of its frames. Pictures are taken back with it,
    /// whichever screen they are of.
    fn leave(&mut self, tag: u64, screen: u64) -> Result<(), Over> {
        let mut regions = Vec::new();
        for held in &mut self.held {
            let is_its = held.screen == Some(screen) || held.how == Use::ReadUnproved;
            if is_its && !std::mem::replace(&mut held.is_back, true) {
                let is_back = self.guest.take_back(held.region);
                regions.extend((!is_back).then_some(held.region));
            }
        }
        self.held.retain(|held| held.screen != Some(screen));
        let request = Request::Screen(ScreenRequest::Leave { screen });
        self.ask_when_back(tag, request, regions)
    }

    fn ask_when_back(&mut self, tag: u64, request: Request, regions: Vec<u64>) -> Result<(), Over> {
        if regions.is_empty() {
            return self.ask(tag, request, Asked::Plain);
        }
        self.delayed.push(Delayed {
            regions,
            tag,
            request,
        });
        Ok(())
    }

    fn ask_delayed(&mut self) -> Result<(), Over> {
        for mut delayed in std::mem::take(&mut self.delayed) {
            let guest = &self.guest;
            delayed.regions.retain(|region| !guest.may_let_go(*region));
            if delayed.regions.is_empty() && self.waiting.is_none() {
                self.ask(delayed.tag, delayed.request, Asked::Plain)?;
            } else {
                self.delayed.push(delayed);
            }
        }
        Ok(())
    }

    /// Passes an answer of the agent on.
    fn answer(&mut self, tag: u64, reply: Reply) -> Result<(), Over> {
        let Some(asked) = self.asked.remove(&tag) else {
            return Ok(());
        };
        let reply = match (asked, reply) {
            (Asked::Region { how, screen }, Reply::Region(granted)) => {
                return self.grant(tag, &granted, how, screen);
            }
            (_, Reply::Screen(mut screen)) => {
                if self.allowed.may_give_input().is_err() {
                    screen.abilities.input_forbidden |= screen.abilities.input;
                    screen.abilities.input = false;
                }
                Reply::Screen(screen)
            }
            (_, reply @ (Reply::Done | Reply::Refused { .. } | Reply::Modes(_))) => reply,
            // No agent answers so.
            (
                _,
                Reply::Region(_) | Reply::Extents(_) | Reply::Ended { .. } | Reply::Bell { .. },
            ) => {
                return self.refuse(
                    tag,
                    RefusalCode::Unable,
                    "the agent's answer makes no sense",
                );
            }
        };
        let reply = Box::new(reply);
        send(self.socket, &FromBroker::Reply { tag, reply }, None)
    }

    fn grant(
        &mut self,
        tag: u64,
        granted: &RegionReply,
        how: Use,
        screen: Option<u64>,
    ) -> Result<(), Over> {
        let region = granted.region;
        match self.guest.lend(granted, how) {
            Ok(file) => {
                self.held.push(Held {
                    region,
                    how,
                    screen,
                    is_back: false,
                });
                // Where it lies, and how it was proved, is nobody's business.
                let reply = Reply::Region(RegionReply {
                    region,
                    size: granted.size,
                    extents: 1,
                    ready: true,
                    key: 0,
                    placement: 0,
                });
                let reply = Box::new(reply);
                let message = FromBroker::Reply { tag, reply };
                send(self.socket, &message, Some(file.as_fd()))
            }
            Err(refused) => {
                // The guest still counts it; where there is no room to say so, the session's
                // end does.
                let _ = self.guest.tell(&Request::Close { region })?;
                let why = match refused.hint {
                    Some(hint) => format!("{}; {hint}", refused.explanation),
                    None => refused.explanation,
                };
                self.refuse(tag, RefusalCode::Unable, &why)
            }
        }
    }

    /// Tells of regions that are over although the session goes on. The client keeps the file
    /// until it lets go: until then the guest keeps the pages.
    fn end_regions(&mut self) -> Result<(), Over> {
        for (region, cause) in self.guest.over() {
            let reply = Box::new(Reply::Ended {
                region,
                cause,
                explanation: Text::new(""),
            });
            send(self.socket, &FromBroker::Reply { tag: 0, reply }, None)?;
        }
        Ok(())
    }

    fn refuse(&self, tag: u64, code: RefusalCode, why: &str) -> Result<(), Over> {
        let reply = Box::new(Reply::Refused {
            code,
            explanation: Text::new(why),
        });
        send(self.socket, &FromBroker::Reply { tag, reply }, None)
    }
}
