//! What this process may: its token, without privileges and of low integrity, so that it can change
//! nothing of the user's and reach into no other process.

use std::mem::size_of;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Security::{
    AdjustTokenPrivileges, CreateWellKnownSid, GetSidSubAuthority, GetSidSubAuthorityCount,
    GetTokenInformation, SE_PRIVILEGE_REMOVED, SECURITY_MAX_SID_SIZE, SID_AND_ATTRIBUTES,
    SetTokenInformation, TOKEN_ADJUST_DEFAULT, TOKEN_ADJUST_PRIVILEGES, TOKEN_INFORMATION_CLASS,
    TOKEN_MANDATORY_LABEL, TOKEN_QUERY, TokenIntegrityLevel, TokenPrivileges, WinLowLabelSid,
};
use windows_sys::Win32::System::SystemServices::{SE_GROUP_INTEGRITY, SECURITY_MANDATORY_LOW_RID};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

/// `SE_CHANGE_NOTIFY_PRIVILEGE` of wdm.h: everybody has it, and paths are slow without it.
const CHANGE_NOTIFY: (u32, u32) = (23, 0);
/// Words for answers: far more than 40 privileges of 3 words each, or one label.
const ANSWER: usize = 512;

/// An answer about the token, aligned for pointers.
type Answer = [u64; ANSWER / 2];

/// Gives all privileges up; what came of it, in words.
pub fn drop_privileges() -> &'static str {
    if remove_privileges().is_some() {
        "no privileges"
    } else {
        "privileges are kept"
    }
}

fn remove_privileges() -> Option<()> {
    let token = own_token(TOKEN_QUERY | TOKEN_ADJUST_PRIVILEGES)?;
    // TOKEN_PRIVILEGES: how many; then for each two words that name it and its attributes.
    let mut privileges: Answer = [0; ANSWER / 2];
    ask(&token, TokenPrivileges, &mut privileges)?;
    let mut words = to_words(&privileges);
    let count = usize::try_from(*words.first()?).ok()?;
    for [low, high, attributes] in words.get_mut(1..)?.as_chunks_mut().0.iter_mut().take(count) {
        if (*low, *high) != CHANGE_NOTIFY {
            *attributes = SE_PRIVILEGE_REMOVED;
        }
    }
    // SAFETY: the token is open; `words` has the structure that was asked for, and outlives the
    // call; what was before is not wanted.
    unsafe {
        AdjustTokenPrivileges(
            token.as_raw_handle(),
            0,
            words.as_ptr().cast(),
            0,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    ask(&token, TokenPrivileges, &mut privileges)?;
    // The call also succeeds where it did nothing.
    (*to_words(&privileges).first()? <= 1).then_some(())
}

fn to_words(answer: &Answer) -> Vec<u32> {
    let bytes = answer.iter().flat_map(|word| word.to_ne_bytes());
    let bytes: Vec<u8> = bytes.collect();
    let words = bytes.as_chunks().0.iter();
    words.map(|word| u32::from_ne_bytes(*word)).collect()
}

/// Gives up writing to whatever a usual program may write to; what came of it, in words.
pub fn lower_integrity() -> &'static str {
    match set_low_integrity() {
        Some(level) if level <= SECURITY_MANDATORY_LOW_RID.unsigned_abs() => {
            "low integrity: nothing of the user's can be changed"
        }
        _ => "integrity is kept",
    }
}

/// The level that holds then.
fn set_low_integrity() -> Option<u32> {
    let token = own_token(TOKEN_QUERY | TOKEN_ADJUST_DEFAULT)?;
    let mut sid: Answer = [0; ANSWER / 2];
    let mut length = SECURITY_MAX_SID_SIZE;
    let place = sid.as_mut_ptr().cast();
    // SAFETY: `sid` has more than `length` bytes; no domain is needed for a label.
    let made =
        unsafe { CreateWellKnownSid(WinLowLabelSid, ptr::null_mut(), place, &raw mut length) };
    if made == 0 {
        return None;
    }
    let label = TOKEN_MANDATORY_LABEL {
        Label: SID_AND_ATTRIBUTES {
            Sid: place,
            Attributes: SE_GROUP_INTEGRITY.unsigned_abs(),
        },
    };
    let size = u32::try_from(size_of::<TOKEN_MANDATORY_LABEL>()).ok()?;
    // SAFETY: the token is open; the label and the SID that it points to outlive the call.
    unsafe {
        SetTokenInformation(
            token.as_raw_handle(),
            TokenIntegrityLevel,
            (&raw const label).cast(),
            size,
        )
    };
    let mut answer: Answer = [0; ANSWER / 2];
    ask(&token, TokenIntegrityLevel, &mut answer)?;
    // SAFETY: the answer begins with this structure, and is aligned for it.
    let label = unsafe { answer.as_ptr().cast::<TOKEN_MANDATORY_LABEL>().read() };
    let sid = label.Label.Sid;
    // SAFETY: the system has put a valid SID into the answer, which is still there.
    let count = unsafe { GetSidSubAuthorityCount(sid) };
    // SAFETY: it points to one byte of that SID.
    let last = unsafe { count.as_ref() }?.checked_sub(1)?;
    // SAFETY: the SID has a part of this number.
    let level = unsafe { GetSidSubAuthority(sid, u32::from(last)) };
    // SAFETY: it points into that SID.
    unsafe { level.as_ref() }.copied()
}

fn own_token(rights: u32) -> Option<OwnedHandle> {
    let mut token = ptr::null_mut();
    // SAFETY: no preconditions.
    let own = unsafe { GetCurrentProcess() };
    // SAFETY: the handle is open, and `token` is a place for one.
    if unsafe { OpenProcessToken(own, rights, &raw mut token) } == 0 {
        return None;
    }
    // SAFETY: opened just now, and nobody else has it.
    Some(unsafe { OwnedHandle::from_raw_handle(token) })
}

/// Asks the token; nothing where the system does not answer.
fn ask(token: &OwnedHandle, what: TOKEN_INFORMATION_CLASS, answer: &mut Answer) -> Option<()> {
    let room = u32::try_from(size_of::<Answer>()).ok()?;
    let mut length = 0;
    // SAFETY: the token is open, and `answer` has as much room as said.
    let done = unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            what,
            answer.as_mut_ptr().cast(),
            room,
            &raw mut length,
        )
    };
    (done != 0).then_some(())
}
