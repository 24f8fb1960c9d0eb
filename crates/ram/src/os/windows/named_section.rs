//! Sections by name, in this session's name space (`Local\`) and in the system's (`Global\`).
//! A name is anybody's to take, so what it leads to counts only where the process in question
//! holds the very same object.

#![allow(unsafe_code, reason = "sections are opened by a raw call")]

use std::os::windows::io::{AsHandle, OwnedHandle};

use windows_sys::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND};
use windows_sys::Win32::System::Memory::OpenFileMappingW;
use windows_sys::Win32::System::Threading::{
    PROCESS_DUP_HANDLE, PROCESS_QUERY_LIMITED_INFORMATION,
};

use super::handle::{are_same, last_error, open_process, owned};
use super::handle_table::{self, Ownership};
use super::section::{self, MAP_READ, MAP_WRITE, QUERY};
use super::system_table::Table;
use super::unicode_string::wide;
use crate::os::facts::{HeldSection, HeldSections, NamedSection};

/// Where names may lie.
const SPACES: [&str; 2] = [r"Local\", r"Global\"];

/// Opens a section by its name below one of the spaces, for writing where that is allowed.
/// The error is the system's code.
fn open(space: &str, name: &str) -> Result<(OwnedHandle, bool), i32> {
    let path = wide(&format!("{space}{name}"));
    let with = |rights| {
        // SAFETY: the name ends with a zero; opens a new handle or none.
        owned(unsafe { OpenFileMappingW(rights, 0, path.as_ptr()) })
    };
    match with(QUERY | MAP_READ | MAP_WRITE) {
        Ok(opened) => Ok((opened, true)),
        Err(_) => Ok((with(QUERY | MAP_READ)?, false)),
    }
}

/// Whether one of a process's sections has this name, or whose it is if it is not its own.
pub(super) fn find(pid: u32, name: &str, held: &HeldSections) -> NamedSection {
    let is_it = |section: &&HeldSection| last_part(&section.name) == name;
    if let Some(own) = held.sections.iter().find(is_it) {
        return NamedSection::Held(own.clone());
    }
    let mut answer = NamedSection::Absent;
    for space in SPACES {
        let next = match open(space, name) {
            Ok((opened, writable)) => judge(pid, &opened, writable),
            Err(code) if is_absent(code) => NamedSection::Absent,
            Err(code) => NamedSection::Unclear { code },
        };
        match next {
            NamedSection::Held(_) => return next,
            NamedSection::Absent => {}
            other => answer = other,
        }
    }
    answer
}

/// The process's own section of this whole name, opened by it; the code where it may not be
/// or is not the process's.
pub(super) fn reopen(pid: u32, whole_name: &str) -> Result<(OwnedHandle, bool), i32> {
    let mut refusal = ERROR_FILE_NOT_FOUND.cast_signed();
    for space in SPACES {
        match open(space, last_part(whole_name)) {
            Ok((opened, writable)) => match judge(pid, &opened, writable) {
                NamedSection::Held(section) if section.name == whole_name => {
                    return Ok((opened, writable));
                }
                NamedSection::Unclear { code } => refusal = code,
                _ => {}
            },
            Err(code) if is_absent(code) => {}
            Err(code) => refusal = code,
        }
    }
    Err(refusal)
}

fn is_absent(code: i32) -> bool {
    [ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND].contains(&code.cast_unsigned())
}

/// The last part of a name such as `\Sessions\1\BaseNamedObjects\x`.
fn last_part(name: &str) -> &str {
    name.rsplit('\\').next().unwrap_or(name)
}

/// Whether what was opened by its name is a section that the process holds.
fn judge(pid: u32, opened: &OwnedHandle, writable: bool) -> NamedSection {
    let facts = match section::facts(opened.as_handle()) {
        Ok(facts) => facts,
        Err(code) => return NamedSection::Unclear { code },
    };
    let handle = match owner_by_table(pid, opened) {
        Ok(Ownership::Held(handle)) => Ok(Some(handle)),
        Ok(Ownership::NotHeld) => Ok(None),
        Ok(Ownership::Hidden) => owner_by_copies(pid, opened),
        Err(code) => Err(code),
    };
    match handle {
        Ok(Some(handle)) => NamedSection::Held(HeldSection {
            handle,
            identity: section::identity(pid, handle),
            length: facts.length,
            name: facts.name,
            writable,
        }),
        Ok(None) => NamedSection::Foreign,
        Err(code) => NamedSection::Unclear { code },
    }
}

fn owner_by_table(pid: u32, opened: &OwnedHandle) -> Result<Ownership, i32> {
    let table = Table::handles()?;
    let own = section::number_of(opened);
    Ok(handle_table::ownership(
        table.bytes(),
        std::process::id(),
        own,
        pid,
    ))
}

/// Compares copies of the process's handles, where the system hides the objects.
fn owner_by_copies(pid: u32, opened: &OwnedHandle) -> Result<Option<u64>, i32> {
    let rights = PROCESS_DUP_HANDLE | PROCESS_QUERY_LIMITED_INFORMATION;
    let process = open_process(pid, rights)?;
    let mut refusal = None;
    for entry in section::entries(pid)? {
        match section::copy(&process, entry.handle) {
            Ok((copied, _)) => match are_same(copied.as_handle(), opened.as_handle()) {
                Some(true) => return Ok(Some(entry.handle)),
                Some(false) => {}
                None => refusal = Some(last_error()),
            },
            Err(code) => refusal = Some(code),
        }
    }
    refusal.map_or(Ok(None), Err)
}
