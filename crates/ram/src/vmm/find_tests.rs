//! Tests over recordings of /proc, made where the VMMs ran (libraries left out), and over
//! processes that only pretend.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::block::Backing;
use crate::vmm::Evidence;
use vmshm_link::GuestPhysical;

const UML: &str = include_str!("../../tests/recordings/uml-6.1.txt");
const UML_HELPER: &str = include_str!("../../tests/recordings/uml-6.1-helper.txt");
const UML_GUEST_PROCESS: &str = include_str!("../../tests/recordings/uml-6.1-guest-process.txt");
const UML_ORPHAN: &str = include_str!("../../tests/recordings/uml-6.1-orphan.txt");
const UML_NEWER: &str = include_str!("../../tests/recordings/uml-6.12.txt");
const QEMU_PRIVATE: &str = include_str!("../../tests/recordings/qemu-private.txt");
const QEMU_MEMFD: &str = include_str!("../../tests/recordings/qemu-memfd.txt");
const QEMU_FILE_PRIVATE: &str = include_str!("../../tests/recordings/qemu-file-private.txt");
const QEMU_SMALL: &str = include_str!("../../tests/recordings/qemu-16M.txt");
const QEMU_NUMA: &str = include_str!("../../tests/recordings/qemu-numa.txt");
const QEMU_DIMM: &str = include_str!("../../tests/recordings/qemu-dimm.txt");
const QEMU_LIBVIRT: &str = include_str!("../../tests/recordings/qemu-libvirt-style.txt");

/// Puts a recording where /proc would have it, and gives its process number.
fn play(root: &Path, recording: &str) -> u32 {
    let mut sections: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in recording.lines() {
        match line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            Some(name) if ["cmdline", "exe", "stat", "status", "maps", "fd"].contains(&name) => {
                sections.push((name, Vec::new()));
            }
            _ => sections.last_mut().expect("a section").1.push(line),
        }
    }
    let get = |name: &str| -> &[&str] {
        let section = sections.iter().find(|section| section.0 == name);
        &section.expect("the section").1
    };
    let pid: u32 = get("stat")[0]
        .split(' ')
        .next()
        .expect("pid")
        .parse()
        .expect("a number");
    let directory = root.join(pid.to_string());
    fs::create_dir_all(directory.join("fd")).expect("directory");
    let mut words = get("cmdline").join("\0");
    words.push('\0');
    fs::write(directory.join("cmdline"), words).expect("cmdline");
    for name in ["stat", "status", "maps"] {
        fs::write(directory.join(name), get(name).join("\n") + "\n").expect(name);
    }
    symlink(get("exe")[0], directory.join("exe")).expect("exe");
    for line in get("fd") {
        let (number, target) = line.split_once(' ').expect("number and target");
        symlink(target, directory.join("fd").join(number)).expect("fd");
    }
    pid
}

/// The recording with another executable behind `exe`.
fn with_executable(recording: &str, path: &Path) -> String {
    let mut lines: Vec<&str> = recording.lines().collect();
    let at = lines.iter().position(|line| *line == "[exe]").expect("exe") + 1;
    let path = path.to_str().expect("a path of text");
    lines[at] = path;
    lines.join("\n")
}

fn found(recordings: &[&str]) -> Vec<Vmm> {
    let directory = tempfile::tempdir().expect("directory");
    for recording in recordings {
        play(directory.path(), recording);
    }
    find_all_in(&ProcRoot::at(directory.path())).expect("a list")
}

fn only(recording: &str) -> Vmm {
    let mut all = found(&[recording]);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[test]
fn of_user_mode_linux_only_the_kernel_itself_is_a_vm() {
    let all = found(&[UML, UML_HELPER, UML_GUEST_PROCESS]);
    assert_eq!(all.len(), 1);
    let vmm = &all[0];
    assert_eq!((vmm.kind, vmm.name.as_str()), (VmmKind::Uml, "alpha"));
    assert_eq!(vmm.ram_bytes, 512 << 20);
    assert!(vmm.is_shared());
    assert_eq!(vmm.blocks.len(), 1);
    let block = &vmm.blocks[0];
    assert_eq!(block.backing, Backing::SharedFile);
    assert_eq!(block.file_offset(), 0x39f_4000);
    // The kernel's own mapping of RAM is in two parts, and other mappings of the same
    // file, for its own use, do not count.
    assert_eq!(block.length, 0x82f6_d000 - 0x639f_4000);
    let layout = vmm.rule_layout().expect("a rule");
    let location = layout.translate(GuestPhysical(0x1000_0000)).expect("RAM");
    assert_eq!(location.at.offset + block.file_offset(), 0x1000_0000);
    assert!(layout.translate(GuestPhysical(0x10_0000)).is_err());
}

#[test]
fn copies_of_user_mode_linux_are_no_vms_even_alone() {
    assert_eq!(found(&[UML_HELPER]), []);
    assert_eq!(found(&[UML_GUEST_PROCESS]), []);
    assert_eq!(found(&[UML_ORPHAN]), []);
}

#[test]
fn a_newer_user_mode_linux_is_found() {
    let vmm = only(UML_NEWER);
    assert_eq!((vmm.kind, vmm.name.as_str()), (VmmKind::Uml, "new"));
    assert_eq!(vmm.ram_bytes, 256 << 20);
    assert_eq!(vmm.blocks[0].file_offset(), 0x93e_a000);
    assert_eq!(vmm.blocks[0].length, 0x7888_d000 - 0x693e_a000);
}

#[test]
fn plain_qemu_has_private_ram_of_exactly_the_size_asked_for() {
    let vmm = only(QEMU_PRIVATE);
    assert_eq!((vmm.kind, vmm.name.as_str()), (VmmKind::Qemu, "beta"));
    assert_eq!(vmm.ram_bytes, 256 << 20);
    assert!(!vmm.is_shared());
    assert_eq!(vmm.blocks.len(), 1);
    assert_eq!(vmm.blocks[0].backing, Backing::PrivateAnonymous);
    assert_eq!(vmm.blocks[0].length, 256 << 20);
    assert_eq!(vmm.blocks[0].start.0, 0x7f93_c7e0_0000);
    assert!(vmm.evidence.contains(&Evidence::RamMapping));
}

#[test]
fn ram_is_told_from_graphics_memory_of_the_same_size() {
    let vmm = only(QEMU_SMALL);
    assert_eq!(vmm.ram_bytes, 16 << 20);
    assert_eq!(vmm.blocks[0].start.0, 0x7fde_b0a0_0000);
}

#[test]
fn qemu_with_a_memfd_is_shared_and_has_a_made_up_name() {
    let vmm = only(QEMU_MEMFD);
    assert_eq!(vmm.name, format!("qemu-{}", vmm.pid));
    assert_eq!(vmm.ram_bytes, 4 << 30);
    assert!(vmm.is_shared());
    assert_eq!(vmm.blocks[0].backing, Backing::Memfd);
    let layout = vmm.rule_layout().expect("a rule");
    let location = layout.translate(GuestPhysical(4 << 30)).expect("RAM");
    assert_eq!(location.at.offset, 2 << 30);
}

#[test]
fn other_backings_are_told_apart() {
    let vmm = only(QEMU_FILE_PRIVATE);
    assert_eq!(vmm.blocks[0].backing, Backing::PrivateFile);
    assert!(!vmm.is_shared());

    let vmm = only(QEMU_NUMA);
    assert_eq!(vmm.blocks.len(), 2);
    assert!(vmm.blocks.iter().all(|block| block.length == 512 << 20));
    assert_ne!(vmm.blocks[0].start, vmm.blocks[1].start);
    // Each node's memory follows that of the one before it.
    let layout = vmm.rule_layout().expect("a rule");
    let at = |address| layout.translate(GuestPhysical(address)).expect("RAM").at;
    assert_eq!((at(0x10_0000).block, at((512 << 20) + 4096).block), (0, 1));
    assert_eq!(at((512 << 20) + 4096).offset, 4096);

    let vmm = only(QEMU_DIMM);
    assert_eq!(vmm.ram_bytes, 512 << 20);
    let lengths: Vec<u64> = vmm.blocks.iter().map(|block| block.length).collect();
    assert_eq!(lengths, [512 << 20, 1 << 30]);

    let vmm = only(QEMU_LIBVIRT);
    assert_eq!(vmm.name, "lv");
    assert_eq!((vmm.ram_bytes, vmm.is_shared()), (1 << 30, true));
}

#[test]
fn memory_plugged_into_a_running_qemu_is_found() {
    // As the kernel lists a private DIMM of 256 MiB after `device_add`, and a graphics
    // device's memory beside it.
    let lowest = "7f93c7800000-";
    let plugged = "7f9300000000-7f9310000000 rw-p 00000000 00:00 0 \n\
                   7f9310000000-7f9310001000 ---p 00000000 00:00 0 \n\
                   7f9311000000-7f9312000000 rw-p 00000000 00:00 0 \n\
                   7f9312000000-7f9312001000 ---p 00000000 00:00 0 \n";
    let running = QEMU_PRIVATE.replacen(lowest, &format!("{plugged}{lowest}"), 1);
    assert_eq!(
        only(&running).blocks.len(),
        1,
        "without slots there is none"
    );
    let with_slots = running.replacen("\n256M\n", "\n256M,slots=2,maxmem=4G\n", 1);
    assert_ne!(with_slots, running, "the recording has -m 256");
    let vmm = only(&with_slots);
    let lengths: Vec<u64> = vmm.blocks.iter().map(|block| block.length).collect();
    assert_eq!(lengths, [256 << 20, 256 << 20]);
    assert_eq!(vmm.blocks[0].start.0, 0x7f93_c7e0_0000);
    assert_eq!(vmm.blocks[1].start.0, 0x7f93_0000_0000);
    assert_eq!(vmm.ram_bytes, 256 << 20);
}

#[test]
fn qemu_under_another_name_is_found_by_what_is_inside() {
    let directory = tempfile::tempdir().expect("directory");
    let program = directory.path().join("my-emulator");
    fs::write(&program, b"\0QEMU emulator version 99\0").expect("write");
    let renamed = with_executable(QEMU_PRIVATE, &program);
    let renamed = renamed.replacen("qemu-system-x86_64", "my-emulator", 1);
    let vmm = only(&renamed);
    assert_eq!(vmm.kind, VmmKind::Qemu);
    assert!(vmm.evidence.contains(&Evidence::Executable));
    fs::write(&program, b"something else").expect("write");
    assert_eq!(found(&[&renamed]), []);
}

#[test]
fn a_process_that_only_mentions_qemu_is_no_vm() {
    // A shell that starts a VM has all the words, and none of the memory.
    let directory = tempfile::tempdir().expect("directory");
    let shell = directory.path().join("qemu-system-x86_64");
    fs::write(&shell, b"a shell").expect("write");
    let words = with_executable(QEMU_PRIVATE, &shell);
    assert_eq!(
        found(&[&words]),
        [],
        "named so, with the memory, but not QEMU inside"
    );
    let without_memory: String = QEMU_PRIVATE
        .lines()
        .filter(|line| !line.contains("7f93c7e00000-"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(found(&[&without_memory]), []);
    // Where the executable cannot be read, the kernel's name for it must fit.
    let pretender = QEMU_PRIVATE.replacen("Name:\tqemu-system-x86", "Name:\tbash", 1);
    let pretender = with_executable(&pretender, Path::new("/absent/qemu-system-x86_64"));
    assert_eq!(found(&[&pretender]), []);
}

#[test]
fn a_fork_of_qemu_is_no_second_vm() {
    let parent = QEMU_PRIVATE;
    let directory = tempfile::tempdir().expect("directory");
    let pid = play(directory.path(), parent);
    let child = parent
        .replacen(&format!("\n{pid} ("), "\n4194000 (", 1)
        .replacen("PPid:\t", &format!("PPid:\t{pid} was "), 1);
    play(directory.path(), &child);
    let root = ProcRoot::at(directory.path());
    let all = find_all_in(&root).expect("a list");
    let pids: Vec<u32> = all.iter().map(|vmm| vmm.pid).collect();
    assert_eq!(pids, [pid]);
    // Named by hand it can still be looked at.
    assert_eq!(
        find_by_pid_in(&root, 4_194_000).expect("named").pid,
        4_194_000
    );
}

#[test]
fn any_process_can_be_named() {
    let directory = tempfile::tempdir().expect("directory");
    let pid = play(directory.path(), UML_GUEST_PROCESS);
    let root = ProcRoot::at(directory.path());
    let vmm = find_by_pid_in(&root, pid).expect("named");
    assert_eq!(vmm.kind, VmmKind::Unknown);
    assert_eq!(vmm.name, format!("unknown-{pid}"));
    assert!(!vmm.blocks.is_empty());
    assert_eq!(
        find_by_pid_in(&root, 1),
        Err(FindError::NoProcess { pid: 1 })
    );
}

#[test]
fn broken_processes_are_passed_over() {
    let directory = tempfile::tempdir().expect("directory");
    play(directory.path(), QEMU_PRIVATE);
    let root = directory.path();
    fs::create_dir(root.join("77")).expect("a process that vanished");
    fs::create_dir(root.join("78")).expect("directory");
    fs::write(root.join("78/stat"), b"\xff\xfe nonsense").expect("write");
    fs::create_dir(root.join("79")).expect("directory");
    fs::write(root.join("79/stat"), b"79 () \xff").expect("write");
    fs::write(root.join("79/cmdline"), b"\0\0\xff-m\0").expect("write");
    fs::write(root.join("80"), b"a file").expect("write");
    fs::create_dir(root.join("99999999999999999999")).expect("directory");
    assert_eq!(find_all_in(&ProcRoot::at(root)).expect("a list").len(), 1);
    assert!(find_all_in(&ProcRoot::at(root.join("absent"))).is_err());
}

#[test]
fn this_host_can_be_searched() {
    let all = find_all().expect("a list");
    assert!(all.iter().all(|vmm| vmm.pid != std::process::id()));
}
