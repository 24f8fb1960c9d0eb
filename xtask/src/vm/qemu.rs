//! The command line of a QEMU VM: an ordinary one, with nothing in it for vmshm.
//!
//! Control and script output are ports of a virtio serial device, the console is the first serial port; they lie on the
//! descriptors 0, 1 and 2. The host's files, if the guest gets them, come over 9p. What VMM-ARGS say wins: they come last, and an option that
//! QEMU would not let them override (`-accel`, a RAM size that no longer fits its backend) is left out or adapted here.

use std::ffi::OsString;
use std::path::Path;

use super::options::{Backing, Machine, System, VmOptions, parse_size, size_argument};
use crate::kernels::Kernel;

/// The name of QEMU's program.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// The program and its arguments. `ram_file` is the directory for the RAM's file, where the backing needs one.
pub fn command_line(
    options: &VmOptions,
    name: &str,
    kernel: &Kernel,
    program: &Path,
    directory: &Path,
    ram_file: Option<&Path>,
) -> Vec<OsString> {
    let mut words = Words(vec![program.as_os_str().to_owned()]);
    let given = Given(&options.vmm_arguments);
    let machine = options.machine.unwrap_or(Machine::Pc);
    let machine_name = match machine {
        Machine::Pc => "pc",
        Machine::Q35 => "q35",
        Machine::Microvm => "microvm",
    };
    let bus = if given.machine().map_or(machine == Machine::Microvm, |kind| {
        kind.starts_with("microvm")
    }) {
        "device"
    } else {
        "pci"
    };
    words.option("-name", format!("guest={name}"));
    let backend = if given.has_machine_property("memory-backend") {
        None
    } else {
        backend(options, &given, ram_file)
    };
    let memory = if backend.is_some() {
        ",memory-backend=ram"
    } else {
        ""
    };
    words.option("-machine", format!("{machine_name}{memory}"));
    if !given.has_accelerator() {
        if has_kvm() {
            words.option("-accel", "kvm");
        }
        words.option("-accel", "tcg");
    }
    words.option("-m", size_argument(options.ram()));
    if let Some(backend) = backend {
        words.option("-object", backend);
    }
    words.option("-smp", options.smp.unwrap_or(1).to_string());
    words
        .0
        .extend(["-nodefaults", "-no-reboot", "-display", "none"].map(OsString::from));
    for (descriptor, channel) in ["control", "script", "console"].iter().enumerate() {
        words.option("-chardev", format!("socket,id={channel},fd={descriptor}"));
    }
    words.option("-serial", "chardev:console");
    words.option("-device", format!("virtio-serial-{bus}"));
    // Not a virtio console: that one drops output which the host does not take at once.
    words.option("-device", "isa-serial,chardev=script");
    words.option(
        "-device",
        "virtserialport,chardev=control,name=vmshm-control",
    );
    words.option("-device", format!("virtio-rng-{bus}"));
    if options.system != System::Busybox {
        words.option(
            "-fsdev",
            "local,id=hostroot,path=/,security_model=none,readonly=on,multidevs=remap",
        );
        words.option(
            "-device",
            format!("virtio-9p-{bus},fsdev=hostroot,mount_tag=hostroot"),
        );
    }
    if options.network {
        words.option("-netdev", "user,id=network");
        // A guest that boots from a kernel file needs no boot program in its card.
        let rom = if bus == "pci" { ",romfile=" } else { "" };
        words.option("-device", format!("virtio-net-{bus},netdev=network{rom}"));
    }
    words.option("-kernel", &kernel.image);
    words.option("-initrd", directory.join(super::INITRAMFS));
    words.option(
        "-append",
        format!("console=ttyS0 quiet loglevel=3 panic=-1{}", clock_hint()),
    );
    words
        .0
        .extend(options.vmm_arguments.iter().map(OsString::from));
    words.0
}

/// The bytes of RAM that QEMU will give the guest: VMM-ARGS may say another number than `--ram`.
pub fn effective_ram(options: &VmOptions) -> u64 {
    Given(&options.vmm_arguments).ram().unwrap_or(options.ram())
}

/// The name that VMM-ARGS give the VM.
pub fn given_name(options: &VmOptions) -> Option<String> {
    let given = Given(&options.vmm_arguments);
    let value = given.last(&["-name"])?;
    let named = |part: &&str| !part.contains('=') || part.starts_with("guest=");
    value
        .split(',')
        .find(named)
        .map(|part| part.trim_start_matches("guest=").to_owned())
}

/// The `-object` that holds the RAM, for every backing but plain private memory.
fn backend(options: &VmOptions, given: &Given<'_>, ram_file: Option<&Path>) -> Option<String> {
    let size = given.ram().unwrap_or(options.ram());
    let file = |share: &str| {
        let path = ram_file?
            .join("guest-ram")
            .to_string_lossy()
            .replace(',', ",,");
        Some(format!(
            "memory-backend-file,id=ram,size={size},share={share},mem-path={path}"
        ))
    };
    match options.backing.unwrap_or(Backing::Private) {
        Backing::Private => None,
        Backing::Memfd => Some(format!("memory-backend-memfd,id=ram,size={size},share=on")),
        Backing::Hugetlb => Some(format!(
            "memory-backend-memfd,id=ram,size={size},share=on,hugetlb=on,hugetlbsize=2M"
        )),
        Backing::File => file("on"),
        Backing::PrivateFile => file("off"),
    }
}

/// Whether a guest can run on the processor itself: `/dev/kvm` alone says too little, it may be a software KVM.
fn has_kvm() -> bool {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = processor
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    let virtualizes = flags
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm");
    virtualizes
        && std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
}

/// Tells the guest's kernel how fast the processor counts, where the host knows it for sure. An emulated guest measures
/// that against a timer, and on a busy host the measurement fails; a microvm, which has no other clock, then hangs.
fn clock_hint() -> String {
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if has_kvm() || !processor.contains(" hypervisor") {
        return String::new();
    }
    let megahertz = processor
        .lines()
        .find_map(|line| line.strip_prefix("cpu MHz")?.split_once(':'));
    let kilohertz =
        megahertz.and_then(|(_, number)| number.trim().replace('.', "").parse::<u32>().ok());
    kilohertz.map_or_else(String::new, |kilohertz| {
        format!(" tsc_early_khz={kilohertz}")
    })
}

/// A command line in the making.
struct Words(Vec<OsString>);

impl Words {
    /// Adds an option with its value.
    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }
}

/// The arguments that the user gave QEMU.
struct Given<'a>(&'a [String]);

impl Given<'_> {
    /// The values of an option; QEMU takes one dash or two.
    fn values(&self, names: &[&str]) -> impl DoubleEndedIterator<Item = &str> {
        let is_option = move |word: &str| {
            names
                .iter()
                .any(|name| word == *name || word.strip_prefix('-') == Some(name))
        };
        self.0
            .windows(2)
            .filter(move |pair| is_option(&pair[0]))
            .map(|pair| pair[1].as_str())
    }

    /// The last value of an option.
    fn last(&self, names: &[&str]) -> Option<&str> {
        self.values(names).next_back()
    }

    /// The machine type, if they name one.
    fn machine(&self) -> Option<&str> {
        let kind = |value: &'_ str| value.split(',').next().unwrap_or_default().to_owned();
        self.values(&["-machine", "-M"])
            .filter(|value| !kind(value).contains('=') || value.starts_with("type="))
            .map(|value| value.trim_start_matches("type="))
            .next_back()
    }

    /// Whether they set a property of the machine.
    fn has_machine_property(&self, property: &str) -> bool {
        let set = |part: &str| {
            part.split_once('=')
                .is_some_and(|(name, _)| name == property)
        };
        self.values(&["-machine", "-M"])
            .any(|value| value.split(',').any(set))
    }

    /// Whether they choose how the processor is run, in any of QEMU's three ways.
    fn has_accelerator(&self) -> bool {
        let switch = self
            .0
            .iter()
            .any(|word| word == "-enable-kvm" || word == "--enable-kvm");
        switch || self.last(&["-accel"]).is_some() || self.has_machine_property("accel")
    }

    /// The RAM that they ask for, which QEMU counts in MiB where it has no suffix.
    fn ram(&self) -> Option<u64> {
        let value = self.last(&["-m"])?;
        let size = value
            .split(',')
            .find(|part| !part.contains('=') || part.starts_with("size="))?;
        let size = size.trim_start_matches("size=");
        let bare = size.bytes().all(|byte| byte.is_ascii_digit());
        parse_size(&if bare {
            format!("{size}M")
        } else {
            size.to_owned()
        })
        .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn an_accelerator_is_recognized_in_every_spelling() {
        for words in [
            &["-accel", "tcg,thread=single"][..],
            &["--accel", "tcg"],
            &["-machine", "pc,accel=tcg"],
            &["-enable-kvm"],
        ] {
            assert!(Given(&given(words)).has_accelerator(), "{words:?}");
        }
        assert!(!Given(&given(&["-machine", "q35"])).has_accelerator());
    }

    #[test]
    fn the_last_ram_size_counts_and_defaults_to_mebibytes() {
        assert_eq!(
            Given(&given(&["-m", "1G", "-m", "size=256,slots=2"])).ram(),
            Some(256 << 20)
        );
        assert_eq!(Given(&given(&["-smp", "2"])).ram(), None);
    }

    #[test]
    fn the_machine_type_is_told_from_its_properties() {
        assert_eq!(
            Given(&given(&["-M", "type=q35,hpet=off"])).machine(),
            Some("q35,hpet=off")
        );
        assert_eq!(Given(&given(&["-machine", "hpet=off"])).machine(), None);
    }
}
