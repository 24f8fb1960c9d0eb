//! The process that started this one, and how one is started apart from the terminal.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, getppid};

/// A Ctrl-C on the terminal is for the command, not for what it starts this way.
pub(crate) fn keep_apart(command: &mut Command) -> &mut Command {
    command.process_group(0)
}

/// The process that started this one.
#[derive(Debug)]
pub(crate) struct Parent(Option<Pid>);

impl Parent {
    /// Asks who it is.
    pub(crate) fn of_this_process() -> Self {
        Self(getppid())
    }

    /// Whether it still lives; its orphans get another parent.
    pub(crate) fn lives(&self) -> bool {
        getppid() == self.0
    }
}
