//! What arguments are made of, and words for what is Windows's.

use std::ffi::OsStr;
use std::io;

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_LOCK_VIOLATION, ERROR_PRIVILEGE_NOT_HELD, ERROR_SHARING_VIOLATION,
};

/// Why `--method graft` is refused, if it is.
pub(crate) const GRAFT_REFUSAL: Option<&str> =
    Some("the method `graft` is not possible on Windows hosts: it needs ptrace");

/// What to do where no VM was found.
pub(crate) const NO_MACHINE_HINT: &str = "a VM of another user, or one that runs with more rights, may be hidden; run vmshm as administrator";

/// What to do where the system refuses a file for its length.
pub(crate) const FILE_TOO_LARGE_HINT: &str =
    "choose a file system that holds such a file (NTFS does; FAT32 ends at 4 GiB)";

/// The bytes of an argument in UTF-8.
///
/// # Errors
/// Half of a pair of UTF-16 units, which UTF-8 cannot say.
pub(crate) fn pattern_bytes(argument: &OsStr) -> Result<Vec<u8>, String> {
    let text = argument
        .to_str()
        .ok_or_else(|| format!("{argument:?} is no Unicode text; use --hex for other bytes"))?;
    Ok(text.as_bytes().to_vec())
}

/// What this user does not see of other users' VMs: here no more than what this host's facts
/// say of this program's rights.
pub(crate) const fn hidden_machines() -> Option<&'static str> {
    None
}

/// What to do about an error of the system.
pub(crate) fn hint_for(error: &io::Error) -> Option<&'static str> {
    let code = u32::try_from(error.raw_os_error()?).ok()?;
    match code {
        ERROR_ACCESS_DENIED => Some(
            "run vmshm as administrator; or, where it is a file that is written, it may be read-only or open in another program",
        ),
        ERROR_PRIVILEGE_NOT_HELD => Some("run vmshm as administrator"),
        ERROR_SHARING_VIOLATION | ERROR_LOCK_VIOLATION => {
            Some("another program has the file open; close it there")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::windows::ffi::OsStringExt;

    #[test]
    fn what_was_refused_has_a_hint() {
        let hint = |code| hint_for(&io::Error::from_raw_os_error(code));
        assert!(hint(5).is_some_and(|hint| hint.contains("administrator")));
        assert!(hint(32).is_some_and(|hint| hint.contains("open")));
        assert_eq!(hint(2), None);
        assert_eq!(hint_for(&io::Error::other("x")), None);
    }

    #[test]
    fn patterns_are_utf_8() {
        assert_eq!(pattern_bytes("é".as_ref()), Ok(vec![0xc3, 0xa9]));
        let half = std::ffi::OsString::from_wide(&[0xd800]);
        assert!(pattern_bytes(&half).is_err_and(|why| why.contains("--hex")));
    }
}
