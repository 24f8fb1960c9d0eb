//! What a VM is started with: the command line of `cargo xtask vm`, checked.
//!
//! Refuses sizes that are no numbers or no whole pages, names that a file or host name cannot hold, and combinations
//! that no VMM offers, each with the reason.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::kernels::Origin;

/// The programs that can run a VM here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Vmm {
    /// User-mode Linux: an ordinary process of an ordinary user.
    Uml,
    /// QEMU, with KVM where the processor has it.
    Qemu,
}

/// What holds the guest's RAM on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backing {
    /// Private anonymous memory: plain `-m`.
    Private,
    /// A shared memfd.
    Memfd,
    /// A shared file.
    File,
    /// A file, mapped privately.
    PrivateFile,
    /// A shared memfd of 2 MiB huge pages.
    Hugetlb,
}

/// QEMU's machine types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Machine {
    /// i440fx.
    Pc,
    /// Q35 with PCI Express.
    Q35,
    /// A minimal machine without PCI.
    Microvm,
}

/// What the guest runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// The host's own file system, read-only below a tmpfs overlay.
    Host,
    /// A Debian 13 tree below `target/`, made once.
    Debian13,
    /// A small one whose process 1 is systemd.
    Debian13Systemd,
    /// Busybox and nothing of the host: QEMU can save such a VM, and go back to what it saved.
    Busybox,
}

/// Everything that one VM is started with.
#[derive(Args, Clone, Debug)]
pub struct VmOptions {
    /// The program that runs the VM
    pub vmm: Vmm,
    /// The VM's name [default: unique, like uml-4711]
    #[arg(long)]
    pub name: Option<String>,
    /// The guest's RAM in bytes, or with K, M or G (binary) [default: 512M for uml, 1G for qemu]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub ram: Option<u64>,
    /// What holds the guest's RAM on the host; uml always uses a shared file [default: private]
    #[arg(long)]
    pub backing: Option<Backing>,
    /// QEMU's machine type [default: pc]
    #[arg(long)]
    pub machine: Option<Machine>,
    /// The number of virtual processors; uml has one [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    pub smp: Option<u32>,
    /// What the guest runs on
    #[arg(long, default_value = "host")]
    pub system: System,
    /// Whose kernel the guest runs
    #[arg(long, default_value = "host")]
    pub kernel: Origin,
    /// Do not start vmshm-agent in the guest; it is still found there
    #[arg(long)]
    pub no_agent: bool,
    /// Give the guest a network of its own, in which 10.0.2.2 is the host's 127.0.0.1
    #[arg(long)]
    pub network: bool,
    /// Run SCRIPT in the guest as root by /bin/sh, then power off; its exit status becomes the command's
    #[arg(long, value_name = "SCRIPT")]
    pub run: Option<PathBuf>,
    /// More arguments for the VMM; they come last and win
    #[arg(last = true, value_name = "VMM-ARGS")]
    pub vmm_arguments: Vec<String>,
}

impl VmOptions {
    /// Refuses what the VMM does not offer, before anything is fetched or started.
    pub fn check(&self) -> Result<()> {
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        if self.vmm == Vmm::Uml {
            if let Some(backing) = self.backing.filter(|backing| *backing != Backing::File) {
                let backing = backing
                    .to_possible_value()
                    .map(|value| value.get_name().to_owned())
                    .unwrap_or_default();
                bail!(
                    "--backing {backing} is not possible with uml: its RAM is always a shared file\nhint: use qemu, or leave --backing out"
                );
            }
            if self.machine.is_some() {
                bail!("--machine is not possible with uml: it emulates no machine\nhint: use qemu");
            }
            if self.smp.is_some_and(|count| count > 1) {
                bail!(
                    "--smp is not possible with uml: its kernel has one processor\nhint: use qemu"
                );
            }
        }
        let granule = match (self.vmm, self.backing) {
            (Vmm::Uml, _) => 4 << 10,
            (_, Some(Backing::Hugetlb)) => 2 << 20,
            _ => 8 << 10,
        };
        let least = if self.vmm == Vmm::Uml {
            64 << 20
        } else {
            128 << 20
        };
        if !self.ram().is_multiple_of(granule) {
            bail!(
                "--ram {} is not a multiple of {} KiB, which this VM needs",
                self.ram(),
                granule >> 10
            );
        }
        if self.ram() < least {
            bail!(
                "--ram {} is too little for a guest to boot\nhint: give it at least {}M",
                self.ram(),
                least >> 20
            );
        }
        Ok(())
    }

    /// The guest's RAM in bytes.
    pub fn ram(&self) -> u64 {
        self.ram.unwrap_or(if self.vmm == Vmm::Uml {
            512 << 20
        } else {
            1 << 30
        })
    }

    /// The VM's name: the one asked for, or one that no other VM of this host has.
    pub fn name(&self) -> String {
        let kind = if self.vmm == Vmm::Uml { "uml" } else { "qemu" };
        self.name
            .clone()
            .unwrap_or_else(|| format!("{kind}-{}", std::process::id()))
    }
}

/// A size as VMMs write it: whole MiB where it is some, else KiB.
pub fn size_argument(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) {
        format!("{}M", bytes >> 20)
    } else {
        format!("{}K", bytes >> 10)
    }
}

/// A number of bytes: decimal or 0x…, with K, M or G for the binary multiples.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.trim_end_matches(['K', 'k', 'M', 'm', 'G', 'g']) {
        number if number.len() == text.len() => (text, 0),
        number if number.len() + 1 == text.len() => (number, suffix_shift(text)),
        _ => return Err(format!("'{text}' has more than one suffix")),
    };
    let parsed = match number
        .strip_prefix("0x")
        .or_else(|| number.strip_prefix("0X"))
    {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16),
        _ if number.starts_with('+') => return Err(format!("'{text}' is not a size")),
        _ => number.parse(),
    };
    let number = parsed.map_err(|_| {
        format!(
            "'{text}' is not a size: write a number, decimal or 0x…, with K, M or G if you like"
        )
    })?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("'{text}' is more than an address space holds"))
}

/// How far the suffix of `text` shifts.
fn suffix_shift(text: &str) -> u32 {
    match text.bytes().last() {
        Some(b'K' | b'k') => 10,
        Some(b'M' | b'm') => 20,
        _ => 30,
    }
}

/// Refuses names that UML's directory, a host name or QEMU's option cannot hold.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty()
        || name.len() > 63
        || !name.chars().all(plain)
        || name.starts_with(['.', '-'])
    {
        bail!(
            "--name '{name}' is not possible\nhint: use up to 63 letters, digits, '-', '_' and '.', starting with a letter or digit"
        );
    }
    Ok(())
}

/// The script's absolute path as given and its canonical path; refuses what is not there or not readable.
pub fn script_paths(script: &Path) -> Result<(PathBuf, PathBuf)> {
    let given =
        std::path::absolute(script).with_context(|| format!("--run {}", script.display()))?;
    let real = given
        .canonicalize()
        .with_context(|| format!("cannot find the script {}", given.display()))?;
    if real.is_dir() {
        bail!("the script {} is a directory", given.display());
    }
    std::fs::File::open(&real)
        .with_context(|| format!("cannot read the script {}", given.display()))?;
    Ok((given, real))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal_or_hexadecimal_with_binary_suffixes() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("0x20000000"), Ok(512 << 20));
        assert_eq!(parse_size("4g"), Ok(4 << 30));
        assert_eq!(parse_size("65536"), Ok(65536));
        for bad in [
            "",
            "M",
            "1MM",
            "-1",
            "+1",
            "0x",
            "1T",
            "1.5G",
            "99999999999G",
        ] {
            assert!(parse_size(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn names_hold_only_what_every_vmm_takes() {
        assert!(check_name("a-1_b.c").is_ok());
        for bad in ["", "a/b", "..", "a,b", "a b", "-x"] {
            assert!(check_name(bad).is_err(), "{bad} was taken");
        }
    }
}
