//! A framebuffer device: the host sees the very pages that the guest's programs draw into.

use rustix::process::Signal;
use vmshm_vm_tests::environment::{self, report};
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, wait_for};

use crate::shown::{display, number, picture};

/// One frame of 1024 by 768 pixels of 32 bits.
const MEMORY: u32 = 1024 * 768 * 4;

#[test]
fn what_is_drawn_into_fb0_is_seen_without_a_copy() {
    if !environment::is_set_up() {
        return;
    }
    // The driver is in that kernel only.
    let options = ["--kernel", "debian13"];
    let machine = Machine::boot_as(Kind::QemuMemfd(2), "framebuffer", &options);
    machine.guest.check(&format!(
        "/run/vm/busybox modprobe vfb vfb_enable=1 videomemorysize={MEMORY}"
    ));
    let path = display(
        &machine,
        &["--screen", "0", "--mode", "1024x768", "--nowhere", "1"],
    )
    .run_within(LATER)
    .json();
    report(&format_args!("{}: {path}", machine.name));
    let screen = number(&machine, "fb0");
    // This driver's pixels have red first.
    draw(&machine, "\\377\\200\\100\\000");
    wait_for("the colour that was drawn", LATER, || {
        let shot = picture(&machine, screen);
        assert_eq!((shot.width, shot.height), (1024, 768));
        (0..1024).all(|x| shot.at(x, 400) == [0o377, 0o200, 0o100])
    });
    // Its source cannot copy: it maps the device for reading, and beside that the frames' four pages.
    let watcher = display(
        &machine,
        &[
            "--screen",
            &screen.to_string(),
            "--nowhere",
            "3600",
            "--stats",
        ],
    )
    .start();
    let source = machine.guest.check("pgrep -f 'exe source'");
    let source = source.trim();
    let mut maps = String::new();
    wait_for("a source that maps the device", LATER, || {
        maps = machine.guest.check(&format!("cat /proc/{source}/maps"));
        maps.contains("/dev/fb0")
    });
    let calls = machine
        .guest
        .start(&format!("strace -c -f -o calls -p {source}"));
    for shade in 0..4 {
        draw(&machine, &format!("\\0{shade}0\\0{shade}0\\0{shade}0\\000"));
    }
    machine.guest.check("pkill -INT -x strace || true");
    drop(calls.wait(LATER));
    let calls = machine.guest.check("cat calls");
    check_nothing_is_copied(&maps, &calls);
    watcher.signal(Signal::TERM);
    let seen = watcher.wait(LATER).json();
    report(&format_args!("{}: {seen}", machine.name));
    assert!(seen["frames"].as_u64().expect("a number") >= 2, "{seen}");
}

/// By the source's mappings and its system calls.
fn check_nothing_is_copied(maps: &str, calls: &str) {
    let device: Vec<&str> = maps
        .lines()
        .filter(|line| line.ends_with("/dev/fb0"))
        .collect();
    assert!(
        !device.is_empty() && device.iter().all(|line| line.contains(" r--s ")),
        "{maps}"
    );
    let shared = maps.lines().filter(|line| line.contains("memfd:"));
    let bytes: u64 = shared
        .filter_map(|line| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let number = |text: &str| u64::from_str_radix(text, 16).ok();
            Some(number(end)? - number(start)?)
        })
        .sum();
    assert!(bytes <= 4 * 4096, "{maps}");
    let forbidden = [
        "write",
        "pwrite64",
        "writev",
        "splice",
        "sendfile",
        "copy_file_range",
        "process_vm_writev",
    ];
    let names: Vec<&str> = calls
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .collect();
    assert!(names.len() > 3, "strace has counted something: {calls}");
    assert!(
        !names.iter().any(|name| forbidden.contains(name)),
        "{calls}"
    );
}

/// Fills the framebuffer with pixels of one colour: blue, green, red, unused, as octal bytes.
fn draw(machine: &Machine, pixel: &str) {
    // Three pixels, doubled eighteen times, are 1024 by 768.
    machine.guest.check(&format!(
        "printf '{pixel}{pixel}{pixel}' >some; \
         for i in $(seq 18); do cat some some >more; mv more some; done; cat some >/dev/fb0"
    ));
}
