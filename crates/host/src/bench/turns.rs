//! A 64-byte record through a ring beside its floor, to a running guest: both ways stand ready at once, so that a
//! measurement can change between them every few milliseconds.

use std::sync::Arc;
use std::time::Duration;

use vmshm_link::LinkError;
use vmshm_link::bench::{Asker, MESSAGE, Mode, Turn};
use vmshm_ram::View;

use super::{Measuring, clock_cost, largest_region, spin_until};
use crate::ending::SessionEnd;
use crate::os::Moment;
use crate::region::Region;
use crate::session::{RequestError, Session};

/// Messages of each part that are not counted: the guest sees a new turn only when it looks for one.
const WARM_UP: usize = 64;

/// Both ways to a guest that answers them. Dropping it ends the guest's answering.
#[derive(Debug)]
pub struct Turns<'a> {
    asker: Asker<Arc<View>>,
    /// Ends the guest's side when it goes.
    _measuring: Measuring<'a>,
    clock: f64,
    number: u64,
}

impl<'a> Turns<'a> {
    /// A region for [`Turns::start`], which is gone by name already and ends with the session.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn region(session: &mut Session, timeout: Duration) -> Result<Region, RequestError> {
        let name = format!("bench-{}", std::process::id());
        let region = largest_region(session, &name, timeout)?;
        session.remove_region(&name, timeout)?;
        Ok(region)
    }

    /// Has the guest answer in `region`, which must be a bench region.
    ///
    /// # Errors
    /// [`RequestError`]; an agent of an older version refuses.
    pub fn start(
        session: &mut Session,
        region: &'a Region,
        timeout: Duration,
    ) -> Result<Self, RequestError> {
        Asker::prepare(&region.memory)?;
        let measuring = Measuring::start(session, region, Mode::Turns, timeout)?;
        Ok(Self {
            asker: Asker::start(Arc::clone(&region.memory))?,
            _measuring: measuring,
            clock: clock_cost(),
            number: 0,
        })
    }

    /// Times `messages` records through the ring and back: nanoseconds one way.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn records(
        &mut self,
        session: &mut Session,
        messages: usize,
    ) -> Result<Vec<f64>, RequestError> {
        self.asker.turn_to(Turn::Records)?;
        self.time(messages, |asker, message, back| {
            spin_until(session, || Ok(asker.try_send_record(message)?))?;
            spin_until(session, || Ok(asker.try_receive_record(back)?))
        })
    }

    /// Times the floor in the same way.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn lines(
        &mut self,
        session: &mut Session,
        messages: usize,
    ) -> Result<Vec<f64>, RequestError> {
        self.asker.turn_to(Turn::Line)?;
        self.time(messages, |asker, message, back| {
            asker.send_line(message)?;
            spin_until(session, || Ok(asker.try_receive_line(back)?))
        })
    }

    fn time(
        &mut self,
        messages: usize,
        mut there_and_back: impl FnMut(
            &mut Asker<Arc<View>>,
            &[u8; MESSAGE],
            &mut [u8; MESSAGE],
        ) -> Result<(), RequestError>,
    ) -> Result<Vec<f64>, RequestError> {
        let (mut message, mut back) = ([0; MESSAGE], [0; MESSAGE]);
        let mut times = Vec::with_capacity(messages);
        for round in 0..messages + WARM_UP {
            self.number += 1;
            message[..8].copy_from_slice(&self.number.to_le_bytes());
            let start = Moment::now();
            there_and_back(&mut self.asker, &message, &mut back)?;
            let both_ways = start.elapsed_nanoseconds() - self.clock;
            if back != message {
                return Err(SessionEnd::Link(LinkError::Violation {
                    what: "a bench message's content",
                    value: self.number,
                })
                .into());
            }
            if round >= WARM_UP {
                times.push(both_ways.max(0.0) / 2.0);
            }
        }
        Ok(times)
    }
}
