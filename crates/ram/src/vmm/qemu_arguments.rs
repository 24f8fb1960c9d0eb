//! Reads QEMU's command line for what it says about guest RAM: size, machine, name
//! and memory backends. Nothing in it is trusted; what cannot be understood is left
//! out, and the process's mappings have the last word.

use super::qemu_options::{MIB, get, parse_size, split_options};

const KIB: u64 = 1 << 10;
/// What every x86 machine gets without `-m`.
const DEFAULT_RAM: u64 = 128 * MIB;

/// What a QEMU was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct QemuArguments {
    /// `-name`.
    pub(crate) name: Option<String>,
    /// `-machine type`.
    pub(crate) machine: Option<String>,
    /// `-machine max-ram-below-4g`.
    pub(crate) max_ram_below_4g: Option<u64>,
    /// `-machine memory-backend`.
    pub(crate) memory_backend: Option<String>,
    /// `-m`, in bytes.
    pub(crate) memory: Option<u64>,
    /// `-mem-path`.
    pub(crate) memory_path: Option<String>,
    /// Memory objects, in order.
    pub(crate) backends: Vec<MemoryBackend>,
    /// Whether `-m` has slots, so that memory may be plugged while the VM runs.
    pub(crate) memory_slots: bool,
    /// The objects that `-numa` names, each with its node's number.
    pub(crate) numa_backends: Vec<(u64, String)>,
    /// The nodes that `-numa` has made so far.
    numa_nodes: u64,
    /// The objects that memory devices (DIMMs) name, in order.
    pub(crate) device_backends: Vec<String>,
    /// How many of the options only a VMM has.
    pub(crate) telling_options: usize,
}

/// A memory object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemoryBackend {
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) size: u64,
    pub(crate) path: Option<String>,
    /// Whether other processes can map it.
    pub(crate) shared: bool,
}

/// Options that take no value; all others take the next word.
const WITHOUT_VALUE: &[&str] = &[
    "S",
    "s",
    "alt-grab",
    "ctrl-grab",
    "curses",
    "daemonize",
    "enable-kvm",
    "enable-sync-profile",
    "full-screen",
    "gtk",
    "h",
    "help",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-frame",
    "no-hpet",
    "no-kvm",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nographic",
    "nohpet",
    "old-param",
    "only-migratable",
    "portrait",
    "preconfig",
    "prom-env-none",
    "rtc-td-hack",
    "sdl",
    "semihosting",
    "show-cursor",
    "singlestep",
    "snapshot",
    "usb",
    "version",
    "win2k-hack",
    "xen-attach",
    "xen-domid-restrict",
    "one-insn-per-tb",
];

/// Options that hardly any other program has.
const TELLING: &[&str] = &[
    "M",
    "S",
    "accel",
    "append",
    "blockdev",
    "boot",
    "chardev",
    "cpu",
    "device",
    "display",
    "drive",
    "enable-kvm",
    "fsdev",
    "global",
    "hda",
    "cdrom",
    "initrd",
    "kernel",
    "m",
    "machine",
    "mon",
    "monitor",
    "netdev",
    "nic",
    "no-reboot",
    "no-user-config",
    "nodefaults",
    "nographic",
    "numa",
    "object",
    "qmp",
    "rtc",
    "serial",
    "smp",
    "uuid",
    "vga",
    "virtfs",
    "vnc",
];

impl QemuArguments {
    /// Reads the words of a command line; the first is the program's name.
    pub(crate) fn parse(words: &[String]) -> Self {
        let mut arguments = Self::default();
        let mut words = words.iter().skip(1);
        while let Some(word) = words.next() {
            let Some(option) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                continue;
            };
            if option.is_empty() {
                continue;
            }
            if TELLING.contains(&option) {
                arguments.telling_options += 1;
            }
            if WITHOUT_VALUE.contains(&option) {
                continue;
            }
            let Some(value) = words.next() else { break };
            arguments.take(option, value);
        }
        arguments
    }

    fn take(&mut self, option: &str, value: &str) {
        match option {
            "m" => {
                let options = split_options(value, "size");
                if let Some(size) = get(&options, "size") {
                    self.memory = parse_size(size, MIB).filter(|size| *size > 0);
                }
                if let Some(slots) = get(&options, "slots") {
                    self.memory_slots = parse_size(slots, 1).is_some_and(|slots| slots > 0);
                }
            }
            "name" => {
                if let Some(name) = get(&split_options(value, "guest"), "guest") {
                    self.name = Some(name.to_owned());
                }
            }
            "machine" | "M" => {
                let options = split_options(value, "type");
                let text = |key| get(&options, key).map(str::to_owned);
                self.machine = text("type").or(self.machine.take());
                self.memory_backend = text("memory-backend").or(self.memory_backend.take());
                self.max_ram_below_4g = get(&options, "max-ram-below-4g")
                    .and_then(|size| parse_size(size, 1))
                    .or(self.max_ram_below_4g);
                self.memory = get(&options, "memory.size")
                    .and_then(|size| parse_size(size, MIB))
                    .or(self.memory);
            }
            "mem-path" => self.memory_path = Some(value.to_owned()),
            "object" => self.backends.extend(memory_backend(value)),
            "numa" => self.take_node(&split_options(value, "type")),
            "device" => {
                let options = split_options(value, "driver");
                self.device_backends
                    .extend(get(&options, "memdev").map(str::to_owned));
            }
            _ => {}
        }
    }

    /// A node of `-numa`. One without a number gets that of nodes so far.
    fn take_node(&mut self, options: &[(String, String)]) {
        if get(options, "type") != Some("node") {
            return;
        }
        let number = get(options, "nodeid").and_then(|number| parse_size(number, 1));
        let number = number.unwrap_or(self.numa_nodes);
        self.numa_nodes = self.numa_nodes.saturating_add(1);
        if let Some(backend) = get(options, "memdev") {
            self.numa_backends.push((number, backend.to_owned()));
        }
    }

    /// The memory object with this id.
    pub(crate) fn backend(&self, id: &str) -> Option<&MemoryBackend> {
        self.numbered_backend(id).map(|(_, backend)| backend)
    }

    /// The same, and how many were made before it.
    pub(crate) fn numbered_backend(&self, id: &str) -> Option<(usize, &MemoryBackend)> {
        let mut numbered = self.backends.iter().enumerate().rev();
        numbered.find(|(_, backend)| backend.id == id)
    }

    /// The memory objects that make up the RAM the guest boots with, in its order: QEMU
    /// lays out those of NUMA nodes by the nodes' numbers, in whatever order they are
    /// given (`numa_init_memdev_container` in `hw/core/numa.c`).
    pub(crate) fn boot_backends(&self) -> Vec<&String> {
        if let Some(id) = &self.memory_backend {
            return vec![id];
        }
        let mut nodes: Vec<&(u64, String)> = self.numa_backends.iter().collect();
        nodes.sort_by_key(|(number, _)| *number);
        nodes.into_iter().map(|(_, id)| id).collect()
    }

    /// Whether all RAM is made shared.
    pub(crate) fn all_shared(&self) -> bool {
        let boot = self.boot_backends();
        let mut all = boot.iter().copied().chain(&self.device_backends);
        !boot.is_empty() && all.all(|id| self.backend(id).is_some_and(|backend| backend.shared))
    }

    /// RAM as configured, without plugged memory devices.
    pub(crate) fn ram_bytes(&self) -> u64 {
        // Without -m the size of the machine's memory object counts.
        let from_backend = || {
            let backend = self.backend(self.memory_backend.as_deref()?)?;
            Some(backend.size)
        };
        // QEMU rounds sizes up to whole 8 KiB pages.
        self.memory
            .or_else(from_backend)
            .unwrap_or(DEFAULT_RAM)
            .checked_next_multiple_of(8 * KIB)
            .unwrap_or(u64::MAX)
    }
}

/// A memory object from the value of `-object`, which may be JSON.
fn memory_backend(value: &str) -> Option<MemoryBackend> {
    let options = split_options(value, "qom-type");
    let kind = get(&options, "qom-type")?;
    if !kind.starts_with("memory-backend-") {
        return None;
    }
    let shared = match get(&options, "share") {
        Some(word) => matches!(word, "on" | "yes" | "true" | "y"),
        None => matches!(kind, "memory-backend-memfd" | "memory-backend-shm"),
    };
    Some(MemoryBackend {
        shared,
        kind: kind.to_owned(),
        id: get(&options, "id")?.to_owned(),
        size: parse_size(get(&options, "size")?, 1)?,
        path: get(&options, "mem-path").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> QemuArguments {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        QemuArguments::parse(&words)
    }

    #[test]
    fn every_form_of_the_memory_size_is_understood() {
        for (line, bytes) in [
            ("qemu", 128 * MIB),
            ("qemu -m 256", 256 * MIB),
            ("qemu -m 256M", 256 * MIB),
            ("qemu -m 1G", 1 << 30),
            ("qemu --m 1g", 1 << 30),
            ("qemu -m 1.5G", 3 << 29),
            ("qemu -m size=1G,slots=2,maxmem=4G", 1 << 30),
            ("qemu -m slots=2,size=512", 512 * MIB),
            ("qemu -m 4194304k", 4 << 30),
            ("qemu -m 0x100", 256 * MIB),
            ("qemu -m 128 -m 2G", 2 << 30),
            ("qemu -m 0", 128 * MIB),
            ("qemu -M q35,memory.size=3G", 3 << 30),
            ("qemu -append -m 64", 128 * MIB),
            (
                "qemu -object memory-backend-memfd,id=a,size=4G -machine pc,memory-backend=a",
                4 << 30,
            ),
        ] {
            let got = parse(line).ram_bytes();
            // An option's value is never taken for an option, even if it looks like one.
            assert_eq!(got, bytes, "{line}");
        }
    }

    #[test]
    fn names_machines_and_objects_are_understood_in_both_spellings() {
        let arguments = parse(
            "qemu-system-x86_64 -name guest=deb,debug-threads=on -S \
             -machine pc-q35-7.2,usb=off,memory-backend=pc.ram,max-ram-below-4g=2G -accel kvm \
             -object {\"qom-type\":\"memory-backend-ram\",\"id\":\"pc.ram\",\"size\":4294967296}",
        );
        assert_eq!(arguments.name.as_deref(), Some("deb"));
        assert_eq!(arguments.machine.as_deref(), Some("pc-q35-7.2"));
        assert_eq!(arguments.max_ram_below_4g, Some(2 << 30));
        assert_eq!(arguments.ram_bytes(), 4 << 30);
        assert_eq!(arguments.backends[0].kind, "memory-backend-ram");
        assert_eq!(
            parse("qemu -name a,,b,process=c").name.as_deref(),
            Some("a,b")
        );
        assert_eq!(
            parse("qemu -M q35 -machine accel=tcg").machine.as_deref(),
            Some("q35")
        );
    }

    #[test]
    fn nodes_lie_in_the_order_of_their_numbers() {
        let arguments = parse(
            "qemu -m 4G,slots=2,maxmem=8G -numa node,nodeid=1,memdev=b -numa node,nodeid=0,memdev=a \
             -numa dist,src=0,dst=1,val=20 -numa node,memdev=c",
        );
        assert_eq!(arguments.boot_backends(), ["a", "b", "c"]);
        assert!(arguments.memory_slots);
        assert!(!parse("qemu -m 4G").memory_slots);
    }

    proptest! {
        #[test]
        fn any_words_are_survived(words in proptest::collection::vec(".{0,24}", 0..8)) {
            let _ = QemuArguments::parse(&words).ram_bytes();
        }
    }
}
