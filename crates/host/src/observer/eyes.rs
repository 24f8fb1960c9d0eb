//! A broker's eyes: after the first look, it is asked now and then by a thread of its own, so that
//! a slow one holds nothing up.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use crate::brokered::BrokerError;
use crate::machines::by_broker::{self, Told};

/// How often it is asked. Each time it looks at all VMs.
const ASK_EVERY: Duration = Duration::from_secs(3);

type Answer = Result<Told, BrokerError>;

/// Which broker is asked, when, and the question that is under way.
#[derive(Debug)]
pub(super) struct Eyes {
    broker: Option<PathBuf>,
    next: Instant,
    question: Option<Receiver<Answer>>,
}

impl Eyes {
    /// Of the broker that is named, else of the usual one.
    pub(super) fn of(broker: Option<PathBuf>) -> Self {
        Self {
            broker,
            next: Instant::now() + ASK_EVERY,
            question: None,
        }
    }

    pub(super) fn broker(&self) -> Option<&Path> {
        self.broker.as_deref()
    }

    /// There is something new to ask about.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next = now;
    }

    /// What was told since the last call, if anything was; asks anew when that is due.
    pub(super) fn look(&mut self, now: Instant) -> Option<Told> {
        let Some(question) = &self.question else {
            if now >= self.next {
                self.ask(now);
            }
            return None;
        };
        let answer = match question.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => None,
            Ok(Ok(told)) => Some(told),
            Ok(Err(error)) if error.is_absence() => Some(Told::nothing()),
            Ok(Err(error)) => {
                // It may only be busy.
                tracing::debug!(%error, "the broker tells nothing");
                None
            }
        };
        self.question = None;
        answer
    }

    fn ask(&mut self, now: Instant) {
        self.next = now + ASK_EVERY;
        let (sender, receiver) = channel();
        let broker = self.broker.clone();
        let asking = std::thread::Builder::new()
            .name("vmshm-broker-asked".to_owned())
            .spawn(move || {
                let answer = if by_broker::may_be_there(broker.as_deref()) {
                    Told::ask(broker.as_deref())
                } else {
                    Ok(Told::nothing())
                };
                // Nobody waits for it where the watch has ended.
                let _ = sender.send(answer);
            });
        match asking {
            Ok(_) => self.question = Some(receiver),
            Err(error) => tracing::debug!(%error, "no thread asks the broker"),
        }
    }
}
