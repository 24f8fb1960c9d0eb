//! Searches one unit: reads what exists of it, a buffer at a time that stays in the
//! core's own cache, and looks at every place where a match may start exactly once.
//! Pages that vanish meanwhile are passed over; nothing is mapped, so that none can be
//! brought into being, and none can fault.

use std::ops::ControlFlow;

use vmshm_link::GuestPhysical;

use super::in_order::Outlet;
use super::patterns::{Haystack, Patterns};
use super::plan::{Existing, Run, Unit};
use super::{Found, Pace};
use crate::address::BlockOffset;
use crate::guest_ram::GuestRam;
use crate::ram_error::RamError;

const PAGE: u64 = 4096;
/// The system copies pages several times faster to where a page could start.
const BUFFER_ALIGNMENT: usize = 4096;
/// How many matches are handed on together at most.
const MATCHES_AT_ONCE: usize = 4096;

/// What comes out of a unit.
#[derive(Debug)]
pub(super) enum Report {
    /// Matches, in rising order.
    Found(Vec<Found>),
    /// The unit is done.
    Done(Tally),
    /// The VM is gone.
    Gone,
}

/// What was done in a unit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// Addresses that belong to it, existing or not.
    pub(super) addresses: u64,
    /// Bytes that were searched.
    pub(super) searched: u64,
    /// Bytes that could not be read, or whose existence could not be told.
    pub(super) unreadable: u64,
    /// Why, for the first of them.
    pub(super) reason: Option<RamError>,
}

/// What all units share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) ram: &'a GuestRam,
    pub(super) existing: &'a Existing<'a>,
    pub(super) patterns: &'a Patterns,
    pub(super) alignment: u64,
    pub(super) pace: Pace,
}

/// Searches a unit; `buffer` is kept from one to the next.
pub(super) fn search(
    subject: &Subject<'_>,
    buffer: &mut Vec<u8>,
    unit: Unit,
    outlet: &Outlet<'_, Report>,
) {
    let reach = subject.patterns.reach();
    // A long pattern's reach is read again with each buffer: that must not outweigh it.
    let fresh = subject.pace.buffer.max(reach);
    buffer.resize(BUFFER_ALIGNMENT + reach + fresh, 0);
    let front = reach
        + buffer
            .get(reach..)
            .map_or(0, |rest| rest.as_ptr().align_offset(BUFFER_ALIGNMENT));
    let wanted_end = unit
        .starts
        .end
        .saturating_add(reach as u64)
        .min(unit.span_end);
    let wanted = unit.starts.start..wanted_end;
    let mut reader = Reader {
        subject,
        buffer,
        front,
        fresh,
        unit: &unit,
        outlet,
        kept: 0,
        expected: unit.starts.start,
        tally: Tally {
            addresses: unit.starts.end - unit.starts.start,
            ..Tally::default()
        },
        gone: false,
    };
    let flow = subject.existing.runs(wanted).try_for_each(|run| match run {
        Ok(run) => reader.read(run),
        Err((_, RamError::Gone)) => reader.lose(),
        Err((length, error)) => {
            reader.tally.pass_over(length, error);
            ControlFlow::Continue(())
        }
    });
    let flow = match flow {
        ControlFlow::Continue(()) => reader.finish_kept(),
        broken => broken,
    };
    let Reader { tally, gone, .. } = reader;
    if gone {
        let _ = outlet.put(Report::Gone);
    } else if flow.is_continue() {
        let _ = outlet.put(Report::Done(tally));
    }
}

impl Tally {
    fn pass_over(&mut self, length: u64, error: RamError) {
        tracing::debug!(%error, length, "not searched");
        self.unreadable += length;
        self.reason.get_or_insert(error);
    }
}

struct Reader<'a> {
    subject: &'a Subject<'a>,
    buffer: &'a mut Vec<u8>,
    /// Where in the buffer it is read to.
    front: usize,
    /// How much is read at once.
    fresh: usize,
    unit: &'a Unit,
    outlet: &'a Outlet<'a, Report>,
    /// How many bytes before the front came directly before the next read. No match that
    /// starts among them was looked for yet.
    kept: usize,
    /// The address of the next read, if it follows directly.
    expected: u64,
    tally: Tally,
    gone: bool,
}

impl Reader<'_> {
    fn read(&mut self, run: Run) -> ControlFlow<()> {
        let mut done = 0;
        // Where reading failed pages are read one by one until here.
        let mut careful_until = 0;
        while done < run.length {
            self.outlet.is_wanted()?;
            let at = BlockOffset {
                block: run.at.block,
                offset: run.at.offset + done,
            };
            let address = run.address + done;
            let most = if done < careful_until {
                PAGE - at.offset % PAGE
            } else {
                self.fresh as u64
            };
            let length = most.min(run.length - done);
            let count = usize::try_from(length).unwrap_or(self.fresh);
            if address != self.expected {
                self.finish_kept()?;
            }
            let into = self.buffer.get_mut(self.front..self.front + count);
            match self.subject.ram.read_at(at, into.unwrap_or_default()) {
                Ok(()) => {
                    done += length;
                    self.expected = address + length;
                    self.tally.searched += self.owned(address, length);
                    self.search(count)?;
                }
                Err(RamError::Gone) => return self.lose(),
                Err(_) if at.offset % PAGE + length > PAGE => careful_until = done + length,
                Err(error) => {
                    self.finish_kept()?;
                    self.tally.pass_over(self.owned(address, length), error);
                    done += length;
                    self.expected = u64::MAX;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn lose(&mut self) -> ControlFlow<()> {
        self.gone = true;
        ControlFlow::Break(())
    }

    /// How many of these addresses belong to the unit itself.
    fn owned(&self, address: u64, length: u64) -> u64 {
        let end = (address + length).min(self.unit.starts.end);
        end.saturating_sub(address)
    }

    /// Searches what was kept and the `count` bytes that were read behind it, and keeps as
    /// many at the end as a match may need that starts there and goes on.
    fn search(&mut self, count: usize) -> ControlFlow<()> {
        let filled = self.kept + count;
        let keep = self.subject.patterns.reach().min(filled);
        self.find(count, filled - keep)?;
        let end = self.front + count;
        self.buffer.copy_within(end - keep..end, self.front - keep);
        self.kept = keep;
        ControlFlow::Continue(())
    }

    /// Searches what was kept, because nothing follows it.
    fn finish_kept(&mut self) -> ControlFlow<()> {
        let flow = self.find(0, self.kept);
        self.kept = 0;
        flow
    }

    /// Finds the matches that start among the first `starts` of the bytes that were kept
    /// and the `count` ones behind them. They end at the expected address.
    fn find(&mut self, count: usize, starts: usize) -> ControlFlow<()> {
        if starts == 0 {
            return ControlFlow::Continue(());
        }
        let bytes = self.front - self.kept..self.front + count;
        let address = self.expected.saturating_sub(bytes.len() as u64);
        // What starts behind the unit's end belongs to the next one.
        let owned = self.unit.starts.end.saturating_sub(address);
        let starts = starts.min(usize::try_from(owned).unwrap_or(usize::MAX));
        let haystack = Haystack {
            bytes: self.buffer.get(bytes).unwrap_or_default(),
            address,
            starts: 0..starts,
            alignment: self.subject.alignment,
        };
        let outlet = self.outlet;
        let mut found = Vec::new();
        self.subject
            .patterns
            .find(&haystack, &mut |start, pattern| {
                found.push(Found {
                    address: GuestPhysical(address + start as u64),
                    pattern,
                });
                if found.len() < MATCHES_AT_ONCE {
                    return ControlFlow::Continue(());
                }
                outlet.put(Report::Found(std::mem::take(&mut found)))
            })?;
        if found.is_empty() {
            ControlFlow::Continue(())
        } else {
            outlet.put(Report::Found(found))
        }
    }
}
