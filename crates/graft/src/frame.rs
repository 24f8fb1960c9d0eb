//! The frames from which `rt_sigreturn` loads a thread's registers: laid out as the
//! kernel writes them for a signal's handler on x86-64. Only bytes are made here.
//!
//! Three things differ from the kernel's own frames on purpose. The alternate signal
//! stack, which a tracer cannot read, is given with a mode that does not exist: the
//! kernel then leaves the thread's own as it is. And the extended state is cut behind the
//! last part in use, since a thread that has no right to larger parts (AMX) would
//! otherwise have its vector registers cleared. The flags and the link, of which the
//! kernel looks at two bits that make no difference here, may hold a way out of the
//! frame for a thread that never makes the call (`chain`).

use crate::os::Registers;

/// How far apart frames lie: a return address and a `ucontext`, rounded up.
pub(crate) const FRAME: u64 = 320;

/// What XRSTOR asks for.
pub(crate) const STATE_ALIGNMENT: u64 = 64;

const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;

/// No mode of an alternate stack: neither on, nor off, nor in use.
const NO_STACK_MODE: u64 = 0x77;

const LEGACY: usize = 512;
const HEADER_END: usize = 576;
const SOFTWARE: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;

/// Where a thread goes that takes a frame's flags for a return address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WayOut {
    /// Code that takes its stack pointer from the word that follows.
    pub(crate) pivot: u64,
    /// The frame that lies there.
    pub(crate) frame: u64,
}

/// A frame that loads `registers` and a mask of blocked signals, and the extended state
/// at an address, or the initial one where that is zero. `restorer` makes the call.
pub(crate) fn frame(
    restorer: u64,
    registers: &Registers,
    mask: u64,
    state: u64,
    way_out: Option<WayOut>,
) -> Vec<u8> {
    let plain = UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS | if state == 0 { 0 } else { UC_FP_XSTATE };
    let (flags, link) = way_out.map_or((plain, 0), |way| (way.pivot, way.frame));
    let r = registers;
    let selectors = (r.cs & 0xffff) | (r.ss & 0xffff) << 48;
    let words = [
        restorer,
        // ucontext: flags, link, stack
        flags,
        link,
        0,
        NO_STACK_MODE,
        0,
        // sigcontext
        r.r8,
        r.r9,
        r.r10,
        r.r11,
        r.r12,
        r.r13,
        r.r14,
        r.r15,
        r.rdi,
        r.rsi,
        r.rbp,
        r.rbx,
        r.rdx,
        r.rax,
        r.rcx,
        r.rsp,
        r.rip,
        r.eflags,
        selectors,
        // error, trap, old mask, fault address
        0,
        0,
        0,
        0,
        state,
        // reserved
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        mask,
    ];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The extended state as `rt_sigreturn` takes it, made of what a tracer reads.
/// `end_of(part)` tells where a part of the state ends; nothing for unknown ones.
pub(crate) fn state(read: &[u8], end_of: impl Fn(u32) -> Option<usize>) -> Option<Vec<u8>> {
    let mut bytes = read.to_vec();
    if read.len() < HEADER_END {
        bytes.resize(LEGACY, 0);
        // Without the magic words the kernel takes the legacy part alone.
        bytes.get_mut(SOFTWARE..LEGACY)?.fill(0);
        return Some(bytes);
    }
    let word = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(read.get(at..at + 8)?.try_into().ok()?))
    };
    // The kernel tells here which parts exist on this machine.
    let in_use = word(LEGACY)?;
    let features = word(SOFTWARE)? | in_use;
    // The compacted form is none that a tracer gets.
    if word(LEGACY + 8)? != 0 {
        return None;
    }
    let mut size = HEADER_END;
    for part in (2..63).filter(|part| in_use >> part & 1 == 1) {
        size = size.max(end_of(part)?);
    }
    if size > read.len() {
        return None;
    }
    bytes.truncate(size);
    let size_word = u32::try_from(size).ok()?;
    let mut software = [0_u8; LEGACY - SOFTWARE];
    software[0..4].copy_from_slice(&MAGIC1.to_le_bytes());
    software[4..8].copy_from_slice(&(size_word + 4).to_le_bytes());
    software[8..16].copy_from_slice(&features.to_le_bytes());
    software[16..20].copy_from_slice(&size_word.to_le_bytes());
    bytes.get_mut(SOFTWARE..LEGACY)?.copy_from_slice(&software);
    bytes.extend_from_slice(&MAGIC2.to_le_bytes());
    Some(bytes)
}

/// Where a part of the extended state ends on this machine, in the form that XSAVE writes.
pub(crate) fn end_of_part(part: u32) -> Option<usize> {
    const STATE_LEAF: u32 = 0xd;
    let told = std::arch::x86_64::__cpuid_count(STATE_LEAF, part);
    let end = told.ebx.checked_add(told.eax)?;
    (told.eax != 0).then_some(usize::try_from(end).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_stand_where_the_kernel_looks_for_them() {
        let registers = Registers {
            rip: 0x1111,
            rsp: 0x2222,
            rax: 0x3333,
            r8: 0x4444,
            eflags: 0x246,
            cs: 0x33,
            ss: 0x2b,
            ..Registers::default()
        };
        let bytes = frame(0x9999, &registers, 0xabcd, 0x7000, None);
        assert!(bytes.len() as u64 <= FRAME);
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        // Offsets of the C structures: ucontext at 8, its sigcontext 40 further on.
        let context = 8 + 40;
        assert_eq!(word(0), 0x9999);
        assert_eq!(word(8), 7);
        assert_eq!(word(context), 0x4444);
        assert_eq!(word(context + 13 * 8), 0x3333);
        assert_eq!(word(context + 15 * 8), 0x2222);
        assert_eq!(word(context + 16 * 8), 0x1111);
        assert_eq!(word(context + 17 * 8), 0x246);
        assert_eq!(word(context + 18 * 8), 0x002b_0000_0000_0033);
        assert_eq!(word(context + 184), 0x7000);
        assert_eq!(word(8 + 296), 0xabcd);
    }

    #[test]
    fn a_way_out_stands_where_flags_and_link_are() {
        let way_out = WayOut {
            pivot: 0xaaaa,
            frame: 0xbbbb,
        };
        let bytes = frame(0x9999, &Registers::default(), 0, 0x7000, Some(way_out));
        assert_eq!(bytes[8..16], 0xaaaa_u64.to_le_bytes());
        assert_eq!(bytes[16..24], 0xbbbb_u64.to_le_bytes());
    }

    fn saved(features: u64, in_use: u64, length: usize) -> Vec<u8> {
        let mut read = vec![0x5a; length];
        read[SOFTWARE..SOFTWARE + 8].copy_from_slice(&features.to_le_bytes());
        read[LEGACY..LEGACY + 8].copy_from_slice(&in_use.to_le_bytes());
        read[LEGACY + 8..HEADER_END].fill(0);
        read
    }

    #[test]
    fn the_state_is_cut_behind_the_last_part_in_use() {
        let ends = |part| match part {
            2 => Some(832),
            9 => Some(2696),
            18 => Some(11008),
            _ => None,
        };
        let cut = state(&saved(0x6_02e7, 0b111, 11008), ends).expect("a state");
        assert_eq!(cut.len(), 832 + 4);
        assert_eq!(cut[464..468], MAGIC1.to_le_bytes());
        assert_eq!(cut[468..472], 836_u32.to_le_bytes());
        assert_eq!(cut[472..480], 0x6_02e7_u64.to_le_bytes());
        assert_eq!(cut[480..484], 832_u32.to_le_bytes());
        assert_eq!(cut[832..], MAGIC2.to_le_bytes());
        let whole = state(&saved(0x6_02e7, 1 << 18, 11008), ends).expect("a state");
        assert_eq!(whole.len(), 11008 + 4);
        assert_eq!(
            state(&saved(3, 3, 2696), ends).map(|bytes| bytes.len()),
            Some(HEADER_END + 4)
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let ends = |part| (part == 2).then_some(832);
        assert_eq!(state(&saved(7, 1 << 5, 2696), ends), None);
        assert_eq!(state(&saved(7, 4, 600), ends), None);
        let mut compacted = saved(7, 7, 2696);
        compacted[LEGACY + 15] = 0x80;
        assert_eq!(state(&compacted, ends), None);
    }

    #[test]
    fn a_processor_without_xsave_keeps_its_legacy_part() {
        let bytes = state(&[1; LEGACY], |_| None).expect("a state");
        assert_eq!(bytes.len(), LEGACY);
        assert_eq!(bytes[SOFTWARE..], [0; LEGACY - SOFTWARE]);
    }

    #[test]
    fn the_processor_tells_the_parts_of_its_state() {
        // AVX's part lies behind the legacy part and the header on every processor that has it.
        if std::is_x86_feature_detected!("avx") {
            assert_eq!(end_of_part(2), Some(576 + 256));
        }
    }
}
