//! A framebuffer device: the host sees the very pages that the guest's programs draw into.

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
    draw(&machine, "\\377\\200\\100\\000");
    wait_for("the colour that was drawn", LATER, || {
        let shot = picture(&machine, screen);
        assert_eq!((shot.width, shot.height), (1024, 768));
        (0..1024).all(|x| shot.at(x, 400) == [0o100, 0o200, 0o377])
    });
    // While it changes, the agent's own counters show that nothing is copied, only compared.
    let watcher = display(
        &machine,
        &["--screen", &screen.to_string(), "--nowhere", "5", "--stats"],
    )
    .start();
    for shade in 0..8 {
        draw(&machine, &format!("\\0{shade}0\\0{shade}0\\0{shade}0\\000"));
    }
    let seen = watcher.wait(LATER).json();
    report(&format_args!("{}: {seen}", machine.name));
    assert!(seen["frames"].as_u64().expect("a number") >= 2, "{seen}");
}

/// Fills the framebuffer with pixels of one colour: blue, green, red, unused, as octal bytes.
fn draw(machine: &Machine, pixel: &str) {
    machine.guest.check(&format!(
        "p='{pixel}'; p=$p$p$p$p$p$p$p$p; p=$p$p$p$p$p$p$p$p; p=$p$p$p$p; \
         printf \"$p\" >row; for i in 1 2 3 4; do cat row; done >four; \
         for i in $(seq 1 768); do cat four; done >/dev/fb0"
    ));
}
