//! What `doctor` says of this host and of the program's own rights on it.

use std::io;

use super::rights;
use crate::diagnosis::Cause;

/// What is good to know whichever VM is meant.
pub(crate) fn about_this_host() -> Vec<Cause> {
    let mut facts = vec![
        administrator(rights::is_elevated()),
        debug_privilege(rights::may_debug()),
        views(vmshm_shm::lays_views_side_by_side()),
    ];
    facts.extend(rights::wine_version().map(|version| Cause {
        what: format!("system: Wine {version}: only what runs under this Wine is seen"),
        hint: Some("the VMs of the Linux below are reached by vmshm for Linux".to_owned()),
    }));
    facts
}

fn administrator(is_elevated: io::Result<bool>) -> Cause {
    match is_elevated {
        Ok(true) => yes("administrator: yes"),
        Ok(false) => no(
            "administrator: no; VMs of other users, and those that run with more rights, are out of reach",
            "run vmshm as administrator, from a prompt that was started so",
        ),
        Err(error) => yes(format!("administrator: not known ({error})")),
    }
}

fn debug_privilege(may_debug: io::Result<bool>) -> Cause {
    match may_debug {
        Ok(true) => yes("SeDebugPrivilege: held; processes of other users can be opened"),
        Ok(false) => no(
            "SeDebugPrivilege: not held; processes of other users cannot be opened",
            "run as administrator; where that does not give it, the policy `Debug programs` (secpol.msc, User Rights Assignment) leaves this account out",
        ),
        Err(error) => yes(format!("SeDebugPrivilege: not known ({error})")),
    }
}

fn views(side_by_side: bool) -> Cause {
    if side_by_side {
        yes("mapping: page by page, as one memory (placeholders)")
    } else {
        no(
            "mapping: in windows of 64 KiB, since this system has no placeholders; it works, and costs a look-up with each access",
            "Windows 10 1803 and later have them, and Wine from 8.11 on",
        )
    }
}

fn yes(what: impl Into<String>) -> Cause {
    Cause {
        what: what.into(),
        hint: None,
    }
}

fn no(what: &str, hint: &str) -> Cause {
    Cause {
        what: what.to_owned(),
        hint: Some(hint.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_has_a_hint_and_what_is_there_needs_none() {
        for fact in [
            administrator(Ok(false)),
            debug_privilege(Ok(false)),
            views(false),
        ] {
            assert!(fact.hint.is_some(), "{fact:?}");
        }
        for fact in [
            administrator(Ok(true)),
            administrator(Err(io::ErrorKind::PermissionDenied.into())),
            debug_privilege(Ok(true)),
            views(true),
        ] {
            assert_eq!(fact.hint, None, "{fact:?}");
        }
        assert!(about_this_host().len() >= 3);
    }
}
