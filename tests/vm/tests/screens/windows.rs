//! A window on the host: it shows the guest's picture, and what is typed and clicked in it arrives in the guest.

use vmshm_vm_tests::desktop::Desktop;
use vmshm_vm_tests::environment::report;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, wait_for};
use vmshm_vm_tests::x_server::XServer;

use crate::shown::{added, display, end, number, picture};

const WIDTH: u32 = 1024;
const HEIGHT: u32 = 768;
const LINE: &str = r##"The Quick brown FOX, 0123456789: !"#$%&'()*+,-./;<=>?@[\]^_`{|}~"##;

#[test]
fn on_uml() {
    a_window_is_a_monitor(Kind::UmlDesktop);
}

#[test]
fn on_qemu() {
    a_window_is_a_monitor(Kind::QemuDesktop);
}

fn a_window_is_a_monitor(kind: Kind) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let Some(server) = XServer::start(1280, 1024) else {
        return;
    };
    let desktop = Desktop::start(&machine, "/run/user/1000");
    let before = desktop.output_names();
    let window = display(&machine, &["--add", &format!("{WIDTH}x{HEIGHT}")])
        .environment("DISPLAY", &server.display)
        .environment("WAYLAND_DISPLAY", "")
        .start();
    machine
        .guest
        .check("rm -f /home/tester/typed /home/tester/clicks");
    let name = added(&desktop, &before);
    let number = number(&machine, &name);
    desktop.terminal(
        &name,
        "typed",
        "sh -c 'stty -echo; cat >/home/tester/typed'",
    );
    let id = server.window(&machine.name);

    // The server's picture holds the guest's.
    wait_for("the guest's picture in the window", LATER, || {
        let shot = picture(&machine, number);
        assert_eq!((shot.width, shot.height), (WIDTH, HEIGHT));
        server.picture().find(&shot).is_some()
    });
    report(&format_args!(
        "{}: the window shows {name} pixel by pixel",
        machine.name
    ));

    server.xdotool(&["windowfocus", &id]);
    click(&server, &id, WIDTH / 2, HEIGHT / 2);
    server.xdotool(&["type", "--delay", "30", LINE]);
    server.xdotool(&["key", "Return"]);
    wait_for("the line in the guest's terminal", LATER, || {
        machine
            .guest
            .run("cat /home/tester/typed")
            .text
            .contains('\n')
    });
    let typed = machine.guest.check("cat /home/tester/typed");
    assert_eq!(typed.trim_end_matches('\n'), LINE);
    report(&format_args!("{}: typed {typed:?}", machine.name));

    clicks_land(&machine, &desktop, &server, &id, &name);
    // Which unplugs the output.
    end(window, &desktop, &before);
}

#[test]
#[ignore = "long: the windows above show most of it"]
fn the_mode_follows_the_window() {
    let Some(machine) = fleet::borrow(Kind::UmlDesktop) else {
        return;
    };
    let Some(server) = XServer::start(1280, 1024) else {
        return;
    };
    let desktop = Desktop::start(&machine, "/run/user/1000");
    let before = desktop.output_names();
    let window = display(&machine, &["--add", "800x600", "--follow"])
        .environment("DISPLAY", &server.display)
        .environment("WAYLAND_DISPLAY", "")
        .start();
    let name = added(&desktop, &before);
    let number = number(&machine, &name);
    let id = server.window(&machine.name);
    for (width, height) in [(1000, 700), (640, 480)] {
        server.xdotool(&["windowsize", &id, &width.to_string(), &height.to_string()]);
        wait_for("the mode of the window's size", LATER, || {
            let outputs = desktop.outputs();
            let output = outputs
                .iter()
                .find(|output| output["name"] == name.as_str());
            let mode = &output.expect("it is there")["current_mode"];
            mode["width"] == width && mode["height"] == height
        });
        wait_for("the guest's picture in the window", LATER, || {
            server.picture().find(&picture(&machine, number)).is_some()
        });
        report(&format_args!(
            "{}: {name} is {width}x{height}, as the window",
            machine.name
        ));
    }
    end(window, &desktop, &before);
}

fn click(server: &XServer, window: &str, x: u32, y: u32) {
    server.xdotool(&[
        "mousemove",
        "--window",
        window,
        &x.to_string(),
        &y.to_string(),
    ]);
    server.xdotool(&["click", "1"]);
}

/// A program of the guest that fills the output tells where clicks land.
fn clicks_land(
    machine: &Machine,
    desktop: &Desktop<'_>,
    server: &XServer,
    window: &str,
    output: &str,
) {
    desktop.command("[app_id=typed] kill");
    desktop.command(&format!("focus output {output}"));
    desktop.command("exec sh -c 'stdbuf -oL wev -f wl_pointer >/home/tester/clicks 2>&1'");
    wait_for("a window that tells of clicks", LATER, || {
        desktop.has_window("wev")
    });
    for (x, y) in [
        (0, 0),
        (WIDTH - 1, 0),
        (0, HEIGHT - 1),
        (WIDTH - 1, HEIGHT - 1),
        (WIDTH / 2, HEIGHT / 2),
    ] {
        machine.guest.check(": >/home/tester/clicks");
        click(server, window, x, y);
        let mut told = String::new();
        wait_for(&format!("a click at {x}, {y}"), LATER, || {
            told = machine.guest.check("cat /home/tester/clicks");
            told.contains("button: ") && told.contains("state: 0")
        });
        let place = last_place(&told).unwrap_or_else(|| panic!("no place in {told}"));
        let off = (place.0 - f64::from(x))
            .abs()
            .max((place.1 - f64::from(y)).abs());
        assert!(off <= 1.0, "{x}, {y} arrived at {place:?}");
    }
    report(&format_args!(
        "{}: five clicks within one pixel",
        machine.name
    ));
}

/// Where the pointer was last: `… x, y: 512.000000, 300.000000`, after entering or moving.
fn last_place(told: &str) -> Option<(f64, f64)> {
    told.lines().rev().find_map(|line| {
        let (_, numbers) = line.split_once("x, y: ")?;
        let (x, y) = numbers.split_once(", ")?;
        Some((x.trim().parse().ok()?, y.trim().parse().ok()?))
    })
}
