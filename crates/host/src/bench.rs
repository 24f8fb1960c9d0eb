//! Measuring a running guest: latency and copy rate, each beside its floor in the
//! same run, so that the ratio means something on a noisy machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vmshm_link::bench::{BENCH_SIZE, BULK, MESSAGE, Mode, PING, PONG, STOP, rings};
use vmshm_link::control::{RefusalCode, Request};
use vmshm_link::directory::RegionKind;
use vmshm_link::ring::{Consumer, Producer};
use vmshm_ram::{Method, OpenError, View, Vmm};
use vmshm_shm::SharedMemory;

mod turns;

pub use turns::Turns;

use crate::attach::AttachOptions;
use crate::beacon_search::BeaconSearch;
use crate::ending::SessionEnd;
use crate::os::Moment;
use crate::region::Region;
use crate::session::{RequestError, Session};
use crate::sighting::{Target, Where};

/// The measurements are taken in turns, so that a slow moment hits both alike.
const TURNS: usize = 6;
/// Steps of progress that [`run`] reports.
pub const STEPS: usize = TURNS * 4;
/// A guest that takes longer for one answer is not measured on.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// The smallest region that is worth measuring.
const SMALLEST: u64 = 1 << 20;

/// Durations of one kind, in nanoseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Percentiles {
    /// Half were faster.
    pub p50: f64,
    /// 99 of 100 were faster.
    pub p99: f64,
    /// 999 of 1000 were faster.
    pub p999: f64,
    /// How many there were.
    pub rounds: usize,
}

impl Percentiles {
    /// Of these durations; nothing when there are none.
    #[must_use]
    pub fn of(mut nanoseconds: Vec<f64>) -> Option<Self> {
        nanoseconds.sort_by(f64::total_cmp);
        let rounds = nanoseconds.len();
        let at = |thousandths: usize| {
            nanoseconds
                .get((rounds * thousandths / 1000).min(rounds.checked_sub(1)?))
                .copied()
        };
        Some(Self {
            p50: at(500)?,
            p99: at(990)?,
            p999: at(999)?,
            rounds,
        })
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// A bare word that goes back and forth between the two sides: one way.
    pub floor: Percentiles,
    /// A 64-byte message through the ring of records of any length: one way.
    pub message: Percentiles,
    /// A 64-byte record through the ring of such records: one way.
    pub record: Percentiles,
    /// 64 bytes on one line and the word that announces them on another: one way.
    pub line: Percentiles,
    /// The median over the turns of the record's median to the line's in that turn.
    pub record_to_line: f64,
    /// Copy rate out of the region, GB/s.
    pub region_copy: f64,
    /// Copy rate of private memory of the same size, GB/s.
    pub private_copy: f64,
    /// Bytes copied at once.
    pub copied: u64,
    /// Extents of the measured region.
    pub extents: usize,
    /// How its memory is reached.
    pub method: Method,
}

/// How long looking for the beacon takes, without the wait for its heartbeat; nothing
/// where it is not found at its likely places, or shall not be scanned for.
///
/// # Errors
/// [`OpenError`] when the VM's memory cannot be opened.
pub fn time_to_find(vmm: &Vmm, options: &AttachOptions) -> Result<Option<Duration>, OpenError> {
    if options.place != Where::Scan {
        return Ok(None);
    }
    let start = Instant::now();
    let target = Target::open(vmm, options.method)?;
    let found = BeaconSearch::start(&target, Where::Scan)
        .is_ok_and(|mut search| search.findings().has_own_beacon(&target.ram));
    Ok(found.then(|| start.elapsed()))
}

/// Measures over a session. Takes a few seconds; `advance` is told how far it is,
///
/// # Errors
/// [`RequestError`].
pub fn run(
    session: &mut Session,
    timeout: Duration,
    rounds: usize,
    advance: &mut dyn FnMut(usize),
) -> Result<Report, RequestError> {
    let name = format!("bench-{}", std::process::id());
    let region = largest_region(session, &name, timeout)?;
    // Gone by name at once; its pages go with this session. A broker takes back what has no
    // name any more, and closes what its client leaves.
    let is_direct = session.direct().is_some();
    if is_direct {
        session.remove_region(&name, timeout)?;
    }
    let report = measure(session, &region, timeout, rounds, advance);
    if !is_direct {
        session.remove_region(&name, timeout)?;
    }
    session.close_region(&region, timeout)?;
    report
}

/// A guest with little memory gets a smaller region.
fn largest_region(
    session: &mut Session,
    name: &str,
    timeout: Duration,
) -> Result<Region, RequestError> {
    let mut size = BENCH_SIZE;
    loop {
        match session.create_region(name, RegionKind::Bench, size, timeout) {
            Err(RequestError::Refused {
                code: RefusalCode::OverBudget,
                ..
            }) if size > SMALLEST => size /= 4,
            other => return other,
        }
    }
}

fn measure(
    session: &mut Session,
    region: &Region,
    timeout: Duration,
    rounds: usize,
    advance: &mut dyn FnMut(usize),
) -> Result<Report, RequestError> {
    let memory = &region.memory;
    let each = (rounds / TURNS).max(1);
    let (mut floor, mut message) = (Vec::new(), Vec::new());
    let mut bulk = BulkCopies::new(memory);
    let clock = clock_cost();
    let (mut record, mut line, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..TURNS {
        ping_pong(session, region, timeout, each, clock, &mut floor)?;
        advance(turn * 4 + 1);
        echo(session, region, timeout, each, clock, &mut message)?;
        advance(turn * 4 + 2);
        ratios.extend(in_turns(
            session,
            region,
            timeout,
            each,
            &mut record,
            &mut line,
        )?);
        advance(turn * 4 + 3);
        bulk.turn(memory)?;
        session.keep()?;
        advance(turn * 4 + 4);
    }
    let nothing = || RequestError::Pages("nothing was measured".to_owned());
    Ok(Report {
        floor: Percentiles::of(floor).ok_or_else(nothing)?,
        message: Percentiles::of(message).ok_or_else(nothing)?,
        record: Percentiles::of(record).ok_or_else(nothing)?,
        line: Percentiles::of(line).ok_or_else(nothing)?,
        record_to_line: median(&mut ratios),
        region_copy: median(&mut bulk.region),
        private_copy: median(&mut bulk.private),
        copied: bulk.length,
        extents: region.extents.len(),
        method: memory.method(),
    })
}

/// The ring of records beside its floor, in short parts that follow one another closely. Gives the ratio of their
/// medians in each pair of parts.
fn in_turns(
    session: &mut Session,
    region: &Region,
    timeout: Duration,
    rounds: usize,
    record: &mut Vec<f64>,
    line: &mut Vec<f64>,
) -> Result<Vec<f64>, RequestError> {
    const PARTS: usize = 8;
    let mut turns = Turns::start(session, region, timeout)?;
    let mut ratios = Vec::new();
    for _ in 0..PARTS {
        let messages = (rounds / PARTS).max(1);
        let ours = turns.records(session, messages)?;
        let floor = turns.lines(session, messages)?;
        let medians = Percentiles::of(ours.clone()).zip(Percentiles::of(floor.clone()));
        let ratio = medians.map(|(ours, floor)| ours.p50 / floor.p50);
        // A coarse clock may have seen no time pass.
        ratios.extend(ratio.filter(|ratio| ratio.is_finite()));
        record.extend(ours);
        line.extend(floor);
    }
    Ok(ratios)
}

/// What reading the clock itself costs, in nanoseconds.
fn clock_cost() -> f64 {
    let mut costs: Vec<f64> = (0..2000)
        .map(|_| Moment::now().elapsed_nanoseconds())
        .collect();
    median(&mut costs)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Ends the guest's measuring side when it goes out of scope.
#[derive(Debug)]
struct Measuring<'a> {
    memory: &'a Arc<View>,
    stop: u64,
}

impl<'a> Measuring<'a> {
    fn start(
        session: &mut Session,
        region: &'a Region,
        mode: Mode,
        timeout: Duration,
    ) -> Result<Self, RequestError> {
        let stop = region.memory.load_relaxed(STOP).map_err(link)?;
        let request = Request::Bench {
            region: region.id,
            mode: mode.to_word(),
        };
        session.request(&request, timeout)?;
        Ok(Self {
            memory: &region.memory,
            stop,
        })
    }
}

impl Drop for Measuring<'_> {
    fn drop(&mut self) {
        // A guest that is gone measures no more anyway.
        let _ = self.memory.store_relaxed(STOP, self.stop.wrapping_add(1));
    }
}

fn link(fault: vmshm_shm::Fault) -> RequestError {
    vmshm_link::LinkError::from(fault).into()
}

/// Spins until `done`; looks after the session when it takes long.
fn spin_until(
    session: &mut Session,
    mut done: impl FnMut() -> Result<bool, RequestError>,
) -> Result<(), RequestError> {
    // The clock is read only when it takes long: here it would be part of what is timed.
    let mut start = None;
    for look in 0_u64.. {
        if done()? {
            break;
        }
        std::hint::spin_loop();
        if look % 4096 == 4095 {
            let condition = session.keep()?;
            if start.get_or_insert_with(Instant::now).elapsed() > LOST_AFTER {
                return Err(RequestError::NoAnswer {
                    seconds: LOST_AFTER.as_secs(),
                    condition,
                });
            }
        }
    }
    Ok(())
}

/// The floor: one word to the guest and the same word back, on two cache lines.
fn ping_pong(
    session: &mut Session,
    region: &Region,
    timeout: Duration,
    rounds: usize,
    clock: f64,
    into: &mut Vec<f64>,
) -> Result<(), RequestError> {
    let memory = &region.memory;
    let mut count = memory.load_relaxed(PONG).map_err(link)?;
    memory.store_relaxed(PING, count).map_err(link)?;
    let _measuring = Measuring::start(session, region, Mode::PingPong, timeout)?;
    for round in 0..rounds + rounds / 10 {
        count = count.wrapping_add(1);
        let start = Moment::now();
        // release: bench-ping
        memory.store_release(PING, count).map_err(link)?;
        spin_until(session, || {
            // acquire: bench-pong
            Ok(memory.load_acquire(PONG).map_err(link)? == count)
        })?;
        note(start, clock, round, rounds, into);
    }
    Ok(())
}

/// Ours: a message through one ring and the same back through the other.
fn echo(
    session: &mut Session,
    region: &Region,
    timeout: Duration,
    rounds: usize,
    clock: f64,
    into: &mut Vec<f64>,
) -> Result<(), RequestError> {
    let memory = &region.memory;
    let (to_host, to_guest) = rings(memory.size())?;
    let mut producer = Producer::start(Arc::clone(memory), to_guest)?;
    let mut consumer = Consumer::start(Arc::clone(memory), to_host)?;
    let _measuring = Measuring::start(session, region, Mode::Echo, timeout)?;
    let mut payload = [0; MESSAGE];
    let mut answer = [0; MESSAGE];
    for round in 0..rounds + rounds / 10 {
        payload[..8].copy_from_slice(&(round as u64).to_le_bytes());
        let start = Moment::now();
        spin_until(session, || Ok(producer.try_push(1, &payload)?))?;
        spin_until(session, || Ok(consumer.try_pop(&mut answer)?.is_some()))?;
        note(start, clock, round, rounds, into);
        if answer != payload {
            return Err(SessionEnd::Link(vmshm_link::LinkError::Violation {
                what: "a bench message's content",
                value: round as u64,
            })
            .into());
        }
    }
    Ok(())
}

/// Takes one round's time down, unless it belongs to the warm-up.
fn note(start: Moment, clock: f64, round: usize, rounds: usize, into: &mut Vec<f64>) {
    let both_ways = start.elapsed_nanoseconds() - clock;
    if round >= rounds / 10 {
        into.push(both_ways.max(0.0) / 2.0);
    }
}

/// Copies out of the region, and of private memory beside it.
struct BulkCopies {
    length: u64,
    source: Vec<u8>,
    target: Vec<u8>,
    region: Vec<f64>,
    private: Vec<f64>,
}

impl BulkCopies {
    fn new(memory: &Arc<View>) -> Self {
        let bulk = memory.size().saturating_sub(BULK);
        let length = usize::try_from(bulk).unwrap_or(usize::MAX);
        Self {
            length: bulk,
            source: vec![1; length],
            target: vec![0; length],
            region: Vec::new(),
            private: Vec::new(),
        }
    }

    fn turn(&mut self, memory: &Arc<View>) -> Result<(), RequestError> {
        for _ in 0..4 {
            let start = Instant::now();
            memory.read(BULK, &mut self.target).map_err(link)?;
            self.region.push(rate(self.length, start));
            let start = Instant::now();
            self.target.copy_from_slice(&self.source);
            std::hint::black_box(&mut self.target);
            self.private.push(rate(self.length, start));
        }
        Ok(())
    }
}

fn rate(bytes: u64, start: Instant) -> f64 {
    bytes as f64 / start.elapsed().as_secs_f64() / 1e9
}
