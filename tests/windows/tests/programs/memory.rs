//! Guest RAM by address: read, written, searched, translated, dumped and read back, against what the guest itself has.

use vmshm_windows_tests::configuration::Configuration;
use vmshm_windows_tests::stand_in::{StandIn, VMWARE};
use vmshm_windows_tests::wine::{Wine, windows_path};

/// Where the second part of RAM starts.
const HIGH: u64 = 4 << 30;
/// RAM below the hole.
const LOW: u64 = 128 << 20;

fn split(wine: &Wine, file: &Configuration) -> StandIn {
    StandIn::start(
        wine,
        VMWARE,
        &["--hole", "128", "--decoys", "1", &file.path()],
    )
}

#[test]
fn what_the_guest_has_is_read_and_what_is_written_arrives() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::with_hole("memory", 256, Some(128));
    let mut vmm = split(&wine, &file);
    // On both sides of the hole, and over borders of pages.
    for place in [0x3ff0, LOW - 16, HIGH, HIGH + 0x1_fff0] {
        vmm.tell(&format!("poke {place} 000102030405060708090a0b0c0d0e0f"));
        let read = wine.run(&["read", &vmm.pid, &place.to_string(), "16"]);
        assert_eq!(read.success(), (0..16).collect::<Vec<u8>>());
        let above = place >= HIGH;
        let place = (place + 3).to_string();
        let mut order = vec!["write", &vmm.pid, &place, "--hex", "aabbcc"];
        if above {
            // Only the beacon's range is proved; where the other lies is the rule's word.
            wine.run(&order)
                .refused(&["not proved"])
                .hints(&["--unverified"]);
            order.push("--unverified");
        }
        let _ = wine.run(&order).success();
        assert_eq!(vmm.tell(&format!("peek {place} 4")), "aabbcc06");
    }
    let hole = wine.run(&["read", &vmm.pid, &LOW.to_string(), "16"]);
    hole.refused(&[]);
}

#[test]
fn input_and_output_are_bytes_and_not_lines() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::with_hole("bytes", 256, Some(128));
    let mut vmm = split(&wine, &file);
    let bytes: Vec<u8> = (0..=255).chain(*b"\r\n\x1a\n\r").collect();
    let input = wine.vmshm(["write", &vmm.pid, "0x5000", "-i", "-"]);
    let _ = input.input(bytes.clone()).run().success();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(vmm.tell(&format!("peek 0x5000 {}", bytes.len())), hex);
    let read = wine.run(&["read", &vmm.pid, "0x5000", &bytes.len().to_string()]);
    assert_eq!(read.success(), bytes);
}

#[test]
fn words_are_found_wherever_they_lie() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::with_hole("search", 256, Some(128));
    let mut vmm = split(&wine, &file);
    // Not whole in this test's own command line, which is in nobody's guest, but is in memory.
    let hex: String = b"needle-in-a-section"
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let places = [0x5ff8, LOW - 19, HIGH + 0x1000];
    for place in places {
        vmm.tell(&format!("poke {place} {hex}"));
    }
    let found = wine
        .run(&["search", &vmm.pid, "needle-in-a-section", "--json"])
        .json();
    let found: Vec<u64> = found
        .as_array()
        .expect("an array")
        .iter()
        .filter_map(|one| one["gpa"].as_u64())
        .collect();
    assert_eq!(found, places);
    let nothing = wine.run(&["search", &vmm.pid, "needle-in-a-haystack"]);
    assert_eq!(nothing.code, Some(1), "{}", nothing.errors);
}

#[test]
fn an_address_is_translated_to_its_place_in_the_section() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::with_hole("translate", 256, Some(128));
    let vmm = split(&wine, &file);
    let place = HIGH + 0x1234;
    let told = wine
        .run(&["translate", &vmm.pid, &place.to_string(), "--json"])
        .json();
    assert_eq!(told["offset"], LOW + 0x1234, "{told}");
    wine.run(&["translate", &vmm.pid, &LOW.to_string()])
        .refused(&[]);
}

#[test]
fn a_dump_is_whole_and_can_be_read_back() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::with_hole("dump", 64, Some(48));
    let options = ["--size", "64", "--hole", "48", &file.path()];
    let mut vmm = StandIn::start(&wine, VMWARE, &options);
    vmm.tell(
        "poke 0x5000 6475 6d706564"
            .replace("6475 ", "6475")
            .as_str(),
    );
    vmm.tell(&format!("poke {} 61626f7665", HIGH + 0x2000));
    let directory = tempfile::tempdir().expect("a directory");
    for format in ["elf", "raw", "lime"] {
        let path = directory.path().join(format!("guest.{format}"));
        let shown = windows_path(&path);
        let dumped = wine.run(&["dump", &vmm.pid, "-o", &shown, "--format", format]);
        let _ = dumped.success();
        let prefix = if format == "raw" {
            "dump:raw:"
        } else {
            "dump:"
        };
        let name = format!("{prefix}{shown}");
        let read = wine.run(&["read", &name, "0x5000", "6"]).success();
        assert_eq!(read, b"dumped", "{format}");
        let above = (HIGH + 0x2000).to_string();
        let read = wine.run(&["read", &name, &above, "5"]).success();
        assert_eq!(read, b"above", "{format}");
        let found = wine.run(&["search", &name, "dumped", "--json"]).json();
        assert_eq!(found[0]["gpa"], 0x5000, "{format}: {found}");
        std::fs::remove_file(&path).expect("it was written");
    }
    // Nothing is left of what was written under another name first.
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .expect("there")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
