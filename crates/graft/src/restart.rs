//! What an interrupted thread goes on with, where the kernel can no longer arrange it:
//! a thread that was sent through `rt_sigreturn` has lost the kernel's note that its
//! system call is to be restarted. Here that is done as the kernel would have done it,
//! or as it does after a signal's handler (`EINTR`) where the call cannot be repeated.

use crate::os::Registers;

/// The kernel's inner answers of interrupted calls; programs never see them.
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;
const EINTR: i64 = -4;

const POLL: u64 = 7;
const NANOSLEEP: u64 = 35;
const FUTEX: u64 = 202;
const RESTART_SYSCALL: u64 = 219;
const CLOCK_NANOSLEEP: u64 = 230;

/// Both `syscall` and `int 0x80` are two bytes long.
const INSTRUCTION: u64 = 2;

/// How well a thread's interrupted call can be carried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resumption {
    /// As if nothing had happened.
    Exact,
    /// The call waits for its whole time anew, or gives `EINTR`.
    Approximate,
}

/// The registers with which a thread must go on that stood still with `stopped`.
/// `code_before` are the bytes before its instruction pointer, as many as could be read.
pub(crate) fn resumed(stopped: &Registers, code_before: &[u8]) -> (Registers, Resumption) {
    let mut registers = *stopped;
    // No call is under way any more when these are used.
    registers.orig_rax = u64::MAX;
    if stopped.orig_rax.cast_signed() < 0 {
        return (registers, Resumption::Exact);
    }
    let again = |number: u64| {
        let mut registers = registers;
        registers.rax = number;
        registers.rip = stopped.rip.wrapping_sub(INSTRUCTION);
        registers
    };
    let interrupted = || {
        let mut registers = registers;
        registers.rax = EINTR.cast_unsigned();
        registers
    };
    match stopped.rax.cast_signed() {
        ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => {
            (again(stopped.orig_rax), Resumption::Exact)
        }
        ERESTART_RESTARTBLOCK => {
            // A call that was restarted before shows only that; its number stands in the code.
            let number = if stopped.orig_rax == RESTART_SYSCALL {
                number_in(code_before)
            } else {
                Some(stopped.orig_rax)
            };
            match number {
                Some(FUTEX) if waits_for_a_moment(stopped) => (again(FUTEX), Resumption::Exact),
                Some(FUTEX) => (again(FUTEX), Resumption::Approximate),
                Some(POLL) => (again(POLL), Resumption::Approximate),
                // Who passed a place for the rest of the time finds it there, and knows EINTR.
                Some(NANOSLEEP) if stopped.rsi == 0 => (again(NANOSLEEP), Resumption::Approximate),
                Some(CLOCK_NANOSLEEP) if stopped.r10 == 0 => {
                    (again(CLOCK_NANOSLEEP), Resumption::Approximate)
                }
                _ => (interrupted(), Resumption::Approximate),
            }
        }
        _ => (registers, Resumption::Exact),
    }
}

/// What an interrupted call gives once a signal's handler has run, and the kernel's inner
/// answer by which it makes that choice; nothing where no choice is left to it.
pub(crate) fn interrupted(stopped: &Registers) -> Option<(Registers, u64)> {
    if stopped.orig_rax.cast_signed() < 0 {
        return None;
    }
    let answer = match stopped.rax.cast_signed() {
        answer @ (ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND) => answer,
        // Without a handler this one would start a wait that we cannot end.
        ERESTART_RESTARTBLOCK => ERESTARTNOHAND,
        _ => return None,
    };
    let registers = Registers {
        orig_rax: u64::MAX,
        rax: EINTR.cast_unsigned(),
        ..*stopped
    };
    Some((registers, answer.cast_unsigned()))
}

/// Whether a futex call waits for a point in time, and not for a length of it.
fn waits_for_a_moment(registers: &Registers) -> bool {
    const COMMAND: u64 = 0x7f;
    const WAIT_BITSET: u64 = 9;
    registers.rsi & COMMAND == WAIT_BITSET
}

/// The number of a call that can be restarted this way, if the code loads it right
/// before its call: `mov $number, %eax; syscall`.
fn number_in(code_before: &[u8]) -> Option<u64> {
    let [.., 0xb8, a, b, c, d, 0x0f, 0x05] = code_before else {
        return None;
    };
    let number = u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
    matches!(number, POLL | NANOSLEEP | FUTEX | CLOCK_NANOSLEEP).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_call(number: u64, answer: i64) -> Registers {
        Registers {
            orig_rax: number,
            rax: answer.cast_unsigned(),
            rip: 0x40_1002,
            rdi: 1,
            rsi: 2,
            rdx: 3,
            ..Registers::default()
        }
    }

    #[test]
    fn outside_a_call_nothing_changes() {
        let mut stopped = in_call(u64::MAX, -516);
        assert_eq!(resumed(&stopped, &[]).0, stopped);
        stopped.rax = 5;
        assert_eq!(resumed(&stopped, &[]), (stopped, Resumption::Exact));
    }

    #[test]
    fn calls_are_made_again_with_the_same_arguments() {
        for answer in [-512, -513, -514] {
            let stopped = in_call(271, answer);
            let (registers, how) = resumed(&stopped, &[]);
            assert_eq!(registers.rax, 271);
            assert_eq!(registers.rip, 0x40_1000);
            assert_eq!((registers.rdi, registers.rsi, registers.rdx), (1, 2, 3));
            assert_eq!(registers.orig_rax, u64::MAX);
            assert_eq!(how, Resumption::Exact);
        }
    }

    #[test]
    fn a_handler_makes_a_call_give_eintr_only_where_the_kernel_may_choose() {
        for (answer, chosen_by) in [(-512, -512), (-513, -513), (-514, -514), (-516, -514)] {
            let stopped = in_call(271, answer);
            let (registers, inner) = interrupted(&stopped).expect("a choice");
            assert_eq!(registers.rax.cast_signed(), EINTR);
            assert_eq!(registers.rip, stopped.rip);
            assert_eq!(inner.cast_signed(), chosen_by);
        }
        assert_eq!(interrupted(&in_call(271, -4)), None);
        assert_eq!(interrupted(&in_call(u64::MAX, -514)), None);
    }

    #[test]
    fn an_answer_is_kept() {
        for answer in [-4, -11, 0, 17] {
            let stopped = in_call(232, answer);
            let (registers, how) = resumed(&stopped, &[]);
            assert_eq!(registers.rax.cast_signed(), answer);
            assert_eq!(registers.rip, stopped.rip);
            assert_eq!(how, Resumption::Exact);
        }
    }

    #[test]
    fn a_sleep_with_room_for_the_rest_gives_eintr_and_one_without_sleeps_again() {
        let (registers, _) = resumed(&in_call(NANOSLEEP, -516), &[]);
        assert_eq!(registers.rax.cast_signed(), EINTR);
        let mut without = in_call(NANOSLEEP, -516);
        without.rsi = 0;
        let (registers, how) = resumed(&without, &[]);
        assert_eq!((registers.rax, registers.rip), (NANOSLEEP, 0x40_1000));
        assert_eq!(how, Resumption::Approximate);
    }

    #[test]
    fn a_futex_that_waits_for_a_moment_waits_for_the_same() {
        let mut stopped = in_call(FUTEX, -516);
        stopped.rsi = 9 | 128 | 256;
        let (registers, how) = resumed(&stopped, &[]);
        assert_eq!((registers.rax, how), (FUTEX, Resumption::Exact));
        stopped.rsi = 128;
        assert_eq!(resumed(&stopped, &[]).1, Resumption::Approximate);
    }

    #[test]
    fn a_call_that_was_restarted_before_is_found_in_the_code() {
        let mut stopped = in_call(RESTART_SYSCALL, -516);
        stopped.r10 = 0;
        let code = [0x90, 0xb8, 0xe6, 0, 0, 0, 0x0f, 0x05];
        assert_eq!(resumed(&stopped, &code).0.rax, CLOCK_NANOSLEEP);
        for unknown in [
            &code[..6],
            &[0x0f, 0x05],
            &[],
            &[0xb8, 0xe7, 0, 0, 0, 0x0f, 0x05],
        ] {
            assert_eq!(resumed(&stopped, unknown).0.rax.cast_signed(), EINTR);
        }
    }
}
