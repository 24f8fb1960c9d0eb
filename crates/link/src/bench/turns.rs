//! Two ways for the same 64 bytes, measured in turns: a ring of records, and the floor, which is the same bytes on one
//! line and a count on another, with nothing checked.
//!
//! The host's end is the [`Asker`], the guest's the [`Answerer`]. Both keep the state of both ways, so that changing
//! the turn is one store. Neither waits: whoever calls decides how long to look again.
//!
//! The pair: the sender's store of a count (release) makes the line visible to the receiver's load of it (acquire):
//! `bench-line`.

use vmshm_shm::SharedMemory;

use super::{LINE_TO_GUEST, LINE_TO_HOST, Line, TURN, record_rings};
use crate::error::LinkError;
use crate::fixed_ring::{FixedConsumer, FixedProducer, FixedRingLayout};

/// Bytes of a message whose latency is measured.
pub const MESSAGE: usize = 64;

/// By which way messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// None: the answering end waits for another turn.
    Nothing,
    /// The floor: a line and a count.
    Line,
    /// A ring of records.
    Records,
    /// A way of the measuring program's own.
    Other(u64),
}

impl Turn {
    const fn to_word(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Line => 1,
            Self::Records => 2,
            Self::Other(word) => word,
        }
    }

    const fn from_word(word: u64) -> Self {
        match word {
            0 => Self::Nothing,
            1 => Self::Line,
            2 => Self::Records,
            other => Self::Other(other),
        }
    }
}

/// One end of both ways.
#[derive(Debug)]
struct Ways<M> {
    memory: M,
    out: Line,
    sent: u64,
    from: Line,
    seen: u64,
    producer: FixedProducer<M>,
    consumer: FixedConsumer<M>,
}

impl<M: SharedMemory + Clone> Ways<M> {
    fn resume(
        memory: M,
        (out, sends): (Line, FixedRingLayout),
        (from, receives): (Line, FixedRingLayout),
    ) -> Result<Self, LinkError> {
        Ok(Self {
            out,
            sent: memory.load_relaxed(out.count)?,
            from,
            seen: memory.load_relaxed(from.count)?,
            producer: FixedProducer::resume(memory.clone(), sends)?,
            consumer: FixedConsumer::resume(memory.clone(), receives)?,
            memory,
        })
    }

    #[inline]
    fn send_line(&mut self, message: &[u8; MESSAGE]) -> Result<(), LinkError> {
        self.memory.write(self.out.payload, message)?;
        self.sent = self.sent.wrapping_add(1);
        // release: bench-line
        Ok(self.memory.store_release(self.out.count, self.sent)?)
    }

    #[inline]
    fn try_receive_line(&mut self, message: &mut [u8; MESSAGE]) -> Result<bool, LinkError> {
        // acquire: bench-line
        let count = self.memory.load_acquire(self.from.count)?;
        if count == self.seen {
            return Ok(false);
        }
        self.seen = count;
        self.memory.read(self.from.payload, message)?;
        Ok(true)
    }
}

/// The words of both ways that one side writes: its count, its tail and its head.
fn clear<M: SharedMemory>(
    memory: &M,
    out: Line,
    sends: &FixedRingLayout,
    receives: &FixedRingLayout,
) -> Result<(), LinkError> {
    for word in [out.count, sends.tail, receives.head] {
        memory.store_relaxed(word, 0)?;
    }
    Ok(())
}

/// The host's end.
#[derive(Debug)]
pub struct Asker<M>(Ways<M>);

impl<M: SharedMemory + Clone> Asker<M> {
    /// Sets this side's words to their start. The other side sets its own after that, and both are used only then.
    ///
    /// # Errors
    /// [`LinkError`] when the memory is too small or cannot be reached.
    pub fn prepare(memory: &M) -> Result<(), LinkError> {
        let (to_host, to_guest) = record_rings(memory.size())?;
        memory.store_relaxed(TURN, Turn::Nothing.to_word())?;
        clear(memory, LINE_TO_GUEST, &to_guest, &to_host)
    }

    /// Starts, once both sides have set their words.
    ///
    /// # Errors
    /// [`LinkError`] when the words are no start, or the memory cannot be reached.
    pub fn start(memory: M) -> Result<Self, LinkError> {
        let (to_host, to_guest) = record_rings(memory.size())?;
        Ways::resume(memory, (LINE_TO_GUEST, to_guest), (LINE_TO_HOST, to_host)).map(Self)
    }

    /// Says by which way the next messages go; the other side sees it when nothing more comes by the old one.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    pub fn turn_to(&self, turn: Turn) -> Result<(), LinkError> {
        Ok(self.0.memory.store_relaxed(TURN, turn.to_word())?)
    }

    /// Sends by the ring; `false` while it is full.
    ///
    /// # Errors
    /// What the peer or the memory did.
    #[inline]
    pub fn try_send_record(&mut self, message: &[u8; MESSAGE]) -> Result<bool, LinkError> {
        self.0.producer.try_push(message)
    }

    /// Receives by the ring; `false` while nothing is there.
    ///
    /// # Errors
    /// What the peer or the memory did.
    #[inline]
    pub fn try_receive_record(&mut self, message: &mut [u8; MESSAGE]) -> Result<bool, LinkError> {
        self.0.consumer.try_pop(message)
    }

    /// Sends by the floor, whatever the other side does.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    #[inline]
    pub fn send_line(&mut self, message: &[u8; MESSAGE]) -> Result<(), LinkError> {
        self.0.send_line(message)
    }

    /// Receives by the floor; `false` while nothing is there.
    ///
    /// # Errors
    /// [`LinkError::Fault`] when the memory cannot be reached.
    #[inline]
    pub fn try_receive_line(&mut self, message: &mut [u8; MESSAGE]) -> Result<bool, LinkError> {
        self.0.try_receive_line(message)
    }
}

/// The guest's end: sends back what comes.
#[derive(Debug)]
pub struct Answerer<M> {
    ways: Ways<M>,
    turn: Turn,
    message: [u8; MESSAGE],
    /// Whether the message waits for room to go back.
    pending: bool,
}

impl<M: SharedMemory + Clone> Answerer<M> {
    /// Sets this side's words and starts. The asker has set its own before.
    ///
    /// # Errors
    /// [`LinkError`] when the memory is too small, cannot be reached, or the other's words are no start.
    pub fn start(memory: M) -> Result<Self, LinkError> {
        let (to_host, to_guest) = record_rings(memory.size())?;
        clear(&memory, LINE_TO_HOST, &to_host, &to_guest)?;
        Ok(Self {
            ways: Ways::resume(memory, (LINE_TO_HOST, to_host), (LINE_TO_GUEST, to_guest))?,
            turn: Turn::Nothing,
            message: [0; MESSAGE],
            pending: false,
        })
    }

    /// One look: answers what has come and says whether something had.
    ///
    /// # Errors
    /// What the peer or the memory did.
    #[inline]
    pub fn look(&mut self) -> Result<bool, LinkError> {
        let answered = match self.turn {
            Turn::Line => {
                let came = self.ways.try_receive_line(&mut self.message)?;
                if came {
                    self.ways.send_line(&self.message)?;
                }
                came
            }
            Turn::Records => {
                self.pending = self.pending || self.ways.consumer.try_pop(&mut self.message)?;
                let answered = self.pending && self.ways.producer.try_push(&self.message)?;
                self.pending &= !answered;
                answered
            }
            Turn::Nothing | Turn::Other(_) => false,
        };
        if !answered {
            self.turn = Turn::from_word(self.ways.memory.load_relaxed(TURN)?);
        }
        Ok(answered)
    }

    /// What the last look that found nothing read.
    #[must_use]
    #[inline]
    pub const fn turn(&self) -> Turn {
        self.turn
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;
    use alloc::sync::Arc;

    use vmshm_shm::LocalMemory;

    use super::*;
    use crate::bench::{BULK, rings};

    fn ends() -> (Asker<Arc<LocalMemory>>, Answerer<Arc<LocalMemory>>) {
        let size = usize::try_from(BULK).expect("small");
        let memory = Arc::new(LocalMemory::new(size));
        Asker::prepare(&memory).expect("prepared");
        let answerer = Answerer::start(Arc::clone(&memory)).expect("started");
        (Asker::start(memory).expect("started"), answerer)
    }

    #[test]
    fn messages_come_back_by_the_way_whose_turn_it_is() {
        let (mut asker, mut answerer) = ends();
        let mut back = [0; MESSAGE];
        for round in 0..1000_u32 {
            let message = [(round % 251) as u8; MESSAGE];
            asker.turn_to(Turn::Records).expect("stored");
            assert!(asker.try_send_record(&message).expect("sent"));
            while !answerer.look().expect("looked") {}
            assert!(asker.try_receive_record(&mut back).expect("received"));
            assert_eq!(back, message);

            asker.send_line(&message.map(|byte| !byte)).expect("sent");
            assert!(!asker.try_receive_line(&mut back).expect("looked"));
            asker.turn_to(Turn::Line).expect("stored");
            while !answerer.look().expect("looked") {}
            assert!(asker.try_receive_line(&mut back).expect("received"));
            assert_eq!(back, message.map(|byte| !byte));
        }
    }

    #[test]
    fn a_turn_of_somebody_else_is_told() {
        let (asker, mut answerer) = ends();
        asker.turn_to(Turn::Other(77)).expect("stored");
        assert!(!answerer.look().expect("looked"));
        assert_eq!(answerer.turn(), Turn::Other(77));
    }

    #[test]
    fn a_small_region_is_refused() {
        let memory = Arc::new(LocalMemory::new(0x4000));
        assert!(Asker::prepare(&memory).is_err());
        assert!(Answerer::start(memory).is_err());
    }

    #[test]
    fn nothing_lies_on_anything_else() {
        let (to_host, to_guest) = rings(BULK).expect("fits");
        let (records_to_host, records_to_guest) = record_rings(BULK).expect("fits");
        let mut areas = alloc::vec![(0, 0x80)];
        for word in [0x40, 0xc0, LINE_TO_GUEST.count, LINE_TO_HOST.count] {
            areas.push((word, 64));
        }
        areas[0].1 = 64;
        for ring in [to_host, to_guest] {
            areas.extend([(ring.tail, 64), (ring.head, 64), (ring.data, ring.capacity)]);
        }
        for ring in [records_to_host, records_to_guest] {
            let data = (ring.data, ring.capacity * ring.stride);
            areas.extend([(ring.tail, 64), (ring.head, 64), data]);
        }
        areas.extend([LINE_TO_GUEST, LINE_TO_HOST].map(|line| (line.payload, 64)));
        areas.push((BULK, 0));
        areas.sort_unstable();
        for pair in areas.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
        }
    }
}
