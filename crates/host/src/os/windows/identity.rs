//! Who a process is: its number and the time at which it started, which the kernel's list
//! tells of processes that may not be opened, too.
#![allow(unsafe_code, reason = "the registry has no safe interface")]

use std::ptr;

use windows_sys::Win32::System::Registry::{
    HKEY_LOCAL_MACHINE, RRF_RT_ANY, RRF_RT_REG_SZ, RRF_SUBKEY_WOW6464KEY, RegGetValueW,
};
use windows_sys::core::{PCWSTR, w};

use super::process_list::{self, Listed, long};
use super::system_information;

/// Where `SYSTEM_TIMEOFDAY_INFORMATION` has the time of the boot, and how far setting the
/// clock has moved that (as in ReactOS's ndk/extypes.h; Microsoft's page calls it reserved).
const BOOT_TIME: usize = 0;
const BOOT_TIME_BIAS: usize = 32;
/// The only namespace of process numbers.
const WHOLE_HOST: u64 = 1;

/// This boot of this host: the installation's own number, and when it was started. The
/// latter stays the same when somebody sets the clock.
pub(crate) fn boot_id() -> Option<[u8; 16]> {
    let text = registry_text(w!("SOFTWARE\\Microsoft\\Cryptography"), w!("MachineGuid"))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let machine = u128::from_str_radix(&digits, 16).ok()?;
    let times = system_information::time_of_day().ok()?;
    let bias = long(&times, BOOT_TIME_BIAS).unwrap_or_default();
    let booted = long(&times, BOOT_TIME)?.wrapping_sub(bias);
    Some((machine ^ u128::from(booted)).to_be_bytes())
}

/// Process numbers count for the whole host. Inside a container not all processes are seen,
/// so that a missing one means nothing: then there is no namespace to compare in.
pub(crate) fn pid_namespace() -> Option<u64> {
    (!is_container()).then_some(WHOLE_HOST)
}

/// When a process started, in units of 100 nanoseconds since 1601; nothing for one that
/// is gone, or of which only handles are left.
pub(crate) fn start_time(pid: u64) -> Option<u64> {
    let listed = listed()?;
    let process = listed.iter().find(|process| process.pid == pid)?;
    (process.threads > 0).then_some(process.started)
}

/// Whether the process of that number that started then runs no more. `false` where the
/// processes cannot be listed.
pub(crate) fn has_ended(pid: u64, started: u64) -> bool {
    listed().is_some_and(|listed| {
        !listed
            .iter()
            .any(|process| process.pid == pid && process.started == started && process.threads > 0)
    })
}

fn listed() -> Option<Vec<Listed>> {
    let listed = process_list::parse(&system_information::processes().ok()?);
    // A list without this very process is none.
    let own = u64::from(std::process::id());
    listed
        .iter()
        .any(|process| process.pid == own)
        .then_some(listed)
}

/// Whether this process runs in a Windows container, by the value that its system puts into
/// the container's registry.
fn is_container() -> bool {
    // SAFETY: both names end with a zero, and a value's presence can be asked for without
    // taking it.
    let status = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            w!("SYSTEM\\CurrentControlSet\\Control"),
            w!("ContainerType"),
            RRF_RT_ANY,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    status == 0
}

/// A text in the registry, of less than 64 letters.
fn registry_text(key: PCWSTR, value: PCWSTR) -> Option<String> {
    let mut text = [0_u16; 64];
    let mut length = u32::try_from(size_of_val(&text)).ok()?;
    // SAFETY: both names end with a zero, and `text` has `length` bytes.
    let status = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            key,
            value,
            RRF_RT_REG_SZ | RRF_SUBKEY_WOW6464KEY,
            ptr::null_mut(),
            text.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let letters = text.split(|letter| *letter == 0).next()?;
    (status == 0).then(|| String::from_utf16(letters).ok())?
}

/// What a process has used of the processor: nobody asks for it here.
pub(crate) const fn processor_time(_: u32) -> Option<std::time::Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_stays_the_same_and_processes_are_listed() {
        let boot = boot_id().expect("known");
        assert_ne!(boot, [0; 16]);
        assert_eq!(boot_id(), Some(boot));
        assert!(start_time(u64::from(std::process::id())).is_some_and(|time| time > 0));
        assert_eq!(start_time(u64::MAX), None);
        assert!(has_ended(u64::MAX, 1));
    }
}
