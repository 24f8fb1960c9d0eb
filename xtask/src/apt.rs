//! Downloads Debian packages with the host's own `apt-get`, without root and without touching the host's package state.
//!
//! First the host's own package lists are used. Where they are empty or stale (a fresh machine), a private copy of
//! apt's state below `target/` is brought up to date, and used instead. The archive's address comes from the host's
//! own configuration, never from here. Refuses hosts without `apt-get` and `dpkg-deb`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::command;

/// A way to ask apt: the host's own state, or a private one.
pub struct Apt {
    options: Vec<OsString>,
}

impl Apt {
    /// Uses the package lists that the host already has.
    pub fn of_host() -> Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            if command::find(program).is_none() {
                bail!(
                    "{program} is missing\nhint: xtask takes kernels from Debian's packages, so it needs a Debian or Ubuntu host"
                );
            }
        }
        let mut apt = Self {
            options: Vec::new(),
        };
        if rustix::process::geteuid().is_root() {
            apt.set("APT::Sandbox::User", "root");
        }
        Ok(apt)
    }

    /// Brings a private copy of apt's state in `directory` up to date and uses that. With `source`, a file in
    /// sources.list form, only the archives named there are used instead of the host's.
    pub fn private(directory: &Path, source: Option<&Path>) -> Result<Self> {
        let mut apt = Self::of_host()?;
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let part = directory.join(part);
            std::fs::create_dir_all(&part)
                .with_context(|| format!("cannot make {}", part.display()))?;
        }
        apt.set("Dir::State", directory.join("state"));
        apt.set("Dir::State::status", "/var/lib/dpkg/status");
        apt.set("Dir::Cache", directory.join("cache"));
        apt.set("Acquire::Languages", "none");
        if let Some(source) = source {
            apt.set("Dir::Etc::sourcelist", source);
            apt.set("Dir::Etc::sourceparts", "/dev/null");
        }
        // One archive that cannot be reached must not spoil the others: the download that follows decides.
        let updated = command::output(apt.command("apt-get").args(["-q", "update"]));
        if let Err(error) = updated {
            eprintln!("warning: {error}");
        }
        Ok(apt)
    }

    /// Downloads `package` into `directory` and gives the package file's path.
    pub fn download(&self, package: &str, directory: &Path) -> Result<PathBuf> {
        command::output(
            self.command("apt-get")
                .args(["-q", "download", package])
                .current_dir(directory),
        )?;
        let wanted = format!("{package}_");
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&wanted) && name.ends_with(".deb") {
                return Ok(path);
            }
        }
        Err(anyhow!("apt-get download {package} left no package file"))
    }

    /// The packages that the newest version of `package` depends on, or an error if apt knows no such package.
    pub fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let shown = command::output(self.command("apt-cache").args([
            "show",
            "--no-all-versions",
            package,
        ]))?;
        let line = shown.lines().find_map(|line| line.strip_prefix("Depends:"));
        let line = line.ok_or_else(|| anyhow!("apt knows no dependencies of {package}"))?;
        let name = |word: &str| {
            word.split(['(', '|', ':'])
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        Ok(line.split(',').map(name).collect())
    }

    /// Whether apt knows `package`.
    pub fn knows(&self, package: &str) -> bool {
        command::output(self.command("apt-cache").args(["show", package])).is_ok()
    }

    /// A command with the options of this way to ask apt.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(&self.options);
        command
    }

    /// Adds one `-o NAME=VALUE`.
    fn set(&mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) {
        let mut option = OsString::from(format!("{name}="));
        option.push(value);
        self.options.push("-o".into());
        self.options.push(option);
    }
}
