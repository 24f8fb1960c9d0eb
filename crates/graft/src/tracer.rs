//! Stops threads of a process, and lets one of them make calls. All of it happens on one
//! thread of ours that does nothing else: should it end in any way, the kernel lets go of
//! whatever it traces, and each thread goes on with the registers it has then. Those lead
//! back to its own work at every moment (`chain`).
//!
//! While memory is replaced whose bytes count, the others must not run even if we die, or
//! what they write after the copy would be lost. So each of them is given a chain of its
//! own that waits on a futex (for at most 30 s), and the borrowed thread's chain ends by waking them:
//!
//! 1. the borrowed thread is set to nothing but the waking;
//! 2. the word says "wait", and the others are set to wait for it;
//! 3. the bytes are copied;
//! 4. the borrowed thread is set, in one step, to all of its calls.
//!
//! Whoever dies before 4 changed nothing; after it, all is done without him. If we live,
//! the others never run their chains: they get their own registers back.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vmshm_ram::MemoryMapping;

use crate::chain::{ALL_SIGNALS, Call, Chain, Continuation, Place, filtered, is_on_chain};
use crate::examine::no_right;
use crate::filter::{Instruction, Verdict, judge};
use crate::gadget::Gadgets;
use crate::injected;
use crate::os::{self, Registers, Stop};
use crate::process;
use crate::refusal::{GraftError, Refusal};
use crate::restart::{Resumption, interrupted, resumed};
use crate::step::{Step, Watch};
use crate::{frame, gadget};

/// How long a thread may take to stop.
const STOP_LIMIT: Duration = Duration::from_millis(20);

/// How long a thread that runs may take for one injected call, or for a chain of them.
/// Others use the processors, too, so this is no measure of the call.
const RUN_LIMIT: Duration = Duration::from_secs(10);

/// Room that is left free below a chain of several calls.
const SPARE_STACK: u64 = 4096;

/// How often a process may show new threads while they are stopped.
const ROUNDS: usize = 64;

/// The 64-bit code segment.
const CODE_SEGMENT: u64 = 0x33;

/// The process that is changed, as it was found before it was stopped.
#[derive(Debug)]
pub(crate) struct Victim {
    pub(crate) pid: u32,
    pub(crate) gadgets: Gadgets,
    pub(crate) mappings: Vec<MemoryMapping>,
}

impl Victim {
    pub(crate) fn find(pid: u32) -> Result<Self, GraftError> {
        let mappings = process::mappings(pid).map_err(|_| no_right(pid))?;
        let read = |at: u64, into: &mut [u8]| os::read_memory(pid, at, into).is_ok();
        let gadgets = gadget::find(&mappings, read).ok_or(Refusal::NoGadget)?;
        Ok(Self {
            pid,
            gadgets,
            mappings,
        })
    }

    /// How far down the stack reaches on which a stack pointer stands.
    fn stack_start(&self, pointer: u64) -> Option<u64> {
        let on = |mapping: &&MemoryMapping| mapping.start.0 < pointer && pointer <= mapping.end().0;
        let mapping = self.mappings.iter().find(on)?;
        (mapping.readable && mapping.writable && !mapping.shared).then_some(mapping.start.0)
    }
}

/// A thread that stands still.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) thread: u32,
    continuation: Continuation,
    how: Resumption,
    filters: Vec<Vec<Instruction>>,
}

impl Held {
    /// Whether it runs the program at all: the kernel has workers of its own among the
    /// threads of a process (for KVM, vhost and io_uring), which have no registers to go back
    /// to. They stand still like the others, but can neither be led nor barred.
    fn runs_program(&self) -> bool {
        let stopped = &self.continuation.stopped;
        (stopped.rip, stopped.rsp) != (0, 0)
    }
}

/// Traces; bound to the thread that it was made on.
pub(crate) struct Tracer<'a> {
    victim: &'a Victim,
    watch: Watch<'a>,
    is_root: bool,
    bound: PhantomData<*const ()>,
}

fn system(what: &'static str) -> impl Fn(Errno) -> GraftError {
    move |error| GraftError::System { what, error }
}

impl<'a> Tracer<'a> {
    pub(crate) fn new(victim: &'a Victim, watch: Watch<'a>) -> Self {
        Self {
            victim,
            watch,
            is_root: rustix::process::geteuid().is_root(),
            bound: PhantomData,
        }
    }

    fn step(&mut self, step: Step) {
        (self.watch)(step);
    }

    /// Starts tracing a thread and asks it to stop; says whether it still exists.
    fn seize(&mut self, thread: u32) -> Result<bool, GraftError> {
        match os::seize(thread) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Ok(false),
            Err(Errno::PERM) => {
                // A thread of ours that gave up a moment ago may still be on its way out.
                if let Refusal::Traced { tracer } = no_right(self.victim.pid)
                    && process::threads(std::process::id()).is_ok_and(|own| own.contains(&tracer))
                {
                    return Err(GraftError::Busy);
                }
                return Err(no_right(self.victim.pid).into());
            }
            Err(error) => return Err(system("trace the process")(error)),
        }
        self.step(Step::Seized);
        match os::interrupt(thread) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(system("interrupt a thread")(error)),
        }
        self.step(Step::Interrupted);
        Ok(true)
    }

    /// Waits until a thread stands still; says whether it still exists.
    fn await_stop(&mut self, thread: u32, since: Instant) -> Result<bool, GraftError> {
        loop {
            match os::wait(thread).map_err(system("wait for a thread"))? {
                Some(Stop::Interrupted) => {
                    self.step(Step::Stopped);
                    return Ok(true);
                }
                Some(Stop::Ended) => return Ok(false),
                Some(Stop::Group) => {
                    return Err(Refusal::StoppedBySignal {
                        pid: self.victim.pid,
                    }
                    .into());
                }
                // The request to stop stays, and is met after the signal.
                Some(Stop::Signal(signal)) => {
                    os::resume_with(thread, signal).map_err(system("give a signal back"))?;
                }
                Some(Stop::Call) => {
                    os::resume_with(thread, 0).map_err(system("let a thread run"))?;
                }
                None if since.elapsed() > STOP_LIMIT => {
                    return Err(GraftError::TooSlow { thread });
                }
                None => pause(since),
            }
        }
    }

    /// Reads all that a stopped thread needs to go on.
    fn hold(&mut self, thread: u32) -> Result<Held, GraftError> {
        let pid = self.victim.pid;
        let stopped = match os::registers(thread) {
            Ok(registers) if registers.cs == CODE_SEGMENT => registers,
            Ok(_) | Err(Errno::NOEXEC) => return Err(Refusal::OtherArchitecture { pid }.into()),
            Err(error) => return Err(system("read a thread's registers")(error)),
        };
        let mut before = [0_u8; 7];
        let at = stopped.rip.saturating_sub(7);
        let code: &[u8] = match os::read_memory(pid, at, &mut before) {
            Ok(()) => &before,
            Err(_) => &[],
        };
        let (mut resumed, how) = resumed(&stopped, code);
        if let Some(abort) = self.sequence_end(thread, &stopped) {
            resumed.rip = abort;
        }
        let read = os::extended_state(thread).map_err(system("read the vector registers"))?;
        let state = frame::state(&read, frame::end_of_part)
            .ok_or_else(|| system("understand the vector registers")(Errno::OPNOTSUPP))?;
        let mask = os::signal_mask(thread).map_err(system("read the blocked signals"))?;
        if os::dispatches_calls(thread) {
            return Err(Refusal::CallDispatch.into());
        }
        let filters = self.filters(thread)?;
        self.step(Step::Held);
        Ok(Held {
            thread,
            continuation: Continuation {
                stopped,
                resumed,
                interrupted: interrupted(&stopped),
                state,
                mask,
            },
            how,
            filters,
        })
    }

    /// Where a thread goes on that stood inside a restartable sequence: the kernel would
    /// send it there itself, did it still see where the thread stood.
    fn sequence_end(&self, thread: u32, stopped: &Registers) -> Option<u64> {
        const SEQUENCE: u64 = 8;
        let rseq = os::rseq(thread).filter(|rseq| rseq.address != 0)?;
        let word = |at: u64| {
            let mut bytes = [0_u8; 8];
            os::read_memory(self.victim.pid, at, &mut bytes).ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        let sequence = word(rseq.address.checked_add(SEQUENCE)?).filter(|at| *at != 0)?;
        let start = word(sequence.checked_add(8)?)?;
        let length = word(sequence.checked_add(16)?)?;
        let inside = stopped.rip.wrapping_sub(start) < length;
        inside.then_some(word(sequence.checked_add(24)?)?)
    }

    fn filters(&self, thread: u32) -> Result<Vec<Vec<Instruction>>, GraftError> {
        if !self.is_root {
            let status = process::status(self.victim.pid, Some(thread)).unwrap_or_default();
            return match status.seccomp {
                0 => Ok(Vec::new()),
                1 => Err(Refusal::StrictCallFilter.into()),
                _ => Err(Refusal::UnreadableCallFilter.into()),
            };
        }
        let mut filters = Vec::new();
        loop {
            match os::filter(thread, filters.len()) {
                Ok(Some(filter)) => filters.push(filter),
                Ok(None) => return Ok(filters),
                // No filter at all, or a kernel without filters.
                Err(Errno::INVAL) if filters.is_empty() => {
                    let status = process::status(self.victim.pid, Some(thread));
                    return match status.map(|status| status.seccomp) {
                        Ok(0) => Ok(filters),
                        Ok(1) => Err(Refusal::StrictCallFilter.into()),
                        _ => Err(Refusal::UnreadableCallFilter.into()),
                    };
                }
                Err(_) => return Err(Refusal::UnreadableCallFilter.into()),
            }
        }
    }

    /// Whether a stopped thread is on a chain of somebody who died.
    fn is_busy(&self, held: &Held) -> bool {
        let stopped = &held.continuation.stopped;
        let mut word = [0_u8; 8];
        let read = os::read_memory(self.victim.pid, stopped.rsp, &mut word);
        let word = if read.is_ok() {
            u64::from_le_bytes(word)
        } else {
            0
        };
        is_on_chain(stopped, word, &self.victim.gadgets)
    }

    /// Stops every thread of the process, and holds them. On any failure the caller ends
    /// this thread, which releases all.
    pub(crate) fn stop_all(&mut self) -> Result<Vec<Held>, GraftError> {
        let pid = self.victim.pid;
        let mut known: Vec<u32> = Vec::new();
        let mut held = Vec::new();
        // A thread that still runs may make others; once all stand still, nobody does.
        for _ in 0..ROUNDS {
            let threads = process::threads(pid).map_err(|_| Refusal::Gone { pid })?;
            let new: Vec<u32> = threads
                .into_iter()
                .filter(|thread| !known.contains(thread))
                .collect();
            if new.is_empty() {
                if held.is_empty() {
                    return Err(Refusal::Gone { pid }.into());
                }
                if held.iter().any(|held| self.is_busy(held)) {
                    self.release(&held)?;
                    return Err(GraftError::Busy);
                }
                return Ok(held);
            }
            known.extend(&new);
            let since = Instant::now();
            let mut seized = Vec::new();
            for thread in new {
                if self.seize(thread)? {
                    seized.push(thread);
                }
            }
            for thread in seized {
                if self.await_stop(thread, since)? {
                    held.push(self.hold(thread)?);
                }
            }
        }
        Err(GraftError::Busy)
    }

    /// Stops one thread that can be borrowed for a number of calls, the first one if possible.
    pub(crate) fn stop_one(&mut self, data: usize, calls: usize) -> Result<Held, GraftError> {
        let pid = self.victim.pid;
        let threads = process::threads(pid).map_err(|_| Refusal::Gone { pid })?;
        for worst in [Resumption::Exact, Resumption::Approximate] {
            for thread in &threads {
                if !self.seize(*thread)? || !self.await_stop(*thread, Instant::now())? {
                    continue;
                }
                let held = self.hold(*thread)?;
                let fits = self.place(&held, data, calls, SPARE_STACK).is_some();
                if self.is_busy(&held) {
                    self.release(std::slice::from_ref(&held))?;
                    return Err(GraftError::Busy);
                }
                if fits && held.how <= worst {
                    return Ok(held);
                }
                self.release(std::slice::from_ref(&held))?;
            }
        }
        Err(Refusal::NoRoom.into())
    }

    /// Takes the best one to borrow out of all.
    pub(crate) fn choose(
        &self,
        held: &mut Vec<Held>,
        data: usize,
        calls: usize,
    ) -> Result<Held, GraftError> {
        let best = held
            .iter()
            .enumerate()
            .filter(|(_, held)| self.place(held, data, calls, SPARE_STACK).is_some())
            .min_by_key(|(index, held)| (held.how, *index))
            .map(|(index, _)| index);
        match best {
            Some(index) => Ok(held.remove(index)),
            None => Err(Refusal::NoRoom.into()),
        }
    }

    /// Looks at each thread in turn, one at a time: may it make these calls?
    pub(crate) fn check_filters(&mut self, calls: &[Call]) -> Result<(), GraftError> {
        let pid = self.victim.pid;
        for thread in process::threads(pid).map_err(|_| Refusal::Gone { pid })? {
            if self.seize(thread)? && self.await_stop(thread, Instant::now())? {
                let held = self.hold(thread)?;
                self.release(std::slice::from_ref(&held))?;
                if held.runs_program() {
                    self.allow(&held, calls)?;
                }
            }
        }
        Ok(())
    }

    fn place(&self, held: &Held, data: usize, calls: usize, spare: u64) -> Option<Place> {
        let place = Place::below(&held.continuation, data, calls)?;
        let start = self.victim.stack_start(held.continuation.stopped.rsp)?;
        (place.lowest() >= start.checked_add(spare)?).then_some(place)
    }

    /// Lets stopped threads go on with the registers that they have.
    pub(crate) fn release(&mut self, held: &[Held]) -> Result<(), GraftError> {
        for held in held {
            self.detach(held.thread)?;
        }
        Ok(())
    }

    fn detach(&mut self, thread: u32) -> Result<(), GraftError> {
        match os::detach(thread, 0) {
            // It was killed meanwhile.
            Ok(()) | Err(Errno::SRCH) => {
                self.step(Step::Released);
                Ok(())
            }
            Err(error) => Err(system("let a thread go")(error)),
        }
    }

    fn allow(&self, held: &Held, calls: &[Call]) -> Result<(), GraftError> {
        if held.filters.is_empty() {
            return Ok(());
        }
        for call in filtered(calls, &self.victim.gadgets) {
            let answer = match judge(&held.filters, &call) {
                Verdict::Allowed => continue,
                Verdict::Refused(answer) => answer,
                Verdict::Malformed => return Err(Refusal::UnreadableCallFilter.into()),
            };
            return Err(Refusal::CallFiltered {
                call: injected::name(call.number),
                answer,
            }
            .into());
        }
        Ok(())
    }

    fn chain(
        &self,
        held: &Held,
        place: &Place,
        calls: &[Call],
        data: &[u8],
    ) -> Result<Chain, GraftError> {
        self.allow(held, calls)?;
        let chain = Chain::new(place, &held.continuation, &self.victim.gadgets, calls, data);
        Ok(chain.ok_or(Refusal::NoRoom)?)
    }

    fn write(&mut self, chain: &Chain) -> Result<(), GraftError> {
        os::write_memory(self.victim.pid, chain.at, &chain.bytes).map_err(|error| match error {
            Errno::FAULT => Refusal::NoRoom.into(),
            error => system("write to a thread's stack")(error),
        })?;
        self.step(Step::Written);
        Ok(())
    }

    /// Sends a thread on a chain once it runs. The registers come before the signals that it
    /// blocks: a thread with its own ones that blocks all signals could not put that right
    /// by itself. What signals may meet in between is the chain's bridge.
    fn redirect(
        &mut self,
        held: &Held,
        chain: &Chain,
        registers: &Registers,
    ) -> Result<(), GraftError> {
        let bridge = chain.bridge().ok_or(Refusal::NoRoom)?;
        os::set_registers(held.thread, bridge).map_err(system("set registers"))?;
        self.step(Step::Redirected);
        os::set_signal_mask(held.thread, ALL_SIGNALS).map_err(system("block signals"))?;
        self.step(Step::Masked);
        os::set_registers(held.thread, registers).map_err(system("set registers"))?;
        self.step(Step::Directed);
        Ok(())
    }

    /// Takes a redirection back, in the opposite order.
    fn give_back(&mut self, held: &Held, chain: &Chain) -> Result<(), GraftError> {
        let continuation = &held.continuation;
        let bridge = chain.bridge().ok_or(Refusal::NoRoom)?;
        let set = |registers| match os::set_registers(held.thread, registers) {
            // It was killed meanwhile.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(system("give registers back")(error)),
        };
        set(bridge)?;
        self.step(Step::Redirected);
        match os::set_signal_mask(held.thread, continuation.mask) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(system("give the blocked signals back")(error)),
        }
        self.step(Step::Masked);
        set(&continuation.stopped)?;
        self.step(Step::GivenBack);
        Ok(())
    }

    /// Lets a stopped thread make one call and then go on; answers what the call gave.
    pub(crate) fn call(
        &mut self,
        held: &Held,
        data: &[u8],
        call: impl FnOnce(u64) -> Call,
    ) -> Result<u64, GraftError> {
        let place = self
            .place(held, data.len(), 1, SPARE_STACK)
            .ok_or(Refusal::NoRoom)?;
        let calls = [call(place.data)];
        let chain = self.chain(held, &place, &calls, data)?;
        let answer = self.first_call(held, &chain)?;
        // From here it goes back by itself.
        self.detach(held.thread)?;
        Ok(answer)
    }

    /// Lets a stopped thread make a descriptor, which `take` brings here, and close its own at
    /// once. Should we die between the two calls, a descriptor is left that does nothing.
    pub(crate) fn call_for_file<T>(
        &mut self,
        held: &Held,
        call: Call,
        take: impl FnOnce(u64) -> Result<T, GraftError>,
    ) -> Result<T, GraftError> {
        const NONE: u32 = u32::MAX;
        let place = self.place(held, 0, 2, SPARE_STACK).ok_or(Refusal::NoRoom)?;
        let chain = self.chain(held, &place, &[call, injected::close(NONE)], &[])?;
        let answer = self.first_call(held, &chain)?;
        let taken = take(answer);
        if let Ok(number) = u32::try_from(answer) {
            // The same frames, of which the next one now names the descriptor.
            let calls = [call, injected::close(number)];
            let chain = self.chain(held, &place, &calls, &[])?;
            self.write(&chain)?;
        }
        self.detach(held.thread)?;
        taken
    }

    /// Sends a stopped thread into a chain, and stops it again after the chain's first call;
    /// answers what that gave.
    fn first_call(&mut self, held: &Held, chain: &Chain) -> Result<u64, GraftError> {
        let entry = *chain.entry(0).ok_or(Refusal::NoRoom)?;
        self.write(chain)?;
        self.redirect(held, chain, &entry)?;
        self.run_to_call(held.thread)?;
        self.step(Step::CallEntered);
        self.run_to_call(held.thread)?;
        let answer = os::registers(held.thread)
            .map_err(system("read a call's answer"))?
            .rax;
        self.step(Step::CallLeft);
        Ok(answer)
    }

    fn run_to_call(&mut self, thread: u32) -> Result<(), GraftError> {
        os::resume_to_call(thread).map_err(system("let a thread run"))?;
        let since = Instant::now();
        loop {
            match os::wait(thread).map_err(system("wait for a call"))? {
                Some(Stop::Call) => return Ok(()),
                Some(Stop::Ended) => {
                    return Err(Refusal::Gone {
                        pid: self.victim.pid,
                    }
                    .into());
                }
                // Somebody stopped the whole process: it goes on with its chain later.
                Some(Stop::Group) => {
                    self.detach(thread)?;
                    return Err(GraftError::Busy);
                }
                Some(Stop::Interrupted) => {
                    os::resume_to_call(thread).map_err(system("let a thread run"))?;
                }
                Some(Stop::Signal(signal)) => {
                    os::resume_with(thread, signal).map_err(system("give a signal back"))?;
                    return Err(GraftError::Busy);
                }
                None if since.elapsed() > RUN_LIMIT => return Err(GraftError::Busy),
                None => pause(since),
            }
        }
    }

    /// Lets the borrowed thread make many calls, while `others` stand still, and releases
    /// them all. `prepare` runs when everybody stands still for certain.
    pub(crate) fn run(
        &mut self,
        borrowed: &Held,
        others: &[Held],
        mut calls: Vec<Call>,
        prepare: impl FnOnce() -> Result<(), GraftError>,
    ) -> Result<(), GraftError> {
        let mark = mark()?;
        let place = self
            .place(borrowed, injected::WORD, calls.len() + 1, SPARE_STACK)
            .ok_or(Refusal::NoRoom)?;
        calls.push(injected::release(place.data));
        let released = u64::from(injected::RELEASED).to_le_bytes();
        let chain = self.chain(borrowed, &place, &calls, &released)?;
        let longest = injected::LONGEST_WAIT;
        let (others, workers): (Vec<&Held>, Vec<&Held>) =
            others.iter().partition(|held| held.runs_program());
        let mut waits = Vec::with_capacity(others.len());
        for other in &others {
            // Room for one call is what a signal needs; a stack made since the mappings were
            // read shows by being written to.
            let wait_place =
                Place::below(&other.continuation, longest.len(), 1).ok_or(Refusal::NoRoom)?;
            if let Some(start) = self.victim.stack_start(other.continuation.stopped.rsp)
                && wait_place.lowest() < start
            {
                return Err(Refusal::NoRoom.into());
            }
            let wait = [injected::wait(place.data, mark, wait_place.data)];
            waits.push(self.chain(other, &wait_place, &wait, &longest)?);
        }
        let (Some(first), Some(last)) = (chain.entry(0), chain.last_entry()) else {
            return Err(Refusal::NoRoom.into());
        };
        let result = self
            .bar(borrowed, &others, (&chain, last), &waits, (&place, mark))
            .and_then(|()| {
                prepare()?;
                self.step(Step::Copied);
                // From here on there is no way back, and none is needed.
                os::set_registers(borrowed.thread, first).map_err(system("set registers"))
            });
        if let Err(error) = result {
            // Without all of its others given back the borrowed thread must still wake them.
            for (held, chain) in others.iter().zip(&waits).chain([(&borrowed, &chain)]) {
                self.give_back(held, chain)?;
                self.detach(held.thread)?;
            }
            for worker in workers {
                self.detach(worker.thread)?;
            }
            return Err(error);
        }
        self.step(Step::Committed);
        os::detach(borrowed.thread, 0).map_err(system("let a thread go"))?;
        self.step(Step::LetGo);
        let done = self.await_release(&place, mark);
        for (other, wait) in others.iter().zip(&waits) {
            // If the borrowed thread is late, the others wait for it by themselves.
            if done.is_ok() {
                self.give_back(other, wait)?;
            }
            self.detach(other.thread)?;
        }
        for worker in workers {
            self.detach(worker.thread)?;
        }
        done
    }

    /// Sets everybody up so that only the last step is missing.
    fn bar(
        &mut self,
        borrowed: &Held,
        others: &[&Held],
        (chain, last): (&Chain, &Registers),
        waits: &[Chain],
        (place, mark): (&Place, u32),
    ) -> Result<(), GraftError> {
        self.write(chain)?;
        self.redirect(borrowed, chain, last)?;
        for wait in waits {
            self.write(wait)?;
        }
        os::write_memory(self.victim.pid, place.data, &mark.to_le_bytes())
            .map_err(system("write to a thread's stack"))?;
        self.step(Step::Barred);
        for (other, wait) in others.iter().zip(waits) {
            let entry = wait.entry(0).ok_or(Refusal::NoRoom)?;
            self.redirect(other, wait, entry)?;
        }
        Ok(())
    }

    /// Waits until the borrowed thread has made its calls. Its stack is its own again by
    /// then, so any other value than ours says so.
    fn await_release(&mut self, place: &Place, mark: u32) -> Result<(), GraftError> {
        let since = Instant::now();
        loop {
            let mut word = [0_u8; 4];
            match os::read_memory(self.victim.pid, place.data, &mut word) {
                Ok(()) if u32::from_le_bytes(word) == mark => {}
                Err(Errno::SRCH) => {
                    return Err(Refusal::Gone {
                        pid: self.victim.pid,
                    }
                    .into());
                }
                _ => {
                    self.step(Step::Done);
                    return Ok(());
                }
            }
            if since.elapsed() > RUN_LIMIT {
                return Err(GraftError::Busy);
            }
            pause(since);
        }
    }
}

/// A number that is on no stack by chance.
fn mark() -> Result<u32, GraftError> {
    let mut bytes = [0_u8; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(system("get a random number"))?;
    // Never the value that stands for "released".
    Ok(u32::from_le_bytes(bytes) | 1 << 31)
}

/// Lets others run for a moment: a short one at first, since most answers come at once.
fn pause(since: Instant) {
    if since.elapsed() < Duration::from_millis(1) {
        std::thread::yield_now();
    } else {
        std::thread::sleep(Duration::from_micros(50));
    }
}
