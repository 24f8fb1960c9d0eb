//! The end of a process whose mapped memory was taken away: a file that shrinks under a mapping
//! raises SIGBUS, and there is nothing to go back to. The handler says so over the channel
//! and leaves.

use std::os::fd::RawFd;
use std::ptr;
use std::sync::OnceLock;

/// What is said then.
pub const MESSAGE: &str = "the file with the guest's memory was cut short";
/// What may have happened.
pub const HINT: &str = "the VM has ended, or somebody changes its RAM file";
/// The exit code.
pub const EXIT_CODE: i32 = 75;

/// The channel's frame that is sent then; made before, since a handler can make nothing.
static LAST_WORDS: OnceLock<Vec<u8>> = OnceLock::new();
const CHANNEL: RawFd = 0;

extern "C" fn leave(_signal: libc::c_int) {
    if let Some(words) = LAST_WORDS.get() {
        // SAFETY: the bytes live as long as the process; `send` may be called in a handler.
        unsafe {
            libc::send(
                CHANNEL,
                words.as_ptr().cast(),
                words.len(),
                libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            )
        };
    }
    // SAFETY: `_exit` may be called in a handler.
    unsafe { libc::_exit(EXIT_CODE) }
}

/// Installs the handler; `frame` is what the channel on standard input shall carry then.
pub fn install(frame: Vec<u8>) {
    if LAST_WORDS.set(frame).is_err() {
        return;
    }
    // SAFETY: all zeros is a valid `sigaction`: default handling, empty mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = leave as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the action is a valid one, and its handler calls only what a handler may call.
    // Without it the signal itself ends the process, which is right as well.
    let _ = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
}
