//! The socket for programs of this guest (see `vmshm_link::local`): connections, limits,
//! and sending. Whoever may connect is hostile: nothing here waits for a program, one that
//! breaks the rules or does not read loses its connection, and a flood of them takes neither
//! the agent's descriptors nor its time from the hosts. Receiving from a program's socket and
//! closing it is for its thread (see `program_reader`).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use tracing::debug;
use vmshm_link::control::{EndCause, RefusalCode, Reply};
use vmshm_link::fields::Text;
use vmshm_link::local::Datagram;

use super::creation::Refusal;
use super::links::LinkWish;
use super::openers::ProgramId;
use super::program_reader::{self, Next, Reader, Received, Running};
use super::program_socket::transmit;
use super::rules::Rules;
use crate::waker::Waker;
use vmshm_channel::credentials::{self, User};

/// The most connections at once.
const LIMIT: usize = 256;
/// Of those, how many only root gets.
const FOR_ROOT: usize = 32;
/// The most connections of one user, and of all users together that no rule names.
const PER_USER: usize = 32;
/// How many connections are taken before the hosts get their turn.
const ACCEPTS_PER_TURN: usize = 32;
/// The most refused connections whose closing takes its time. Nobody is taken in meanwhile:
/// whose connection comes next is known only once it is taken.
const CLOSINGS: usize = 128;
/// Looks (see `sessions::LOOKS_PER_SECOND`) for which one datagram may keep its receiver.
const LOOKS_AT_ONE: u32 = 30;
/// Rounds for which nobody is taken in when the system has no more descriptors.
const ROUNDS_OF_WANT: u32 = 8;

/// A request for a link that waits: for the region to be made, or for a host to prove it.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    /// What its answer must repeat.
    pub tag: u64,
    /// What is wanted.
    pub wish: LinkWish,
    /// The region, once it is there and held.
    pub region: Option<u64>,
}

/// A connected program.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its connection's number.
    pub id: ProgramId,
    /// Its process when it connected.
    pub pid: u32,
    /// Whose it is.
    pub user: User,
    /// Whether it has said which protocol it speaks.
    pub greeted: bool,
    /// What it waits for.
    pub waiting: Vec<Waiting>,
    reader: Reader,
    /// The datagram that was being received at the last look, and for how many looks.
    receiving: (Option<u64>, u32),
    /// Whether it is gone already; what it said before is still served.
    gone: bool,
    /// Whether its connection has to end.
    over: bool,
}

/// The connected programs.
#[derive(Debug)]
pub(crate) struct Programs {
    listener: Option<OwnedFd>,
    programs: Vec<Program>,
    /// Users' connections that are over but not closed yet: they count.
    ending: Vec<(User, Running)>,
    /// Refused connections that are not closed yet.
    closings: Vec<Running>,
    /// A connection that there was no thread for: none is taken in until there is.
    stranded: Vec<Arc<OwnedFd>>,
    /// Readable while programs have said something.
    said: Arc<Waker>,
    last_id: ProgramId,
    pub(super) rules: Rules,
    /// For so many rounds nobody is taken in.
    want: u32,
    /// Whose turn it is first.
    pub(super) first: usize,
    /// Regions whose other side shall be woken in this round.
    pub(super) rung: BTreeSet<u64>,
}

impl Programs {
    /// Nobody is connected yet. Without a listener nobody ever will be.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub(crate) fn new(listener: Option<OwnedFd>, rules: Rules) -> io::Result<Self> {
        Ok(Self {
            listener,
            programs: Vec::new(),
            ending: Vec::new(),
            closings: Vec::new(),
            stranded: Vec::new(),
            said: Arc::new(Waker::new()?),
            last_id: 0,
            rules,
            want: 0,
            first: 0,
            rung: BTreeSet::new(),
        })
    }

    /// Adds what to wait for.
    pub(crate) fn add_to_poll<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        let listener = self.listener.iter().filter(|_| self.may_accept());
        fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
        fds.push(PollFd::new(&self.said, PollFlags::IN));
    }

    /// Notes that the loop looks now at what programs have said.
    pub(crate) fn begin_round(&self) {
        self.said.clear();
    }

    /// Has the loop look again: not everything was served.
    pub(crate) fn look_again(&self) {
        self.said.wake();
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Program> {
        self.programs.iter()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.programs.len()
    }

    /// The program at a place in the list.
    pub(crate) fn at(&self, index: usize) -> Option<&Program> {
        self.programs.get(index)
    }

    /// A program, if it is still connected.
    pub(crate) fn get(&self, id: ProgramId) -> Option<&Program> {
        self.programs.iter().find(|program| program.id == id)
    }

    /// A program, to be changed.
    pub(crate) fn get_mut(&mut self, id: ProgramId) -> Option<&mut Program> {
        self.programs.iter_mut().find(|program| program.id == id)
    }

    /// A program for people.
    pub(crate) fn name(&self, id: ProgramId) -> String {
        self.get(id).map_or_else(
            || "another program".to_owned(),
            |program| format!("process {} of user {}", program.pid, program.user.uid),
        )
    }

    /// The request that waits under this tag for this name.
    pub(crate) fn waiting(&mut self, id: ProgramId, tag: u64, name: &str) -> Option<&mut Waiting> {
        self.get_mut(id)?
            .waiting
            .iter_mut()
            .find(|one| one.tag == tag && one.wish.name == name && one.region.is_none())
    }

    /// Counts a round. Called in every one, whether anybody has connected or not.
    pub(crate) fn count_round(&mut self) {
        self.want = self.want.saturating_sub(1);
        self.forget_closed();
    }

    /// Hangs up on programs whose datagrams are not received to the end: they shall not hold
    /// regions for as long as a descriptor lingers.
    pub(crate) fn look_at_all(&mut self) {
        for program in &mut self.programs {
            let receiving = program.reader.receiving();
            let (before, looks) = program.receiving;
            let is_same = receiving.is_some() && receiving == before;
            let looks = if is_same { looks + 1 } else { 0 };
            program.receiving = (receiving, looks);
            if looks >= LOOKS_AT_ONE {
                debug!(
                    program = program.id,
                    "a datagram is not received to the end"
                );
                program.over = true;
            }
        }
    }

    fn may_accept(&self) -> bool {
        self.want == 0 && self.closings.len() < CLOSINGS && self.stranded.is_empty()
    }

    /// Forgets the connections that are closed by now.
    fn forget_closed(&mut self) {
        self.ending.retain(|(_, running)| !running.has_ended());
        self.closings.retain(|running| !running.has_ended());
        for socket in std::mem::take(&mut self.stranded) {
            self.close(socket);
        }
    }

    /// Has a connection closed that nobody counts.
    fn close(&mut self, socket: Arc<OwnedFd>) {
        match program_reader::close(socket) {
            Ok(running) => self.closings.push(running),
            Err(socket) => self.stranded.push(socket),
        }
    }

    /// Takes in who has connected; whether anybody has.
    pub(crate) fn accept(&mut self) -> bool {
        let mut any = false;
        self.forget_closed();
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listener.as_ref().filter(|_| self.may_accept()) else {
                break;
            };
            match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    any = true;
                    self.admit(socket);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    // Most likely descriptors or memory: looking again at once is no help.
                    debug!(%error, "no more programs are taken in for a while");
                    self.want = ROUNDS_OF_WANT;
                }
            }
        }
        any
    }

    fn admit(&mut self, socket: OwnedFd) {
        let (pid, user) = match credentials::peer(&socket, self.rules.ask_for_groups()) {
            Ok(peer) => peer,
            Err(error) => {
                debug!(%error, "a program of nobody is refused");
                return self.close(Arc::new(socket));
            }
        };
        match self.room_for(&user) {
            Ok(()) => self.add(socket, pid, user),
            Err(reason) => {
                // Whether it arrives or not, the connection ends here.
                let refusal = Refusal::new(RefusalCode::Busy, reason).to_reply();
                let datagram = Datagram::new(&refusal.to_message(0));
                let _ = transmit(&socket, &datagram, None);
                self.close(Arc::new(socket));
            }
        }
    }

    pub(super) fn room_for(&self, user: &User) -> Result<(), String> {
        // A connection counts until it is closed, however long that takes.
        let users = self.programs.iter().map(|program| &program.user);
        let users = users.chain(self.ending.iter().map(|(user, _)| user));
        if users.clone().count() >= LIMIT {
            return Err(format!("{LIMIT} programs are connected, which is the most"));
        }
        if user.is_root() {
            return Ok(());
        }
        let others = users.filter(|one| !one.is_root());
        if others.clone().count() >= LIMIT - FOR_ROOT {
            return Err("too many programs are connected".to_owned());
        }
        let (uid, is_known) = (user.uid, self.rules.know(user));
        if others.clone().filter(|one| one.uid == uid).count() >= PER_USER {
            return Err(format!(
                "user {uid} has {PER_USER} connections, which is the most"
            ));
        }
        // A user can have many numbers; those that no rule names share their places.
        let strangers = others.filter(|one| !self.rules.know(one)).count();
        if !is_known && strangers >= PER_USER {
            return Err("too many programs are connected that no rule names".to_owned());
        }
        Ok(())
    }

    /// Takes a program in.
    pub(super) fn add(&mut self, socket: OwnedFd, pid: u32, user: User) {
        let reader = match Reader::start(socket, &self.said) {
            Ok(reader) => reader,
            Err(socket) => {
                debug!("there is no thread for a program");
                self.want = ROUNDS_OF_WANT;
                return self.stranded.push(socket);
            }
        };
        self.last_id += 1;
        self.programs.push(Program {
            id: self.last_id,
            pid,
            user,
            greeted: false,
            waiting: Vec::new(),
            reader,
            receiving: (None, 0),
            gone: false,
            over: false,
        });
    }

    /// The next datagram of the program at `index`.
    pub(super) fn receive(&mut self, index: usize) -> Option<Box<Received>> {
        let program = self.programs.get_mut(index).filter(|one| !one.over)?;
        match program.reader.take() {
            Next::Datagram(received) => Some(received),
            Next::Nothing => None,
            Next::End => {
                program.over = true;
                None
            }
        }
    }

    /// Waits until what programs have sent is here.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !self.programs.iter().all(|one| one.reader.is_settled()) {
            assert!(std::time::Instant::now() < deadline, "a thread hangs");
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }

    /// Answers; a program that does not take it loses its connection.
    pub(crate) fn send(
        &mut self,
        id: ProgramId,
        tag: u64,
        reply: &Reply,
        file: Option<BorrowedFd<'_>>,
    ) {
        let takes = |program: &&mut Program| !(program.over || program.gone);
        let Some(program) = self.get_mut(id).filter(takes) else {
            return;
        };
        let datagram = Datagram::new(&reply.to_message(tag));
        let transmit = |socket: &OwnedFd| transmit(socket, &datagram, file);
        match program.reader.with_socket(transmit) {
            Ok(()) => {}
            // What it said before it went may be its goodbyes.
            Err(Errno::PIPE | Errno::CONNRESET) => program.gone = true,
            Err(error) => {
                debug!(program = id, %error, "an answer is not taken: the connection ends");
                program.over = true;
            }
        }
    }

    /// Rings a program's bell; where it has not read the last ones, once less.
    pub(crate) fn ring(&mut self, id: ProgramId, region: u64) {
        if let Some(program) = self.get_mut(id).filter(|program| !program.over) {
            let datagram = Datagram::new(&Reply::Bell { region }.to_message(0));
            let transmit = |socket: &OwnedFd| transmit(socket, &datagram, None);
            let _ = program.reader.with_socket(transmit);
        }
    }

    /// The agent leaves in good order: tells so, by the number that no region has.
    pub(crate) fn say_farewell(&mut self) {
        let farewell = Reply::Ended {
            region: 0,
            cause: EndCause::Other(0),
            explanation: Text::new("the agent leaves"),
        };
        let ids: Vec<ProgramId> = self.iter().map(|program| program.id).collect();
        for id in ids {
            self.send(id, 0, &farewell, None);
        }
    }

    /// Ends a program's connection, at the end of the round.
    pub(crate) fn hang_up(&mut self, id: ProgramId) {
        if let Some(program) = self.get_mut(id) {
            program.over = true;
        }
    }

    /// Refuses what a program waits for under a tag and a name.
    pub(crate) fn refuse(&mut self, id: ProgramId, tag: u64, name: &str, refusal: &Refusal) {
        let Some(program) = self.get_mut(id) else {
            return;
        };
        let found = program
            .waiting
            .iter()
            .position(|one| one.tag == tag && one.wish.name == name && one.region.is_none());
        if let Some(index) = found {
            program.waiting.remove(index);
            self.send(id, tag, &refusal.to_reply(), None);
        }
    }

    /// Refuses what a program waits for at a region; whether it did.
    pub(crate) fn refuse_waiting(&mut self, id: ProgramId, region: u64, refusal: &Refusal) -> bool {
        let Some(program) = self.get_mut(id) else {
            return false;
        };
        let mut tags = Vec::new();
        program.waiting.retain(|one| {
            let is_meant = one.region == Some(region);
            if is_meant {
                tags.push(one.tag);
            }
            !is_meant
        });
        for tag in &tags {
            self.send(id, *tag, &refusal.to_reply(), None);
        }
        !tags.is_empty()
    }

    /// Takes out those whose connections are over; their threads close them.
    pub(crate) fn take_over_ones(&mut self) -> Vec<ProgramId> {
        let mut over = Vec::new();
        for program in self.programs.extract_if(.., |program| program.over) {
            over.push(program.id);
            self.ending.push((program.user, program.reader.running()));
        }
        over
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        // Who waits to be taken in may have sent something, too.
        if let Some(listener) = self.listener.take() {
            self.close(Arc::new(listener));
        }
        // Without a thread the end of the process closes them, which does not linger.
        std::mem::take(&mut self.stranded)
            .into_iter()
            .for_each(std::mem::forget);
    }
}
