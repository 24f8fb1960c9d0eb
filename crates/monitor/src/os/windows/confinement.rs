//! Gives up what is not needed for showing pictures, before the first byte of the guest is read.
//!
//! Each step may be missing on some version of Windows, which is then said; what is said to hold
//! was asked back from the system. What this does not do: files and registry keys that the
//! user may read can still be opened for reading, system calls are not limited, and the
//! network is not closed.

use std::mem::size_of;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_ACTIVE_PROCESS,
    JOB_OBJECT_UILIMIT_DESKTOP, JOB_OBJECT_UILIMIT_DISPLAYSETTINGS, JOB_OBJECT_UILIMIT_EXITWINDOWS,
    JOB_OBJECT_UILIMIT_READCLIPBOARD, JOB_OBJECT_UILIMIT_SYSTEMPARAMETERS,
    JOB_OBJECT_UILIMIT_WRITECLIPBOARD, JOBOBJECT_BASIC_LIMIT_INFORMATION,
    JOBOBJECT_BASIC_UI_RESTRICTIONS, JOBOBJECTINFOCLASS, JobObjectBasicLimitInformation,
    JobObjectBasicUIRestrictions, SetInformationJobObject,
};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetProcessMitigationPolicy, PROCESS_MITIGATION_POLICY,
    ProcessChildProcessPolicy, ProcessDynamicCodePolicy, ProcessExtensionPointDisablePolicy,
    ProcessFontDisablePolicy, ProcessImageLoadPolicy, SetProcessMitigationPolicy,
};

use super::token;

/// Policies, the bits of their flags (the structures `PROCESS_MITIGATION_…_POLICY` of winnt.h, each
/// of which is 32 bits of flags), and what they are in words.
const POLICIES: [(PROCESS_MITIGATION_POLICY, u32, &str); 5] = [
    (ProcessDynamicCodePolicy, 1, "no new code"),
    (ProcessChildProcessPolicy, 1, "no programs"),
    (ProcessExtensionPointDisablePolicy, 1, "no extensions"),
    // NoRemoteImages, NoLowMandatoryLabelImages.
    (ProcessImageLoadPolicy, 0b11, "no libraries from elsewhere"),
    (ProcessFontDisablePolicy, 1, "no fonts but the system's"),
];

/// What holds for one thread and those that it starts: nothing here.
pub const fn confine_this_thread() -> Vec<String> {
    Vec::new()
}

/// What holds for the process. What was given up, in words.
pub fn confine_process(mut words: Vec<String>) -> String {
    let (held, missing): (Vec<_>, Vec<_>) = POLICIES
        .into_iter()
        .partition(|&(policy, flags, _)| apply(policy, flags));
    let list = |policies: Vec<(_, _, &str)>| {
        let names: Vec<_> = policies.into_iter().map(|(_, _, name)| name).collect();
        names.join(", ")
    };
    if !held.is_empty() {
        words.push(format!("{} (mitigation policies)", list(held)));
    }
    if !missing.is_empty() {
        words.push(format!("this system does not promise: {}", list(missing)));
    }
    words.push(enter_job().to_owned());
    words.push(token::drop_privileges().to_owned());
    words.push(token::lower_integrity().to_owned());
    words.join("; ")
}

/// Whether the policy holds from now on.
fn apply(policy: PROCESS_MITIGATION_POLICY, flags: u32) -> bool {
    // SAFETY: `flags` is as long as the policy's structure.
    unsafe { SetProcessMitigationPolicy(policy, (&raw const flags).cast(), size_of::<u32>()) };
    let mut now = 0_u32;
    // SAFETY: no preconditions.
    let own = unsafe { GetCurrentProcess() };
    // SAFETY: the handle is open, and `now` is as long as the policy's structure.
    let asked =
        unsafe { GetProcessMitigationPolicy(own, policy, (&raw mut now).cast(), size_of::<u32>()) };
    asked != 0 && now & flags == flags
}

/// A job of one process, if possible without clipboard and the desktop's settings: that is not
/// possible inside of another job (`AssignProcessToJobObject`'s documentation).
fn enter_job() -> &'static str {
    if enter_job_with(true) {
        "a job of its own: one process, no clipboard, no settings"
    } else if enter_job_with(false) {
        "a job of its own: one process"
    } else {
        "no job of its own"
    }
}

fn enter_job_with(interface_limits: bool) -> bool {
    // SAFETY: a job without a name and with the usual rights; nothing is passed by address.
    let job = unsafe { CreateJobObjectW(ptr::null(), ptr::null()) };
    if job.is_null() {
        return false;
    }
    // SAFETY: made just now, and nobody else has it. The job lives on with its process.
    let job = unsafe { OwnedHandle::from_raw_handle(job) };
    let alone = JOBOBJECT_BASIC_LIMIT_INFORMATION {
        LimitFlags: JOB_OBJECT_LIMIT_ACTIVE_PROCESS,
        ActiveProcessLimit: 1,
        ..Default::default()
    };
    let interface = JOBOBJECT_BASIC_UI_RESTRICTIONS {
        UIRestrictionsClass: JOB_OBJECT_UILIMIT_READCLIPBOARD
            | JOB_OBJECT_UILIMIT_WRITECLIPBOARD
            | JOB_OBJECT_UILIMIT_DESKTOP
            | JOB_OBJECT_UILIMIT_DISPLAYSETTINGS
            | JOB_OBJECT_UILIMIT_EXITWINDOWS
            | JOB_OBJECT_UILIMIT_SYSTEMPARAMETERS,
    };
    let is_limited = limit(&job, JobObjectBasicLimitInformation, &alone)
        && (!interface_limits || limit(&job, JobObjectBasicUIRestrictions, &interface));
    // SAFETY: no preconditions.
    let own = unsafe { GetCurrentProcess() };
    // SAFETY: both handles are open.
    is_limited && unsafe { AssignProcessToJobObject(job.as_raw_handle(), own) } != 0
}

/// Sets a limit; `what` is the structure of this `class`.
fn limit<T>(job: &OwnedHandle, class: JOBOBJECTINFOCLASS, what: &T) -> bool {
    let Ok(length) = u32::try_from(size_of::<T>()) else {
        return false;
    };
    let what: *const T = what;
    // SAFETY: the job is open, and `what` is as long as said.
    unsafe { SetInformationJobObject(job.as_raw_handle(), class, what.cast(), length) != 0 }
}
