//! Wine, in which the tests run programs for Windows: a prefix of its own below `target`, and nothing of the user's.

use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, anyhow, ensure};

use crate::progress::Step;
use crate::{checkout, command, install};

/// Where Debian puts it; elsewhere it is on the PATH.
const DEBIAN: &str = "/usr/lib/wine/wine64";
const PACKAGE: &str = "wine64";

/// Wine, and where its files are.
pub struct Wine {
    program: PathBuf,
    prefix: PathBuf,
}

impl Wine {
    /// Installs it if it is missing.
    pub fn fetch() -> Result<Self> {
        let program = match find() {
            Some(program) => program,
            None => {
                install::package("Wine", PACKAGE)?;
                find().ok_or_else(|| anyhow!("Wine is still missing after installing {PACKAGE}"))?
            }
        };
        let prefix = checkout::target()?.join("wine");
        Ok(Self { program, prefix })
    }

    /// Makes its prefix now, which takes a while, so that no test waits for it.
    pub fn boot(&self) -> Result<()> {
        let _step = Step::start("starting Wine");
        self.keep_server()?;
        let mut boot = Command::new(&self.program);
        self.environment(&mut boot);
        let status = quiet(boot.args(["wineboot.exe", "--init"])).context("cannot start Wine")?;
        ensure!(status.success(), "Wine cannot make its files: {status}");
        Ok(())
    }

    /// Lets cargo run test programs in it.
    pub fn runs_tests_of(&self, cargo: &mut Command) {
        self.environment(cargo);
        cargo.env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER", &self.program);
    }

    /// Tells a program where Wine is, and Wine where its files are. It asks for nothing, and says nothing of its own.
    pub fn environment(&self, command: &mut Command) {
        command
            .env("VMSHM_WINE", &self.program)
            .env("WINEPREFIX", &self.prefix)
            .env("WINEDEBUG", "-all")
            .env("WINEARCH", "win64")
            .env("WINEDLLOVERRIDES", "mscoree,mshtml=");
    }

    /// Starts the server that all programs of the prefix talk to. Debian's ends with its last program, and refuses one
    /// that starts in that moment; this one stays for some minutes, should nobody end it.
    fn keep_server(&self) -> Result<()> {
        // One that runs already makes this one fail.
        let status = quiet(self.server().arg("-p600"));
        status.map(drop).context("cannot start Wine's server")
    }

    /// Ends what runs in the prefix: Wine's own services outlive the programs by a while.
    pub fn end(&self) {
        // There may be nothing left to end.
        let _ = command::output(self.server().arg("-k"));
    }

    fn server(&self) -> Command {
        let server = self.program.with_file_name("wineserver64");
        let mut server = Command::new(if server.exists() {
            server
        } else {
            PathBuf::from("wineserver")
        });
        self.environment(&mut server);
        server
    }
}

/// Runs what leaves others in the background, which shall not keep an output of ours open.
fn quiet(command: &mut Command) -> std::io::Result<ExitStatus> {
    let nowhere = Stdio::null;
    let command = command.stdin(nowhere()).stdout(nowhere());
    command.stderr(nowhere()).status()
}

fn find() -> Option<PathBuf> {
    let debian = PathBuf::from(DEBIAN);
    let found = debian.exists().then_some(debian);
    found
        .or_else(|| command::find("wine64"))
        .or_else(|| command::find("wine"))
}
