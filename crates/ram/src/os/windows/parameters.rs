//! What a process was started with, as it has it in its own memory: its command line and its
//! working directory. The process may write there what it likes, so lengths are bounded, and
//! what is read is a claim. The places are those of every 64-bit Windows
//! (`PEB.ProcessParameters` and `RTL_USER_PROCESS_PARAMETERS` of `winternl.h` and `phnt`);
//! 32-bit programs have these tables, too.
#![allow(
    unsafe_code,
    reason = "the place of the tables is asked for by a raw call"
)]

use std::os::windows::io::OwnedHandle;

use windows_sys::Wdk::System::Threading::ProcessBasicInformation;
use windows_sys::Win32::System::Threading::{
    PROCESS_BASIC_INFORMATION, PROCESS_QUERY_INFORMATION, PROCESS_VM_READ,
};

use super::handle::open_process;
use super::memory::read_from;
use super::process::ask;

/// Where the tables have what is wanted.
const PARAMETERS_IN_PEB: u64 = 0x20;
const DIRECTORY_IN_PARAMETERS: u64 = 0x38;
const LINE_IN_PARAMETERS: u64 = 0x70;

/// The command line. The error is the system's code.
pub(super) fn command_line(pid: u32) -> Result<String, i32> {
    text(pid, LINE_IN_PARAMETERS)
}

/// The working directory.
pub(super) fn directory(pid: u32) -> Result<String, i32> {
    text(pid, DIRECTORY_IN_PARAMETERS)
}

fn text(pid: u32, at: u64) -> Result<String, i32> {
    let process = open_process(pid, PROCESS_QUERY_INFORMATION | PROCESS_VM_READ)?;
    let mut basic = PROCESS_BASIC_INFORMATION::default();
    // SAFETY: the type is what the class fills in.
    unsafe {
        ask(
            &process,
            ProcessBasicInformation,
            std::slice::from_mut(&mut basic),
        )
    }?;
    let environment = basic.PebBaseAddress as u64;
    let parameters = number(&process, environment.wrapping_add(PARAMETERS_IN_PEB))?;
    let header = parameters.wrapping_add(at);
    // A `UNICODE_STRING`: its length in bytes, and where the characters are.
    let length = number(&process, header)? & 0xffff;
    let characters = number(&process, header.wrapping_add(8))?;
    let mut bytes = vec![0; usize::try_from(length & !1).unwrap_or(0)];
    read_from(&process, characters, &mut bytes)?;
    let units = bytes.chunks_exact(2);
    let units: Vec<u16> = units
        .filter_map(|pair| Some(u16::from_le_bytes(*pair.first_chunk()?)))
        .collect();
    Ok(String::from_utf16_lossy(&units))
}

fn number(process: &OwnedHandle, at: u64) -> Result<u64, i32> {
    let mut bytes = [0; 8];
    read_from(process, at, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
