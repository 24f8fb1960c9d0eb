//! What a session has asked and what it holds. No I/O: the reader and the askers of a
//! session share one of these under a lock.
//!
//! A question that nobody waits for any more is taken back by the session. Where the agent
//! has no ear for that, it stays open; asked again, it is the same question, so that a
//! program cannot stand in its own way. What answers nothing any more is given back.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use vmshm_endpoint::{End, Tether};
use vmshm_link::control::{EndCause, RefusalCode, RegionReply, Reply, Request};

/// What came of a question.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A region, which counts as held.
    Region {
        /// What the agent says of it.
        reply: RegionReply,
        /// The file that came with it.
        file: Option<OwnedFd>,
        /// What tells of its end.
        tether: Arc<Tether>,
    },
    /// What was asked for is done.
    Done,
    /// The agent will not.
    Refused {
        /// The kind of reason.
        code: RefusalCode,
        /// The agent's own words.
        explanation: String,
    },
    /// What answers no question that is asked here.
    Strange,
}

#[derive(Debug)]
struct Asked {
    request: Request,
    wanted: bool,
    answer: Option<Answer>,
}

/// The questions and holds of a session.
#[derive(Debug, Default)]
pub(crate) struct Book {
    last_tag: u64,
    asked: HashMap<u64, Asked>,
    /// Who must be told of a region's end; a watcher may have one several times.
    held: HashMap<u64, Vec<Weak<Tether>>>,
    /// The agent has said that it leaves.
    farewell: bool,
    end: Option<End>,
}

impl Book {
    /// Enters a question: its tag, and whether it must be sent.
    pub(crate) fn ask(&mut self, request: Request) -> Result<(u64, bool), End> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        let open = |(_, asked): &(&u64, &mut Asked)| {
            !asked.wanted && is_same_wish(&asked.request, &request)
        };
        if let Some((tag, asked)) = self.asked.iter_mut().find(open) {
            asked.wanted = true;
            return Ok((*tag, false));
        }
        self.last_tag += 1;
        let asked = Asked {
            request,
            wanted: true,
            answer: None,
        };
        self.asked.insert(self.last_tag, asked);
        Ok((self.last_tag, true))
    }

    /// The answer to a question, if it is there; the question is closed then.
    pub(crate) fn take(&mut self, tag: u64) -> Result<Option<Answer>, End> {
        if let Some(answer) = self
            .asked
            .get_mut(&tag)
            .and_then(|asked| asked.answer.take())
        {
            self.asked.remove(&tag);
            return Ok(Some(answer));
        }
        self.end.clone().map_or(Ok(None), Err)
    }

    /// This question was never sent, or is taken back.
    pub(crate) fn forget(&mut self, tag: u64) {
        self.asked.remove(&tag);
    }

    /// Nobody waits for this answer any more.
    pub(crate) fn abandon(&mut self, tag: u64) {
        if let Some(asked) = self.asked.get_mut(&tag) {
            asked.wanted = false;
        }
    }

    /// Takes what the agent said. The region that must be closed, if nobody wants it.
    pub(crate) fn arrived(&mut self, tag: u64, reply: Reply, file: Option<OwnedFd>) -> Option<u64> {
        match reply {
            Reply::Bell { region } => self.tethers(region).for_each(|tether| tether.wake()),
            // No region has this number: it is the session that ends.
            Reply::Ended { region: 0, .. } => self.farewell = true,
            Reply::Ended {
                region,
                cause,
                explanation,
            } => {
                let end = ending(cause, explanation.as_str());
                self.tethers(region)
                    .for_each(|tether| tether.end(end.clone()));
            }
            Reply::Region(reply) => return self.region_arrived(tag, reply, file),
            Reply::Done => self.put(tag, Answer::Done),
            Reply::Refused { code, explanation } => {
                let explanation = explanation.as_str().to_owned();
                self.put(tag, Answer::Refused { code, explanation });
            }
            Reply::Extents(_) | Reply::Screen(_) | Reply::Modes(_) => {
                self.put(tag, Answer::Strange);
            }
        }
        None
    }

    fn put(&mut self, tag: u64, answer: Answer) {
        match self.asked.get_mut(&tag) {
            // What comes second answers the taking back of the question.
            Some(asked) if asked.wanted => _ = asked.answer.get_or_insert(answer),
            _ => drop(self.asked.remove(&tag)),
        }
    }

    fn region_arrived(
        &mut self,
        tag: u64,
        reply: RegionReply,
        file: Option<OwnedFd>,
    ) -> Option<u64> {
        match self.asked.get(&tag) {
            Some(asked) if asked.wanted && asked.answer.is_none() => {}
            Some(asked) if asked.wanted => return Some(reply.region),
            _ => {
                self.asked.remove(&tag);
                return Some(reply.region);
            }
        }
        self.forget_released();
        let tether = Arc::new(Tether::default());
        let held = self.held.entry(reply.region).or_default();
        held.push(Arc::downgrade(&tether));
        let answer = Answer::Region {
            reply,
            file,
            tether,
        };
        self.put(tag, answer);
        None
    }

    /// The session is over; only the first reason counts.
    pub(crate) fn finish(&mut self, end: End) {
        let end = self.end.get_or_insert(end).clone();
        let regions: Vec<u64> = self.held.keys().copied().collect();
        for region in regions {
            self.tethers(region)
                .for_each(|tether| tether.end(end.clone()));
        }
    }

    /// What it means that the agent has closed the connection.
    pub(crate) const fn reason(&self) -> End {
        if self.farewell {
            End::AgentLeft
        } else {
            End::AgentDied
        }
    }

    /// The regions that are held, each as often as it is.
    pub(crate) fn held(&mut self) -> Vec<u64> {
        self.forget_released();
        let held = self.held.iter();
        held.flat_map(|(region, tethers)| tethers.iter().map(|_| *region))
            .collect()
    }

    /// Holders that are gone take their tethers with them.
    fn forget_released(&mut self) {
        self.held.retain(|_, tethers| {
            tethers.retain(|tether| tether.strong_count() > 0);
            !tethers.is_empty()
        });
    }

    /// Why the session is over, if it is.
    pub(crate) const fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    fn tethers(&mut self, region: u64) -> impl Iterator<Item = Arc<Tether>> + '_ {
        let held = self.held.get(&region);
        held.into_iter().flatten().filter_map(Weak::upgrade)
    }
}

/// Whether two questions want the same, so that the answer to one serves the other. The
/// size counts only for a region that is not there.
fn is_same_wish(one: &Request, other: &Request) -> bool {
    let without_size = |request: &Request| match *request {
        Request::Link {
            kind,
            name,
            record,
            role,
            ..
        } => Some((kind, name, record, role)),
        _ => None,
    };
    without_size(one).is_some_and(|wish| without_size(other) == Some(wish))
}

/// The reason, in the words of links.
fn ending(cause: EndCause, explanation: &str) -> End {
    match cause {
        EndCause::Removed => End::RegionRemoved,
        EndCause::Damaged => End::RegionDamaged(explanation.to_owned()),
        EndCause::Other(number) => End::RegionDamaged(format!("{explanation} (cause {number})")),
    }
}

#[cfg(test)]
mod tests {
    use vmshm_link::control::Role;
    use vmshm_link::directory::RegionKind;
    use vmshm_link::fields::Text;

    use super::*;

    fn link(name: &str) -> Request {
        Request::Link {
            kind: RegionKind::Ring,
            size: 8192,
            name: Text::new(name),
            record: 8,
            role: Role::End,
        }
    }

    fn region(region: u64) -> Reply {
        Reply::Region(RegionReply {
            region,
            size: 8192,
            extents: 1,
            ready: true,
            key: 0,
            placement: 0,
        })
    }

    /// Asks and gets; the tether.
    fn hold(book: &mut Book, number: u64) -> Arc<Tether> {
        let (tag, _) = book.ask(link("a")).expect("not over");
        assert_eq!(book.arrived(tag, region(number), None), None);
        match book.take(tag) {
            Ok(Some(Answer::Region { tether, .. })) => tether,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_question_asked_again_is_the_same_question() {
        let mut book = Book::default();
        let (tag, send) = book.ask(link("a")).expect("not over");
        assert!(send);
        // While somebody waits for it, another one asks for himself.
        let (second, send) = book.ask(link("a")).expect("not over");
        assert!(send && second != tag);
        book.abandon(tag);
        assert_eq!(book.ask(link("a")), Ok((tag, false)));
        assert!(book.ask(link("b")).is_ok_and(|(_, send)| send));
        assert_eq!(book.arrived(tag, region(5), None), None);
        assert!(matches!(book.take(tag), Ok(Some(Answer::Region { .. }))));
    }

    #[test]
    fn a_region_that_nobody_wants_any_more_is_given_back() {
        let mut book = Book::default();
        let (tag, _) = book.ask(link("a")).expect("not over");
        book.abandon(tag);
        assert_eq!(book.arrived(tag, region(5), None), Some(5));
        assert_eq!(book.arrived(77, region(6), None), Some(6));
        assert!(book.held.is_empty() && book.asked.is_empty());
    }

    #[test]
    fn the_first_answer_counts() {
        let mut book = Book::default();
        let (tag, _) = book.ask(link("a")).expect("not over");
        let refused = Reply::Refused {
            code: RefusalCode::NotFound,
            explanation: Text::new("nothing waits"),
        };
        assert_eq!(book.arrived(tag, region(5), None), None);
        assert_eq!(book.arrived(tag, refused, None), None);
        assert!(matches!(book.take(tag), Ok(Some(Answer::Region { .. }))));
        let (tag, _) = book.ask(link("a")).expect("not over");
        assert_eq!(book.arrived(tag, Reply::Done, None), None);
        assert_eq!(book.arrived(tag, region(5), None), Some(5));
        assert!(matches!(book.take(tag), Ok(Some(Answer::Done))));
    }

    #[test]
    fn each_holder_is_told_and_none_is_kept() {
        let mut book = Book::default();
        let first = hold(&mut book, 5);
        let second = hold(&mut book, 5);
        let other = hold(&mut book, 6);
        drop(first);
        let ended = Reply::Ended {
            region: 5,
            cause: EndCause::Removed,
            explanation: Text::new(""),
        };
        assert_eq!(book.arrived(0, ended, None), None);
        assert_eq!(second.check(), Err(End::RegionRemoved));
        assert_eq!(other.check(), Ok(()));
        drop(second);
        let _another = hold(&mut book, 7);
        assert_eq!(book.held.len(), 2);
    }

    #[test]
    fn the_end_reaches_everybody_and_only_the_first_counts() {
        let mut book = Book::default();
        let tether = hold(&mut book, 5);
        let (tag, _) = book.ask(link("b")).expect("not over");
        book.finish(End::AgentDied);
        book.finish(End::Closed);
        assert_eq!(tether.check(), Err(End::AgentDied));
        assert_eq!(book.take(tag).expect_err("over"), End::AgentDied);
        assert_eq!(book.ask(link("c")), Err(End::AgentDied));
    }
}
