//! The guest kernels: user-mode-linux, and the distribution's Linux for QEMU, each with its modules.
//!
//! Finds the kernel image, the release and the module directory in an unpacked package, and works out in which order
//! modules have to be loaded. Refuses a distribution that has no such package, with what to do instead.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::apt::Apt;
use crate::{archive, command, packages};

/// A guest kernel that can be booted.
pub struct Kernel {
    /// The kernel image: UML's program, or a bzImage.
    pub image: PathBuf,
    /// The directory with `modules.dep`.
    pub modules: PathBuf,
}

/// Whose kernel a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Origin {
    /// The host's own distribution.
    Host,
    /// Debian 13, whatever the host runs.
    Debian13,
}

impl Origin {
    /// The name of a package's directory, and the archive to take the package from if it is not the host's.
    fn place(self, package: &str) -> Result<(String, Option<PathBuf>)> {
        Ok(match self {
            Origin::Host => (package.to_owned(), None),
            Origin::Debian13 => (
                format!("{package}-debian13"),
                Some(archive::debian13_source()?),
            ),
        })
    }
}

/// The user-mode-linux kernel.
pub fn user_mode_linux(origin: Origin) -> Result<Kernel> {
    let (label, source) = origin.place("user-mode-linux")?;
    let unpacked =
        packages::unpacked_as(&label, source.as_deref(), &choose_user_mode_linux, &|_| {
            Ok(())
        })?;
    let modules = only_release(&unpacked.join("usr/lib/uml/modules"))?;
    Ok(Kernel {
        image: unpacked.join("usr/bin/linux.uml"),
        modules,
    })
}

/// The ordinary kernel, as the package `linux-image-amd64` (Ubuntu: `linux-image-generic`) names it.
pub fn linux(origin: Origin) -> Result<Kernel> {
    let depmod = Depmod {
        kmod: packages::unpacked("kmod")?,
        busybox: packages::unpacked("busybox-static")?,
    };
    let finish = |tree: &Path| depmod.run(tree);
    let (label, source) = origin.place("linux-image")?;
    let unpacked = packages::unpacked_as(&label, source.as_deref(), &choose_linux, &finish)?;
    let boot = unpacked.join("boot");
    let image = entries(&boot)?
        .into_iter()
        .find(|path| file_name(path).starts_with("vmlinuz-"));
    let image = image.ok_or_else(|| anyhow!("no kernel image in {}", boot.display()))?;
    Ok(Kernel {
        image,
        modules: only_release(&module_home(&unpacked))?,
    })
}

impl Kernel {
    /// The module files to load for `wanted`, each after those it needs. What is built in or unknown is left out.
    pub fn load_order(&self, wanted: &[&str]) -> Result<Vec<PathBuf>> {
        let path = self.modules.join("modules.dep");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(ordered(&text, wanted)
            .into_iter()
            .map(|file| self.modules.join(file))
            .collect())
    }
}

/// The bare name of a module file: `virtio_pci` for `kernel/drivers/virtio/virtio_pci.ko.xz`.
pub fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

/// The files of `wanted` and of what they depend on, by the text of a `modules.dep`, dependencies first.
fn ordered(dependencies: &str, wanted: &[&str]) -> Vec<String> {
    let mut known = BTreeMap::new();
    for line in dependencies.lines() {
        if let Some((file, needs)) = line.split_once(':') {
            // modules.dep lists the direct need first and the deepest one last.
            let needs: Vec<&str> = needs.split_whitespace().rev().collect();
            known.insert(module_name(file), (file, needs));
        }
    }
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let Some((file, needs)) = known.get(*name) else {
            continue;
        };
        for file in needs.iter().copied().chain([*file]) {
            if !order.iter().any(|earlier| earlier == file) {
                order.push(file.to_owned());
            }
        }
    }
    order
}

/// Names the UML package, or says why there is none.
fn choose_user_mode_linux(apt: &Apt) -> Result<Vec<String>> {
    let package = "user-mode-linux".to_owned();
    if !apt.knows(&package) {
        bail!(
            "the archive has no package user-mode-linux (Ubuntu has none)\nhint: use qemu instead"
        );
    }
    Ok(vec![package])
}

/// Names the concrete kernel package that the distribution's kernel metapackage stands for now.
fn choose_linux(apt: &Apt) -> Result<Vec<String>> {
    let mut reasons = Vec::new();
    for metapackage in ["linux-image-amd64", "linux-image-generic"] {
        let needed = match apt.dependencies(metapackage) {
            Ok(needed) => needed,
            Err(error) => {
                reasons.push(error.to_string());
                continue;
            }
        };
        let Some(image) = needed
            .into_iter()
            .find(|name| name.starts_with("linux-image-"))
        else {
            continue;
        };
        let mut chosen = vec![image.clone()];
        let release = image.trim_start_matches("linux-image-");
        let parts =
            ["linux-modules-", "linux-modules-extra-"].map(|part| format!("{part}{release}"));
        chosen.extend(parts.into_iter().filter(|part| apt.knows(part)));
        return Ok(chosen);
    }
    bail!(
        "the archive has neither linux-image-amd64 nor linux-image-generic: {}",
        reasons.join("; ")
    )
}

/// Two programs that write the `modules.dep` that a package's installation would have written.
struct Depmod {
    kmod: PathBuf,
    busybox: PathBuf,
}

impl Depmod {
    /// Writes the module indexes of the one kernel in `tree`.
    fn run(&self, tree: &Path) -> Result<()> {
        let release = file_name(&only_release(&module_home(tree))?);
        if !tree.join("lib").exists() {
            std::os::unix::fs::symlink("usr/lib", tree.join("lib"))?;
        }
        let kmod = ["bin/kmod", "usr/bin/kmod"]
            .map(|path| self.kmod.join(path))
            .into_iter()
            .find(|path| path.is_file());
        let mut kmod = Command::new(kmod.unwrap_or_else(|| "kmod".into()));
        let arguments = [OsStr::new("-b"), tree.as_os_str(), OsStr::new(&release)];
        // kmod also writes the binary index that kmod's own modprobe wants; busybox serves where kmod does not run.
        if command::output(kmod.arg0("depmod").args(arguments)).is_err() {
            command::output(
                Command::new(self.busybox.join("bin/busybox"))
                    .arg("depmod")
                    .args(arguments),
            )?;
        }
        Ok(())
    }
}

/// Where an unpacked kernel package keeps its modules.
fn module_home(tree: &Path) -> PathBuf {
    let merged = tree.join("usr/lib/modules");
    if merged.is_dir() {
        merged
    } else {
        tree.join("lib/modules")
    }
}

/// The one directory in `home`, named after the kernel's release.
fn only_release(home: &Path) -> Result<PathBuf> {
    entries(home)?
        .into_iter()
        .find(|path| path.is_dir())
        .ok_or_else(|| anyhow!("no modules in {}", home.display()))
}

/// The paths in `directory`, sorted.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = std::fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?;
    let mut paths = listed
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// The last part of `path` as text.
fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_load_after_what_they_need() {
        let text = "kernel/a/nine_p.ko: kernel/b/net-9p.ko.xz kernel/c/base.ko\nkernel/b/net-9p.ko.xz: kernel/c/base.ko\nkernel/c/base.ko:\n";
        assert_eq!(
            ordered(text, &["net_9p", "nine_p", "built_in"]),
            [
                "kernel/c/base.ko",
                "kernel/b/net-9p.ko.xz",
                "kernel/a/nine_p.ko"
            ]
        );
    }

    #[test]
    fn a_module_is_named_without_directory_and_suffix() {
        assert_eq!(
            module_name("kernel/drivers/char/hw_random/virtio-rng.ko.zst"),
            "virtio_rng"
        );
    }
}
