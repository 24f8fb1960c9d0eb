//! A program to be grafted by the tests. Its threads store into a memory and check what
//! they stored, keep values in every register, sleep, poll, read and wait in all the ways
//! that are restarted differently, take signals on a stack of their own, and come and go.
//! It answers commands on its standard input: `check` (everybody made progress and saw
//! nothing wrong), `peek OFFSET`, `poke OFFSET VALUE`, `fill` (every page of the memory that nobody
//! uses becomes present), `drop OFFSET LENGTH` (pages go), `use STEP`: every STEPth page of the
//! memory that nobody uses is written over and over from then on; and `gap`: the longest time, in nanoseconds, that
//! a thread which never sleeps has missed since it was asked last (first asked, it starts). It ends with its input.
//! As `huge` its memory is made of huge pages, all of it present.

#![allow(
    unsafe_code,
    reason = "makes the system calls that are to be interrupted, and keeps values in registers"
)]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block
)]

use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

/// The memory that is grafted in parts.
const LENGTH: usize = 8 << 20;
/// And behind it some that nobody uses.
const UNUSED: usize = 64 << 20;
const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;

static WRONG: Mutex<Vec<String>> = Mutex::new(Vec::new());

const WORKERS: [&str; 10] = [
    "store-a",
    "store-b",
    "registers",
    "sleep",
    "poll",
    "read",
    "condition",
    "epoll",
    "signal",
    "churn",
];
static PROGRESS: [AtomicU64; WORKERS.len()] = [const { AtomicU64::new(0) }; WORKERS.len()];
static INTERRUPTED: AtomicUsize = AtomicUsize::new(0);

fn wrong(what: String) {
    WRONG.lock().unwrap().push(what);
}

/// Every how many pages of the otherwise unused memory are written; zero for none.
static USED: AtomicUsize = AtomicUsize::new(0);

fn done(worker: usize) {
    PROGRESS[worker].fetch_add(1, Ordering::Relaxed);
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Counts a call that answered `EINTR`, and says whether it did.
fn interrupted(answer: i32) -> bool {
    let is = answer == -1 && errno() == libc::EINTR;
    if is {
        INTERRUPTED.fetch_add(1, Ordering::Relaxed);
    }
    is
}

fn word(memory: usize, offset: usize) -> &'static AtomicU64 {
    assert!(offset + 8 <= LENGTH + UNUSED && offset.is_multiple_of(8));
    // SAFETY: the memory lives as long as the program, and is only used by atomics.
    unsafe { AtomicU64::from_ptr((memory + offset) as *mut u64) }
}

/// One word of each page belongs to each of these workers; a store that is lost shows in
/// the next round.
fn store(worker: usize, memory: usize) {
    let value = |round: u64, page: usize| {
        (round << 20 | page as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ worker as u64
    };
    for round in 0_u64.. {
        for page in 0..LENGTH / PAGE {
            let cell = word(memory, page * PAGE + 64 * (worker + 1));
            let seen = cell.load(Ordering::Relaxed);
            if round > 0 && seen != value(round - 1, page) {
                wrong(format!(
                    "{}: page {page} round {round}: {seen:#x}",
                    WORKERS[worker]
                ));
            }
            cell.store(value(round, page), Ordering::Relaxed);
        }
        done(worker);
        thread::sleep(Duration::from_micros(300));
    }
}

/// Makes every page of the otherwise unused memory present.
fn fill(memory: usize) {
    for page in 0..UNUSED / PAGE {
        word(memory, LENGTH + page * PAGE + 4088).store(page as u64 + 1, Ordering::Relaxed);
    }
}

/// Writes pages of the otherwise unused memory, and checks what it wrote.
fn scribble(memory: usize) {
    const PAGES: usize = UNUSED / PAGE;
    let mut written = vec![0_u64; PAGES];
    for round in 1_u64.. {
        let step = USED.load(Ordering::Relaxed);
        if step == 0 {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        for page in (0..PAGES).step_by(step) {
            let cell = word(memory, LENGTH + page * PAGE + 8 * (page % 511));
            let seen = cell.load(Ordering::Relaxed);
            if written[page] != 0 && seen != written[page] {
                wrong(format!("scribble: page {page} round {round}: {seen:#x}"));
            }
            written[page] = round << 20 | page as u64;
            cell.store(written[page], Ordering::Relaxed);
        }
        thread::sleep(Duration::from_micros(300));
    }
}

static GAP: AtomicU64 = AtomicU64::new(0);
static CLOCK: Once = Once::new();

/// The longest time between two looks at the clock, for a thread that does nothing else.
fn gap() -> u64 {
    CLOCK.call_once(|| {
        thread::spawn(|| {
            let mut last = Instant::now();
            loop {
                let now = Instant::now();
                let missed = u64::try_from((now - last).as_nanos()).unwrap();
                GAP.fetch_max(missed, Ordering::Relaxed);
                last = now;
            }
        });
    });
    GAP.swap(0, Ordering::Relaxed)
}

/// Values stay in registers over a loop in which the thread is likely to be stopped.
fn registers(worker: usize) {
    let wide =
        std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512bw");
    let given: [u8; 2048] = std::array::from_fn(|index| (index * 7 + index / 64) as u8 | 1);
    loop {
        let mut vectors = [0_u8; 2048];
        let mut masks = [0_u64; 8];
        let mut general = [0_u64; 8];
        let carry: u8;
        let vector_bytes;
        if wide {
            vector_bytes = 2048;
            carry = keep_wide(&given, &mut vectors, &mut masks);
            for (index, mask) in masks.iter().enumerate().skip(1) {
                if *mask != u64::from_le_bytes(given[index * 8..index * 8 + 8].try_into().unwrap())
                {
                    wrong(format!("registers: mask {index} is {mask:#x}"));
                }
            }
        } else {
            vector_bytes = 256;
            carry = keep_narrow(&given, &mut vectors);
        }
        if vectors[..vector_bytes] != given[..vector_bytes] {
            wrong("registers: a vector register changed".to_owned());
        }
        if carry != 1 {
            wrong("registers: the carry flag changed".to_owned());
        }
        keep_general(&mut general);
        for (index, value) in general.iter().enumerate() {
            if *value != 0x1111_1111_1111_1111 * (index as u64 + 1) {
                wrong(format!("registers: general register {index} is {value:#x}"));
            }
        }
        done(worker);
        thread::sleep(Duration::from_micros(200));
    }
}

const TURNS: u64 = 300_000;

fn keep_wide(given: &[u8; 2048], taken: &mut [u8; 2048], masks: &mut [u64; 8]) -> u8 {
    let carry: u8;
    macro_rules! load {
        ($($n:literal)*) => { concat!($("vmovdqu64 zmm", $n, ", [rsi + 64 * ", $n, "]\n"),*) };
    }
    macro_rules! save {
        ($($n:literal)*) => { concat!($("vmovdqu64 [rdi + 64 * ", $n, "], zmm", $n, "\n"),*) };
    }
    // SAFETY: only the registers named are changed, and the arrays are as long as is read
    // and written; the caller has checked for AVX-512.
    unsafe {
        std::arch::asm!(
            load!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
            load!(16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31),
            "kmovq k1, [rsi + 8]", "kmovq k2, [rsi + 16]", "kmovq k3, [rsi + 24]",
            "kmovq k4, [rsi + 32]", "kmovq k5, [rsi + 40]", "kmovq k6, [rsi + 48]",
            "kmovq k7, [rsi + 56]",
            "stc",
            "2:", "dec rcx", "jnz 2b",
            "setc al",
            save!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
            save!(16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31),
            "kmovq [rdx + 8], k1", "kmovq [rdx + 16], k2", "kmovq [rdx + 24], k3",
            "kmovq [rdx + 32], k4", "kmovq [rdx + 40], k5", "kmovq [rdx + 48], k6",
            "kmovq [rdx + 56], k7",
            inout("rsi") given.as_ptr() => _,
            inout("rdi") taken.as_mut_ptr() => _,
            inout("rdx") masks.as_mut_ptr() => _,
            inout("rcx") TURNS => _,
            out("al") carry,
            clobber_abi("C"),
        );
    }
    carry
}

fn keep_narrow(given: &[u8; 2048], taken: &mut [u8; 2048]) -> u8 {
    let carry: u8;
    macro_rules! each {
        (load $($n:literal)*) => { concat!($("movdqu xmm", $n, ", [rsi + 16 * ", $n, "]\n"),*) };
        (save $($n:literal)*) => { concat!($("movdqu [rdi + 16 * ", $n, "], xmm", $n, "\n"),*) };
    }
    // SAFETY: only the registers named are changed, and 256 bytes are read and written.
    unsafe {
        std::arch::asm!(
            each!(load 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
            "stc",
            "2:", "dec rcx", "jnz 2b",
            "setc al",
            each!(save 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15),
            inout("rsi") given.as_ptr() => _,
            inout("rdi") taken.as_mut_ptr() => _,
            inout("rcx") TURNS => _,
            out("al") carry,
            clobber_abi("C"),
        );
    }
    carry
}

fn keep_general(values: &mut [u64; 8]) {
    // SAFETY: only the registers named are changed, and the array holds eight words. What
    // lies below the stack pointer is the function's own by the ABI's red zone.
    unsafe {
        std::arch::asm!(
            "mov r8, rax",
            "lea r9, [rax + r8]", "lea r10, [rax + r9]", "lea r11, [rax + r10]",
            "lea r12, [rax + r11]", "lea r13, [rax + r12]", "lea r14, [rax + r13]",
            "mov qword ptr [rsp - 128], r14",
            "2:", "dec rcx", "jnz 2b",
            "mov r15, qword ptr [rsp - 128]", "add r15, rax",
            "mov [rdi], r8", "mov [rdi + 8], r9", "mov [rdi + 16], r10",
            "mov [rdi + 24], r11", "mov [rdi + 32], r12", "mov [rdi + 40], r13",
            "mov [rdi + 48], r14", "mov [rdi + 56], r15",
            in("rax") 0x1111_1111_1111_1111_u64,
            in("rdi") values.as_mut_ptr(),
            inout("rcx") TURNS => _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
}

fn sleep(worker: usize) {
    let wanted = Duration::from_millis(3);
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 3_000_000,
    };
    loop {
        let began = Instant::now();
        // SAFETY: the time is a live structure; no place for the rest is given.
        let answer = unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
        if !interrupted(answer) && (answer != 0 || began.elapsed() < wanted) {
            wrong(format!("sleep: {answer} after {:?}", began.elapsed()));
        }
        done(worker);
    }
}

fn pipe() -> (i32, i32) {
    let mut ends = [0; 2];
    // SAFETY: the array holds two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    (ends[0], ends[1])
}

fn poll(worker: usize) {
    let (read, _write) = pipe();
    loop {
        let began = Instant::now();
        let mut wanted = libc::pollfd {
            fd: read,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one live structure.
        let answer = unsafe { libc::poll(&raw mut wanted, 1, 4) };
        if !interrupted(answer) && (answer != 0 || began.elapsed() < Duration::from_millis(4)) {
            wrong(format!("poll: {answer} after {:?}", began.elapsed()));
        }
        done(worker);
    }
}

fn read(worker: usize) {
    let (read, write) = pipe();
    thread::spawn(move || {
        for number in 0_u64.. {
            let bytes = number.to_le_bytes();
            // SAFETY: eight live bytes.
            let answer = unsafe { libc::write(write, bytes.as_ptr().cast(), 8) };
            if answer != 8 {
                wrong(format!("write: {answer}, error {}", errno()));
            }
            thread::sleep(Duration::from_millis(2));
        }
    });
    for number in 0_u64.. {
        let mut bytes = [0; 8];
        // SAFETY: eight live bytes.
        let answer = unsafe { libc::read(read, bytes.as_mut_ptr().cast(), 8) };
        if answer != 8 || u64::from_le_bytes(bytes) != number {
            wrong(format!("read: {answer}, error {}, {bytes:?}", errno()));
        }
        done(worker);
    }
}

fn condition(worker: usize) {
    let shared = Arc::new((Mutex::new(0_u64), Condvar::new()));
    let other = Arc::clone(&shared);
    // Each waits for the other's number, once for ever and once with an end.
    thread::spawn(move || {
        for round in 0_u64.. {
            let guard = other.0.lock().unwrap();
            let mut guard = other
                .1
                .wait_while(guard, |number| *number != 2 * round + 1)
                .unwrap();
            *guard += 1;
            other.1.notify_all();
        }
    });
    for round in 0_u64.. {
        let mut guard = shared.0.lock().unwrap();
        if *guard != 2 * round {
            wrong(format!("condition: {} in round {round}", *guard));
        }
        *guard += 1;
        shared.1.notify_all();
        let limit = Duration::from_secs(600);
        let (guard, result) = shared
            .1
            .wait_timeout_while(guard, limit, |number| *number != 2 * round + 2)
            .unwrap();
        if result.timed_out() {
            wrong("condition: the other did not answer".to_owned());
        }
        drop(guard);
        done(worker);
        thread::sleep(Duration::from_millis(1));
    }
}

fn epoll(worker: usize) {
    // SAFETY: takes a number only.
    let set = unsafe { libc::epoll_create1(0) };
    loop {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event.
        let answer = unsafe { libc::epoll_wait(set, &raw mut event, 1, 3) };
        // The kernel itself interrupts this call whenever a thread is stopped.
        if answer != 0 && !(answer == -1 && errno() == libc::EINTR) {
            wrong(format!("epoll: {answer}, error {}", errno()));
        }
        done(worker);
    }
}

static HANDLED: AtomicU64 = AtomicU64::new(0);
static ON_OWN_STACK: AtomicBool = AtomicBool::new(true);
static STACK_START: AtomicUsize = AtomicUsize::new(0);
const STACK: usize = 64 << 10;

extern "C" fn handler(_signal: i32) {
    let here = 0_u8;
    let at = (&raw const here) as usize;
    let start = STACK_START.load(Ordering::Relaxed);
    if !(start..start + STACK).contains(&at) {
        ON_OWN_STACK.store(false, Ordering::Relaxed);
    }
    HANDLED.fetch_add(1, Ordering::Release); // release: victim-handled
}

/// Takes signals that it blocks everywhere but in `ppoll`, on an alternate stack.
fn signal(worker: usize) {
    let stack = Box::leak(vec![0_u8; STACK].into_boxed_slice());
    STACK_START.store(stack.as_ptr() as usize, Ordering::Relaxed);
    // SAFETY: all structures are live, zero is a value of each, and the stack stays.
    let (open, blocked) = unsafe {
        let alternate = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: STACK,
        };
        assert_eq!(
            libc::sigaltstack(&raw const alternate, std::ptr::null_mut()),
            0
        );
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()),
            0
        );
        let mut blocked: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut blocked);
        let open = blocked;
        libc::sigaddset(&raw mut blocked, libc::SIGUSR1);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, std::ptr::null_mut());
        (open, blocked)
    };
    // SAFETY: answers a number.
    let me = unsafe { libc::gettid() };
    let wanted = Arc::new(AtomicI32::new(0));
    let asked = Arc::clone(&wanted);
    thread::spawn(move || {
        for round in 1_u64.. {
            while asked.load(Ordering::Acquire) == 0 {
                // acquire: victim-asked
                thread::sleep(Duration::from_micros(200));
            }
            asked.store(0, Ordering::Relaxed);
            // SAFETY: takes numbers only.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), me, libc::SIGUSR1) };
            // acquire: victim-handled
            while HANDLED.load(Ordering::Acquire) < round {
                thread::sleep(Duration::from_micros(200));
            }
        }
    });
    for round in 1_u64.. {
        wanted.store(1, Ordering::Release); // release: victim-asked
        // SAFETY: no descriptors, no time, and a live mask.
        let answer =
            unsafe { libc::ppoll(std::ptr::null_mut(), 0, std::ptr::null(), &raw const open) };
        if answer != -1 || errno() != libc::EINTR {
            wrong(format!("signal: ppoll gave {answer}, error {}", errno()));
        }
        let handled = HANDLED.load(Ordering::Acquire); // acquire: victim-handled
        if handled != round {
            wrong(format!("signal: {handled} handled in round {round}"));
        }
        if !ON_OWN_STACK.load(Ordering::Relaxed) {
            wrong("signal: the handler ran on another stack".to_owned());
        }
        // SAFETY: zero is a value of the structure, and both are live.
        let mask = unsafe {
            let mut mask: libc::sigset_t = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask);
            (
                libc::sigismember(&raw const mask, libc::SIGUSR1),
                libc::sigismember(&raw const mask, libc::SIGUSR2),
                libc::sigismember(&raw const blocked, libc::SIGUSR1),
            )
        };
        if mask != (1, 0, 1) {
            wrong(format!("signal: another mask: {mask:?}"));
        }
        done(worker);
    }
}

fn churn(worker: usize) {
    loop {
        let inner = thread::spawn(|| (0..1000_u64).sum::<u64>());
        if inner.join().unwrap_or(0) != 499_500 {
            wrong("churn: a thread was wrong".to_owned());
        }
        done(worker);
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until all made progress, and tells what was wrong.
fn check() -> String {
    let before: Vec<u64> = PROGRESS
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .collect();
    let began = Instant::now();
    loop {
        let stuck = WORKERS
            .iter()
            .zip(PROGRESS.iter().zip(&before))
            .filter(|(_, (now, before))| now.load(Ordering::Relaxed) < **before + 2)
            .map(|(name, _)| *name);
        let stuck: Vec<&str> = stuck.collect();
        let wrong = WRONG.lock().unwrap();
        if !wrong.is_empty() {
            return format!("wrong: {}", wrong.join("; "));
        }
        drop(wrong);
        if stuck.is_empty() {
            return format!("right {}", INTERRUPTED.load(Ordering::Relaxed));
        }
        if began.elapsed() > Duration::from_secs(120) {
            return format!("stuck: {}", stuck.join(" "));
        }
        thread::sleep(Duration::from_micros(500));
    }
}

/// Forbids system calls as VMMs do: by a list of what is forbidden, or of what is allowed.
fn filter(kind: &str) {
    const ALLOW: u32 = 0x7fff_0000;
    const KILL: u32 = 0x8000_0000;
    let (numbers, listed, others): (Vec<i64>, u32, u32) = match kind {
        "deny-list" => (
            vec![
                libc::SYS_execve,
                libc::SYS_fork,
                libc::SYS_vfork,
                libc::SYS_swapon,
            ],
            KILL,
            ALLOW,
        ),
        // What this program needs, and nothing that makes a memory file.
        _ => ((0..319).chain(320..450).collect(), ALLOW, KILL),
    };
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = vec![line(0x20, 0, 0, 0)];
    for number in numbers {
        program.push(line(0x15, 0, 1, number as u32));
        program.push(line(0x06, 0, 0, listed));
    }
    program.push(line(0x06, 0, 0, others));
    let whole = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program is live and has the length that is told.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const whole
            ),
            0
        );
    }
}

fn main() {
    let argument = std::env::args().nth(1).unwrap_or_default();
    // Not in a shared file, unless the test asks for one, which a second process can map.
    let (flags, file) = if argument == "shared" {
        // SAFETY: a live name.
        let file = unsafe { libc::memfd_create(c"ram".as_ptr(), 0) };
        // SAFETY: takes numbers only.
        let sized = unsafe { libc::ftruncate(file, (LENGTH + UNUSED + HUGE) as i64) };
        assert_eq!(sized, 0);
        (libc::MAP_SHARED, file)
    } else {
        (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    };
    // SAFETY: a new mapping at a place that the kernel chooses.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            LENGTH + UNUSED + HUGE,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            file,
            0,
        )
    };
    assert_ne!(memory, libc::MAP_FAILED);
    let mut memory = memory as usize;
    if argument == "huge" {
        memory = memory.next_multiple_of(HUGE);
        // SAFETY: the range lies in the mapping made above.
        unsafe {
            libc::madvise(memory as *mut _, LENGTH + UNUSED, libc::MADV_HUGEPAGE);
        }
        fill(memory);
        thread::spawn(move || scribble(memory));
    }
    if argument.ends_with("-list") {
        filter(&argument);
    }
    if argument == "strict" {
        println!("{memory:#x} {LENGTH:#x}");
        // SAFETY: from here on only reads are made.
        unsafe {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT);
            let mut byte = 0_u8;
            while libc::syscall(libc::SYS_read, 0, &raw mut byte, 1) > 0 {}
            libc::syscall(libc::SYS_exit, 0);
        }
    }
    let works: [fn(usize); 8] = [
        registers, sleep, poll, read, condition, epoll, signal, churn,
    ];
    for worker in 0..2 {
        thread::spawn(move || store(worker, memory));
    }
    for (index, work) in works.into_iter().enumerate() {
        thread::spawn(move || work(index + 2));
    }
    println!("{memory:#x} {LENGTH:#x}");
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words.as_slice() {
            ["check"] => check(),
            ["peek", offset] => {
                let cell = word(memory, offset.parse().unwrap());
                cell.load(Ordering::Acquire).to_string() // acquire: victim-peek
            }
            ["poke", offset, value] => {
                let cell = word(memory, offset.parse().unwrap());
                cell.store(value.parse().unwrap(), Ordering::Release); // release: victim-peek
                "poked".to_owned()
            }
            ["drop", offset, length] => {
                let (offset, length): (usize, usize) =
                    (offset.parse().unwrap(), length.parse().unwrap());
                assert!(offset + length <= LENGTH + UNUSED);
                // SAFETY: the range lies in the memory, which is only used by atomics.
                let answer = unsafe {
                    libc::madvise((memory + offset) as *mut _, length, libc::MADV_DONTNEED)
                };
                format!("dropped {answer}")
            }
            ["fill"] => {
                fill(memory);
                "filled".to_owned()
            }
            ["use", step] => {
                USED.store(step.parse().unwrap(), Ordering::Relaxed);
                "used".to_owned()
            }
            ["gap"] => gap().to_string(),
            _ => "what?".to_owned(),
        };
        println!("{answer}");
        std::io::stdout().flush().unwrap();
    }
}
