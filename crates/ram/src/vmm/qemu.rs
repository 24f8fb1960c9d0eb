//! Recognises QEMU under any name: a command line such as QEMU's, a mapping of exactly
//! the RAM it asks for, and an executable that is, or claims to be, QEMU. A process
//! that only mentions QEMU is refused.

use super::candidate::{Candidate, Draft};
use super::qemu_arguments::QemuArguments;
use super::{Evidence, Machine, VmmKind};
use crate::block::{self, RamBlock, WantedBlock};
use crate::executable::ExecutableKind;
use crate::layout_rule;

/// Options that make a command line QEMU's even if the program has another name.
const ENOUGH_OPTIONS: usize = 2;

/// Judges one process.
pub(super) fn recognise(candidate: &Candidate) -> Option<Draft> {
    let arguments = QemuArguments::parse(&candidate.words);
    let named = names_qemu(candidate);
    if !named && arguments.telling_options < ENOUGH_OPTIONS {
        return None;
    }
    let mut evidence = Vec::new();
    let ram_bytes = arguments.ram_bytes();
    let blocks = if let Ok(mappings) = candidate.mappings() {
        let mut blocks = block::choose(mappings, &wanted(&arguments));
        if blocks.is_empty() {
            return None;
        }
        if arguments.memory_slots {
            let plugged = block::plugged(mappings, &blocks);
            blocks.extend(plugged);
        }
        evidence.push(Evidence::RamMapping);
        blocks
    } else {
        Vec::new()
    };
    // The name is what the file is called; where the file can be read, it must be QEMU
    // inside, too.
    match ExecutableKind::qemu_or_other(&candidate.process.executable_file()) {
        ExecutableKind::QemuSystem => evidence.push(Evidence::Executable),
        ExecutableKind::Unknown
            if named && arguments.telling_options > 0 && candidate.is_called_what_it_says() =>
        {
            evidence.push(Evidence::ExecutableName);
        }
        _ => return None,
    }
    if arguments.telling_options > 0 {
        evidence.push(Evidence::CommandLine);
    }
    if candidate.holds_kvm() {
        evidence.push(Evidence::KvmDescriptor);
    }
    Some(Draft {
        kind: VmmKind::Qemu,
        name: arguments.name.clone(),
        ram_bytes,
        machine: machine(candidate, &arguments, &blocks),
        blocks,
        evidence,
        told_shared: arguments.all_shared(),
        barred: None,
    })
}

/// What the command line makes QEMU allocate, in the order of the blocks.
fn wanted(arguments: &QemuArguments) -> Vec<WantedBlock> {
    let boot = arguments.boot_backends();
    let devices = arguments.device_backends.iter();
    let named: Vec<WantedBlock> = boot
        .iter()
        .copied()
        .chain(devices)
        .filter_map(|id| arguments.numbered_backend(id))
        .map(|(turn, backend)| WantedBlock {
            size: backend.size,
            file_backed: match backend.kind.as_str() {
                "memory-backend-memfd" | "memory-backend-file" | "memory-backend-shm" => Some(true),
                // Shared ones get a file nowadays, private ones none.
                _ => None,
            },
            path: backend.path.clone(),
            turn,
        })
        .collect();
    if boot.is_empty() || named.is_empty() {
        let default = WantedBlock {
            size: arguments.ram_bytes(),
            file_backed: None,
            path: None,
            // The machine's own memory is made after all objects, which are made in their order
            // (`qemu_create_late_backends`, then `create_default_memdev`, in `qemu_init`).
            turn: arguments.backends.len(),
        };
        return std::iter::once(default).chain(named).collect();
    }
    named
}

/// Whether the executable, or what the process says it is, is called like QEMU.
fn names_qemu(candidate: &Candidate) -> bool {
    let from_file = candidate
        .executable
        .as_deref()
        .and_then(|path| path.file_name()?.to_str());
    let from_words = candidate.first_word_name();
    from_file.or(from_words).is_some_and(|name| {
        name.starts_with("qemu-system-") || name.starts_with("qemu-kvm") || name == "kvm"
    })
}

/// Which machine's layout applies.
fn machine(candidate: &Candidate, arguments: &QemuArguments, blocks: &[RamBlock]) -> Machine {
    let executable = candidate
        .executable
        .as_deref()
        .and_then(|path| path.file_name()?.to_str())
        .or_else(|| candidate.words.first().map(String::as_str))
        .unwrap_or("");
    // Another processor's emulator has other machines. One under another name is taken
    // for the host's own kind.
    let foreign = executable
        .rsplit('/')
        .next()
        .and_then(|name| name.strip_prefix("qemu-system-"))
        .is_some_and(|processor| {
            !processor.starts_with("x86_64") && !processor.starts_with("i386")
        });
    if foreign || !(blocks.is_empty() || layout_rule::are_boot_ram(arguments.ram_bytes(), blocks)) {
        return Machine::Unknown;
    }
    let name = arguments.machine.as_deref().unwrap_or("pc");
    let below_4g = arguments.max_ram_below_4g;
    if name == "q35" || name.starts_with("pc-q35-") {
        Machine::Q35 { below_4g }
    } else if name == "pc" || name.starts_with("pc-i440fx-") {
        Machine::Pc { below_4g }
    } else if name == "microvm" {
        Machine::Microvm
    } else {
        Machine::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(words: &str) -> Vec<(u64, usize)> {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let wanted = wanted(&QemuArguments::parse(&words));
        wanted
            .iter()
            .map(|want| (want.size >> 20, want.turn))
            .collect()
    }

    #[test]
    fn objects_are_made_in_their_order_and_before_the_machines_own_memory() {
        let dimm = "qemu -m 512M,slots=2,maxmem=2G -object memory-backend-ram,id=d,size=256M -device pc-dimm,memdev=d";
        assert_eq!(turns(dimm), [(512, 1), (256, 0)]);
        let nodes = "qemu -m 3G -object memory-backend-ram,id=b,size=2G -object memory-backend-ram,id=a,size=1G \
                     -numa node,memdev=a -numa node,memdev=b";
        assert_eq!(turns(nodes), [(1024, 1), (2048, 0)]);
    }
}
