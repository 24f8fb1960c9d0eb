//! Programs for Windows, run by Wine with the paths that `cargo xtask windows` tells. Without these nothing is run, and
//! that is said.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vmshm_vm_tests::environment::skip;
use vmshm_vm_tests::program::{Outcome, Program};
use vmshm_vm_tests::x_server::XServer;

/// The directory with the programs, and the shim that Wine needs beside them.
const PROGRAMS: &str = "VMSHM_WINDOWS";
/// Wine itself.
const WINE: &str = "VMSHM_WINE";
/// Where Wine keeps its files: Wine's own variable.
const PREFIX: &str = "WINEPREFIX";
/// For starting a program, which takes Wine a while on a busy machine.
pub const START: Duration = Duration::from_secs(120);

/// Wine with files of its own.
#[derive(Debug, Clone)]
pub struct Wine {
    program: PathBuf,
    programs: PathBuf,
    prefix: PathBuf,
    display: Option<String>,
}

impl Wine {
    /// Wine without a screen; says why a test is skipped if there is none.
    ///
    /// # Panics
    /// When only a part is told.
    #[must_use]
    pub fn set_up() -> Option<Self> {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        match (path(PROGRAMS), path(WINE), path(PREFIX)) {
            (Some(programs), Some(program), Some(prefix)) => Some(Self {
                program,
                programs,
                prefix,
                display: None,
            }),
            (None, None, _) => {
                skip("`cargo xtask windows` runs the tests of the programs for Windows");
                None
            }
            _ => panic!("{PROGRAMS}, {WINE} and {PREFIX} go together"),
        }
    }

    /// The same with a screen. Its files are others: the first program that draws in a prefix decides where all do.
    #[must_use]
    pub fn on(&self, server: &XServer) -> Self {
        let mut prefix = self.prefix.clone().into_os_string();
        prefix.push("-display");
        Self {
            prefix: prefix.into(),
            display: Some(server.display.clone()),
            ..self.clone()
        }
    }

    /// A command that starts a program for Windows.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(self.programs.join(name));
        self.tell(&mut command);
        command
    }

    fn tell(&self, command: &mut Command) {
        command.env(PREFIX, &self.prefix);
        // This host's screen, if it has one, is no business of a test.
        command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
        if let Some(display) = &self.display {
            command.env("DISPLAY", display);
        }
    }

    /// `vmshm.exe` with these arguments.
    #[must_use]
    pub fn vmshm<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Program {
        let mut command = self.command("vmshm.exe");
        command.args(arguments);
        Program::new(command)
    }

    /// `vmshm.exe`, run to its end.
    ///
    /// # Panics
    /// When it hangs.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.vmshm(arguments).run_within(START)
    }

    /// Ends whatever Wine has running in these files.
    pub fn end(&self) {
        let server = self.program.with_file_name("wineserver64");
        let server = if server.exists() {
            server
        } else {
            PathBuf::from("wineserver")
        };
        let mut command = Command::new(server);
        self.tell(&mut command);
        // There may be nothing left.
        let _ = command.arg("-k").output();
    }
}

/// A path as programs for Windows see it: Wine shows the host's files below `Z:`.
#[must_use]
pub fn windows_path(path: &Path) -> String {
    format!("Z:{}", path.display()).replace('/', "\\")
}
