//! How a command that failed says so: the chain of causes once, then a hint.

use std::error::Error;
use std::process::ExitCode;

use vmshm_host::attach::AttachError;
use vmshm_host::display::DisplayError;
use vmshm_host::listen::ListenError;
use vmshm_host::machines::SelectError;
use vmshm_host::physical::PhysicalError;
use vmshm_host::pipe::PipeError;
use vmshm_host::{ReachError, RequestError, SessionEnd};
use vmshm_link::LinkError;
use vmshm_ram::{DumpWriteError, FindError, OpenError, PatternError, SearchError};

use crate::os;
use crate::output;

/// Why a command failed, for the user.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure in words.
    pub(crate) fn new(message: &str, hint: Option<&str>) -> Self {
        Self {
            message: message.to_owned(),
            hint: hint.map(str::to_owned),
        }
    }

    /// An error with its causes; each cause is told once. Where no hint is given, there may
    /// be one for what the system said.
    pub(crate) fn from_error(error: &(dyn Error + 'static), hint: Option<String>) -> Self {
        let of_system = |error: &(dyn Error + 'static)| {
            let hint = error.downcast_ref().and_then(os::hint_for);
            hint.map(str::to_owned)
        };
        let mut hint = hint.or_else(|| of_system(error));
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            let text = next.to_string();
            // An outer error may already quote its cause.
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            hint = hint.or_else(|| of_system(next));
            cause = next.source();
        }
        Self { message, hint }
    }

    /// Says what was being done.
    pub(crate) fn because(mut self, doing: &str) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// Prints it and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        use std::io::Write;
        let mut text = format!("error: {}\n", output::plain(&self.message));
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {}\n", output::plain(hint)));
        }
        // Nobody listens on stderr: the exit code still tells.
        let _ = std::io::stderr().write_all(text.as_bytes());
        ExitCode::from(2)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

macro_rules! failure_with_hint {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                let hint = error.hint().map(|hint| hint.to_string());
                Self::from_error(&error, hint)
            }
        })*
    };
}

failure_with_hint!(
    AttachError,
    DisplayError,
    DumpWriteError,
    FindError,
    ListenError,
    OpenError,
    PhysicalError,
    PipeError,
    ReachError,
    RequestError,
    SearchError,
    SelectError,
    SessionEnd
);

impl From<PatternError> for Failure {
    fn from(error: PatternError) -> Self {
        Self::from_error(&error, None)
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        Self::from_error(&error, None)
    }
}
