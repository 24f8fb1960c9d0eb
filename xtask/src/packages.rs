//! Packages of the distribution, downloaded and unpacked below `target/vm/packages`, without root.
//!
//! A package is fetched once: a directory that is there is complete, because it is made under another name and renamed
//! at the end. Nothing is installed, and no maintainer script runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::Apt;
use crate::lock::Lock;
use crate::progress::Step;
use crate::{checkout, command};

/// What has to be unpacked into one directory, told by the archive at hand.
pub type Choice<'a> = &'a dyn Fn(&Apt) -> Result<Vec<String>>;

/// What remains to be done in a freshly unpacked directory.
pub type Finish<'a> = &'a dyn Fn(&Path) -> Result<()>;

/// The directory of the unpacked package `name`, fetched if it is missing.
pub fn unpacked(name: &str) -> Result<PathBuf> {
    unpacked_as(name, None, &|_| Ok(vec![name.to_owned()]), &|_| Ok(()))
}

/// The directory called `label` with the packages that `choose` names, fetched and finished if it is missing. With
/// `source`, a sources.list file, they come from there instead of the host's archives.
pub fn unpacked_as(
    label: &str,
    source: Option<&Path>,
    choose: Choice<'_>,
    finish: Finish<'_>,
) -> Result<PathBuf> {
    let home = checkout::vm_cache()?.join("packages");
    let directory = home.join(label);
    if directory.is_dir() {
        return Ok(directory);
    }
    let _lock = Lock::take("fetch")?;
    if directory.is_dir() {
        return Ok(directory);
    }
    let _step = Step::start(format!("fetching the package {label}"));
    std::fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    let scratch = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(&home)?;
    let tree = scratch.path().join("tree");
    let from_host = match source {
        None => fetch(&Apt::of_host()?, choose, scratch.path(), &tree),
        Some(_) => Err(anyhow::anyhow!("not asked")),
    };
    if let Err(first) = from_host {
        let state = checkout::vm_cache()?.join(if source.is_some() { "apt-other" } else { "apt" });
        let private = Apt::private(&state, source)?;
        let context = || match source {
            None => format!(
                "cannot fetch {label}; with the host's package lists: {first:#}; with fresh ones"
            ),
            Some(_) => format!("cannot fetch {label}"),
        };
        fetch(&private, choose, scratch.path(), &tree).with_context(context)?;
    }
    finish(&tree).with_context(|| format!("cannot prepare the package {label}"))?;
    std::fs::rename(&tree, &directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// Downloads what `choose` names into `scratch` and unpacks it all into `tree`.
fn fetch(apt: &Apt, choose: Choice<'_>, scratch: &Path, tree: &Path) -> Result<()> {
    for package in choose(apt)? {
        let file = apt.download(&package, scratch)?;
        command::output(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(&file)
                .arg(tree),
        )?;
        std::fs::remove_file(&file)?;
    }
    // dpkg-deb gives the tree the mode that the package has for `/`, behind a private scratch directory.
    Ok(())
}
