//! A process's filters of system calls, evaluated for a call that is not made yet: a
//! small interpreter of classic BPF programs. A filter comes from another process, so a
//! program that the kernel would not have taken is refused and never followed.

/// One instruction (`sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Instruction {
    /// Class, size, mode or operation, and source.
    pub(crate) code: u16,
    /// How many instructions to leave out if a comparison holds.
    pub(crate) if_true: u8,
    /// And if it does not.
    pub(crate) if_false: u8,
    /// The operand.
    pub(crate) operand: u32,
}

/// A system call as a filter sees it (`seccomp_data`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FilteredCall {
    pub(crate) number: u64,
    /// The address after the instruction that makes the call.
    pub(crate) from: u64,
    pub(crate) arguments: [u64; 6],
}

/// What a filter's answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The call is made.
    Allowed,
    /// The call is not made, or the process is killed: the filter's answer.
    Refused(u32),
    /// The program is none that the kernel takes.
    Malformed,
}

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const ACTION: u32 = 0xffff_0000;
const DATA_LENGTH: u32 = 64;
/// What the kernel takes at most (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;

/// What all filters of a thread together say: each must allow.
pub(crate) fn judge(filters: &[Vec<Instruction>], call: &FilteredCall) -> Verdict {
    for filter in filters {
        match run(filter, call) {
            None => return Verdict::Malformed,
            Some(answer) if matches!(answer & ACTION, RET_ALLOW | RET_LOG) => {}
            Some(answer) => return Verdict::Refused(answer),
        }
    }
    Verdict::Allowed
}

/// A word of the call as the kernel lays it out; the machine's order of bytes is
/// little-endian.
fn word(call: &FilteredCall, offset: u32) -> Option<u32> {
    if !offset.is_multiple_of(4) || offset >= DATA_LENGTH {
        return None;
    }
    let half = |value: u64, high: bool| {
        let value = if high { value >> 32 } else { value };
        u32::try_from(value & 0xffff_ffff).ok()
    };
    match offset {
        0 => half(call.number, false),
        4 => Some(AUDIT_ARCH_X86_64),
        8 | 12 => half(call.from, offset == 12),
        _ => {
            let index = usize::try_from((offset - 16) / 8).ok()?;
            half(*call.arguments.get(index)?, offset % 8 == 4)
        }
    }
}

/// Runs one filter; nothing where it is malformed.
fn run(program: &[Instruction], call: &FilteredCall) -> Option<u32> {
    if program.len() > LONGEST {
        return None;
    }
    let mut accumulator = 0_u32;
    let mut index = 0_u32;
    let mut scratch = [0_u32; 16];
    let mut at = 0_usize;
    // Jumps only lead forward, so this ends with the program.
    loop {
        let instruction = *program.get(at)?;
        at += 1;
        let operand = instruction.operand;
        let slot = || usize::try_from(operand).ok();
        match instruction.code {
            // ld [k]; ld #k; ld #len; ld M[k]
            0x20 => accumulator = word(call, operand)?,
            0x00 => accumulator = operand,
            0x80 => accumulator = DATA_LENGTH,
            0x60 => accumulator = *scratch.get(slot()?)?,
            // ldx #k; ldx #len; ldx M[k]
            0x01 => index = operand,
            0x81 => index = DATA_LENGTH,
            0x61 => index = *scratch.get(slot()?)?,
            // st; stx; tax; txa
            0x02 => *scratch.get_mut(slot()?)? = accumulator,
            0x03 => *scratch.get_mut(slot()?)? = index,
            0x07 => index = accumulator,
            0x87 => accumulator = index,
            // ret #k; ret a
            0x06 => return Some(operand),
            0x16 => return Some(accumulator),
            // ja
            0x05 => at = at.checked_add(slot()?)?,
            code if code & 0x07 == 0x05 => {
                let other = if code & 0x08 == 0 { operand } else { index };
                let holds = match code & !0x08 {
                    0x15 => accumulator == other,
                    0x25 => accumulator > other,
                    0x35 => accumulator >= other,
                    0x45 => accumulator & other != 0,
                    _ => return None,
                };
                let skipped = if holds {
                    instruction.if_true
                } else {
                    instruction.if_false
                };
                at += usize::from(skipped);
            }
            code if code & 0x07 == 0x04 => {
                let other = if code & 0x08 == 0 { operand } else { index };
                accumulator = match code & !0x08 {
                    0x04 => accumulator.wrapping_add(other),
                    0x14 => accumulator.wrapping_sub(other),
                    0x24 => accumulator.wrapping_mul(other),
                    // The kernel ends a filter that divides by zero with 0: kill.
                    0x34 => match accumulator.checked_div(other) {
                        Some(quotient) => quotient,
                        None => return Some(0),
                    },
                    0x44 => accumulator | other,
                    0x54 => accumulator & other,
                    0x64 => accumulator.wrapping_shl(other),
                    0x74 => accumulator.wrapping_shr(other),
                    0x84 => accumulator.wrapping_neg(),
                    0xa4 => accumulator ^ other,
                    _ => return None,
                };
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn instruction(code: u16, operand: u32, if_true: u8, if_false: u8) -> Instruction {
        Instruction {
            code,
            if_true,
            if_false,
            operand,
        }
    }

    fn call(number: u64, arguments: [u64; 6]) -> FilteredCall {
        FilteredCall {
            number,
            from: 0x7fff_1234_5678,
            arguments,
        }
    }

    /// As libseccomp writes it: the architecture, then a list of numbers, then an answer.
    fn list(numbers: &[u32], listed: u32, others: u32) -> Vec<Instruction> {
        let mut program = vec![
            instruction(0x20, 4, 0, 0),
            instruction(0x15, AUDIT_ARCH_X86_64, 1, 0),
            instruction(0x06, 0, 0, 0),
            instruction(0x20, 0, 0, 0),
        ];
        for number in numbers {
            program.push(instruction(0x15, *number, 0, 1));
            program.push(instruction(0x06, listed, 0, 0));
        }
        program.push(instruction(0x06, others, 0, 0));
        program
    }

    #[test]
    fn lists_of_what_is_forbidden_and_of_what_is_allowed_are_told_apart() {
        const MEMFD_CREATE: u64 = 319;
        let forbids = list(&[57, 58, 59, 101], 0x8000_0000, RET_ALLOW);
        let allows = list(&[0, 1, 202, 15], RET_ALLOW, 0x8000_0000);
        let wanted = call(MEMFD_CREATE, [0; 6]);
        assert_eq!(judge(&[], &wanted), Verdict::Allowed);
        assert_eq!(
            judge(std::slice::from_ref(&forbids), &wanted),
            Verdict::Allowed
        );
        assert_eq!(
            judge(&[forbids.clone(), allows], &wanted),
            Verdict::Refused(0x8000_0000)
        );
        assert_eq!(
            judge(&[forbids], &call(59, [0; 6])),
            Verdict::Refused(0x8000_0000)
        );
    }

    #[test]
    fn arguments_are_seen_in_halves() {
        // Allowed only if argument 2 has no bit of 4 (PROT_EXEC) and its high half is 1.
        let program = vec![
            instruction(0x20, 16 + 2 * 8, 0, 0),
            instruction(0x45, 4, 3, 0),
            instruction(0x20, 16 + 2 * 8 + 4, 0, 0),
            instruction(0x15, 1, 0, 1),
            instruction(0x06, RET_ALLOW, 0, 0),
            instruction(0x06, 0x0005_0001, 0, 0),
        ];
        let with = |value| {
            judge(
                std::slice::from_ref(&program),
                &call(9, [0, 0, value, 0, 0, 0]),
            )
        };
        assert_eq!(with(0x1_0000_0003), Verdict::Allowed);
        assert_eq!(with(0x1_0000_0007), Verdict::Refused(0x0005_0001));
        assert_eq!(with(0x3), Verdict::Refused(0x0005_0001));
    }

    #[test]
    fn logging_allows_and_asking_a_tracer_does_not() {
        let always = |answer| vec![vec![instruction(0x06, answer, 0, 0)]];
        assert_eq!(judge(&always(RET_LOG), &call(1, [0; 6])), Verdict::Allowed);
        for answer in [0x7ff0_0000, 0x7fc0_0000, 0x0003_0000, 0] {
            assert_eq!(
                judge(&always(answer), &call(1, [0; 6])),
                Verdict::Refused(answer)
            );
        }
    }

    #[test]
    fn arithmetic_and_scratch_memory_work() {
        let program = vec![
            instruction(0x00, 7, 0, 0),
            instruction(0x02, 3, 0, 0),
            instruction(0x24, 6, 0, 0),
            instruction(0x61, 3, 0, 0),
            instruction(0x3c, 0, 0, 0),
            instruction(0x64, 4, 0, 0),
            instruction(0x16, 0, 0, 0),
        ];
        // 7 * 6 / 7 << 4
        assert_eq!(run(&program, &call(0, [0; 6])), Some(96));
    }

    #[test]
    fn a_program_without_an_end_is_malformed() {
        for program in [
            vec![],
            vec![instruction(0x00, 1, 0, 0)],
            vec![instruction(0x05, u32::MAX, 0, 0)],
            vec![instruction(0x20, 64, 0, 0), instruction(0x06, 0, 0, 0)],
            vec![instruction(0x60, 16, 0, 0), instruction(0x06, 0, 0, 0)],
            vec![instruction(0x28, 12, 0, 0), instruction(0x06, 0, 0, 0)],
        ] {
            assert_eq!(judge(&[program], &call(0, [0; 6])), Verdict::Malformed);
        }
    }

    proptest! {
        #[test]
        fn any_program_ends(words in proptest::collection::vec((any::<u16>(), any::<u8>(), any::<u8>(), any::<u32>()), 0..60)) {
            let program: Vec<Instruction> = words
                .into_iter()
                .map(|(code, if_true, if_false, operand)| instruction(code & 0xff, operand, if_true, if_false))
                .collect();
            let _ = judge(&[program], &call(9, [1, 2, 3, 4, 5, 6]));
        }
    }
}
