//! Several system calls in a row that a borrowed thread makes by itself, and after
//! which it goes on with what it did before. Once the registers are set nobody needs
//! to be there any more: whoever injected may die at any instruction.
//!
//! Each call runs on `syscall; ret`. The stack pointer stands on a frame whose first word
//! is the address of `rt_sigreturn`'s gadget, so that `ret` leads there, and the kernel
//! loads from that frame the registers of the next call. The last frame holds all that
//! the thread had: general and vector registers and its mask of signals. Until then all
//! signals are blocked, so that no handler runs, and nothing is put below the stack pointer.
//!
//! The frames lie on the thread's own stack, below what it uses and below the red
//! zone. A chain of one call needs little more there than the kernel needs for a signal's
//! handler, so a thread that can take a signal has room for it.
//!
//! Registers and blocked signals cannot be set at once. In between, a thread whose call
//! was interrupted must not be seen by a signal's handler as being anywhere else: its
//! call would not give `EINTR` then, and a thread that waits for just that would sleep for
//! ever. So the registers are set first to a *bridge*, which the kernel itself carries
//! over: they say that the call `rt_sigreturn` was interrupted, by the kernel's own inner
//! answer. With no signal the kernel makes that call again, which restores the thread
//! through the last frame. With a handler the call gives `EINTR`; the thread then
//! runs `ret` into that same frame, one word further up, where a way out leads to another
//! frame, in which the thread's own call has given `EINTR`.

use crate::filter::FilteredCall;
use crate::frame::{self, FRAME, STATE_ALIGNMENT, WayOut};
use crate::gadget::{Gadgets, SYSCALL_LENGTH};
use crate::os::Registers;

/// What the ABI lets a function use below its stack pointer.
const RED_ZONE: u64 = 128;

/// Every signal that can be blocked.
pub(crate) const ALL_SIGNALS: u64 = u64::MAX;

/// Interrupts enabled, and the bit that is always set.
const PLAIN_FLAGS: u64 = 0x202;

const RT_SIGRETURN: u64 = 15;

/// A system call with its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) arguments: [u64; 6],
}

/// What a thread needs to go on as if nothing had happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Continuation {
    /// With what it stood still.
    pub(crate) stopped: Registers,
    /// With what it goes on.
    pub(crate) resumed: Registers,
    /// The extended state, in the form of a frame.
    pub(crate) state: Vec<u8>,
    /// With what it goes on if a handler ran first, and the kernel's inner answer that
    /// lets it choose; nothing where there is no choice.
    pub(crate) interrupted: Option<(Registers, u64)>,
    /// The signals that it blocks.
    pub(crate) mask: u64,
}

/// Where on a stack the parts of a chain lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    frames: u64,
    /// The frame of a thread whose call gave `EINTR`.
    way_out: u64,
    /// Bytes for the calls' own use.
    pub(crate) data: u64,
    state: u64,
    end: u64,
}

impl Place {
    /// The place for a number of calls and bytes of data; nothing where the stack
    /// pointer is none.
    pub(crate) fn below(continuation: &Continuation, data: usize, calls: usize) -> Option<Self> {
        let down = |value: u64, alignment: u64| value / alignment * alignment;
        let state_length = u64::try_from(continuation.state.len()).ok()?;
        let frames_length = u64::try_from(calls).ok()?.checked_mul(FRAME)?;
        let end = continuation.stopped.rsp.checked_sub(RED_ZONE)?;
        let state = down(end.checked_sub(state_length)?, STATE_ALIGNMENT);
        let data = down(state.checked_sub(u64::try_from(data).ok()?)?, 16);
        let way_out = down(data.checked_sub(FRAME)?, 16);
        let frames = way_out.checked_sub(frames_length)?;
        Some(Self {
            frames,
            way_out,
            data,
            state,
            end,
        })
    }

    /// The lowest address that is used.
    pub(crate) fn lowest(&self) -> u64 {
        self.frames
    }
}

/// A chain, ready to be written into the victim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Where its bytes belong.
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
    entries: Vec<Registers>,
    bridge: Option<Registers>,
}

impl Chain {
    /// Lays a chain out. `data` are the bytes at the place's data.
    pub(crate) fn new(
        place: &Place,
        continuation: &Continuation,
        gadgets: &Gadgets,
        calls: &[Call],
        data: &[u8],
    ) -> Option<Self> {
        let length = usize::try_from(place.end.checked_sub(place.frames)?).ok()?;
        let mut bytes = vec![0; length];
        let mut put = |at: u64, part: &[u8]| -> Option<()> {
            let start = usize::try_from(at.checked_sub(place.frames)?).ok()?;
            bytes
                .get_mut(start..start.checked_add(part.len())?)?
                .copy_from_slice(part);
            Some(())
        };
        let mut entries = Vec::with_capacity(calls.len());
        let mut at = place.frames;
        for call in calls {
            entries.push(entry(call, at, continuation, gadgets));
            at = at.checked_add(FRAME)?;
        }
        let mut at = place.frames;
        for index in 0..calls.len() {
            let frame = match entries.get(index + 1) {
                Some(next) => frame::frame(gadgets.restore, next, ALL_SIGNALS, 0, None),
                None => frame::frame(
                    gadgets.restore,
                    &continuation.resumed,
                    continuation.mask,
                    place.state,
                    continuation.interrupted.map(|_| WayOut {
                        pivot: gadgets.pivot,
                        frame: place.way_out,
                    }),
                ),
            };
            put(at, &frame)?;
            at = at.checked_add(FRAME)?;
        }
        let mut bridge = None;
        if let (Some((registers, answer)), Some(last)) = (&continuation.interrupted, entries.last())
        {
            let mask = continuation.mask;
            put(
                place.way_out,
                &frame::frame(gadgets.restore, registers, mask, place.state, None),
            )?;
            bridge = Some(Registers {
                orig_rax: RT_SIGRETURN,
                rax: *answer,
                rip: gadgets.call.checked_add(SYSCALL_LENGTH)?,
                // As the call finds it: behind the return address.
                rsp: last.rsp.checked_add(8)?,
                ..*last
            });
        }
        put(place.data, data)?;
        put(place.state, &continuation.state)?;
        Some(Self {
            at: place.frames,
            bytes,
            entries,
            bridge,
        })
    }

    /// The registers with which the thread makes call `index` and all that follow.
    pub(crate) fn entry(&self, index: usize) -> Option<&Registers> {
        self.entries.get(index)
    }

    /// The registers that the thread must have while its own signals are not blocked:
    /// those lead straight back, whether a handler runs or not.
    pub(crate) fn bridge(&self) -> Option<&Registers> {
        self.bridge.as_ref().or(self.entries.last())
    }

    /// The registers with which it makes the last call only.
    pub(crate) fn last_entry(&self) -> Option<&Registers> {
        self.entries.last()
    }
}

fn entry(call: &Call, stack: u64, continuation: &Continuation, gadgets: &Gadgets) -> Registers {
    let [rdi, rsi, rdx, r10, r8, r9] = call.arguments;
    let stopped = &continuation.stopped;
    Registers {
        rax: call.number,
        rdi,
        rsi,
        rdx,
        r10,
        r8,
        r9,
        rip: gadgets.call,
        rsp: stack,
        eflags: PLAIN_FLAGS,
        orig_rax: u64::MAX,
        cs: stopped.cs,
        ss: stopped.ss,
        fs_base: stopped.fs_base,
        gs_base: stopped.gs_base,
        ds: stopped.ds,
        es: stopped.es,
        fs: stopped.fs,
        gs: stopped.gs,
        ..Registers::default()
    }
}

/// The calls of a chain as a filter sees them, the way back among them.
pub(crate) fn filtered<'a>(
    calls: &'a [Call],
    gadgets: &'a Gadgets,
) -> impl Iterator<Item = FilteredCall> + 'a {
    let back = FilteredCall {
        number: RT_SIGRETURN,
        from: gadgets.restore.wrapping_add(9),
        arguments: [0; 6],
    };
    calls
        .iter()
        .map(|call| FilteredCall {
            number: call.number,
            from: gadgets.call.wrapping_add(SYSCALL_LENGTH),
            arguments: call.arguments,
        })
        .chain(std::iter::once(back))
}

/// Whether a thread that stands still is on a chain that somebody else began. `word` is
/// what its stack pointer points to.
pub(crate) fn is_on_chain(stopped: &Registers, word: u64, gadgets: &Gadgets) -> bool {
    let in_call = stopped.rip == gadgets.call || stopped.rip == gadgets.call + SYSCALL_LENGTH;
    // On a bridge the return address was taken already; what follows is nobody else's.
    let on_bridge = in_call && word == gadgets.pivot;
    let in_restore = (gadgets.restore..=gadgets.restore + 9).contains(&stopped.rip);
    (in_call && word == gadgets.restore) || on_bridge || in_restore
}

#[cfg(test)]
mod tests {
    use super::*;

    const GADGETS: Gadgets = Gadgets {
        call: 0x7000,
        restore: 0x8000,
        pivot: 0x9000,
    };

    fn continuation() -> Continuation {
        let stopped = Registers {
            rsp: 0x10_0123,
            rip: 0x4000,
            cs: 0x33,
            ss: 0x2b,
            fs_base: 0xf5,
            ..Registers::default()
        };
        Continuation {
            stopped,
            resumed: stopped,
            interrupted: None,
            state: vec![7; 836],
            mask: 0x55,
        }
    }

    fn call(number: u64) -> Call {
        Call {
            number,
            arguments: [number + 1, number + 2, 0, 0, 0, 0],
        }
    }

    #[test]
    fn nothing_reaches_into_the_red_zone_and_the_state_is_aligned() {
        let continuation = continuation();
        let place = Place::below(&continuation, 40, 3).expect("a place");
        assert_eq!(place.state % STATE_ALIGNMENT, 0);
        assert!(place.state + 836 <= continuation.stopped.rsp - RED_ZONE);
        assert!(place.data + 40 <= place.state);
        assert!(place.frames + 3 * FRAME <= place.way_out);
        assert!(place.way_out + FRAME <= place.data);
        let mut tiny = continuation.clone();
        tiny.stopped.rsp = 900;
        assert_eq!(Place::below(&tiny, 40, 3), None);
    }

    #[test]
    fn each_frame_leads_to_the_next_call_and_the_last_one_back() {
        let continuation = continuation();
        let calls = [call(100), call(200)];
        let place = Place::below(&continuation, 8, 2).expect("a place");
        let chain = Chain::new(&place, &continuation, &GADGETS, &calls, &[9; 8]).expect("a chain");
        let word = |address: u64| {
            let at = usize::try_from(address - chain.at).expect("inside");
            u64::from_le_bytes(chain.bytes[at..at + 8].try_into().expect("8 bytes"))
        };
        let first = chain.entry(0).expect("an entry");
        assert_eq!((first.rip, first.rax, first.rdi), (0x7000, 100, 101));
        assert_eq!(first.fs_base, 0xf5);
        assert_eq!(word(first.rsp), GADGETS.restore);
        // The frame under the first call loads what the second one needs.
        let context = first.rsp + 8 + 40;
        assert_eq!(word(context + 13 * 8), 200);
        assert_eq!(word(context + 16 * 8), GADGETS.call);
        let second = chain.entry(1).expect("an entry");
        assert_eq!(word(context + 15 * 8), second.rsp);
        assert_eq!(chain.last_entry(), Some(second));
        let context = second.rsp + 8 + 40;
        assert_eq!(word(context + 16 * 8), 0x4000);
        assert_eq!(word(context + 15 * 8), 0x10_0123);
        assert_eq!(word(context + 184), place.state);
        assert_eq!(word(second.rsp + 8 + 296), 0x55);
        assert_eq!(word(place.data), 0x0909_0909_0909_0909);
    }

    #[test]
    fn the_bridge_leads_to_the_last_frame_and_around_it() {
        let mut continuation = continuation();
        let gives_eintr = Registers {
            rax: 0x7777,
            ..continuation.stopped
        };
        continuation.interrupted = Some((gives_eintr, (-514_i64).cast_unsigned()));
        let place = Place::below(&continuation, 0, 2).expect("a place");
        let calls = [call(100), call(200)];
        let chain = Chain::new(&place, &continuation, &GADGETS, &calls, &[]).expect("a chain");
        let word = |address: u64| {
            let at = usize::try_from(address - chain.at).expect("inside");
            u64::from_le_bytes(chain.bytes[at..at + 8].try_into().expect("8 bytes"))
        };
        let bridge = chain.bridge().expect("a bridge");
        let last = chain.last_entry().expect("an entry");
        // The kernel makes call 15 again at the instruction before: it takes the frame that
        // starts a word below the stack pointer.
        assert_eq!((bridge.orig_rax, bridge.rip), (15, GADGETS.call + 2));
        assert_eq!(bridge.rsp - 8, last.rsp);
        // After a handler, `ret` finds the pivot, and the pivot the other frame.
        assert_eq!(word(bridge.rsp), GADGETS.pivot);
        let other = word(bridge.rsp + 8);
        assert_eq!(other, place.way_out);
        assert_eq!(word(other), GADGETS.restore);
        assert_eq!(word(other + 8 + 40 + 13 * 8), 0x7777);
        continuation.interrupted = None;
        let chain = Chain::new(&place, &continuation, &GADGETS, &calls, &[]).expect("a chain");
        assert_eq!(chain.bridge(), chain.last_entry());
    }

    #[test]
    fn a_thread_on_a_chain_is_told_from_one_that_runs_the_same_code() {
        let at = |rip| Registers {
            rip,
            ..Registers::default()
        };
        assert!(is_on_chain(&at(0x7002), 0x8000, &GADGETS));
        assert!(!is_on_chain(&at(0x7002), 0x1234, &GADGETS));
        assert!(is_on_chain(&at(0x8007), 0, &GADGETS));
        assert!(!is_on_chain(&at(0x4000), 0x8000, &GADGETS));
    }
}
