//! Tests over recordings of VMMs other than QEMU and user-mode Linux, and over ones that were
//! built from the sources of VMMs that cannot run here; the files' heads say which.

use std::fs;
use std::path::Path;

use super::tests::{found, only, play, with_executable};
use super::*;
use crate::access::{Access, Obstacle};
use crate::block::{Backing, RamBlock};
use crate::layout::{LayoutError, Source};
use crate::vmm::Evidence;
use vmshm_link::GuestPhysical;

const QEMU_MEMFD: &str = include_str!("../../tests/recordings/qemu-memfd.txt");
const BOCHS: &str = include_str!("../../tests/recordings/bochs-2.7.txt");
const KVM: &str = include_str!("../../tests/recordings/kvm-memfd.txt");
const CROSVM: &str = include_str!("../../tests/recordings/crosvm-style.txt");
const FIRECRACKER: &str = include_str!("../../tests/recordings/firecracker.txt");
const CLOUD_HYPERVISOR: &str = include_str!("../../tests/recordings/cloud-hypervisor.txt");
const VMWARE_NAMED: &str = include_str!("../../tests/recordings/vmware-named.txt");
const VMWARE_UNNAMED: &str = include_str!("../../tests/recordings/vmware-unnamed.txt");
const VIRTUALBOX: &str = include_str!("../../tests/recordings/virtualbox.txt");

const GIB: u64 = 1 << 30;

/// The recording with an executable that holds `constant`, under a name that says nothing.
fn with_constant(recording: &str, directory: &Path, constant: &str) -> String {
    let program = directory.join("my-program");
    fs::write(&program, format!("\0{constant}\0")).expect("write");
    with_executable(recording, &program)
}

/// The recording without the lines that hold a text.
fn without(recording: &str, text: &str) -> String {
    let lines = recording.lines().filter(|line| !line.contains(text));
    lines.map(|line| format!("{line}\n")).collect()
}

fn offset_of(vmm: &Vmm, address: u64) -> Option<(usize, u64, Source)> {
    let layout = vmm.rule_layout().ok()?;
    let location = layout.translate(GuestPhysical(address)).ok()?;
    Some((location.at.block, location.at.offset, location.source))
}

#[test]
fn bochs_is_known_by_its_executable_and_has_no_linear_layout() {
    let directory = tempfile::tempdir().expect("directory");
    let renamed = with_constant(BOCHS, directory.path(), "Bochs x86 Emulator 2.7");
    let vmm = only(&renamed);
    assert_eq!(vmm.kind, VmmKind::Bochs);
    assert_eq!(vmm.ram_bytes, 32 << 20);
    assert!(vmm.evidence.contains(&Evidence::Executable));
    // As its log said, the RAM started here.
    let ram = 0x7fcf_399c_e000_u64;
    let holds_it =
        |block: &RamBlock| block.start.0 <= ram && ram + (32 << 20) <= block.start.0 + block.length;
    assert_eq!(vmm.blocks.len(), 1);
    assert!(holds_it(&vmm.blocks[0]));
    assert_eq!(vmm.rule_layout(), Err(LayoutError::Scattered));
    // What is called so and holds memory, but is another program, is none.
    let other = with_constant(BOCHS, directory.path(), "something else");
    assert_eq!(found(&[&other]), []);
}

#[test]
fn bochs_has_as_much_ram_as_its_configuration_says() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("bochsrc");
    fs::write(&file, "boot: floppy\nmemory: guest=16, host=16\n").expect("write");
    let path = file.to_str().expect("text");
    let configured = BOCHS.replace("/srv/bochs/bochsrc", path);
    let configured = with_constant(&configured, directory.path(), "Bochs x86 Emulator 2.7");
    assert_eq!(only(&configured).ram_bytes, 16 << 20);
    // More than there is memory for cannot be it.
    fs::write(&file, "megs: 65536\n").expect("write");
    assert_eq!(found(&[&configured]), []);
    // A pipe in the file's place must not be waited for.
    fs::remove_file(&file).expect("removed");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &file,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("a pipe");
    assert_eq!(only(&configured).ram_bytes, 32 << 20);
}

#[test]
fn the_file_that_an_option_names_is_opened_for_bochs_alone() {
    use rustix::fs::inotify;
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("bochsrc");
    fs::write(&file, "megs: 16\n").expect("write");
    let path = file.to_str().expect("text");
    let recording = BOCHS.replace("/srv/bochs/bochsrc", path);
    let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
    let watch = inotify::init(flags).expect("a watch");
    inotify::add_watch(&watch, &file, inotify::WatchFlags::OPEN).expect("watched");
    let was_opened = || {
        let mut event = [0_u8; 4096];
        rustix::io::read(&watch, &mut event).is_ok()
    };
    // As `tail -f` has that option, too.
    let other = with_constant(&recording, directory.path(), "something else");
    assert_eq!(found(&[&other]), []);
    assert!(!was_opened());
    let bochs = with_constant(&recording, directory.path(), "Bochs x86 Emulator 2.7");
    assert_eq!(only(&bochs).ram_bytes, 16 << 20);
    assert!(was_opened());
}

#[test]
fn a_program_of_ones_own_is_found_by_the_machine_that_it_holds() {
    let vmm = only(KVM);
    assert_eq!(vmm.kind, VmmKind::Kvm);
    assert_eq!(vmm.name, format!("kvm-{}", vmm.pid));
    assert_eq!(vmm.evidence, [Evidence::KvmDescriptor]);
    assert_eq!((vmm.ram_bytes, vmm.is_shared()), (24 << 20, true));
    let backings: Vec<Backing> = vmm.blocks.iter().map(|block| block.backing).collect();
    assert_eq!(backings, [Backing::Memfd], "not the processor's state");
    assert_eq!(
        offset_of(&vmm, 0x2000),
        Some((0, 0x2000, Source::BlockOrder))
    );
    // Having the device open makes no VMM.
    let without_machine = KVM.replace("anon_inode:kvm-vm", "/dev/kvm");
    assert_eq!(found(&[&without_machine]), []);

    let vmm = only(CROSVM);
    assert_eq!((vmm.kind, vmm.ram_bytes), (VmmKind::Kvm, 4 * GIB));
    let lengths: Vec<u64> = vmm.blocks.iter().map(|block| block.length).collect();
    assert_eq!(lengths, [0xd000_0000, 0x3000_0000], "RAM and no stack");
}

#[test]
fn firecracker_has_a_low_and_a_high_part() {
    let vmm = only(FIRECRACKER);
    assert_eq!(
        (vmm.kind, vmm.name.as_str()),
        (VmmKind::Firecracker, "web-7")
    );
    assert_eq!((vmm.ram_bytes, vmm.is_shared()), (4 * GIB, false));
    assert_eq!(vmm.blocks.len(), 2);
    assert_eq!(
        offset_of(&vmm, 3 * GIB - 1),
        Some((0, 3 * GIB - 1, Source::MachineRule))
    );
    assert_eq!(offset_of(&vmm, 3 * GIB), None);
    assert_eq!(offset_of(&vmm, 4 * GIB), Some((1, 0, Source::MachineRule)));
    // Jailed under another name it has fewer options, and is known by what is inside.
    let directory = tempfile::tempdir().expect("directory");
    let jailed = with_constant(FIRECRACKER, directory.path(), "Running Firecracker v1.9.0");
    assert_eq!(only(&jailed).kind, VmmKind::Firecracker);
    let other = with_constant(FIRECRACKER, directory.path(), "another VMM");
    assert_eq!(only(&other).kind, VmmKind::Kvm);
    // A shell that starts one has its words and no machine.
    assert_eq!(found(&[&without(FIRECRACKER, "anon_inode:kvm-vm")]), []);
    // Its configuration tells the RAM.
    let file = directory.path().join("vm.json");
    fs::write(&file, r#"{"machine-config": {"mem_size_mib": 4095}}"#).expect("write");
    let path = file.to_str().expect("text");
    let told = FIRECRACKER.replace("/srv/absent/vm.json", path);
    assert_eq!(only(&told).ram_bytes, 4095 << 20);
}

#[test]
fn cloud_hypervisor_has_what_its_option_asks_for() {
    let vmm = only(CLOUD_HYPERVISOR);
    assert_eq!(vmm.kind, VmmKind::CloudHypervisor);
    assert_eq!(vmm.name, format!("cloud-hypervisor-{}", vmm.pid));
    assert_eq!((vmm.ram_bytes, vmm.is_shared()), (4 * GIB, true));
    assert!(vmm.evidence.contains(&Evidence::RamMapping));
    assert_eq!(vmm.blocks[0].length, 3 * GIB);
    assert_eq!(
        offset_of(&vmm, 4 * GIB + 5),
        Some((1, 5, Source::MachineRule))
    );
    // With zones of the user's own nothing is known.
    let zones = CLOUD_HYPERVISOR.replace("--cpus", "--memory-zone");
    assert!(only(&zones).rule_layout().is_err());
    // A size over the API is another one than on the command line.
    let other = CLOUD_HYPERVISOR.replace("size=4G", "size=0");
    assert_eq!(only(&other).ram_bytes, 4 * GIB);
}

#[test]
fn vmware_has_its_ram_in_a_named_file_or_in_a_deleted_one() {
    let vmm = only(VMWARE_NAMED);
    assert_eq!((vmm.kind, vmm.name.as_str()), (VmmKind::Vmware, "Big Box"));
    assert_eq!((vmm.ram_bytes, vmm.is_shared()), (2 * GIB, true));
    assert_eq!(vmm.blocks.len(), 1);
    assert!(vmm.blocks[0].name.ends_with(".vmem"));
    assert!(vmm.evidence.contains(&Evidence::DriverDescriptor));

    let vmm = only(VMWARE_UNNAMED);
    assert_eq!((vmm.name.as_str(), vmm.ram_bytes), ("small", GIB));
    assert!(vmm.blocks[0].name.contains("ram0"));
    // The settings tell name and size.
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("small.vmx");
    fs::write(&file, "displayName = \"A small one\"\nmemsize = \"64\"\n").expect("write");
    let told = VMWARE_UNNAMED.replace("/srv/vmware/small/small.vmx", file.to_str().expect("text"));
    let vmm = only(&told);
    assert_eq!(
        (vmm.name.as_str(), vmm.ram_bytes),
        ("A small one", 64 << 20)
    );
    assert!(vmm.blocks[0].name.contains("vram"), "the file of that size");
    // An editor that has the settings open is no VM.
    let editor = with_executable(VMWARE_UNNAMED, Path::new("/usr/bin/vi"));
    let editor = without(&editor, "/dev/vmmon").replace("(vmware-vmx)", "(vi)");
    let editor = editor.replace("Name:\tvmware-vmx", "Name:\tvi");
    assert_eq!(found(&[&editor]), []);
}

#[test]
fn virtualbox_says_why_its_ram_cannot_be_read() {
    let vmm = only(VIRTUALBOX);
    assert_eq!(
        (vmm.kind, vmm.name.as_str()),
        (VmmKind::VirtualBox, "Old Box")
    );
    assert_eq!(vmm.access(), Access::None);
    assert!(vmm.blocks.is_empty());
    let obstacle = vmm.reach.obstacle().expect("a reason");
    assert_eq!(*obstacle, Obstacle::KernelDriver { driver: "vboxdrv" });
    assert!(obstacle.hint().expect("a remedy").contains("dumpvmcore"));
    // Its settings lie beside its logs.
    let directory = tempfile::tempdir().expect("directory");
    let home = directory.path().join("Old Box");
    fs::create_dir_all(home.join("Logs")).expect("directory");
    fs::write(home.join("Old Box.vbox"), "<Memory RAMSize=\"3072\"/>").expect("write");
    let told = VIRTUALBOX.replace("/srv/boxes/Old Box", home.to_str().expect("text"));
    assert_eq!(only(&told).ram_bytes, 3 * GIB);
    // Its manager has the driver open, too, but starts no VM.
    let manager = VIRTUALBOX.replace("--startvm", "--list");
    assert_eq!(found(&[&manager]), []);
}

#[test]
fn a_process_that_is_named_by_hand_is_counted_from_its_largest_block() {
    let directory = tempfile::tempdir().expect("directory");
    let plain = CROSVM.replace("anon_inode:kvm-vm", "/dev/null");
    let pid = play(directory.path(), &plain);
    let root = ProcRoot::at(directory.path());
    let vmm = find_by_pid_in(&root, pid).expect("named");
    assert_eq!(vmm.kind, VmmKind::Unknown);
    assert_eq!(
        offset_of(&vmm, 0x1000),
        Some((0, 0x1000, Source::BlockOrder))
    );
    assert_eq!(vmm.blocks[0].length, 0xd000_0000);
}

#[test]
fn qemu_with_a_backend_of_its_own_shared_memory_files_is_shared() {
    // Newer than the QEMU that was recorded: its object makes a file of mode 0 and deletes it.
    let newer = QEMU_MEMFD
        .replace("memory-backend-memfd,", "memory-backend-shm,")
        .replace(
            "/memfd:memory-backend-memfd (deleted)",
            "/dev/shm/qemu-4711 (deleted)",
        );
    let vmm = only(&newer);
    assert_eq!((vmm.kind, vmm.ram_bytes), (VmmKind::Qemu, 4 * GIB));
    assert!(vmm.is_shared());
    assert_eq!(vmm.blocks[0].backing, Backing::SharedFile);
}
