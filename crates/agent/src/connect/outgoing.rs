//! Bells on their way to the host: one for each region, at a bounded rate, and never in
//! the way of whoever rings.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmshm_link::rendezvous::bells::Bells;
use vmshm_link::rendezvous::message::{Encoded, Message};

use super::transport::Transport;

/// The most bells in a second; a listener reads twice as many.
const RATE: u32 = 4096;
/// The most at once.
const BURST: u32 = 64;

/// What has to happen before the rest can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing is left.
    Nothing,
    /// The connection must take bytes again.
    Room,
    /// So much time must pass.
    Pause(Duration),
}

/// The bells for one connection.
#[derive(Debug)]
pub(super) struct Outgoing {
    transport: Arc<Transport>,
    bells: Bells,
    /// A bell of which the connection has taken a part, and how long that is.
    begun: Option<(Encoded, usize)>,
    allowance: Allowance,
}

impl Outgoing {
    pub(super) fn new(transport: Arc<Transport>) -> Self {
        Self {
            transport,
            bells: Bells::default(),
            begun: None,
            allowance: Allowance::new(Instant::now()),
        }
    }

    /// Remembers a bell; one for which there is no room is lost.
    pub(super) fn add(&mut self, region: u64) {
        self.bells.add(region);
    }

    /// Tells the other side that this is the end.
    pub(super) fn close(&self) {
        self.transport.close();
    }

    /// Sends what can be sent now.
    pub(super) fn flush(&mut self) -> io::Result<Rest> {
        loop {
            if let Some((bell, sent)) = &mut self.begun {
                let rest = bell.as_bytes().get(*sent..).unwrap_or_default();
                match self.transport.send(rest) {
                    Ok(count) if count < rest.len() => {
                        *sent += count;
                        continue;
                    }
                    Ok(_) => self.begun = None,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Rest::Room),
                    Err(error) => return Err(error),
                }
            }
            if self.bells.is_empty() {
                return Ok(Rest::Nothing);
            }
            if let Err(pause) = self.allowance.take(Instant::now()) {
                return Ok(Rest::Pause(pause));
            }
            let bell = self.bells.take().map(|region| Message::Bell { region });
            self.begun = bell.map(|bell| (bell.encode(), 0));
        }
    }
}

/// How many bells may go: [`BURST`] at most, filled up at [`RATE`].
#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    const fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    /// Takes one, or says how long that takes.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let one = Duration::from_secs(1) / RATE;
        if self.left < BURST {
            let passed = now.saturating_duration_since(self.since);
            let more = u32::try_from(passed.as_nanos() / one.as_nanos()).unwrap_or(u32::MAX);
            self.since = if more >= BURST - self.left {
                now
            } else {
                self.since + one * more
            };
            self.left = self.left.saturating_add(more).min(BURST);
        } else {
            self.since = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(one),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use vmshm_link::rendezvous::bells::MOST_BELLS;

    use super::*;

    #[test]
    fn an_allowance_is_a_burst_and_then_a_rate() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let mut taken = 0_u32;
        // Ten asks in each millisecond of two seconds.
        for ask in 0..20_000_u32 {
            let now = start + Duration::from_micros(100) * ask;
            taken += u32::from(allowance.take(now).is_ok());
        }
        let expected = 2 * RATE + BURST;
        assert!((expected - 8..=expected).contains(&taken), "{taken}");
        let later = start + Duration::from_secs(3600);
        let burst = (0..1000).filter(|_| allowance.take(later).is_ok()).count();
        assert_eq!(burst, BURST as usize);
    }

    #[test]
    fn who_takes_nothing_costs_a_bounded_room_and_gets_whole_messages_later() {
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        for socket in [&ours, &theirs] {
            socket.set_nonblocking(true).expect("set");
        }
        let mut outgoing = Outgoing::new(Arc::new(Transport::Socket(ours.into())));
        let mut seen = Rest::Nothing;
        for region in 0..1_000_000 {
            outgoing.allowance.left = BURST;
            outgoing.add(region);
            seen = outgoing.flush().expect("sent");
            if seen == Rest::Room {
                break;
            }
        }
        assert_eq!(seen, Rest::Room);
        (0..1000).for_each(|region| outgoing.add(region));
        let mut bytes = Vec::new();
        let mut last = Rest::Room;
        while last != Rest::Nothing {
            outgoing.allowance.left = BURST;
            let _ = io::Read::read_to_end(&mut theirs, &mut bytes);
            last = outgoing.flush().expect("sent");
        }
        let _ = io::Read::read_to_end(&mut theirs, &mut bytes);
        assert_eq!(bytes.len() % 16, 0);
        let last = bytes.len() / 16 - MOST_BELLS;
        let region =
            |at: usize| u64::from_le_bytes(*bytes[at * 16 + 8..].first_chunk().expect("8"));
        assert_eq!(region(last + 5), region(last + 4) + 1, "in their order");
    }
}
