//! The pieces of a program's own code that injected calls run on: `syscall; ret`;
//! `mov $15, %rax; syscall`, which every C library has as the way back from a signal's
//! handler; and `pop %rsp; ret`, the second half of a usual `pop %r12; ret`. Only code that stays as it is counts: mapped from a file or by
//! the kernel, executable, and not writable. A program without them is refused.

use vmshm_ram::MemoryMapping;

/// Addresses in the victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gadgets {
    /// `syscall; ret`.
    pub(crate) call: u64,
    /// `mov $15, %rax; syscall`: the call `rt_sigreturn`.
    pub(crate) restore: u64,
    /// `pop %rsp; ret`.
    pub(crate) pivot: u64,
}

const CALL: [u8; 3] = [0x0f, 0x05, 0xc3];
const RESTORE: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
/// Other libraries load the number in a shorter way.
const SHORT_RESTORE: [u8; 7] = [0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05];
const PIVOT: [u8; 2] = [0x5c, 0xc3];

/// How many bytes are read at once.
const STEP: u64 = 1 << 20;

/// How many bytes of code are searched at most.
const MOST: u64 = 512 << 20;

/// The length of the `syscall` instruction.
pub(crate) const SYSCALL_LENGTH: u64 = 2;

/// Searches a process's code; `read` copies bytes of it and says whether it could.
pub(crate) fn find(
    mappings: &[MemoryMapping],
    mut read: impl FnMut(u64, &mut [u8]) -> bool,
) -> Option<Gadgets> {
    let fixed = |mapping: &&MemoryMapping| {
        mapping.executable
            && mapping.readable
            && !mapping.writable
            && !mapping.shared
            && (mapping.file.is_some() || mapping.name == "[vdso]")
    };
    let mut candidates: Vec<&MemoryMapping> = mappings.iter().filter(fixed).collect();
    // The C library has both; other code is larger, and seldom does.
    candidates.sort_by_key(|mapping| {
        let file = mapping.name.rsplit('/').next().unwrap_or_default();
        !(file.starts_with("libc.") || file.starts_with("libc-") || file.starts_with("ld-musl"))
    });
    let mut call = None;
    let mut restore = None;
    let mut pivot = None;
    let mut searched = 0;
    for mapping in candidates {
        let mut at = mapping.start.0;
        while at < mapping.end().0 && searched < MOST {
            let length = STEP.min(mapping.end().0 - at);
            let mut bytes = vec![0; usize::try_from(length).ok()?];
            if !read(at, &mut bytes) {
                break;
            }
            let place = |needle: &[u8]| {
                let offset = bytes
                    .windows(needle.len())
                    .position(|window| window == needle)?;
                at.checked_add(u64::try_from(offset).ok()?)
            };
            call = call.or_else(|| place(&CALL));
            restore = restore
                .or_else(|| place(&RESTORE))
                .or_else(|| place(&SHORT_RESTORE));
            pivot = pivot.or_else(|| place(&PIVOT));
            if let (Some(call), Some(restore), Some(pivot)) = (call, restore, pivot) {
                return Some(Gadgets {
                    call,
                    restore,
                    pivot,
                });
            }
            searched += length;
            // What lies across the border of two steps is found in the second.
            at = if length == STEP {
                at + STEP - 16
            } else {
                at + length
            };
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmshm_ram::{FileIdentity, VmmVirtual};

    fn code(start: u64, length: u64, name: &str) -> MemoryMapping {
        MemoryMapping {
            start: VmmVirtual(start),
            length,
            readable: true,
            writable: false,
            executable: true,
            shared: false,
            file: Some(FileIdentity {
                device: (0, 1),
                inode: 2,
                offset: 0,
            }),
            name: name.to_owned(),
        }
    }

    /// A memory of zeros with some bytes in it.
    fn memory(pieces: &[(u64, &[u8])]) -> impl FnMut(u64, &mut [u8]) -> bool {
        let pieces: Vec<(u64, Vec<u8>)> = pieces.iter().map(|(at, b)| (*at, b.to_vec())).collect();
        move |start, into| {
            into.fill(0);
            for (at, bytes) in &pieces {
                for (index, byte) in bytes.iter().enumerate() {
                    let place = at + index as u64;
                    if place >= start && place < start + into.len() as u64 {
                        into[usize::try_from(place - start).expect("small")] = *byte;
                    }
                }
            }
            true
        }
    }

    #[test]
    fn pieces_across_a_border_are_found() {
        let mappings = [code(0x10000, 3 * STEP, "/bin/vmm")];
        let call_at = 0x10000 + STEP - 1;
        let restore_at = 0x10000 + 2 * STEP - 30;
        let pivot_at = 0x10000 + 2 * STEP + 77;
        let found = find(
            &mappings,
            memory(&[(call_at, &CALL), (restore_at, &RESTORE), (pivot_at, &PIVOT)]),
        );
        assert_eq!(
            found,
            Some(Gadgets {
                call: call_at,
                restore: restore_at,
                pivot: pivot_at
            })
        );
    }

    #[test]
    fn code_that_may_change_does_not_count() {
        let pieces: [(u64, &[u8]); 3] = [(0x10100, &CALL), (0x10200, &RESTORE), (0x10300, &PIVOT)];
        let with = |change: fn(&mut MemoryMapping)| {
            let mut mapping = code(0x10000, 0x1000, "/bin/vmm");
            change(&mut mapping);
            find(&[mapping], memory(&pieces)).is_some()
        };
        assert!(with(|_| ()));
        assert!(!with(|mapping| mapping.writable = true));
        assert!(!with(|mapping| mapping.executable = false));
        assert!(!with(|mapping| mapping.shared = true));
        assert!(!with(|mapping| mapping.file = None));
    }

    #[test]
    fn the_c_library_is_looked_at_first() {
        let mappings = [
            code(0x10000, 0x1000, "/bin/vmm"),
            code(0x20000, 0x1000, "/lib/x86_64-linux-gnu/libc.so.6"),
        ];
        let pieces: [(u64, &[u8]); 5] = [
            (0x10100, &CALL),
            (0x10200, &RESTORE),
            (0x20100, &CALL),
            (0x20200, &SHORT_RESTORE),
            (0x20300, &PIVOT),
        ];
        let found = find(&mappings, memory(&pieces)).expect("found");
        assert_eq!((found.call, found.restore), (0x20100, 0x20200));
    }

    #[test]
    fn a_program_without_them_is_told_apart() {
        let mappings = [code(0x10000, 0x1000, "/bin/vmm")];
        assert_eq!(find(&mappings, memory(&[(0x10100, &CALL)])), None);
        assert_eq!(find(&mappings, |_, _| false), None);
        assert_eq!(find(&[], |_, _| true), None);
    }
}
