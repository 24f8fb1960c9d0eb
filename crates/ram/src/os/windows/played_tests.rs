//! On Windows: a process that plays VMware, with its guest's RAM in sections, is found from
//! outside, read and written. The process is this very program under VMware's name.
#![allow(
    unsafe_code,
    reason = "sections and private memory are made by raw calls"
)]

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::windows::io::{AsHandle, FromRawHandle, OwnedHandle};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{
    Access, Backing, BlockOffset, BlockPiece, Census, DumpFormat, DumpPlan, Evidence, FindError,
    Found, GuestRam, Machine, Method, Obstacle, Patterns, Privileges, ProcRoot, Protection,
    RamError, RunState, SearchOptions, SearchSink, Source, Step, StoredDump, Vmm, VmmKind,
    find_all, find_by_pid,
};
use vmshm_link::GuestPhysical;
use vmshm_shm::{Mapping, SharedMemory};
use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, MEM_COMMIT, MEM_RESERVE, PAGE_READWRITE, SEC_RESERVE, VirtualAlloc,
};

const MIB: u64 = 1 << 20;
/// What the process is to make: words such as `section:16`, `named:16`, `brand:16`,
/// `reserved:16` and `private:16` with sizes in MiB.
const MAKE: &str = "VMSHM_TEST_MAKE";
const BRAND: &[u8] = b"a brand that nobody else writes";
/// What the test is called that only plays.
const PLAY: &str = "os::windows::played_tests::play_a_vmm";
/// Where the brand stands.
const BRAND_AT: u64 = 2 * MIB;

/// A section; nobody maps it for long.
fn section(name: Option<&str>, length: u64, attributes: u32) -> OwnedHandle {
    let name: Option<Vec<u16>> =
        name.map(|name| name.encode_utf16().chain(std::iter::once(0)).collect());
    // SAFETY: a new section without attributes of its own; the name ends with a zero.
    let handle = unsafe {
        CreateFileMappingW(
            INVALID_HANDLE_VALUE,
            std::ptr::null(),
            PAGE_READWRITE | attributes,
            0,
            u32::try_from(length).expect("small"),
            name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr()),
        )
    };
    assert!(!handle.is_null(), "{}", std::io::Error::last_os_error());
    // SAFETY: the handle was made just now.
    unsafe { OwnedHandle::from_raw_handle(handle) }
}

fn private(length: u64) -> *mut u8 {
    let length = usize::try_from(length).expect("small");
    // SAFETY: new memory at an address that the system chooses.
    let base = unsafe {
        VirtualAlloc(
            std::ptr::null(),
            length,
            MEM_COMMIT | MEM_RESERVE,
            PAGE_READWRITE,
        )
    };
    assert!(!base.is_null());
    base.cast()
}

/// Not a test: what the process does that plays a VMM. Without its orders it does nothing.
#[test]
fn play_a_vmm() {
    let Ok(orders) = std::env::var(MAKE) else {
        return;
    };
    let mut kept = Vec::new();
    for order in orders.split_whitespace() {
        let (what, size) = order.split_once(':').expect("an order");
        let length = size.parse::<u64>().expect("a number") * MIB;
        match what {
            "section" => kept.push(section(None, length, 0)),
            "reserved" => kept.push(section(None, length, SEC_RESERVE)),
            "named" | "brand" => {
                let name = format!("VMwareMem{}Memory", std::process::id());
                let name = (what == "named").then_some(name.as_str());
                let made = section(name, length, 0);
                let mapping = Mapping::whole(&made, length, Protection::ReadWrite);
                let mapping = mapping.expect("mapped");
                mapping.write(BRAND_AT, BRAND).expect("written");
                kept.push(made);
            }
            "private" => {
                let base = private(length);
                for (index, byte) in BRAND.iter().enumerate() {
                    let at = usize::try_from(BRAND_AT).expect("small") + index;
                    // SAFETY: the place lies inside the memory that was just made.
                    let place = unsafe { base.add(at) };
                    // SAFETY: as above; nobody else has it.
                    unsafe { place.write(*byte) };
                }
            }
            other => panic!("{other}?"),
        }
    }
    println!("\nready");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).expect("the end");
    drop(kept);
}

/// The process that plays; it ends with this.
struct Player {
    child: Child,
    /// Kept open, so that nothing that it prints later fails.
    output: BufReader<ChildStdout>,
    directory: tempfile::TempDir,
}

impl Player {
    fn start(program: &str, memsize: Option<u64>, orders: &str) -> Self {
        Self::start_with(program, memsize, orders, &[])
    }

    fn start_with(program: &str, memsize: Option<u64>, orders: &str, words: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let own = std::env::current_exe().expect("own path");
        let copy = directory.path().join(program);
        std::fs::copy(&own, &copy).expect("copied");
        // Where the tests run on Wine, a library that it lacks lies beside the program.
        let beside = own.with_file_name("bcryptprimitives.dll");
        if beside.exists() {
            let name = directory.path().join("bcryptprimitives.dll");
            std::fs::copy(beside, name).expect("copied");
        }
        let settings: PathBuf = directory.path().join("Small Box.vmx");
        let mut command = Command::new(copy);
        // What follows are names of tests that do not exist.
        command.args(["--exact", "--nocapture", "--", PLAY]);
        command.args(words);
        if let Some(memsize) = memsize {
            let text = format!("displayName = \"A small one\"\nmemsize = \"{memsize}\"\n");
            std::fs::write(&settings, text).expect("written");
            command.arg(&settings);
        }
        let mut child = command
            .env(MAKE, orders)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            let length = output.read_line(&mut line).expect("a line");
            assert!(length > 0, "it never got ready");
        }
        Self {
            child,
            output,
            directory,
        }
    }

    fn vmm(&self) -> Vmm {
        find_by_pid(self.child.id()).expect("it is there")
    }

    fn end(&mut self) {
        drop(self.child.stdin.take());
        let mut rest = Vec::new();
        let _ = self.output.read_to_end(&mut rest);
        self.child.wait().expect("ended");
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where the brand is found.
fn brands(ram: &GuestRam) -> Vec<BlockOffset> {
    let mut found = Vec::new();
    ram.scan(BRAND, Step::Page, &mut |at| {
        found.push(at);
        ControlFlow::Continue(())
    })
    .expect("scanned");
    found
}

fn check_memory(ram: &GuestRam, at: BlockOffset) {
    let mut bytes = vec![0; BRAND.len()];
    ram.read_at(at, &mut bytes).expect("read");
    assert_eq!(bytes, BRAND);
    // Across pages, and not aligned to anything.
    let odd = BlockOffset {
        offset: at.offset + 65_531,
        ..at
    };
    let written: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    ram.write_at(odd, &written).expect("written");
    let mut back = vec![0; written.len()];
    ram.read_at(odd, &mut back).expect("read");
    assert_eq!(back, written);
    // Pages that do not lie side by side, as one memory.
    let piece = |page: u64| BlockPiece {
        at: BlockOffset {
            offset: at.offset - BRAND_AT + page * 4096,
            ..at
        },
        length: 4096,
    };
    let pieces = [piece(517), piece(33), piece(512)];
    let view = ram.view(&pieces, Protection::ReadWrite).expect("a view");
    assert_eq!(view.size(), 3 * 4096);
    let mut bytes = vec![0; BRAND.len()];
    view.read(2 * 4096, &mut bytes).expect("read");
    assert_eq!(bytes, BRAND);
    view.store_release(4096 + 8, 0x1122_3344_5566_7788)
        .expect("stored");
    assert_eq!(view.load_acquire(4096 + 8), Ok(0x1122_3344_5566_7788));
    let mut word = [0; 8];
    let place = BlockOffset {
        offset: at.offset - BRAND_AT + 33 * 4096 + 8,
        ..at
    };
    ram.read_at(place, &mut word).expect("read");
    assert_eq!(u64::from_le_bytes(word), 0x1122_3344_5566_7788);
}

#[test]
fn the_named_section_is_found_read_and_written() {
    let player = Player::start("vmware-vmx.exe", None, "section:16 named:16 section:32");
    let pid = player.child.id();
    let all = find_all().expect("a list");
    let vmm = all.iter().find(|vmm| vmm.pid == pid).expect("it is found");
    assert_eq!(vmm.kind, VmmKind::Vmware);
    assert_eq!(vmm.blocks.len(), 1, "{vmm:?}");
    assert!(vmm.evidence.contains(&Evidence::NamedSection), "{vmm:?}");
    let name = format!("VMwareMem{pid}Memory");
    assert!(vmm.blocks[0].name.ends_with(&name), "{vmm:?}");
    assert_eq!(vmm.blocks[0].backing, Backing::Section);
    assert_eq!((vmm.ram_bytes, vmm.access()), (16 * MIB, Access::Map));
    let ram = GuestRam::open(vmm, Method::Auto).expect("opened");
    let at = BlockOffset {
        block: 0,
        offset: BRAND_AT,
    };
    assert_eq!(brands(&ram), [at]);
    check_memory(&ram, at);
    // Copying would need to know where it is mapped.
    let copied = GuestRam::open(vmm, Method::Copy);
    assert!(copied.is_err_and(|error| error.hint().is_some()));
}

#[test]
fn of_three_unnamed_sections_of_the_right_size_the_brand_tells() {
    let orders = "section:32 section:16 brand:16 section:16 section:1";
    let player = Player::start("vmware-vmx.exe", Some(16), orders);
    let vmm = player.vmm();
    assert_eq!(vmm.kind, VmmKind::Vmware);
    assert_eq!(
        (vmm.name.as_str(), vmm.ram_bytes),
        ("A small one", 16 * MIB)
    );
    assert_eq!(vmm.blocks.len(), 3, "{vmm:?}");
    for sign in [Evidence::SectionOfSize, Evidence::SeveralSections] {
        assert!(vmm.evidence.contains(&sign), "{vmm:?}");
    }
    let ram = GuestRam::open(&vmm, Method::Map).expect("opened");
    let found = brands(&ram);
    let at = BlockOffset {
        block: 1,
        offset: BRAND_AT,
    };
    assert_eq!(found, [at]);
    check_memory(&ram, at);
    let layout = vmm.layout_without_agent(&ram, Duration::from_millis(200));
    let place = layout.expect("a guess").translate(GuestPhysical(BRAND_AT));
    assert_eq!(place.map(|place| place.source), Ok(Source::BlockOrder));
}

#[test]
fn one_section_of_the_right_size_has_a_layout_by_rule() {
    let player = Player::start("vmware-vmx.exe", Some(16), "brand:16 section:8");
    let vmm = player.vmm();
    assert!(matches!(vmm.machine, Machine::Vmware { below_4g } if below_4g == 3 << 30));
    let ram = GuestRam::open(&vmm, Method::Map).expect("opened");
    let layout = vmm
        .layout_without_agent(&ram, Duration::from_millis(200))
        .expect("a rule");
    let place = layout.translate(GuestPhysical(BRAND_AT)).expect("RAM");
    assert_eq!(place.source, Source::MachineRule);
    let mut bytes = vec![0; BRAND.len()];
    ram.read_at(place.at, &mut bytes).expect("read");
    assert_eq!(bytes, BRAND);
}

/// Keeps where a search found something.
#[derive(Default)]
struct Places(Vec<u64>);

impl SearchSink for Places {
    fn found(&mut self, matches: &[Found]) -> ControlFlow<()> {
        self.0.extend(matches.iter().map(|found| found.address.0));
        ControlFlow::Continue(())
    }
}

#[test]
fn guest_ram_is_searched_and_dumped_and_the_dump_read_back() {
    let player = Player::start("vmware-vmx.exe", Some(16), "brand:16");
    let vmm = player.vmm();
    let ram = GuestRam::open(&vmm, Method::Map).expect("opened");
    let layout = vmm.rule_layout().expect("a rule");
    let patterns = Patterns::new(vec![BRAND.to_vec()]).expect("a pattern");
    let options = SearchOptions::default();
    let mut places = Places::default();
    ram.search(&layout, &patterns, &options, &mut places)
        .expect("searched");
    assert_eq!(places.0, [BRAND_AT]);
    for format in [DumpFormat::Elf, DumpFormat::Lime, DumpFormat::Raw] {
        let plan = DumpPlan::new(&layout, format).expect("it fits");
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file()
            .set_len(plan.file_length())
            .expect("its length");
        let mut put = |offset: u64, bytes: &[u8]| {
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(bytes)
        };
        plan.write(&ram, &mut put, &mut |_| true).expect("written");
        let dump = StoredDump::open(file.path()).expect("a dump");
        assert_eq!((dump.format(), dump.ram_bytes()), (format, 16 * MIB));
        let stored = GuestRam::stored(&dump);
        let mut places = Places::default();
        stored
            .search(dump.layout(), &patterns, &options, &mut places)
            .expect("searched");
        assert_eq!(places.0, [BRAND_AT]);
        assert!(stored.liveness().pid().is_none());
    }
}

#[test]
fn a_process_is_known_by_its_table_its_words_and_its_marks() {
    let player = Player::start("anything.exe", None, "section:1");
    let pid = player.child.id();
    let mut census = Census::default();
    let start = Instant::now();
    assert!(census.count(start).expect("counted").contains(&pid));
    assert!(!census.count(start).expect("counted").contains(&pid));
    let vmm = player.vmm();
    assert_eq!(vmm.name, format!("unknown-{pid}"));
    assert!(vmm.start_time > 0 && vmm.mapped_pages().is_some_and(|pages| pages > 0));
    let examination = vmm.examine();
    assert!(examination.confidential.is_none() && !examination.filters_calls);
    let mappings = ProcRoot::system().mappings(pid).expect("mappings");
    assert!(mappings.iter().any(|mapping| mapping.executable));
    assert!(mappings.is_sorted_by_key(|mapping| mapping.start));
    let rights = Privileges::own();
    println!("{rights:?}, {} mappings", mappings.len());
    let absent = find_by_pid(0x7fff_fffc);
    assert!(
        matches!(absent, Err(FindError::NoProcess { .. })),
        "{absent:?}"
    );
}

#[test]
fn a_name_that_is_another_processes_is_not_taken() {
    let player = Player::start("vmware-vmx.exe", Some(16), "brand:16");
    let name = format!("VMwareMem{}Memory", player.child.id());
    for space in ["", "Global\\"] {
        let _ours = section(Some(&format!("{space}{name}")), 16 * MIB, 0);
        let vmm = player.vmm();
        assert_eq!(vmm.blocks.len(), 1);
        assert!(vmm.blocks[0].name.starts_with("unnamed"), "{vmm:?}");
        assert!(vmm.evidence.contains(&Evidence::ForeignSection), "{vmm:?}");
    }
}

#[test]
fn sections_smaller_than_what_was_configured_are_refused() {
    let player = Player::start("vmware-vmx.exe", Some(64), "brand:16 section:32");
    let vmm = player.vmm();
    assert_eq!((vmm.access(), vmm.blocks.len()), (Access::None, 0));
    let (largest, told) = (32 * MIB, 64 * MIB);
    assert_eq!(
        vmm.reach.obstacle(),
        Some(&Obstacle::SectionsTooSmall { largest, told })
    );
}

#[test]
fn a_process_by_number_has_its_sections_and_its_private_memory() {
    let player = Player::start("anything.exe", None, "brand:16 private:24");
    assert!(
        find_all()
            .expect("a list")
            .iter()
            .all(|vmm| vmm.pid != player.child.id())
    );
    let vmm = player.vmm();
    assert_eq!(vmm.kind, VmmKind::Unknown);
    let ram = GuestRam::open(&vmm, Method::Auto).expect("opened");
    let found = brands(&ram);
    let backings: Vec<Backing> = found
        .iter()
        .map(|at| vmm.blocks[at.block].backing)
        .collect();
    assert_eq!(backings, [Backing::PrivateAnonymous, Backing::Section]);
    for at in found {
        check_memory(&ram, at);
    }
}

#[test]
fn qemu_is_known_by_its_words_its_memory_and_what_is_inside() {
    let words = ["-m", "24", "-machine", "q35", "-name", "a box"];
    let player = Player::start_with("qemu-system-x86_64.exe", None, "private:24", &words);
    let vmm = player.vmm();
    assert_eq!((vmm.kind, vmm.name.as_str()), (VmmKind::Qemu, "a box"));
    assert_eq!((vmm.ram_bytes, vmm.access()), (24 * MIB, Access::Copy));
    assert_eq!(vmm.blocks[0].backing, Backing::PrivateAnonymous);
    assert!(vmm.evidence.contains(&Evidence::Executable), "{vmm:?}");
    let ram = GuestRam::open(&vmm, Method::Auto).expect("opened");
    let layout = vmm.rule_layout().expect("a rule");
    let place = layout.translate(GuestPhysical(BRAND_AT)).expect("RAM");
    assert_eq!(brands(&ram), [place.at]);
    check_memory(&ram, place.at);
}

#[test]
fn virtualbox_says_why_its_ram_cannot_be_read() {
    let words = ["--startvm", "some-id", "--comment", "Old Box"];
    let player = Player::start_with("VBoxHeadless.exe", None, "section:16", &words);
    let vmm = player.vmm();
    assert_eq!(
        (vmm.kind, vmm.name.as_str()),
        (VmmKind::VirtualBox, "Old Box")
    );
    assert_eq!(vmm.access(), Access::None);
    let obstacle = vmm.reach.obstacle().expect("a reason");
    assert_eq!(*obstacle, Obstacle::KernelDriver { driver: "vboxdrv" });
    assert!(vmm.reach.map.is_err() && vmm.blocks.is_empty());
}

#[test]
fn handles_of_one_section_are_told_from_handles_of_two() {
    let (one, two) = (section(None, MIB, 0), section(None, MIB, 0));
    let again = one.try_clone().expect("copied");
    let same = super::handle::are_same(one.as_handle(), again.as_handle());
    let other = super::handle::are_same(one.as_handle(), two.as_handle());
    println!("compared: {same:?}, {other:?}");
    assert_ne!(same, Some(false));
    assert_ne!(other, Some(true));
    let pid = std::process::id();
    let held = super::section::held(pid).expect("our own");
    let entries = super::section::entries(pid).expect("our own");
    let hidden = entries.iter().filter(|entry| entry.object == 0).count();
    println!("{} sections, {hidden} objects hidden", held.sections.len());
    // Each is counted once where the system gives any way to tell.
    if hidden == 0 || same.is_some() {
        let number = super::section::number_of;
        let ours = [number(&one), number(&again)];
        let found = held.sections.iter();
        let found = found.filter(|section| ours.contains(&section.handle));
        assert_eq!(found.count(), 1);
    }
    assert_eq!(held.refused, None);
}

#[test]
fn private_memory_is_copied() {
    let player = Player::start("anything.exe", None, "private:24");
    let vmm = player.vmm();
    let ram = GuestRam::open(&vmm, Method::Copy).expect("opened");
    let found = brands(&ram);
    assert_eq!(found.len(), 1);
    check_memory(&ram, found[0]);
    let view = [BlockPiece {
        at: BlockOffset {
            offset: 0,
            ..found[0]
        },
        length: 4096,
    }];
    let view = ram.view(&view, Protection::Read).expect("a view");
    assert!(!view.is_mapped());
}

#[test]
fn what_is_only_reserved_of_a_section_is_passed_over() {
    let player = Player::start("vmware-vmx.exe", Some(16), "reserved:16");
    let vmm = player.vmm();
    let ram = GuestRam::open(&vmm, Method::Map).expect("opened");
    assert_eq!(brands(&ram), []);
    let at = BlockOffset::default();
    let mut byte = [0; 1];
    let read = ram.read_at(at, &mut byte);
    assert!(
        matches!(read, Err(RamError::Unreachable { .. })),
        "{read:?}"
    );
    let piece = BlockPiece { at, length: 4096 };
    assert!(ram.view(&[piece], Protection::Read).is_err());
}

#[test]
fn the_end_of_a_process_is_noticed() {
    let mut player = Player::start("vmware-vmx.exe", Some(16), "brand:16");
    let pid = player.child.id();
    let vmm = player.vmm();
    let ram = GuestRam::open(&vmm, Method::Map).expect("opened");
    assert_eq!(ram.liveness().run_state(), RunState::Running);
    player.end();
    assert!(ram.liveness().is_gone());
    assert_eq!(ram.liveness().run_state(), RunState::Gone);
    let at = BlockOffset::default();
    assert_eq!(ram.write_at(at, &[0]), Err(RamError::Gone));
    assert!(GuestRam::open(&vmm, Method::Map).is_err());
    assert_eq!(find_by_pid(pid).err(), Some(FindError::NoProcess { pid }));
    assert!(Path::new(player.directory.path()).exists());
}
