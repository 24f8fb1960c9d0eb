//! `vmshm-agent`, the guest daemon: pins memory, announces it, hands it out.
//!
//! This file only dispatches and reports: data goes to standard output, everything
//! else to standard error, and the exit code is 0 or 2.

mod agent;
mod arguments;
mod commands;
mod connect;
mod facts;
mod keeper;
mod pin;
mod run_directory;
mod size;
mod waker;
mod window;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use agent::AgentError;
use arguments::{Arguments, Command};
use commands::pipe::PipeError;
use commands::release::ReleaseError;
use commands::status::StatusError;
use commands::translate::TranslateError;
use keeper::KeeperError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("vmshm-agent {0} needs root: it pins memory and sees where pages lie")]
    NotRoot(&'static str),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error(transparent)]
    Translate(#[from] TranslateError),
    #[error(transparent)]
    Pipe(#[from] PipeError),
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    Source(#[from] vmshm_channel::ChannelError),
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

impl Failure {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NotRoot(command) => Some(format!("sudo vmshm-agent {command} …")),
            Self::Agent(error) => error.hint(),
            Self::Keeper(error) => error.hint(),
            Self::Status(error) => error.hint(),
            Self::Translate(error) => error.hint(),
            Self::Pipe(error) => error.hint(),
            Self::Release(error) => error.hint(),
            Self::Source(_) => {
                Some("`vmshm-agent run` starts sources of screens itself".to_owned())
            }
            Self::Print(_) => None,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("VMSHM_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .log_internal_errors(false)
        .init();
    match carry_out(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure);
            ExitCode::from(2)
        }
    }
}

fn carry_out(command: Command) -> Result<(), Failure> {
    let name = match &command {
        Command::Run { .. } => "run",
        Command::Status { .. } => "status",
        Command::Translate { .. } => "translate",
        Command::Pipe { .. } => "pipe",
        Command::Release { .. } => "release",
        Command::Keeper { .. } => "keeper",
        Command::Source => "source",
    };
    // A source has the rights of the desktop's user.
    if !matches!(command, Command::Source) && !rustix::process::geteuid().is_root() {
        return Err(Failure::NotRoot(name));
    }
    match command {
        Command::Run {
            max_pinned,
            connect,
            rules,
            pin_by,
            no_screens,
            no_input,
        } => Ok(agent::run(agent::Options {
            max_pinned,
            connect,
            pin_by,
            rules,
            screens: !no_screens,
            input: !no_input,
        })?),
        Command::Source => source(),
        Command::Keeper { pin_by } => Ok(keeper::run(pin_by)?),
        Command::Status { json } => print(&commands::status::run(json)?),
        Command::Translate { pid, address } => {
            print(&commands::translate::run(pid, address)?.to_string())
        }
        Command::Pipe { name } => Ok(commands::pipe::run(&name)?),
        Command::Release { force } => print(&commands::release::run(force)?),
    }
}

/// What the agent was told of the failure is its to tell.
fn source() -> Result<(), Failure> {
    match vmshm_screens::serve(vmshm_channel::inherited()?) {
        Err(vmshm_screens::SourceError::Channel(error)) => Err(error.into()),
        Ok(()) | Err(vmshm_screens::SourceError::Failed { .. }) => Ok(()),
    }
}

/// To standard output; whoever closed it early has seen enough.
fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout();
    match writeln!(output, "{text}").and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// The failure with its causes, each once, and what the user can do.
fn report(failure: &Failure) {
    let mut text = failure.to_string();
    let mut cause = failure.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    // Nobody may listen any more.
    let mut output = io::stderr();
    let _ = writeln!(output, "error: {text}");
    if let Some(hint) = failure.hint() {
        let _ = writeln!(output, "hint: {hint}");
    }
}
