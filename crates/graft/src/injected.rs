//! The system calls that a borrowed thread makes for us, and the two on which the others
//! wait and are released; and what their answers mean. Numbers and constants are those of x86-64 Linux.

use rustix::io::Errno;

use crate::chain::Call;
use crate::os::TRACKING_FLAGS;
use crate::pieces::Piece;
use crate::refusal::GraftError;

/// How many bytes the word takes on which others wait.
pub(crate) const WORD: usize = 8;

/// What the word says once the others may run.
pub(crate) const RELEASED: u32 = 1;

const MMAP: u64 = 9;
const RT_SIGRETURN: u64 = 15;
const PREAD: u64 = 17;
const MADVISE: u64 = 28;
const CLOSE: u64 = 3;
const FUTEX: u64 = 202;
const MEMFD_CREATE: u64 = 319;
const USERFAULTFD: u64 = 323;

const MAP_SHARED: u64 = 0x01;
const MAP_PRIVATE: u64 = 0x02;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_NORESERVE: u64 = 0x4000;

/// The call's name, for messages.
pub(crate) fn name(number: u64) -> &'static str {
    match number {
        CLOSE => "close",
        MMAP => "mmap",
        RT_SIGRETURN => "rt_sigreturn",
        PREAD => "pread64",
        MADVISE => "madvise",
        FUTEX => "futex",
        MEMFD_CREATE => "memfd_create",
        USERFAULTFD => "userfaultfd",
        _ => "a call",
    }
}

fn call(number: u64, arguments: [u64; 6]) -> Call {
    Call { number, arguments }
}

/// Makes a memory file that can be sealed; its name lies at an address.
pub(crate) fn memfd_create(name: u64, flags: u32) -> Call {
    call(MEMFD_CREATE, [name, u64::from(flags), 0, 0, 0, 0])
}

/// Makes a descriptor by which the process's memory can be watched.
pub(crate) fn userfaultfd() -> Call {
    call(USERFAULTFD, [TRACKING_FLAGS, 0, 0, 0, 0, 0])
}

/// Puts a file's bytes in the place of a piece.
pub(crate) fn map_file(piece: &Piece, protection: u64, descriptor: u32) -> Call {
    call(
        MMAP,
        [
            piece.at.0,
            piece.length,
            protection,
            MAP_SHARED | MAP_FIXED,
            u64::from(descriptor),
            piece.offset,
        ],
    )
}

/// Puts private memory in the place of a piece. It is not counted beforehand, since a
/// kernel that finds the count too high may have taken the old mapping away by then.
pub(crate) fn map_private(piece: &Piece, protection: u64) -> Call {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    call(
        MMAP,
        [piece.at.0, piece.length, protection, flags, u64::MAX, 0],
    )
}

/// Fills a piece from the file.
pub(crate) fn read_back(piece: &Piece, descriptor: u32) -> Call {
    call(
        PREAD,
        [
            u64::from(descriptor),
            piece.at.0,
            piece.length,
            piece.offset,
            0,
            0,
        ],
    )
}

/// Gives a piece advice again that its memory had before.
pub(crate) fn advise(piece: &Piece, advice: u64) -> Call {
    call(MADVISE, [piece.at.0, piece.length, advice, 0, 0, 0])
}

/// Closes a descriptor.
pub(crate) fn close(descriptor: u32) -> Call {
    call(CLOSE, [u64::from(descriptor), 0, 0, 0, 0, 0])
}

/// The longest that others wait for the word, as the kernel reads it: far longer than a
/// chain takes, so that nobody stands still for ever whatever may have gone wrong.
pub(crate) const LONGEST_WAIT: [u8; 16] = [30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Waits while the word has a value, for at most the time at an address.
pub(crate) fn wait(word: u64, value: u32, longest: u64) -> Call {
    const WAIT_PRIVATE: u64 = 128;
    call(FUTEX, [word, WAIT_PRIVATE, u64::from(value), longest, 0, 0])
}

/// Sets the word to [`RELEASED`], and wakes all who wait on it.
pub(crate) fn release(word: u64) -> Call {
    const WAKE_OP_PRIVATE: u64 = 5 | 128;
    const EVERYBODY: u64 = 0x7fff_ffff;
    // The operation "set", with its operand; the comparison wakes nobody else.
    let operation = u64::from(RELEASED) << 12;
    call(
        FUTEX,
        [word, WAKE_OP_PRIVATE, EVERYBODY, 0, word, operation],
    )
}

/// What a system call answered, or its error.
pub(crate) fn answered(what: &'static str, answer: u64) -> Result<u64, GraftError> {
    const LARGEST_ERROR: i64 = 4095;
    let signed = answer.cast_signed();
    if (-LARGEST_ERROR..0).contains(&signed) {
        let code = i32::try_from(-signed).unwrap_or(0);
        return Err(GraftError::Call {
            what,
            error: Errno::from_raw_os_error(code),
        });
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_calls_are_told_from_answers() {
        assert_eq!(answered("x", 7), Ok(7));
        assert_eq!(
            answered("x", (-24_i64).cast_unsigned()),
            Err(GraftError::Call {
                what: "x",
                error: Errno::MFILE
            })
        );
        assert_eq!(answered("x", 0x7fff_0000_0000), Ok(0x7fff_0000_0000));
    }
}
