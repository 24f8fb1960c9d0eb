//! Makes the initramfs of one VM: busybox, the kernel modules needed to reach the host's files, two shell scripts, and
//! the settings of this VM.
//!
//! Refuses compressed modules where the host has no program to unpack them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use super::cpio::Archive;
use super::options::Vmm;
use crate::kernels::{Kernel, module_name};
use crate::{checkout, command};

/// What the guest's first programs have to know.
pub struct Guest<'a> {
    /// The program that runs the VM.
    pub vmm: Vmm,
    /// The guest's host name.
    pub name: &'a str,
    /// The host's directory that becomes the guest's root: `/`, or an unpacked tree. Nothing for a guest that
    /// reaches none of the host's files.
    pub tree: Option<&'a Path>,
    /// Whether the tree's systemd becomes process 1.
    pub has_systemd: bool,
    /// The agent's program, if there is one.
    pub agent: Option<&'a Path>,
    /// Whether the agent is started.
    pub start_agent: bool,
    /// Whether it has a network.
    pub network: bool,
    /// The script to run.
    pub script: Option<&'a Script>,
}

/// The script that the guest runs.
pub struct Script {
    /// Its absolute path as the user wrote it, and without symbolic links.
    pub paths: (PathBuf, PathBuf),
    /// Its contents, if the guest cannot read it there: a pipe, a descriptor, or all files for some guests.
    pub contents: Option<Vec<u8>>,
}

/// The modules that the guest's first program loads; those that a kernel has built in are skipped.
const MODULES: [&str; 7] = [
    "virtio_pci",
    "virtio_mmio",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
    "virtio_rng",
];

/// The same for user-mode Linux, whose own drivers are built in.
const UML_MODULES: [&str; 1] = ["overlay"];

/// The module of QEMU's network device.
const NETWORK_MODULE: &str = "virtio_net";

/// Makes the archive.
pub fn make(guest: &Guest<'_>, kernel: &Kernel, busybox: &Path) -> Result<Vec<u8>> {
    let busybox =
        std::fs::read(busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    let wanted = match (guest.vmm, guest.network) {
        (Vmm::Uml, _) => UML_MODULES.to_vec(),
        (Vmm::Qemu, false) => MODULES.to_vec(),
        (Vmm::Qemu, true) => [&MODULES[..], &[NETWORK_MODULE]].concat(),
    };
    let mut archive = Archive::new();
    for directory in ["bin", "vm", "vm/modules"] {
        archive.directory(directory)?;
    }
    archive.file("bin/busybox", &busybox, true)?;
    archive.file("init", include_bytes!("guest/start.sh"), true)?;
    archive.file("vm/main.sh", include_bytes!("guest/main.sh"), false)?;
    let mut modules = Vec::new();
    for file in kernel.load_order(&wanted)? {
        let name = module_name(&file.to_string_lossy());
        archive.file(
            &format!("vm/modules/{name}.ko"),
            &module_contents(&file)?,
            false,
        )?;
        modules.push(name);
    }
    if let Some(agent) = guest.agent.filter(|_| guest.tree.is_none()) {
        let contents =
            std::fs::read(agent).with_context(|| format!("cannot read {}", agent.display()))?;
        archive.file("vm/vmshm-agent", &contents, true)?;
    }
    if let Some(contents) = guest.script.and_then(|script| script.contents.as_ref()) {
        archive.file("vm/script", contents, false)?;
    }
    archive.file(
        "vm/settings",
        settings(guest, kernel, &modules.join(" ")).as_bytes(),
        false,
    )?;
    archive.finish()
}

/// The settings as assignments of a shell.
fn settings(guest: &Guest<'_>, kernel: &Kernel, modules: &str) -> String {
    let vmm = if guest.vmm == Vmm::Uml { "uml" } else { "qemu" };
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let file = guest.script.filter(|script| script.contents.is_none());
    let run = match (guest.script, file) {
        (_, Some(file)) => text(&file.paths.0),
        (Some(_), None) => "/run/vm/script".to_owned(),
        (None, None) => String::new(),
    };
    let assignments = [
        ("vmm", vmm.to_owned()),
        ("hostname", guest.name.to_owned()),
        ("tree", guest.tree.map(text).unwrap_or_default()),
        (
            "init",
            if guest.has_systemd { "systemd" } else { "" }.to_owned(),
        ),
        ("modules", modules.to_owned()),
        ("module_directory", text(&kernel.modules)),
        ("checkout", text(checkout::root())),
        (
            "script_as_given",
            file.map(|file| text(&file.paths.0)).unwrap_or_default(),
        ),
        (
            "script",
            file.map(|file| text(&file.paths.1)).unwrap_or_default(),
        ),
        ("run", run),
        ("agent", guest.agent.map(text).unwrap_or_default()),
        (
            "start_agent",
            if guest.start_agent { "yes" } else { "no" }.to_owned(),
        ),
        (
            "network",
            if guest.network { "yes" } else { "no" }.to_owned(),
        ),
    ];
    assignments
        .iter()
        .map(|(name, value)| format!("{name}={}\n", command::quoted(value)))
        .collect()
}

/// The module as the kernel's loader wants it: not compressed.
fn module_contents(file: &Path) -> Result<Vec<u8>> {
    let unpacker = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return std::fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    };
    let found = command::find(unpacker)
        .ok_or_else(|| anyhow!("{unpacker} is missing\nhint: apt-get install {unpacker}"))?;
    let output = Command::new(found).arg("-dc").arg(file).output()?;
    if !output.status.success() {
        return Err(anyhow!("{unpacker} cannot unpack {}", file.display()));
    }
    Ok(output.stdout)
}
