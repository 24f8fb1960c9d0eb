//! What compiles for Windows: Rust's standard library for `x86_64-pc-windows-gnu`, and MinGW's linker.
//!
//! The library comes with rustup. Where there is no rustup, or it cannot fetch, it is built from source by Debian's own
//! Rust packages, which must be new enough; building it needs what the compiler calls unstable, so that the compiler is
//! told to allow it (`RUSTC_BOOTSTRAP`), for this alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::progress::Step;
use crate::{artifacts, command, install, packages};

/// What is built for.
pub const TARGET: &str = "x86_64-pc-windows-gnu";
const LINKER: &str = "x86_64-w64-mingw32-gcc";
const LINKER_PACKAGE: &str = "gcc-mingw-w64-x86-64";
/// The linker's packages for a user without root; its own only chooses one of two flavours.
const LINKER_PARTS: [&str; 6] = [
    "gcc-mingw-w64-x86-64-win32",
    "gcc-mingw-w64-x86-64-win32-runtime",
    "gcc-mingw-w64-base",
    "binutils-mingw-w64-x86-64",
    "mingw-w64-x86-64-dev",
    "mingw-w64-common",
];
/// Debian's Rust: the compiler, cargo, and the library's source.
const RUST_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// A way to compile for Windows.
pub struct Toolchain {
    linker: PathBuf,
    /// Debian's Rust, and the library from source.
    from_source: bool,
}

impl Toolchain {
    /// Fetches what is missing.
    pub fn fetch() -> Result<Self> {
        let linker = linker()?;
        if has_library() {
            return Ok(Self {
                linker,
                from_source: false,
            });
        }
        let Err(error) = add_library() else {
            return Ok(Self {
                linker,
                from_source: false,
            });
        };
        eprintln!("Rust's library for Windows is built from source, since {error:#}");
        debian_rust()?;
        Ok(Self {
            linker,
            from_source: true,
        })
    }

    /// `cargo TASK` for Windows.
    pub fn cargo(&self, task: &str) -> Command {
        let mut cargo = artifacts::cargo();
        if self.from_source {
            cargo = Command::new("/usr/bin/cargo");
            cargo.current_dir(crate::checkout::root());
            cargo
                .env("RUSTC", "/usr/bin/rustc")
                .env("RUSTC_BOOTSTRAP", "1");
            // What rustup's cargo says of its own toolchain does not hold for this one.
            cargo.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTDOC");
        }
        cargo.arg(task).args(["--release", "--target", TARGET]);
        if self.from_source {
            cargo.arg("-Zbuild-std=std,panic_unwind,test");
        }
        cargo.arg("--target-dir").arg(self.directory());
        cargo.env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER", &self.linker);
        self.show_programs(&mut cargo);
        cargo
    }

    /// Where the built programs are.
    pub fn output(&self) -> PathBuf {
        self.directory().join(TARGET).join("release")
    }

    /// MinGW's C compiler, which is its linker.
    pub fn compiler(&self) -> Command {
        let mut compiler = Command::new(&self.linker);
        self.show_programs(&mut compiler);
        compiler
    }

    /// MinGW looks for its assembler on the PATH, and so does Rust for what makes import libraries.
    fn show_programs(&self, command: &mut Command) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directory = self.linker.parent().map(Path::to_path_buf);
        // Last: where the linker is there may be another Rust.
        let all = std::env::split_paths(&path).chain(directory);
        if let Ok(path) = std::env::join_paths(all) {
            command.env("PATH", path);
        }
    }

    /// A directory for each of the two compilers, so that neither builds anew what the other built.
    fn directory(&self) -> PathBuf {
        let name = if self.from_source {
            "windows-from-source"
        } else {
            "windows"
        };
        artifacts::cargo_output().join(name)
    }
}

/// MinGW's linker: installed, or unpacked below `target` where this is not root.
fn linker() -> Result<PathBuf> {
    if let Some(linker) = command::find(LINKER) {
        return Ok(linker);
    }
    if rustix::process::geteuid().is_root() {
        return install::program(LINKER, LINKER_PACKAGE);
    }
    let parts = LINKER_PARTS.map(str::to_owned).to_vec();
    let unpacked = packages::unpacked_as("mingw", None, &|_| Ok(parts.clone()), &|_| Ok(()));
    match unpacked {
        Ok(tree) => Ok(tree.join(format!("usr/bin/{LINKER}-win32"))),
        Err(error) => install::program(LINKER, LINKER_PACKAGE)
            .with_context(|| format!("unpacking MinGW: {error:#}")),
    }
}

/// Whether this compiler has the library for Windows.
fn has_library() -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut ask = Command::new(rustc);
    ask.args(["--print", "target-libdir", "--target", TARGET]);
    let directory = command::output(ask.current_dir(crate::checkout::root()));
    let entries = directory.map(|text| std::fs::read_dir(text.trim()));
    let Ok(Ok(entries)) = entries else {
        return false;
    };
    let mut names = entries.flatten().map(|entry| entry.file_name());
    names.any(|name| name.to_string_lossy().starts_with("libstd-"))
}

/// Lets rustup fetch the library.
fn add_library() -> Result<()> {
    if command::find("rustup").is_none() {
        bail!("there is no rustup");
    }
    let _step = Step::start("fetching Rust's library for Windows");
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]);
    command::output(rustup.current_dir(crate::checkout::root()))?;
    if !has_library() {
        bail!("rustup's library is not for the compiler in use");
    }
    Ok(())
}

/// Installs Debian's Rust, and refuses one that is too old.
fn debian_rust() -> Result<()> {
    let is_there = Path::new("/usr/bin/cargo").exists() && debian_version().is_ok();
    if !is_there || too_old(&debian_version()?) {
        install::newest_packages("Rust with its source", &RUST_PACKAGES)?;
    }
    let version = debian_version()?;
    if too_old(&version) {
        bail!(
            "Debian's Rust is {version}, and {} is needed\nhint: install Rust with rustup and run `rustup target add {TARGET}`",
            env!("CARGO_PKG_RUST_VERSION")
        );
    }
    Ok(())
}

fn debian_version() -> Result<String> {
    let text = command::output(Command::new("/usr/bin/rustc").arg("--version"))?;
    let version = text.split_whitespace().nth(1);
    version
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("/usr/bin/rustc does not tell its version"))
}

/// Whether a version is below what this project needs. One that cannot be read is.
fn too_old(version: &str) -> bool {
    let parts = |text: &str| {
        let mut numbers = text.split('.').map(|part| part.parse::<u32>().ok());
        Some((numbers.next()??, numbers.next()??))
    };
    parts(version).is_none_or(|have| parts(env!("CARGO_PKG_RUST_VERSION")) > Some(have))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(too_old("1.63.0"));
        assert!(too_old("1.9.0"));
        assert!(!too_old("1.96.1"));
        assert!(!too_old(env!("CARGO_PKG_RUST_VERSION")));
        assert!(too_old("nightly"));
    }
}
