//! `vmshm-agent release`: frees what dead or silent hosts still hold.
//!
//! What hosts have let go of is free without it. A silent host may only be stopped,
//! and write again later: what it holds goes only with `--force`, and what a host
//! holds that is heard stays.

use std::fmt::Write as _;

use super::ask::{self, AskError};
use crate::agent::local_protocol::{Answer, ReleaseInfo, Wish};
use crate::agent::{self, AgentError};

/// Why nothing was released.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReleaseError {
    /// The agent could not be asked.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// There is no agent, and its place could not be taken.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

impl ReleaseError {
    /// What the user can do.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Ask(error) => error.hint(),
            Self::Agent(error) => error.hint(),
        }
    }
}

/// What to print.
pub(crate) fn run(force: bool) -> Result<String, ReleaseError> {
    let info = match ask::ask(Wish::Release { force }) {
        Ok(Answer::Released(info)) => info,
        Ok(_) => return Err(AskError::Unexpected.into()),
        Err(AskError::NotRunning) => agent::release_without_agent(force)?,
        Err(error) => return Err(error.into()),
    };
    Ok(show(&info))
}

fn show(info: &ReleaseInfo) -> String {
    let mut text = match info.freed.len() {
        1 => "1 slot freed".to_owned(),
        count => format!("{count} slots freed"),
    };
    if !info.silent.is_empty() {
        // Writing into a String cannot fail.
        let _ = write!(
            text,
            ", {} held by silent hosts (`vmshm-agent release --force` frees them; a host that is only stopped may then \
             finish the one copy it was in, into memory that is no longer shared)",
            info.silent.len()
        );
    }
    if info.live > 0 {
        let _ = write!(text, ", {} in use by live hosts", info.live);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_left_and_what_would_help() {
        let info = ReleaseInfo {
            freed: vec![1],
            silent: vec![4, 5],
            live: 3,
        };
        let text = show(&info);
        assert!(
            text.contains("1 slot freed") && text.contains("--force"),
            "{text}"
        );
        assert_eq!(show(&ReleaseInfo::default()), "0 slots freed");
    }
}
