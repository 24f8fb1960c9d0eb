//! Boots VMs on the host's own file system, for `cargo xtask vm` and for the demo.
//!
//! Fetches the kernel, makes the initramfs, starts the VMM under a guard, and waits until the guest is up. Whatever the
//! end, nothing is left behind. Refuses options that the VMM does not offer before anything is started.

pub mod channels;
mod cpio;
pub mod hidden;
mod hugepages;
mod initramfs;
pub mod options;
mod qemu;
pub mod running;
mod space;
mod uml;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use channels::Console;
use initramfs::{Guest, Script};
use options::{Backing, System, VmOptions, Vmm};
use running::{Leavings, Misemulated, RunningVm, Start};

use crate::kernels::{Kernel, Origin};
use crate::{artifacts, checkout, install, kernels, packages};

/// The initramfs's file name in the VM's own directory.
const INITRAMFS: &str = "initramfs";

/// How often a guest is booted whose kernel the emulator trips.
const BOOTS: u32 = 3;

/// What a kind of VM needs from the distribution.
struct Parts {
    kernel: Kernel,
    busybox: PathBuf,
    /// The VMM's program.
    program: PathBuf,
}

/// Fetches what a kind of VM needs, so that starting one later needs no network.
pub fn fetch(vmm: Vmm) -> Result<()> {
    if vmm == Vmm::Uml {
        slirp()?;
    }
    parts(vmm, Origin::Host).map(drop)
}

/// Boots a VM and waits until its guest is up and, unless it is not wanted, its agent ready. Boots it again where the
/// emulator, and not the guest or we, spoiled it.
pub fn boot(options: &VmOptions, console: &Console) -> Result<RunningVm> {
    for _ in 1..BOOTS {
        match boot_once(options, console) {
            Err(error) if error.is::<Misemulated>() => {
                eprintln!("warning: {error:#}; booting the guest again");
            }
            other => return other,
        }
    }
    boot_once(options, console)
}

/// One try of [`boot`].
fn boot_once(options: &VmOptions, console: &Console) -> Result<RunningVm> {
    options.check()?;
    let reaches_host = options.system != System::Busybox;
    let read = |script| read_script(script, reaches_host);
    let script = options.run.as_deref().map(read).transpose()?;
    let agent = agent(options)?;
    let Parts {
        kernel,
        busybox,
        program,
    } = parts(options.vmm, options.kernel)?;
    let slirp = (options.network && options.vmm == Vmm::Uml)
        .then(slirp)
        .transpose()?;
    let tree = match options.system {
        System::Host => Some(PathBuf::from("/")),
        System::Debian13 => Some(crate::debian13::tree()?),
        System::Debian13Systemd => Some(crate::debian13::systemd_tree()?),
        System::Busybox => None,
    };

    let given = if options.vmm == Vmm::Uml {
        uml::given_name(options)
    } else {
        qemu::given_name(options)
    };
    let name = given.unwrap_or_else(|| options.name());
    let guest = Guest {
        vmm: options.vmm,
        name: &name,
        tree: tree.as_deref(),
        has_systemd: options.system == System::Debian13Systemd,
        agent: agent.as_deref(),
        start_agent: !options.no_agent,
        network: options.network,
        script: script.as_ref(),
    };
    let archive = initramfs::make(&guest, &kernel, &busybox)?;

    // Until the guard runs, these remove themselves; from then on they are the guard's.
    let directory = space::small()?;
    let ram_directory = ram_directory(options)?;
    let for_ram = ram_directory.as_ref().map(TempDir::path);
    std::fs::write(directory.path().join(INITRAMFS), archive)
        .context("cannot write the initramfs")?;
    let command_line = match options.vmm {
        Vmm::Uml => {
            let slirp = slirp.as_deref();
            uml::command_line(options, &name, &kernel, directory.path(), slirp)
        }
        Vmm::Qemu => {
            qemu::command_line(options, &name, &kernel, &program, directory.path(), for_ram)
        }
    };
    let huge_pages = match options.backing {
        Some(Backing::Hugetlb) => {
            hugepages::provide(qemu::effective_ram(options).div_ceil(hugepages::HUGE_PAGE))?
        }
        _ => 0,
    };
    let start = Start {
        name,
        command_line,
        temporary: for_ram.map(Path::to_path_buf),
    };
    let mut leavings = Leavings {
        directories: vec![directory.keep()],
        huge_pages,
    };
    leavings
        .directories
        .extend(ram_directory.map(TempDir::keep));
    RunningVm::start(start, &leavings, console)
}

/// Fetches the kernel, busybox and the VMM.
fn parts(vmm: Vmm, origin: Origin) -> Result<Parts> {
    let busybox = packages::unpacked("busybox-static")?;
    let busybox = ["bin/busybox", "usr/bin/busybox"]
        .map(|path| busybox.join(path))
        .into_iter()
        .find(|path| path.is_file());
    let busybox = busybox.context("the package busybox-static holds no busybox")?;
    let kernel = if vmm == Vmm::Uml {
        kernels::user_mode_linux(origin)?
    } else {
        kernels::linux(origin)?
    };
    let program = match vmm {
        Vmm::Uml => kernel.image.clone(),
        Vmm::Qemu => install::program(qemu::PROGRAM, "qemu-system-x86")?,
    };
    Ok(Parts {
        kernel,
        busybox,
        program,
    })
}

/// The program that is user-mode Linux's way out: it carries a guest's packets over its own sockets. In the build that
/// does not hold them up to a modem's speed.
fn slirp() -> Result<PathBuf> {
    Ok(packages::unpacked("slirp")?.join("usr/bin/slirp-fullbolt"))
}

/// A directory for the guest's RAM, where the VMM needs one: for QEMU's files, and for UML if /dev/shm is too small.
fn ram_directory(options: &VmOptions) -> Result<Option<TempDir>> {
    let (needed, ram) = match options.vmm {
        Vmm::Qemu => (
            matches!(options.backing, Some(Backing::File | Backing::PrivateFile)),
            qemu::effective_ram(options),
        ),
        Vmm::Uml => (!space::shared_memory_holds(options.ram()), options.ram()),
    };
    needed.then(|| space::for_ram(ram)).transpose()
}

/// The agent's program, built if need be. Without a running agent a guest is useful, too, so then only a warning is given.
fn agent(options: &VmOptions) -> Result<Option<PathBuf>> {
    let agent = checkout::dist().join("vmshm-agent");
    let built = if checkout::prebuilt_dist().is_some() {
        Ok(())
    } else {
        artifacts::build_agent()
    };
    match built {
        Err(error) if options.no_agent => {
            eprintln!("warning: the guest gets no new vmshm-agent: {error:#}")
        }
        other => other?,
    }
    if !agent.is_file() && !options.no_agent {
        bail!("there is no {}\nhint: cargo xtask build", agent.display());
    }
    Ok(agent.is_file().then_some(agent))
}

/// The script's paths, and its contents where the guest cannot read it there.
fn read_script(script: &Path, reaches_host: bool) -> Result<Script> {
    let paths = options::script_paths(script)?;
    let contents = if reaches_host && paths.1.is_file() {
        None
    } else {
        Some(
            std::fs::read(&paths.0)
                .with_context(|| format!("cannot read the script {}", paths.0.display()))?,
        )
    };
    Ok(Script { paths, contents })
}
