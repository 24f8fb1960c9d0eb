//! The Debian 13 trees that guests can run on, made once by mmdebstrap below `target/vm`: one with a Wayland compositor,
//! an X server without a screen, and their small programs, and a small one whose init is systemd.
//!
//! As root a tree is what mmdebstrap makes. An ordinary user gets it through user namespaces, and then all files belong
//! to that user, which the guest's root does not mind. Refuses where neither works.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::lock::Lock;
use crate::progress::Step;
use crate::{archive, checkout, command, install};

/// A tree: its directory, and what it holds besides a minimal system.
struct Tree {
    name: &'static str,
    packages: &'static str,
}

const DESKTOP: Tree = Tree {
    name: "debian13",
    packages: "sway,foot,grim,wlr-randr,wev,wayvnc,xvfb,xterm,fonts-dejavu-core,kmod,procps,passwd",
};
const SYSTEMD: Tree = Tree {
    name: "debian13-systemd",
    packages: "systemd,libkmod2",
};

/// Where a tree says which packages it was made of: one of other packages is made anew.
const STAMP: &str = "etc/vmshm-tree";

/// The directory of the tree with a desktop, made if it is missing.
pub fn tree() -> Result<PathBuf> {
    DESKTOP.directory()
}

/// The directory of the tree with systemd, made if it is missing.
pub fn systemd_tree() -> Result<PathBuf> {
    SYSTEMD.directory()
}

impl Tree {
    /// Its directory, made if it is missing.
    fn directory(&self) -> Result<PathBuf> {
        let home = checkout::vm_cache()?;
        let tree = home.join(self.name);
        let is_there = || {
            std::fs::read_to_string(tree.join(STAMP))
                .is_ok_and(|packages| packages == self.packages)
        };
        if is_there() {
            return Ok(tree);
        }
        let mmdebstrap = install::program("mmdebstrap", "mmdebstrap")?;
        if !rustix::process::geteuid().is_root() {
            install::program("newuidmap", "uidmap")?;
        }
        let _lock = Lock::take("fetch")?;
        if is_there() {
            return Ok(tree);
        }
        let name = self.name;
        let _step = Step::start(format!("making the tree {name} (this takes a minute)"));
        let scratch = tempfile::Builder::new()
            .prefix(".debian13-")
            .tempdir_in(&home)?;
        // Root's tree must be reachable for the user that mmdebstrap downloads as.
        std::fs::set_permissions(
            scratch.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        let made = scratch.path().join("tree");
        make(&mmdebstrap, self.packages, &made)
            .with_context(|| format!("cannot make the tree {name}"))?;
        std::fs::write(made.join(STAMP), self.packages)?;
        if tree.is_dir() {
            // Guests that still run on it keep what they have open.
            std::fs::rename(&tree, scratch.path().join("old"))?;
        }
        std::fs::rename(&made, &tree).with_context(|| format!("cannot make {}", tree.display()))?;
        Ok(tree)
    }
}

/// Makes a tree in `directory`, which does not exist yet.
fn make(mmdebstrap: &Path, packages: &str, directory: &Path) -> Result<()> {
    let mut program = Command::new(mmdebstrap);
    program
        .args(["--quiet", "--variant=minbase", "--architectures=amd64"])
        .arg(format!("--include={packages}"));
    for proxy in archive::proxies() {
        program.arg("--aptopt").arg(proxy);
    }
    let line = archive::debian13_line()?;
    if rustix::process::geteuid().is_root() {
        program.arg(archive::SUITE).arg(directory).arg(line);
        return command::output(&mut program).map(drop);
    }
    let packed = directory.with_extension("tar");
    program
        .arg("--mode=unshare")
        .arg(archive::SUITE)
        .arg(&packed)
        .arg(line);
    command::output(&mut program).context(
        "mmdebstrap needs user namespaces here\nhint: run this once as root, or enable them (kernel.unprivileged_userns_clone, /etc/subuid)",
    )?;
    std::fs::create_dir(directory)?;
    let mut unpack = Command::new("tar");
    unpack
        .arg("-x")
        .arg("-f")
        .arg(&packed)
        .arg("-C")
        .arg(directory)
        .args(["--no-same-owner", "--exclude=./dev/*"]);
    command::output(&mut unpack).map(drop)
}
