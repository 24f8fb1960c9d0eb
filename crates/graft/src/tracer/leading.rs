//! Leading a stopped thread through calls of ours, while the others run or stand barred.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Held, SPARE_STACK, Tracer, pause, system};
use crate::chain::{ALL_SIGNALS, Call, Chain, Place, filtered};
use crate::filter::{Verdict, judge};
use crate::os::{self, Registers, Stop};
use crate::refusal::{GraftError, Refusal};
use crate::step::Step;
use crate::{injected, process};

/// How long a thread that runs may take for one injected call, or for a chain of them.
/// Others use the processors, too, so this is no measure of the call.
const RUN_LIMIT: Duration = Duration::from_secs(10);

impl Tracer<'_> {
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
