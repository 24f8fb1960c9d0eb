//! What /proc says about processes, read so that nothing in it can do harm: a
//! process may vanish, hide or choose odd bytes at any moment, and each of these is
//! an answer and not a failure of the whole search.

use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::maps;
use crate::mapping::MemoryMapping;
use crate::os::facts::{Descriptor, HeldSections, NamedSection, ProcessError, ProcessStatus};

/// The directory that holds one subdirectory for each process: `/proc`, or a
/// recording of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcRoot {
    path: PathBuf,
}

impl Default for ProcRoot {
    fn default() -> Self {
        Self::system()
    }
}

impl ProcRoot {
    /// The running system's `/proc`.
    #[must_use]
    pub fn system() -> Self {
        Self::at("/proc")
    }

    /// Another directory of the same shape.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The ids of all processes, in rising order.
    pub(crate) fn pids(&self) -> io::Result<Vec<u32>> {
        let mut pids: Vec<u32> = fs::read_dir(&self.path)?
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        Ok(pids)
    }

    /// Yama's `ptrace_scope`; 0 where the system has no Yama.
    pub(crate) fn ptrace_scope(&self) -> u32 {
        fs::read_to_string(self.path.join("sys/kernel/yama/ptrace_scope"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Whether processes of other users are hidden as if they were not there (`hidepid`).
    #[must_use]
    pub fn hides_processes(&self) -> bool {
        !self.path.join("1").exists()
    }

    /// All mappings of a process, in the order of their addresses.
    ///
    /// # Errors
    ///
    /// As the system answers: no such process, or no right to look.
    pub fn mappings(&self, pid: u32) -> io::Result<Vec<MemoryMapping>> {
        Ok(maps::parse(&fs::read(self.process(pid).path("maps"))?))
    }

    /// One process; it need not exist.
    pub(crate) fn process(&self, pid: u32) -> Process {
        Process {
            pid,
            directory: self.path.join(pid.to_string()),
        }
    }
}

impl ProcessError {
    fn from_io(what: &'static str, error: &io::Error) -> Self {
        let code = error.raw_os_error().unwrap_or(0);
        match rustix::io::Errno::from_raw_os_error(code) {
            rustix::io::Errno::NOENT | rustix::io::Errno::SRCH => Self::Gone,
            rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => Self::Denied { what },
            _ => Self::System { what, code },
        }
    }
}

/// One process of a [`ProcRoot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pid: u32,
    directory: PathBuf,
}

impl Process {
    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// A file below the process's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The command line's words. Empty for kernel threads and zombies.
    pub(crate) fn command_line(&self) -> Result<Vec<String>, ProcessError> {
        let mut bytes = self.read("cmdline")?;
        if bytes.last() == Some(&0) {
            bytes.pop();
        }
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        Ok(bytes
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect())
    }

    /// The running executable, whatever its path leads to by now.
    pub(crate) fn executable_file(&self) -> PathBuf {
        self.path("exe")
    }

    /// Where a path of a socket in its command line leads to: its own working directory and
    /// root count.
    pub(crate) fn socket_path(&self, path: &str) -> PathBuf {
        let base = if path.starts_with('/') { "root" } else { "cwd" };
        self.path(base).join(path.trim_start_matches('/'))
    }

    /// Sections are Windows's; what Linux shares between processes are files.
    pub(crate) fn sections(&self) -> Result<HeldSections, ProcessError> {
        Ok(HeldSections::default())
    }

    /// As [`sections`](Self::sections): no name leads to one.
    pub(crate) fn named_section(&self, _name: &str, _held: &HeldSections) -> NamedSection {
        NamedSection::Absent
    }

    /// The path of the executable, as the system shows it.
    pub(crate) fn executable(&self) -> Result<PathBuf, ProcessError> {
        fs::read_link(self.path("exe")).map_err(|error| ProcessError::from_io("exe", &error))
    }

    /// Parent, tracer, user and signal handlers.
    pub(crate) fn status(&self) -> Result<ProcessStatus, ProcessError> {
        let bytes = self.read("status")?;
        let text = String::from_utf8_lossy(&bytes);
        let mut status = ProcessStatus::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let mut words = value.split_whitespace();
            let first = words.next().unwrap_or("");
            match key {
                "Name" => value.trim().clone_into(&mut status.name),
                "PPid" => status.parent = first.parse().unwrap_or(0),
                "TracerPid" => status.tracer = first.parse().unwrap_or(0),
                "Uid" => status.user = words.next().unwrap_or(first).parse().unwrap_or(u32::MAX),
                "SigCgt" => status.caught_signals = u64::from_str_radix(first, 16).unwrap_or(0),
                "VmSwap" => {
                    let kibibytes = first.parse::<u64>().ok();
                    status.swapped = kibibytes.and_then(|count| count.checked_mul(1 << 10));
                }
                "Seccomp" => status.seccomp = first.parse().unwrap_or(0),
                _ => {}
            }
        }
        Ok(status)
    }

    /// When the process started, in clock ticks since boot; with the pid it names
    /// the process for good.
    pub(crate) fn start_time(&self) -> Result<u64, ProcessError> {
        let bytes = self.read("stat")?;
        stat_field(&bytes, 22).ok_or(ProcessError::System {
            what: "stat",
            code: 0,
        })
    }

    /// How many pages its mappings have, all together. Cheap, and another number once
    /// something as large as RAM was mapped or unmapped.
    pub(crate) fn mapped_pages(&self) -> Result<u64, ProcessError> {
        let bytes = self.read("statm")?;
        let text = String::from_utf8_lossy(&bytes);
        let first = text.split_whitespace().next();
        first
            .and_then(|word| word.parse().ok())
            .ok_or(ProcessError::System {
                what: "statm",
                code: 0,
            })
    }

    /// All mappings, in the order of their addresses.
    pub(crate) fn mappings(&self) -> Result<Vec<MemoryMapping>, ProcessError> {
        Ok(maps::parse(&self.read("maps")?))
    }

    /// All open files; those that vanish while they are listed are left out.
    pub(crate) fn descriptors(&self) -> Result<Vec<Descriptor>, ProcessError> {
        let directory =
            fs::read_dir(self.path("fd")).map_err(|error| ProcessError::from_io("fd", &error))?;
        Ok(directory
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.parse().ok()?;
                let target = fs::read_link(entry.path()).ok()?;
                let target = String::from_utf8_lossy(target.as_os_str().as_bytes()).into_owned();
                Some(Descriptor { number, target })
            })
            .collect())
    }

    /// The user to whom the system gives what /proc has of the process: root, in the place
    /// of the user it runs as, if it is marked not dumpable.
    pub(crate) fn files_owner(&self) -> Option<u32> {
        Some(fs::metadata(self.path("maps")).ok()?.uid())
    }

    /// Which namespace of a kind (`user`, `mnt`, `pid`) it is in; nothing where that may
    /// not be seen.
    pub(crate) fn namespace(&self, kind: &str) -> Option<PathBuf> {
        fs::read_link(self.path("ns").join(kind)).ok()
    }

    /// The text of a file as the process would find it under `path`: its own working
    /// directory and root count. Only plain files of moderate length are read, and none
    /// that the system makes up: such have no length, and reading some takes from others
    /// what they wait for.
    pub(crate) fn text_file(&self, path: &Path) -> Option<String> {
        let seen = match path.strip_prefix("/") {
            Ok(below_root) => self.path("root").join(below_root),
            Err(_) => self.path("cwd").join(path),
        };
        // Where its root cannot be seen, it most likely has the same one as we.
        let elsewhere = !path.is_absolute() || self.path("root").exists();
        small_text(&seen).or_else(|| (!elsewhere).then(|| small_text(path))?)
    }

    fn read(&self, name: &'static str) -> Result<Vec<u8>, ProcessError> {
        fs::read(self.path(name)).map_err(|error| ProcessError::from_io(name, &error))
    }
}

/// The text of a plain file of at most 1 MiB. Whoever chose the path may have put
/// something there that would block or never end.
fn small_text(path: &Path) -> Option<String> {
    const LARGEST: u64 = 1 << 20;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // What is none must not even be opened.
    let before = fs::metadata(path).ok()?;
    if !before.is_file() || before.len() == 0 {
        return None;
    }
    let file = fs::File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Field `number` (counted from 1, as the manual does; 4 or more) of a `stat` line.
/// The second field, the name, is in parentheses and may hold anything.
pub(super) fn stat_field(line: &[u8], number: usize) -> Option<u64> {
    let after_name = line.iter().rposition(|byte| *byte == b')')? + 1;
    let text = std::str::from_utf8(line.get(after_name..)?).ok()?;
    text.split_whitespace()
        .nth(number.checked_sub(3)?)?
        .parse()
        .ok()
}

/// The state letter of a `stat` line.
pub(super) fn stat_state(line: &[u8]) -> Option<u8> {
    let after_name = line.iter().rposition(|byte| *byte == b')')? + 1;
    line.get(after_name..)?
        .iter()
        .copied()
        .find(|byte| *byte != b' ')
}

/// What tells a file from all others: its device and number.
pub(crate) fn file_number(_path: &Path, metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// The file name in a path of a program.
pub(crate) fn program_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The user that this process runs as.
pub(crate) fn current_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A user as people know it.
pub(crate) fn user_label(user: u32) -> String {
    match user_name(user) {
        Some(name) => format!("{name} (uid {user})"),
        None => format!("uid {user}"),
    }
}

/// What the system calls a user, if it has a name for it.
fn user_name(user: u32) -> Option<String> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user) && !name.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_confuse_stat() {
        let line = b"77 (a) R 1) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20";
        assert_eq!(stat_state(line), Some(b'S'));
        assert_eq!(stat_field(line, 4), Some(1));
        assert_eq!(stat_field(line, 22), Some(424_242));
        assert_eq!(stat_field(b"nonsense", 22), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let process = ProcRoot::system().process(std::process::id());
        let status = process.status().expect("status of this process");
        assert_eq!(status.user, current_user());
        assert!(status.parent > 0);
        assert!(!process.command_line().expect("command line").is_empty());
        assert!(process.start_time().expect("start time") > 0);
        assert!(process.mapped_pages().expect("statm") > 0);
        assert!(process.mappings().expect("mappings").len() > 3);
        assert!(!process.descriptors().expect("descriptors").is_empty());
    }

    #[test]
    fn only_plain_files_are_read_as_text() {
        let process = ProcRoot::system().process(std::process::id());
        let directory = tempfile::tempdir().expect("a directory");
        let plain = directory.path().join("plain");
        fs::write(&plain, "megs: 1").expect("written");
        assert_eq!(process.text_file(&plain).as_deref(), Some("megs: 1"));
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .expect("a pipe");
        // What the system makes up calls itself a plain file.
        for path in [
            pipe.as_path(),
            directory.path(),
            Path::new("/proc/self/comm"),
        ] {
            assert_eq!(process.text_file(path), None, "{}", path.display());
        }
    }

    #[test]
    fn a_process_that_never_was_is_gone() {
        let process = ProcRoot::system().process(u32::MAX);
        assert_eq!(process.status(), Err(ProcessError::Gone));
        assert_eq!(process.mappings(), Err(ProcessError::Gone));
    }
}
