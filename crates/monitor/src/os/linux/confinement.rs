//! Gives up what is not needed for showing pictures, before the first byte of the guest is read.
//!
//! Three layers, each of which may be missing on some kernel, which is then said: no
//! capabilities; Landlock (no file, no port, no other process's abstract socket); and a list of
//! system calls. What is not on the list fails with `EPERM`, so that a library that would
//! like to read a file of its own does without. Starting a program or reaching into another
//! process ends the process at once.

use std::collections::BTreeMap;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What holds for one thread and those that it starts: capabilities and Landlock.
pub fn confine_this_thread() -> Vec<String> {
    vec![drop_capabilities(), drop_files()]
}

/// What holds for all threads: the list of system calls. The words of the first step, and more.
pub fn confine_process(mut words: Vec<String>) -> String {
    words.push(match limit_calls() {
        Ok(()) => "system calls are limited: no opening, no connecting, no programs, no threads, \
                   no new code, no other processes (seccomp)"
            .to_owned(),
        Err(error) => format!("system calls are not limited ({error})"),
    });
    words.join("; ")
}

fn drop_capabilities() -> String {
    let none = rustix::thread::CapabilitySet::empty();
    let sets = rustix::thread::CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    match rustix::thread::set_capabilities(None, sets) {
        Ok(()) => "no capabilities".to_owned(),
        Err(error) => format!("capabilities are kept ({error})"),
    }
}

fn drop_files() -> String {
    let abi = ABI::V6;
    let restricted = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(abi)))
        .and_then(|rules| rules.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    match restricted.map(|status| status.ruleset) {
        Ok(RulesetStatus::FullyEnforced) => "no files, no ports (Landlock)".to_owned(),
        Ok(RulesetStatus::PartiallyEnforced) => {
            "no files (Landlock, as far as this kernel has it)".to_owned()
        }
        Ok(RulesetStatus::NotEnforced) => "no Landlock on this kernel".to_owned(),
        Err(error) => format!("no Landlock ({error})"),
    }
}

fn limit_calls() -> Result<(), String> {
    // The stricter answer of two filters counts, so their order does not matter.
    apply(deadly(), SeccompAction::Allow, SeccompAction::KillProcess)?;
    let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    apply(allowed()?, refusal, SeccompAction::Allow)
}

fn apply(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<(), String> {
    let architecture = std::env::consts::ARCH
        .try_into()
        .map_err(|error: seccompiler::BackendError| error.to_string())?;
    let program: BpfProgram = SeccompFilter::new(rules, otherwise, matched, architecture)
        .and_then(TryInto::try_into)
        .map_err(|error| error.to_string())?;
    seccompiler::apply_filter_all_threads(&program).map_err(|error| error.to_string())
}

/// Calls that nothing here ever makes, and that are worth ending for.
fn deadly() -> Rules {
    let calls = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_bpf,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_keyctl,
        libc::SYS_mount,
        libc::SYS_userfaultfd,
        libc::SYS_unshare,
        libc::SYS_setns,
    ];
    calls.into_iter().map(|call| (call, Vec::new())).collect()
}

/// Calls that showing pictures needs.
fn allowed() -> Result<Rules, String> {
    let calls = [
        // Open descriptors: the channel, the display's connection, what they bring.
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_pread64,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_recvmsg,
        libc::SYS_recvfrom,
        libc::SYS_shutdown,
        libc::SYS_getsockopt,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_lseek,
        libc::SYS_fcntl,
        libc::SYS_dup,
        libc::SYS_dup3,
        libc::SYS_ppoll,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_create1,
        libc::SYS_eventfd2,
        libc::SYS_timerfd_create,
        libc::SYS_timerfd_settime,
        libc::SYS_pipe2,
        // Whether a file is there, but nothing in it: libxkbcommon looks for its directories when
        // a keyboard comes, and gives up without them.
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        // Memory for pictures, shared with the display.
        libc::SYS_memfd_create,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        // Time, threads that there are, and ending.
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_membarrier,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_getrandom,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_uname,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
        // The second filter is installed under the first, both under this one in tests.
        libc::SYS_seccomp,
    ];
    #[cfg(target_arch = "x86_64")]
    let older = [
        libc::SYS_poll,
        libc::SYS_epoll_wait,
        libc::SYS_time,
        libc::SYS_stat,
        libc::SYS_access,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let older: [i64; 0] = [];
    let mut rules: Rules = calls
        .into_iter()
        .chain(older)
        .map(|call| (call, Vec::new()))
        .collect();
    // Memory, but no new code.
    let executable = u64::from(libc::PROT_EXEC.unsigned_abs());
    let not_executable = condition(2, SeccompCmpOp::MaskedEq(executable), 0)?;
    rules.insert(libc::SYS_mmap, vec![not_executable.clone()]);
    rules.insert(libc::SYS_mprotect, vec![not_executable]);
    // Whether a socket has something to read, and whether it waits.
    let requests = [libc::FIONREAD, libc::FIONBIO]
        .into_iter()
        .map(|request| condition(1, SeccompCmpOp::Eq, request))
        .collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, requests);
    Ok(rules)
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, String> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value);
    condition
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| error.to_string())
}
