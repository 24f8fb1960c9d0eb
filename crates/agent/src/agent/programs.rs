//! The socket for programs of this guest (see `vmshm_link::local`): connections, limits,
//! and sending. Whoever may connect is hostile: nothing here waits for a program, one that
//! breaks the rules or does not read loses its connection, and a flood of them takes neither
//! the agent's descriptors nor its time from the hosts.

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags};
use tracing::debug;
use vmshm_link::control::{EndCause, RefusalCode, Reply};
use vmshm_link::fields::Text;
use vmshm_link::local::{Datagram, MAX_DATAGRAM};

use super::creation::Refusal;
use super::credentials::{self, User};
use super::links::LinkWish;
use super::openers::ProgramId;
use super::program_socket::transmit;
use super::rules::Rules;

/// The most connections at once.
const LIMIT: usize = 256;
/// Of those, how many only root gets.
const FOR_ROOT: usize = 32;
/// The most connections of one user, and of all users together that no rule names.
const PER_USER: usize = 32;
/// How many connections are taken before the hosts get their turn.
const ACCEPTS_PER_TURN: usize = 32;
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
    socket: OwnedFd,
    /// Whether its connection has to end.
    over: bool,
}

/// The connected programs.
#[derive(Debug)]
pub(crate) struct Programs {
    listener: Option<OwnedFd>,
    programs: Vec<Program>,
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
    pub(crate) fn new(listener: Option<OwnedFd>, rules: Rules) -> Self {
        Self {
            listener,
            programs: Vec::new(),
            last_id: 0,
            rules,
            want: 0,
            first: 0,
            rung: BTreeSet::new(),
        }
    }

    /// Adds what to wait for.
    pub(crate) fn add_to_poll<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        let listener = self.listener.iter().filter(|_| self.want == 0);
        fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
        fds.extend(
            self.programs
                .iter()
                .map(|program| PollFd::new(&program.socket, PollFlags::IN)),
        );
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
    pub(crate) const fn count_round(&mut self) {
        self.want = self.want.saturating_sub(1);
    }

    /// Takes in who has connected; whether anybody has.
    pub(crate) fn accept(&mut self) -> bool {
        let mut any = false;
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listener.as_ref().filter(|_| self.want == 0) else {
                break;
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(listener, flags) {
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
                return;
            }
        };
        match self.room_for(&user) {
            Ok(()) => self.add(socket, pid, user),
            Err(reason) => {
                // Whether it arrives or not, the connection ends here.
                let refusal = Refusal::new(RefusalCode::Busy, reason).to_reply();
                let datagram = Datagram::new(&refusal.to_message(0));
                let _ = transmit(&socket, &datagram, None);
            }
        }
    }

    pub(super) fn room_for(&self, user: &User) -> Result<(), String> {
        if self.programs.len() >= LIMIT {
            return Err(format!("{LIMIT} programs are connected, which is the most"));
        }
        if user.is_root() {
            return Ok(());
        }
        let others = self.programs.iter().filter(|one| !one.user.is_root());
        if others.clone().count() >= LIMIT - FOR_ROOT {
            return Err("too many programs are connected".to_owned());
        }
        let (uid, is_known) = (user.uid, self.rules.know(user));
        if others.clone().filter(|one| one.user.uid == uid).count() >= PER_USER {
            return Err(format!(
                "user {uid} has {PER_USER} connections, which is the most"
            ));
        }
        // A user can have many numbers; those that no rule names share their places.
        let strangers = others.filter(|one| !self.rules.know(&one.user)).count();
        if !is_known && strangers >= PER_USER {
            return Err("too many programs are connected that no rule names".to_owned());
        }
        Ok(())
    }

    /// Takes a program in.
    pub(super) fn add(&mut self, socket: OwnedFd, pid: u32, user: User) {
        self.last_id += 1;
        self.programs.push(Program {
            id: self.last_id,
            pid,
            user,
            greeted: false,
            waiting: Vec::new(),
            socket,
            over: false,
        });
    }

    /// The next datagram of the program at `index`, as long as it fits `buffer`. Descriptors
    /// that come along are dropped by the system.
    pub(crate) fn receive(
        &mut self,
        index: usize,
        buffer: &mut [u8; MAX_DATAGRAM + 1],
    ) -> Option<usize> {
        let program = self.programs.get_mut(index).filter(|one| !one.over)?;
        match rustix::net::recv(&program.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => None,
            // An empty datagram cannot be told from the end, and is none of the protocol.
            Ok((0, _)) | Err(_) => {
                program.over = true;
                None
            }
            Ok((length, _)) => Some(length),
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
        let Some(program) = self.get_mut(id).filter(|program| !program.over) else {
            return;
        };
        let datagram = Datagram::new(&reply.to_message(tag));
        if let Err(error) = transmit(&program.socket, &datagram, file) {
            debug!(program = id, %error, "an answer is not taken: the connection ends");
            program.over = true;
        }
    }

    /// Rings a program's bell; where it has not read the last ones, once less.
    pub(crate) fn ring(&mut self, id: ProgramId, region: u64) {
        if let Some(program) = self.get_mut(id).filter(|program| !program.over) {
            let datagram = Datagram::new(&Reply::Bell { region }.to_message(0));
            let _ = transmit(&program.socket, &datagram, None);
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

    /// Takes out those whose connections are over.
    pub(crate) fn take_over_ones(&mut self) -> Vec<ProgramId> {
        let over: Vec<ProgramId> = self
            .programs
            .iter()
            .filter(|program| program.over)
            .map(|program| program.id)
            .collect();
        self.programs.retain(|program| !program.over);
        over
    }
}
