//! One thread that is traced: to seize it, to stop it, to read and set what it will go
//! on with. Raw `ptrace` and `waitpid`, since the safe wrappers know neither real-time
//! signals nor the vector registers. Each call answers at once; whoever waits does so
//! elsewhere, and within a bound. The caller must be the one thread that traces.

use std::ffi::c_void;
use std::mem::size_of;
use std::ptr::null_mut;

use rustix::io::Errno;

use crate::filter::Instruction;

/// The general registers, in the kernel's order (`user_regs_struct`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub(crate) struct Registers {
    pub(crate) r15: u64,
    pub(crate) r14: u64,
    pub(crate) r13: u64,
    pub(crate) r12: u64,
    pub(crate) rbp: u64,
    pub(crate) rbx: u64,
    pub(crate) r11: u64,
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) rax: u64,
    pub(crate) rcx: u64,
    pub(crate) rdx: u64,
    pub(crate) rsi: u64,
    pub(crate) rdi: u64,
    /// The number of the system call that the thread is in; -1 in none.
    pub(crate) orig_rax: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) eflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
    pub(crate) fs_base: u64,
    pub(crate) gs_base: u64,
    pub(crate) ds: u64,
    pub(crate) es: u64,
    pub(crate) fs: u64,
    pub(crate) gs: u64,
}

/// Where a thread keeps its restartable sequence, if it has one (`ptrace_rseq_configuration`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rseq {
    /// The address of its `struct rseq`; zero for none.
    pub(crate) address: u64,
    size: u32,
    signature: u32,
    flags: u32,
    padding: u32,
}

/// Why a traced thread stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It was interrupted on request.
    Interrupted,
    /// It stands because its whole process was stopped by a signal.
    Group,
    /// It is about to take a signal, which must be given back to it.
    Signal(i32),
    /// It enters or leaves a system call.
    Call,
    /// It has ended, and is no more traced.
    Ended,
}

const NT_PRSTATUS: usize = 1;
const NT_PRFPREG: usize = 2;
const NT_X86_XSTATE: usize = 0x202;
const SECCOMP_GET_FILTER: u32 = 0x420c;
const EVENT_STOP: i32 = 128;

/// More than any processor's extended state has.
const LARGEST_STATE: usize = 64 << 10;

/// How `ptrace` takes an address or a number.
fn argument(value: usize) -> *mut c_void {
    std::ptr::without_provenance_mut(value)
}

/// # Safety
/// `data` must be what the request expects: for most a number, for some a live buffer.
unsafe fn request(
    request: u32,
    thread: u32,
    address: usize,
    data: *mut c_void,
) -> Result<i64, Errno> {
    let thread = i32::try_from(thread).map_err(|_| Errno::SRCH)?;
    // SAFETY: the caller vouches for `data`; the kernel checks the rest.
    let answer = unsafe { libc::ptrace(request, thread, argument(address), data) };
    if answer == -1 {
        return Err(last_error());
    }
    Ok(answer)
}

fn last_error() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error)
}

/// Requests whose data is a number.
fn plain(name: u32, thread: u32, data: usize) -> Result<(), Errno> {
    // SAFETY: the data of these requests is a number.
    unsafe { request(name, thread, 0, argument(data)) }.map(|_| ())
}

/// Starts tracing a thread without stopping it. Should the tracing thread end, the
/// kernel lets go of it.
pub(crate) fn seize(thread: u32) -> Result<(), Errno> {
    let options = usize::try_from(libc::PTRACE_O_TRACESYSGOOD).map_err(|_| Errno::INVAL)?;
    plain(libc::PTRACE_SEIZE, thread, options)
}

/// Asks a seized thread to stop.
pub(crate) fn interrupt(thread: u32) -> Result<(), Errno> {
    plain(libc::PTRACE_INTERRUPT, thread, 0)
}

/// Lets a stopped thread go, with a signal or with none (zero).
pub(crate) fn detach(thread: u32, signal: i32) -> Result<(), Errno> {
    let signal = usize::try_from(signal).map_err(|_| Errno::INVAL)?;
    plain(libc::PTRACE_DETACH, thread, signal)
}

/// Lets a stopped thread run on, still traced.
pub(crate) fn resume_with(thread: u32, signal: i32) -> Result<(), Errno> {
    let signal = usize::try_from(signal).map_err(|_| Errno::INVAL)?;
    plain(libc::PTRACE_CONT, thread, signal)
}

/// Lets a stopped thread run to where it next enters or leaves a system call.
pub(crate) fn resume_to_call(thread: u32) -> Result<(), Errno> {
    plain(libc::PTRACE_SYSCALL, thread, 0)
}

/// Whether a traced thread has stopped meanwhile, and why; never waits.
pub(crate) fn wait(thread: u32) -> Result<Option<Stop>, Errno> {
    let id = i32::try_from(thread).map_err(|_| Errno::SRCH)?;
    let mut status = 0;
    // SAFETY: `status` is a live number, and the call does not wait.
    let answer = unsafe { libc::waitpid(id, &raw mut status, libc::__WALL | libc::WNOHANG) };
    if answer == -1 {
        return match last_error() {
            Errno::CHILD => Ok(Some(Stop::Ended)),
            other => Err(other),
        };
    }
    if answer == 0 {
        return Ok(None);
    }
    if !libc::WIFSTOPPED(status) {
        return Ok(Some(Stop::Ended));
    }
    let signal = libc::WSTOPSIG(status);
    let stop = if status >> 16 == EVENT_STOP {
        if signal == libc::SIGTRAP {
            Stop::Interrupted
        } else {
            Stop::Group
        }
    } else if signal == libc::SIGTRAP | 0x80 {
        Stop::Call
    } else {
        Stop::Signal(signal)
    };
    Ok(Some(stop))
}

/// The general registers of a stopped thread.
pub(crate) fn registers(thread: u32) -> Result<Registers, Errno> {
    let mut registers = Registers::default();
    let mut part = libc::iovec {
        iov_base: (&raw mut registers).cast(),
        iov_len: size_of::<Registers>(),
    };
    // SAFETY: `part` names a live buffer of that length, and any bytes are registers.
    unsafe {
        request(
            libc::PTRACE_GETREGSET,
            thread,
            NT_PRSTATUS,
            (&raw mut part).cast(),
        )
    }?;
    // A 32-bit program has other, fewer registers.
    if part.iov_len == size_of::<Registers>() {
        Ok(registers)
    } else {
        Err(Errno::NOEXEC)
    }
}

/// Sets all general registers of a stopped thread at once: there is no moment at which
/// only some of them are set.
pub(crate) fn set_registers(thread: u32, registers: &Registers) -> Result<(), Errno> {
    let mut copy = *registers;
    let mut part = libc::iovec {
        iov_base: (&raw mut copy).cast(),
        iov_len: size_of::<Registers>(),
    };
    // SAFETY: `part` names a live buffer of that length.
    unsafe {
        request(
            libc::PTRACE_SETREGSET,
            thread,
            NT_PRSTATUS,
            (&raw mut part).cast(),
        )
    }?;
    Ok(())
}

/// The floating-point and vector registers of a stopped thread, as XSAVE writes them, or
/// only the first 512 bytes where the processor has no XSAVE.
pub(crate) fn extended_state(thread: u32) -> Result<Vec<u8>, Errno> {
    match register_set(thread, NT_X86_XSTATE) {
        Err(Errno::NODEV | Errno::INVAL) => register_set(thread, NT_PRFPREG),
        other => other,
    }
}

fn register_set(thread: u32, set: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0_u8; LARGEST_STATE];
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: `part` names a live buffer of that length.
    unsafe { request(libc::PTRACE_GETREGSET, thread, set, (&raw mut part).cast()) }?;
    bytes.truncate(part.iov_len);
    Ok(bytes)
}

/// The signals that a stopped thread blocks; in a call that blocks others for its time
/// (`ppoll`), those that it will block afterwards.
pub(crate) fn signal_mask(thread: u32) -> Result<u64, Errno> {
    let mut mask = 0_u64;
    // SAFETY: `mask` is a live number of the length that is told.
    unsafe {
        request(
            libc::PTRACE_GETSIGMASK,
            thread,
            size_of::<u64>(),
            (&raw mut mask).cast(),
        )
    }?;
    Ok(mask)
}

/// Sets the signals that a stopped thread blocks.
pub(crate) fn set_signal_mask(thread: u32, mask: u64) -> Result<(), Errno> {
    let mut mask = mask;
    // SAFETY: `mask` is a live number of the length that is told.
    unsafe {
        request(
            libc::PTRACE_SETSIGMASK,
            thread,
            size_of::<u64>(),
            (&raw mut mask).cast(),
        )
    }?;
    Ok(())
}

/// Where a stopped thread keeps its restartable sequence. Kernels before 5.13 do not tell.
pub(crate) fn rseq(thread: u32) -> Option<Rseq> {
    let mut rseq = Rseq::default();
    // SAFETY: `rseq` is a live buffer of the length that is told.
    unsafe {
        request(
            libc::PTRACE_GET_RSEQ_CONFIGURATION,
            thread,
            size_of::<Rseq>(),
            (&raw mut rseq).cast(),
        )
    }
    .ok()?;
    Some(rseq)
}

/// Whether a stopped thread has its system calls turned into signals (syscall user dispatch).
pub(crate) fn dispatches_calls(thread: u32) -> bool {
    // mode, selector, offset, length
    let mut configuration = [0_u64; 4];
    // SAFETY: the buffer is live and has the length that is told.
    let told = unsafe {
        request(
            libc::PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG,
            thread,
            size_of::<[u64; 4]>(),
            (&raw mut configuration).cast(),
        )
    };
    told.is_ok() && configuration[0] != 0
}

/// Filter number `index` of a stopped thread's system calls; nothing after the last one.
/// Only for root: others are told `EACCES`.
pub(crate) fn filter(thread: u32, index: usize) -> Result<Option<Vec<Instruction>>, Errno> {
    // SAFETY: with no buffer the kernel answers the number of instructions.
    let asked = unsafe { request(SECCOMP_GET_FILTER, thread, index, null_mut()) };
    let count = match asked {
        Ok(count) => usize::try_from(count).map_err(|_| Errno::INVAL)?,
        Err(Errno::NOENT) => return Ok(None),
        Err(other) => return Err(other),
    };
    let mut program = vec![Instruction::default(); count];
    // SAFETY: the buffer holds the number of instructions that the kernel answered; a
    // thread that stands still gets no other filter in the meantime.
    unsafe {
        request(
            SECCOMP_GET_FILTER,
            thread,
            index,
            program.as_mut_ptr().cast(),
        )
    }?;
    Ok(Some(program))
}

/// Whether two processes have the same memory; nothing where the kernel does not tell.
pub(crate) fn shares_memory(process: u32, other: u32) -> Option<bool> {
    const KCMP_VM: i32 = 1;
    // SAFETY: takes numbers only.
    let answer =
        unsafe { libc::syscall(libc::SYS_kcmp, process, other, KCMP_VM, 0_usize, 0_usize) };
    (answer >= 0).then_some(answer == 0)
}
