//! One process, as /proc shows it: every question may find it gone.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Descriptors of one process that are looked at.
const DESCRIPTORS: usize = 4096;
/// Processes that are looked at.
const PROCESSES: usize = 32768;
/// Longest name that is shown.
const NAME: usize = 32;

/// Whether paths mean the same in two processes.
#[derive(Debug, PartialEq, Eq)]
pub struct Namespaces {
    root: Option<PathBuf>,
    mounts: Option<PathBuf>,
}

impl Namespaces {
    /// Those of the process in this directory.
    pub fn of(process: &Path) -> Self {
        Self {
            root: fs::read_link(process.join("root")).ok(),
            mounts: fs::read_link(process.join("ns/mnt")).ok(),
        }
    }
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    proc: PathBuf,
    directory: PathBuf,
}

/// What it has open of what matters.
#[derive(Debug, Default)]
pub struct Open {
    /// Listening sockets: inode and path.
    pub sockets: Vec<(u64, String)>,
    /// Lock files.
    locks: Vec<String>,
}

/// All processes, by number.
pub fn all(proc: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir(proc) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut pids: Vec<u32> = names
        .filter_map(|name| name.parse().ok())
        .take(PROCESSES)
        .collect();
    pids.sort_unstable();
    pids.into_iter()
        .map(|pid| Process::new(proc, pid))
        .collect()
}

impl Process {
    /// The process of this number, if there is one.
    pub fn new(proc: &Path, pid: u32) -> Self {
        Self {
            pid,
            proc: proc.to_owned(),
            directory: proc.join(pid.to_string()),
        }
    }

    /// Which of these sockets it has open, and which lock files.
    pub fn open(&self, listening: &BTreeMap<u64, String>) -> Open {
        let mut open = Open::default();
        let Ok(entries) = fs::read_dir(self.directory.join("fd")) else {
            return open;
        };
        for entry in entries.take(DESCRIPTORS).filter_map(Result::ok) {
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            let Some(target) = target.to_str() else {
                continue;
            };
            let inode = target
                .strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']'))
                .and_then(|inode| inode.parse().ok());
            match inode {
                Some(inode) => {
                    let path = listening.get(&inode);
                    open.sockets.extend(path.map(|path| (inode, path.clone())));
                }
                None if target.ends_with(".lock") => open.locks.push(target.to_owned()),
                None => {}
            }
        }
        open.sockets.sort_unstable();
        open.sockets.dedup();
        open
    }

    /// Its user and group, as far as rights go.
    pub fn owner(&self) -> Option<(u32, u32)> {
        let status = fs::read(self.directory.join("status")).ok()?;
        let status = String::from_utf8_lossy(&status).into_owned();
        Some((effective(&status, "Uid:")?, effective(&status, "Gid:")?))
    }

    /// The name of its program, with nothing in it that a terminal would obey.
    pub fn name(&self) -> String {
        let program = fs::read_link(self.directory.join("exe")).ok();
        let program = program.and_then(|path| path.file_name().map(OsString::from));
        let name = match program {
            Some(name) => name.to_string_lossy().into_owned(),
            None => fs::read(self.directory.join("comm"))
                .map(|name| String::from_utf8_lossy(&name).trim_end().to_owned())
                .unwrap_or_default(),
        };
        let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || "._+-".contains(c) {
                c
            } else {
                '?'
            }
        };
        name.chars().take(NAME).map(plain).collect()
    }

    /// The environment that it was started with.
    pub fn environment(&self) -> Vec<(String, String)> {
        let bytes = fs::read(self.directory.join("environ")).unwrap_or_default();
        bytes
            .split(|byte| *byte == 0)
            .filter_map(|entry| {
                let (key, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
                Some((key.to_owned(), value.to_owned()))
            })
            .collect()
    }

    /// When it was started, in the kernel's ticks.
    pub fn started(&self) -> Option<u64> {
        let stat = fs::read(self.directory.join("stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat).into_owned();
        // The name in brackets may hold anything; 20 fields follow it until the start.
        let (_, fields) = stat.rsplit_once(')')?;
        fields.split_ascii_whitespace().nth(19)?.parse().ok()
    }

    /// How this process reaches a path of that one.
    pub fn reach(&self, own: &Namespaces, path: &str) -> String {
        if Namespaces::of(&self.directory) == *own {
            path.to_owned()
        } else {
            format!("/proc/{}/root{path}", self.pid)
        }
    }

    /// `SWAYSOCK` in the environment of a child: sway sets it for what it starts.
    pub fn childs_sway_socket(&self) -> Option<String> {
        all(&self.proc)
            .iter()
            .filter(|process| process.parent() == Some(self.pid))
            .find_map(|child| {
                let environment = child.environment();
                let found = environment.into_iter().find(|(key, _)| key == "SWAYSOCK");
                found
                    .map(|(_, path)| path)
                    .filter(|path| path.starts_with('/'))
            })
    }

    fn parent(&self) -> Option<u32> {
        let status = fs::read(self.directory.join("status")).ok()?;
        let status = String::from_utf8_lossy(&status).into_owned();
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        line.trim().parse().ok()
    }
}

impl Open {
    /// Whether a listening socket is a Wayland one: by its name, or by the lock that libwayland
    /// holds beside it.
    pub fn is_wayland(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or_default();
        let lock = format!("{path}.lock");
        name.starts_with("wayland-") || self.locks.contains(&lock)
    }

    /// Sway's IPC socket among those that it listens on.
    pub fn sway_socket(&self, named: Option<&str>) -> Option<String> {
        let is_sways = |path: &str| {
            let name = path.rsplit('/').next().unwrap_or_default();
            named == Some(path) || name.starts_with("sway-ipc.")
        };
        let found = self.sockets.iter().find(|(_, path)| is_sways(path));
        found.map(|(_, path)| path.clone())
    }
}

/// The second number of a line of `/proc/PID/status`: real, effective, saved, of the file system.
fn effective(status: &str, key: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}
