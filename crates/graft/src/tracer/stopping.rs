//! Stopping threads, and reading all that a stopped one needs to go on.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Held, SPARE_STACK, Tracer, pause, system};
use crate::chain::{Continuation, is_on_chain};
use crate::examine::no_right;
use crate::filter::Instruction;
use crate::os::{self, Registers, Stop};
use crate::refusal::{GraftError, Refusal};
use crate::restart::{Resumption, interrupted, resumed};
use crate::step::Step;
use crate::{frame, process};

/// How long a thread may take to stop.
const STOP_LIMIT: Duration = Duration::from_millis(20);

/// How often a process may show new threads while they are stopped.
const ROUNDS: usize = 64;

/// The 64-bit code segment.
const CODE_SEGMENT: u64 = 0x33;

impl Tracer<'_> {
    /// Starts tracing a thread and asks it to stop; says whether it still exists.
    pub(super) fn seize(&mut self, thread: u32) -> Result<bool, GraftError> {
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
    pub(super) fn await_stop(&mut self, thread: u32, since: Instant) -> Result<bool, GraftError> {
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
    pub(super) fn hold(&mut self, thread: u32) -> Result<Held, GraftError> {
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

    /// Stops the first of some threads that can be borrowed for a number of calls.
    pub(crate) fn stop_one(
        &mut self,
        threads: &[u32],
        data: usize,
        calls: usize,
    ) -> Result<Held, GraftError> {
        for worst in [Resumption::Exact, Resumption::Approximate] {
            for thread in threads {
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
}
