//! What /proc tells about the process that is to be changed: its state, its threads,
//! its files, and the kernel's flags of its memory. A line that looks odd is passed over.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use vmshm_ram::{MemoryMapping, ProcRoot};

/// The parts of `/proc/PID/status` that matter here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Status {
    /// The letter of its state.
    pub(crate) state: u8,
    /// Who traces it; 0 for nobody.
    pub(crate) tracer: u32,
    /// Real, effective, saved and file system user.
    pub(crate) users: Vec<u32>,
    /// 0 for no filter of system calls, 1 for the strict one, 2 for programs.
    pub(crate) seccomp: u32,
    /// Whether a shadow stack is on.
    pub(crate) shadow_stack: bool,
}

/// The status of a process or of one of its threads.
pub(crate) fn status(pid: u32, thread: Option<u32>) -> io::Result<Status> {
    let path = match thread {
        Some(thread) => format!("/proc/{pid}/task/{thread}/status"),
        None => format!("/proc/{pid}/status"),
    };
    Ok(parse_status(&String::from_utf8_lossy(&fs::read(path)?)))
}

fn parse_status(text: &str) -> Status {
    let mut status = Status::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match key {
            "State" => status.state = value.bytes().next().unwrap_or(0),
            "TracerPid" => status.tracer = value.parse().unwrap_or(0),
            "Uid" => {
                status.users = value
                    .split_whitespace()
                    .filter_map(|word| word.parse().ok())
                    .collect();
            }
            "Seccomp" => status.seccomp = value.parse().unwrap_or(0),
            "x86_Thread_features" => {
                status.shadow_stack = value.split_whitespace().any(|word| word == "shstk");
            }
            _ => {}
        }
    }
    status
}

/// The ids of a process's threads, the first one first.
pub(crate) fn threads(pid: u32) -> io::Result<Vec<u32>> {
    let mut threads = numbered(&format!("/proc/{pid}/task"))?;
    threads.sort_by_key(|thread| (*thread != pid, *thread));
    Ok(threads)
}

/// The ids of a process's threads, in the order in which they would be missed: those that sleep come
/// first, and of these the ones that have used the processor least.
pub(crate) fn threads_to_borrow(pid: u32) -> io::Result<Vec<u32>> {
    let mut threads = threads(pid)?;
    threads.sort_by_cached_key(|thread| {
        let stat = fs::read(format!("/proc/{pid}/task/{thread}/stat")).unwrap_or_default();
        parse_use(&String::from_utf8_lossy(&stat)).unwrap_or((true, u64::MAX))
    });
    Ok(threads)
}

/// Whether a thread does something at the moment, and the ticks of the processor that it has used;
/// nothing where the text is no `stat` (proc_pid_stat(5)).
fn parse_use(stat: &str) -> Option<(bool, u64)> {
    // The name may have anything in it, brackets too.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let used = ticks(11)?.saturating_add(ticks(12)?);
    Some((fields.first() != Some(&"S"), used))
}

/// The ids of all processes.
pub(crate) fn processes() -> io::Result<Vec<u32>> {
    numbered("/proc")
}

/// The entries of a directory whose names are numbers.
fn numbered(directory: &str) -> io::Result<Vec<u32>> {
    Ok(fs::read_dir(directory)?
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

/// An open file of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenFile {
    pub(crate) number: u32,
    /// Where the link points: a path or the kernel's name for it.
    pub(crate) target: String,
}

/// All open files of a process.
pub(crate) fn open_files(pid: u32) -> io::Result<Vec<OpenFile>> {
    let mut numbers = numbered(&format!("/proc/{pid}/fd"))?;
    numbers.sort_unstable();
    Ok(numbers
        .into_iter()
        .filter_map(|number| {
            let target = fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()?;
            let target = String::from_utf8_lossy(target.as_os_str().as_bytes()).into_owned();
            Some(OpenFile { number, target })
        })
        .collect())
}

/// The kernel's own words about an open file (`fdinfo`), empty where it says none.
pub(crate) fn about_file(pid: u32, number: u32) -> String {
    fs::read(format!("/proc/{pid}/fdinfo/{number}"))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// The user to whom /proc gives what it has of the process: root in place of its own
/// one where the process is not dumpable.
pub(crate) fn files_owner(pid: u32) -> Option<u32> {
    Some(fs::metadata(format!("/proc/{pid}/maps")).ok()?.uid())
}

/// A number in /proc/sys.
pub(crate) fn setting(name: &str) -> Option<usize> {
    fs::read_to_string(format!("/proc/sys/{name}"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// All mappings of a process.
pub(crate) fn mappings(pid: u32) -> io::Result<Vec<MemoryMapping>> {
    ProcRoot::system().mappings(pid)
}

/// Where a mapping lies, and the kernel's two-letter flags of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) place: Range<u64>,
    pub(crate) flags: Vec<[u8; 2]>,
}

impl Area {
    pub(crate) fn has(&self, flag: &[u8; 2]) -> bool {
        self.flags.contains(flag)
    }
}

/// The flags of all mappings of a process.
pub(crate) fn areas(pid: u32) -> io::Result<Vec<Area>> {
    let bytes = fs::read(format!("/proc/{pid}/smaps"))?;
    Ok(parse_areas(&String::from_utf8_lossy(&bytes)))
}

fn parse_areas(text: &str) -> Vec<Area> {
    let mut areas = Vec::new();
    let mut place = None;
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let flags = flags
                .split_whitespace()
                .filter_map(|flag| flag.as_bytes().try_into().ok())
                .collect();
            if let Some(place) = place.take() {
                areas.push(Area { place, flags });
            }
        } else if let Some((range, _)) = line.split_once(' ')
            && let Some((first, end)) = range.split_once('-')
            && let Ok(first) = u64::from_str_radix(first, 16)
            && let Ok(end) = u64::from_str_radix(end, 16)
        {
            place = Some(first..end);
        }
    }
    areas
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_status_is_understood() {
        let status = parse_status(
            "Name:\tqemu\nState:\tS (sleeping)\nTracerPid:\t77\nUid:\t64055\t64055\t0\t1\nSeccomp:\t2\nx86_Thread_features:\tshstk wrss \n",
        );
        assert_eq!(
            status,
            Status {
                state: b'S',
                tracer: 77,
                users: vec![64055, 64055, 0, 1],
                seccomp: 2,
                shadow_stack: true
            }
        );
        assert!(!parse_status("x86_Thread_features:\t\n").shadow_stack);
    }

    #[test]
    fn flags_belong_to_the_mapping_above_them() {
        let areas = parse_areas(
            "7f00-7f80 rw-p 00000000 00:00 0 \nSize:   4 kB\nVmFlags: rd wr mr dc \n\
             8000-9000 rw-s 00000000 00:01 5 /a b\nVmFlags: rd wr ht dd\n",
        );
        assert_eq!(areas.len(), 2);
        assert_eq!(areas[0].place, 0x7f00..0x7f80);
        assert!(areas[0].has(b"dc") && !areas[0].has(b"ht"));
        assert!(areas[1].has(b"ht") && areas[1].has(b"dd"));
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(threads(pid).expect("threads").contains(&pid));
        assert_eq!(threads(pid).expect("threads")[0], pid);
        assert!(status(pid, None).expect("a status").users.len() == 4);
        let areas = areas(pid).expect("areas");
        let mappings = mappings(pid).expect("mappings");
        assert!(areas.len() > 3 && mappings.len() > 3);
        assert!(!open_files(pid).expect("files").is_empty());
    }

    #[test]
    fn sleeping_threads_and_those_that_do_little_are_borrowed_first() {
        let stat = |name: &str, state: char, user: u64, system: u64| {
            let line =
                format!("7 ({name}) {state} 1 7 7 0 -1 0 0 0 0 0 {user} {system} 0 0 20 0\n");
            parse_use(&line).expect("it is a stat")
        };
        let in_order = [
            stat("call_rcu", 'S', 0, 1),
            stat("main (loop) S 1", 'S', 40, 2),
            stat("CPU 0/TCG", 'R', 1, 0),
        ];
        assert!(in_order.is_sorted(), "{in_order:?}");
        assert_eq!(parse_use("7 (x) S 1"), None);
        let own = threads_to_borrow(std::process::id()).expect("threads");
        assert!(own.contains(&std::process::id()));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,300}") {
            let _ = parse_use(&text);
            let _ = parse_status(&text);
            let _ = parse_areas(&text);
        }
    }
}
