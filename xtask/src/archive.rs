//! The Debian archive that the host's apt is set up with, and Debian 13 in it.
//!
//! The address is the host's own, so mirrors and local archives are respected. Refuses hosts whose apt knows no Debian
//! archive, such as Ubuntu.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{checkout, command};

/// Debian 13's name in the archive.
pub const SUITE: &str = "trixie";

/// The keys that sign Debian's archive, where Debian's own package puts them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One line of sources.list for Debian 13.
pub fn debian13_line() -> Result<String> {
    let signed = if Path::new(KEYRING).is_file() {
        format!("[signed-by={KEYRING}] ")
    } else {
        String::new()
    };
    Ok(format!("deb {signed}{} {SUITE} main", address()?))
}

/// A file in sources.list form that names Debian 13 only.
pub fn debian13_source() -> Result<PathBuf> {
    let file = checkout::vm_cache()?.join("debian13.list");
    let text = format!("{}\n", debian13_line()?);
    if std::fs::read_to_string(&file).is_ok_and(|old| old == text) {
        return Ok(file);
    }
    let scratch = tempfile::NamedTempFile::new_in(checkout::vm_cache()?)?;
    std::fs::write(scratch.path(), text)?;
    scratch
        .persist(&file)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// The proxies that apt is told to use, as lines of apt's configuration.
pub fn proxies() -> Vec<String> {
    let dumped = command::output(Command::new("apt-config").arg("dump")).unwrap_or_default();
    let is_proxy = |line: &&str| line.starts_with("Acquire::http") && line.contains("::Proxy");
    dumped
        .lines()
        .filter(is_proxy)
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect()
}

/// The address of the Debian archive in the host's configuration of apt.
fn address() -> Result<String> {
    let format = "$(SITE)|$(RELEASE)|$(COMPONENT)";
    let mut ask = Command::new("apt-get");
    ask.args(["indextargets", "--format", format, "Created-By: Packages"]);
    let targets = command::output(&mut ask).context("apt-get does not tell its archives")?;
    let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |name: &str| {
        let line = system
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    let release = value("VERSION_CODENAME");
    match find(&targets, &release).filter(|_| value("ID") == "debian" || release == SUITE) {
        Some(site) => Ok(site),
        None => bail!(
            "this host's apt is not set up with a Debian archive, so Debian 13 cannot be fetched\nhint: use a Debian host, or add a Debian archive to apt's sources"
        ),
    }
}

/// The site with the main part of `release`, or of Debian under one of its other names.
fn find(targets: &str, release: &str) -> Option<String> {
    let mut names = vec![
        release,
        SUITE,
        "stable",
        "oldstable",
        "testing",
        "sid",
        "unstable",
    ];
    names.retain(|name| !name.is_empty());
    names.iter().find_map(|name| {
        targets.lines().find_map(|line| {
            let mut fields = line.split('|');
            let (site, suite, part) = (fields.next()?, fields.next()?, fields.next()?);
            (suite == *name && part == "main" && !site.contains("security"))
                .then(|| site.to_owned())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_archive_is_taken() {
        let targets = "http://a/debian-security|bookworm-security|main\nhttp://a/other|bookworm|extra\nhttp://a/debian|bookworm|main\n";
        assert_eq!(
            find(targets, "bookworm").as_deref(),
            Some("http://a/debian")
        );
        assert_eq!(find(targets, "noble"), None);
        assert_eq!(
            find("http://b/debian|stable|main", "bookworm").as_deref(),
            Some("http://b/debian")
        );
    }
}
