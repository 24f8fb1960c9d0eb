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

mod leading;
mod stopping;

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vmshm_ram::MemoryMapping;

use crate::chain::{Continuation, Place};
use crate::examine::no_right;
use crate::filter::Instruction;
use crate::gadget::{self, Gadgets};
use crate::os;
use crate::process;
use crate::refusal::{GraftError, Refusal};
use crate::restart::Resumption;
use crate::step::{Step, Watch};

/// Room that is left free below a chain of several calls.
const SPARE_STACK: u64 = 4096;

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

    /// The threads that may be borrowed, those first that will be missed least. Reading that takes
    /// some time, in which nobody has to stand still.
    pub(crate) fn threads_to_borrow(&self) -> Result<Vec<u32>, GraftError> {
        let pid = self.pid;
        Ok(process::threads_to_borrow(pid).map_err(|_| Refusal::Gone { pid })?)
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
}

/// Lets others run for a moment: a short one at first, since most answers come at once.
fn pause(since: Instant) {
    if since.elapsed() < Duration::from_millis(1) {
        std::thread::yield_now();
    } else {
        std::thread::sleep(Duration::from_micros(50));
    }
}
