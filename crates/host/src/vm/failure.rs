//! What went wrong on the way to a VM or a region, in the words that applications get on
//! both sides.

use std::error::Error;
use std::io;
use std::time::Duration;

use vmshm_endpoint::OpenError;
use vmshm_link::control::RefusalCode;

use crate::attach::AttachError;
use crate::brokered::ADD_A_RULE;
use crate::ending::Condition;
use crate::machines::SelectError;
use crate::reaching::ReachError;
use crate::session::RequestError;

/// A request that failed, after having waited for `waited`.
pub(super) fn open_error(error: RequestError, waited: Duration) -> OpenError {
    match error {
        RequestError::Refused { code, explanation } => OpenError::Refused {
            code,
            explanation,
            // An agent refuses nobody on the host by its own rules.
            hint: (code == RefusalCode::Denied).then_some(ADD_A_RULE),
        },
        RequestError::NoAnswer { condition, .. } => OpenError::Timeout {
            what: match condition {
                Condition::Running => "vmshm-agent did not answer",
                Condition::Stopped => {
                    "the VM is paused (its process is stopped): vmshm-agent did not answer"
                }
                Condition::Silent => {
                    "the guest is paused or hangs (no heartbeat): vmshm-agent did not answer"
                }
            },
            waited,
        },
        RequestError::Ended(end) => OpenError::Ended(end.into()),
        RequestError::BadName(name) => OpenError::BadName(name),
        RequestError::Pages(_) | RequestError::Graft { .. } => {
            let hint = error.hint();
            unreachable(None, error, hint)
        }
    }
}

/// Many programs print an error without its causes, so these are quoted.
fn unreachable(
    what: Option<String>,
    error: impl Error + Send + Sync + 'static,
    hint: Option<String>,
) -> OpenError {
    let mut texts: Vec<String> = what.into_iter().collect();
    let mut cause: Option<&dyn Error> = Some(&error);
    while let Some(next) = cause {
        let text = next.to_string();
        // An outer error may already quote its cause.
        if !texts.last().is_some_and(|outer| outer.ends_with(&text)) {
            texts.push(text);
        }
        cause = next.source();
    }
    OpenError::Unreachable {
        what: texts.join(": "),
        source: Box::new(error),
        hint,
    }
}

/// No VM, or several, for a name.
pub(super) fn not_selected(error: SelectError) -> OpenError {
    let hint = error.hint();
    unreachable(None, error, hint)
}

/// A VM, but no session with it.
pub(super) fn not_attached(name: &str, error: AttachError) -> OpenError {
    match error {
        AttachError::Ended(end) => OpenError::Ended(end.into()),
        error => {
            let hint = error.hint();
            unreachable(Some(format!("cannot connect to {name}")), error, hint)
        }
    }
}

/// Another user's VM, and nothing of it by a broker.
pub(super) fn not_reached(error: ReachError) -> OpenError {
    let hint = error.hint();
    unreachable(None, error, hint)
}

/// A session, but no thread to keep it.
pub(super) fn not_kept(error: io::Error) -> OpenError {
    let what = "there can be no thread that keeps the session".to_owned();
    unreachable(Some(what), error, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_says_what_failed_why_and_what_helps_each_once() {
        let name = "web".to_owned();
        let error = not_attached("web", AttachError::NoAgent { name });
        assert_eq!(
            error.to_string(),
            "cannot connect to web: no vmshm-agent is running in web"
        );
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("vmshm-agent run"))
        );
        let text = not_selected(SelectError::Unknown("web".to_owned())).to_string();
        assert_eq!(text.matches("web").count(), 1, "{text}");
    }
}
