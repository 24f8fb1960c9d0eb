//! What is asked of an agent over a slot's rings, and what it has answered: several
//! questions may be open at a time. It waits for nothing and judges no answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmshm_link::LinkError;
use vmshm_link::control::{MAX_MESSAGE, Message, Reply, Request};
use vmshm_link::slot::HostSlot;
use vmshm_ram::View;

/// The most answers that one look takes in: a guest may send any number.
const PER_LOOK: usize = 32;

/// A question that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Question(u64);

#[derive(Debug)]
enum Stand {
    Open,
    Answered(Box<Reply>),
    /// Nobody waits for the answer any more.
    GivenUp,
}

/// The open questions of a session.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    last: u64,
    questions: BTreeMap<u64, Stand>,
    late_grants: Vec<u64>,
}

impl Conversation {
    /// Asks; nothing when the ring has no room now.
    pub(crate) fn ask(
        &mut self,
        slot: &mut HostSlot<Arc<View>>,
        request: &Request,
    ) -> Result<Option<Question>, LinkError> {
        self.ask_over(request, |message| {
            slot.requests.try_push(message.kind, message.payload())
        })
    }

    /// Asks by whatever carries messages; nothing when that says that it has no room now.
    pub(crate) fn ask_over<E>(
        &mut self,
        request: &Request,
        carry: impl FnOnce(&Message) -> Result<bool, E>,
    ) -> Result<Option<Question>, E> {
        let tag = self.last + 1;
        if !carry(&request.to_message(tag))? {
            return Ok(None);
        }
        self.last = tag;
        self.questions.insert(tag, Stand::Open);
        Ok(Some(Question(tag)))
    }

    /// Says something that is never answered; whether the ring had room for it.
    pub(crate) fn tell(
        slot: &mut HostSlot<Arc<View>>,
        request: &Request,
    ) -> Result<bool, LinkError> {
        // No question ever has this tag.
        let message = request.to_message(0);
        slot.requests.try_push(message.kind, message.payload())
    }

    /// Takes in what the agent has answered.
    pub(crate) fn take_in(&mut self, slot: &mut HostSlot<Arc<View>>) -> Result<(), LinkError> {
        let mut buffer = [0; MAX_MESSAGE];
        for _ in 0..PER_LOOK {
            let Some((kind, length)) = slot.replies.try_pop(&mut buffer)? else {
                break;
            };
            let payload = buffer.get(..length).unwrap_or_default();
            let (tag, reply) = Reply::from_payload(kind, payload)?;
            self.note(tag, reply);
        }
        Ok(())
    }

    /// Notes an answer. One to a question that was never asked, or asked and answered
    /// before, says nothing.
    pub(crate) fn note(&mut self, tag: u64, reply: Reply) {
        match self.questions.get_mut(&tag) {
            Some(stand @ Stand::Open) => *stand = Stand::Answered(Box::new(reply)),
            Some(Stand::GivenUp) => {
                self.questions.remove(&tag);
                if let Reply::Region(granted) = reply {
                    self.late_grants.push(granted.region);
                }
            }
            Some(Stand::Answered(_)) | None => {}
        }
    }

    /// The answer to a question, once.
    pub(crate) fn answer(&mut self, question: Question) -> Option<Reply> {
        match self.questions.remove(&question.0)? {
            Stand::Answered(reply) => Some(*reply),
            stand => {
                self.questions.insert(question.0, stand);
                None
            }
        }
    }

    /// Nobody waits for this answer any more. A region that it grants is told by
    /// [`late_grants`](Self::late_grants).
    pub(crate) fn give_up(&mut self, question: Question) {
        match self.answer(question) {
            Some(Reply::Region(granted)) => self.late_grants.push(granted.region),
            Some(_) => {}
            None => {
                if let Some(stand) = self.questions.get_mut(&question.0) {
                    *stand = Stand::GivenUp;
                }
            }
        }
    }

    /// Regions that were granted when nobody waited for them any more, each once.
    pub(crate) fn late_grants(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.late_grants)
    }
}

#[cfg(test)]
mod tests {
    use vmshm_link::control::RegionReply;

    use super::*;

    fn grant(region: u64) -> Reply {
        Reply::Region(RegionReply {
            region,
            size: 4096,
            extents: 1,
            ready: true,
            key: 0,
            placement: 1,
        })
    }

    fn asked(conversation: &mut Conversation, tag: u64) -> Question {
        conversation.questions.insert(tag, Stand::Open);
        Question(tag)
    }

    #[test]
    fn answers_come_in_any_order_and_each_once() {
        let mut conversation = Conversation::default();
        let first = asked(&mut conversation, 1);
        let second = asked(&mut conversation, 2);
        conversation.note(2, Reply::Done);
        assert_eq!(conversation.answer(first), None);
        assert_eq!(conversation.answer(second), Some(Reply::Done));
        assert_eq!(conversation.answer(second), None);
        conversation.note(1, grant(7));
        conversation.note(1, grant(8));
        assert_eq!(
            conversation.answer(first),
            Some(grant(7)),
            "the first counts"
        );
        assert!(conversation.late_grants().is_empty());
        assert!(conversation.questions.is_empty());
    }

    #[test]
    fn answers_that_nobody_asked_for_leave_nothing_behind() {
        let mut conversation = Conversation::default();
        for tag in [0, 5, u64::MAX] {
            conversation.note(tag, grant(tag));
        }
        assert!(conversation.questions.is_empty() && conversation.late_grants().is_empty());
    }

    #[test]
    fn a_region_that_comes_too_late_is_told() {
        let mut conversation = Conversation::default();
        let before = asked(&mut conversation, 1);
        conversation.note(1, grant(7));
        conversation.give_up(before);
        let after = asked(&mut conversation, 2);
        conversation.give_up(after);
        conversation.note(2, grant(9));
        let refused = asked(&mut conversation, 3);
        conversation.give_up(refused);
        conversation.note(3, Reply::Done);
        assert_eq!(conversation.late_grants(), [7, 9]);
        assert!(conversation.late_grants().is_empty());
        assert!(conversation.questions.is_empty());
    }
}
