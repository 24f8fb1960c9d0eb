//! Processes as the system's table lists them and as they answer when they are opened. One
//! may vanish or refuse at any moment; each of these is an answer and not a failure of the
//! whole search.
#![allow(unsafe_code, reason = "processes are asked by raw calls")]

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::path::{Path, PathBuf};

use windows_sys::Wdk::System::Threading::{
    NtQueryInformationProcess, PROCESSINFOCLASS, ProcessBasicInformation,
    ProcessCommandLineInformation, ProcessProtectionInformation, ProcessVmCounters,
};
use windows_sys::Win32::Foundation::FILETIME;
use windows_sys::Win32::System::Threading::{
    GetProcessTimes, PROCESS_BASIC_INFORMATION, PROCESS_NAME_WIN32,
    PROCESS_QUERY_LIMITED_INFORMATION, QueryFullProcessImageNameW,
};

use super::handle::{failure, last_error, open_process, process_error};
use super::system_table::Table;
use super::{
    code, command_line, named_section, parameters, process_table, regions, section, unicode_string,
    users,
};
use crate::mapping::MemoryMapping;
use crate::os::facts::{Descriptor, HeldSections, NamedSection, ProcessError, ProcessStatus};

/// A command line has at most so many bytes, with its header.
const LONGEST_LINE: usize = (1 << 16) + 64;
/// Longer paths do not exist.
const LONGEST_PATH: usize = 1 << 15;
/// A configuration file is read up to this length.
const LARGEST_TEXT: u64 = 1 << 20;

/// The system's table of processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcRoot;

impl ProcRoot {
    /// The running system's.
    #[must_use]
    pub fn system() -> Self {
        Self
    }

    /// The ids of all processes, in rising order.
    pub(crate) fn pids(&self) -> io::Result<Vec<u32>> {
        let mut pids: Vec<u32> = self.entries()?.iter().map(|entry| entry.pid).collect();
        pids.sort_unstable();
        Ok(pids)
    }

    /// All processes, each with a mark that changes when another process takes the number.
    pub(crate) fn marks(&self) -> io::Result<Vec<(u32, u64)>> {
        let mark = |entry: &process_table::Entry| {
            let mut hasher = DefaultHasher::new();
            (entry.start_time, &entry.name).hash(&mut hasher);
            (entry.pid, hasher.finish())
        };
        Ok(self.entries()?.iter().map(mark).collect())
    }

    fn entries(&self) -> io::Result<Vec<process_table::Entry>> {
        let table = Table::processes().map_err(io::Error::from_raw_os_error)?;
        Ok(process_table::entries(table.bytes(), table.base()))
    }

    /// Whether processes of other users are hidden as if they were not there: never.
    #[must_use]
    pub fn hides_processes(&self) -> bool {
        false
    }

    /// All mappings of a process, in the order of their addresses.
    ///
    /// # Errors
    ///
    /// As the system answers: no such process, or no right to look.
    pub fn mappings(&self, pid: u32) -> io::Result<Vec<MemoryMapping>> {
        self.process(pid).mappings().map_err(|error| match error {
            ProcessError::Gone => io::ErrorKind::NotFound.into(),
            ProcessError::Denied { .. } => io::ErrorKind::PermissionDenied.into(),
            ProcessError::System { code, .. } => io::Error::from_raw_os_error(code),
        })
    }

    /// One process; it need not exist.
    pub(crate) fn process(&self, pid: u32) -> Process {
        Process { pid }
    }
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pid: u32,
}

impl Process {
    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// What the system's table says of it, also where it may not be opened.
    pub(super) fn listed(&self) -> Result<process_table::Entry, ProcessError> {
        let entries = ProcRoot::system().entries().map_err(|error| {
            process_error(
                "the table of all processes",
                error.raw_os_error().unwrap_or(0),
            )
        })?;
        let found = entries.into_iter().find(|entry| entry.pid == self.pid);
        found.ok_or(ProcessError::Gone)
    }

    fn open(&self) -> Result<OwnedHandle, ProcessError> {
        open_process(self.pid, PROCESS_QUERY_LIMITED_INFORMATION)
            .map_err(|code| process_error("opening the process", code))
    }

    /// The command line's words; the executable's name alone where the process may not be
    /// opened.
    pub(crate) fn command_line(&self) -> Result<Vec<String>, ProcessError> {
        let process = match self.open() {
            Ok(process) => process,
            Err(ProcessError::Denied { .. }) => return Ok(vec![self.listed()?.name]),
            Err(error) => return Err(error),
        };
        let mut words = vec![0_u64; LONGEST_LINE / 8];
        // SAFETY: any bytes are words.
        let told = unsafe { ask(&process, ProcessCommandLineInformation, &mut words) };
        let line = if told.is_ok() {
            let base = words.as_ptr() as u64;
            let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
            unicode_string::text(&bytes, base, 0).unwrap_or_default()
        } else {
            // Systems before Windows 8.1, and Wine: as the process has it itself.
            match parameters::command_line(self.pid) {
                Ok(line) => line,
                Err(code::NO_PROCESS) => return Err(ProcessError::Gone),
                Err(_) => return Ok(vec![self.listed()?.name]),
            }
        };
        Ok(command_line::words(&line))
    }

    /// The path of the executable, as the system shows it.
    pub(crate) fn executable(&self) -> Result<PathBuf, ProcessError> {
        let process = self.open()?;
        let mut path = vec![0_u16; LONGEST_PATH];
        let mut length = u32::try_from(LONGEST_PATH).unwrap_or(0);
        // SAFETY: the system writes no more than the length that it is given.
        let done = unsafe {
            QueryFullProcessImageNameW(
                process.as_raw_handle(),
                PROCESS_NAME_WIN32,
                path.as_mut_ptr(),
                &raw mut length,
            )
        };
        if done == 0 {
            return Err(process_error("the executable's name", last_error()));
        }
        let length = usize::try_from(length).unwrap_or(0);
        let path = path.get(..length).unwrap_or_default();
        Ok(PathBuf::from(String::from_utf16_lossy(path)))
    }

    /// The executable, by the path that it had when it started.
    pub(crate) fn executable_file(&self) -> PathBuf {
        self.executable().unwrap_or_default()
    }

    /// Where a path of a socket in its command line leads to.
    pub(crate) fn socket_path(&self, path: &str) -> PathBuf {
        PathBuf::from(path)
    }

    /// Parent, name and user.
    pub(crate) fn status(&self) -> Result<ProcessStatus, ProcessError> {
        let process = match self.open() {
            Ok(process) => process,
            Err(ProcessError::Denied { .. }) => {
                let listed = self.listed()?;
                return Ok(ProcessStatus {
                    name: program_name(&listed.name).to_owned(),
                    parent: listed.parent,
                    ..ProcessStatus::default()
                });
            }
            Err(error) => return Err(error),
        };
        let mut basic = PROCESS_BASIC_INFORMATION::default();
        // SAFETY: the type is what the class fills in.
        unsafe {
            ask(
                &process,
                ProcessBasicInformation,
                std::slice::from_mut(&mut basic),
            )
        }
        .map_err(|code| process_error("basic information", code))?;
        let executable = self.executable().unwrap_or_default();
        let name = executable.file_name().and_then(|name| name.to_str());
        Ok(ProcessStatus {
            name: name.map_or_else(String::new, |name| program_name(name).to_owned()),
            parent: u32::try_from(basic.InheritedFromUniqueProcessId).unwrap_or(0),
            user: users::user_of(process.as_raw_handle()).unwrap_or(0),
            ..ProcessStatus::default()
        })
    }

    /// When the process started, in units of 100 ns since 1601; with the pid it names the
    /// process for good.
    pub(crate) fn start_time(&self) -> Result<u64, ProcessError> {
        match self.open() {
            Ok(process) => {
                start_time(&process).map_err(|code| process_error("the process's times", code))
            }
            Err(ProcessError::Denied { .. }) => Ok(self.listed()?.start_time),
            Err(error) => Err(error),
        }
    }

    /// How many pages of addresses it uses. Cheap, and another number once something as large
    /// as RAM was mapped or unmapped.
    pub(crate) fn mapped_pages(&self) -> Result<u64, ProcessError> {
        /// The longest form of the counters (`VM_COUNTERS_EX2`) has fewer words.
        const WORDS: usize = 16;
        let process = self.open()?;
        // The oldest form, which every system fills in: 11 words, of which the second is the
        // size of the address space in bytes.
        let mut words = [0_u64; WORDS];
        // SAFETY: any bytes are words.
        unsafe { ask(&process, ProcessVmCounters, &mut words[..11]) }
            .map_err(|code| process_error("memory counters", code))?;
        Ok(words[1] / 4096)
    }

    /// All mappings, in the order of their addresses.
    pub(crate) fn mappings(&self) -> Result<Vec<MemoryMapping>, ProcessError> {
        regions::mappings(self.pid)
    }

    /// Open files are not listed on Windows: asking for some makes one wait.
    pub(crate) fn descriptors(&self) -> Result<Vec<Descriptor>, ProcessError> {
        Ok(Vec::new())
    }

    /// The sections that it holds.
    pub(crate) fn sections(&self) -> Result<HeldSections, ProcessError> {
        section::held(self.pid)
    }

    /// What a name leads to that one of its sections may have; `held` are those.
    pub(crate) fn named_section(&self, name: &str, held: &HeldSections) -> NamedSection {
        named_section::find(self.pid, name, held)
    }

    /// Whether the system protects it, even from administrators (`PS_PROTECTION` is not 0).
    pub(super) fn is_protected(&self) -> bool {
        let Ok(process) = self.open() else {
            return false;
        };
        let mut level = [0_u8; 1];
        // SAFETY: the class fills in one byte.
        let told = unsafe { ask(&process, ProcessProtectionInformation, &mut level) };
        told.is_ok() && level != [0]
    }

    /// Namespaces are Linux's.
    pub(crate) fn namespace(&self, _kind: &str) -> Option<PathBuf> {
        None
    }

    /// The text of a plain file of moderate length under a path of its command line: whole,
    /// or below its working directory. Only paths on drives are followed: another host must
    /// not be asked because of a name that somebody chose.
    pub(crate) fn text_file(&self, path: &Path) -> Option<String> {
        let whole = if path.is_relative() {
            PathBuf::from(parameters::directory(self.pid).ok()?).join(path)
        } else {
            path.to_owned()
        };
        let text = whole.to_str()?;
        let mut start = text.chars();
        let is_on_drive = start.next()?.is_ascii_alphabetic()
            && start.next()? == ':'
            && matches!(start.next()?, '\\' | '/');
        if !is_on_drive {
            return None;
        }
        let metadata = fs::metadata(&whole).ok()?;
        if !metadata.is_file() || metadata.len() == 0 {
            return None;
        }
        let mut bytes = Vec::new();
        let file = fs::File::open(&whole).ok()?;
        file.take(LARGEST_TEXT).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Asks a process for something; the error is the system's code.
///
/// # Safety
/// Whatever the class fills in must be a valid `T`.
pub(super) unsafe fn ask<T>(
    process: &OwnedHandle,
    class: PROCESSINFOCLASS,
    into: &mut [T],
) -> Result<(), i32> {
    let length = u32::try_from(size_of_val(into)).unwrap_or(0);
    let mut written = 0;
    // SAFETY: the system writes no more than the length that it is given; the caller promises
    // that what it writes is valid.
    let status = unsafe {
        NtQueryInformationProcess(
            process.as_raw_handle(),
            class,
            into.as_mut_ptr().cast(),
            length,
            &raw mut written,
        )
    };
    failure(status).map_or(Ok(()), Err)
}

/// When an opened process started; the error is the system's code.
pub(super) fn start_time(process: &OwnedHandle) -> Result<u64, i32> {
    let mut times = [FILETIME::default(); 4];
    let [created, ended, kernel, user] = &mut times;
    // SAFETY: all four are our own variables.
    let done = unsafe { GetProcessTimes(process.as_raw_handle(), created, ended, kernel, user) };
    if done == 0 {
        return Err(last_error());
    }
    Ok(u64::from(created.dwHighDateTime) << 32 | u64::from(created.dwLowDateTime))
}

/// What tells a file from all others: its path, since Windows runs a program from where it
/// is and lets nobody put another in its place.
pub(crate) fn file_number(path: &Path, _metadata: &fs::Metadata) -> (u64, u64) {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    (0, hasher.finish())
}

/// The file name in a path of a program, without the ending that all programs have.
pub(crate) fn program_name(path: &str) -> &str {
    let name = path.rsplit(['\\', '/']).next().unwrap_or(path);
    let stem = name
        .len()
        .checked_sub(4)
        .and_then(|end| name.split_at_checked(end));
    match stem {
        Some((stem, ending)) if ending.eq_ignore_ascii_case(".exe") => stem,
        _ => name,
    }
}
