//! The monitor's window shows the guest's test card, pixel by pixel: the X server's picture proves it.

use rustix::process::Signal;
use vmshm_link::test_card::{Checksum, TestCard};
use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::patience::{LATER, wait_for, wait_until};
use vmshm_vm_tests::png_file::Picture;
use vmshm_vm_tests::x_server::XServer;
use vmshm_windows_tests::configuration::Configuration;
use vmshm_windows_tests::stand_in::{QEMU, StandIn, VMWARE};
use vmshm_windows_tests::wine::{Wine, windows_path};

/// The size of the card that the played guest shows.
const SIZE: (u32, u32) = (320, 200);

/// The picture with this serial, drawn here.
fn card(serial: u64) -> Picture {
    let (width, height) = SIZE;
    let card = TestCard::new(width, height, serial).expect("a possible size");
    let checksum = Checksum::of(card).get();
    let mut row = vec![0; width as usize * 4];
    let mut colours = Vec::new();
    for y in 0..height {
        card.draw(y, 0, checksum, &mut row);
        colours.extend(
            row.chunks_exact(4)
                .flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]),
        );
    }
    Picture {
        width,
        height,
        colours,
    }
}

#[test]
fn the_window_shows_the_test_card_of_a_section() {
    let file = Configuration::with_hole("card", 256, Some(128));
    shows_the_card(VMWARE, &["--hole", "128", &file.path()]);
}

#[test]
fn the_window_shows_the_test_card_of_private_memory() {
    shows_the_card(QEMU, &["--private", "--", "-m", "256M"]);
}

fn shows_the_card(program: &str, options: &[&str]) {
    let Some(wine) = Wine::set_up() else { return };
    let Some(server) = XServer::start(1024, 768) else {
        return;
    };
    let wine = Ending(wine.on(&server));
    let mut vmm = StandIn::start(&wine.0, program, options);
    let window = wine
        .0
        .vmshm(["display", &vmm.pid, "--screen", "test-card"])
        .start();
    // The next card as well: what is seen lives.
    let mut seen = Vec::new();
    for _ in 0..2 {
        let what = "the card in the window";
        let serial = wait_until(what, LATER, || shown(&server, &mut vmm));
        seen.push(serial);
        vmm.tell("screen card");
    }
    assert!(seen[0] < seen[1], "{seen:?}: {}", window.errors.so_far());
    report(&format_args!(
        "{program}: the window shows cards {seen:?} pixel by pixel"
    ));
    window.signal(Signal::INT);
    let _ended = window.wait(LATER);
    wait_for("the end of the session", LATER, || {
        vmm.tell("state").starts_with("slots=0")
    });
    // The monitor has gone with it.
    let last = card(seen[1] + 1);
    wait_for("an empty screen", LATER, || {
        server.picture().find(&last).is_none()
    });
}

/// The serial of the card that the guest shows now, if the X server's picture holds just that.
fn shown(server: &XServer, vmm: &mut StandIn) -> Option<u64> {
    let serial = vmm.tell("screen shown").parse().ok()?;
    let picture = server.picture();
    picture.find(&card(serial)).map(|_| serial)
}

#[test]
fn a_screenshot_holds_the_test_card() {
    let Some(wine) = Wine::set_up() else { return };
    let file = Configuration::write("shot", 256);
    let vmm = StandIn::start(&wine, VMWARE, &[&file.path()]);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("card.png");
    let shown = windows_path(&path);
    let options = [
        "display",
        &vmm.pid,
        "--screen",
        "test-card",
        "--screenshot",
        &shown,
    ];
    let _ = wine.vmshm(options).run_within(LATER).success();
    // Drawn for who came: `vmshm` and its monitor both open the frames, and the guest may have seen them apart.
    let shot = Picture::read(&path);
    assert!((2..=3).any(|serial| shot == card(serial)), "another card");
}

/// Wine's own processes on the server end with it.
struct Ending(Wine);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}
