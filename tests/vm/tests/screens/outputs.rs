//! A monitor is plugged into a running desktop and unplugged again; what it shows is what the guest itself sees.

use vmshm_vm_tests::desktop::Desktop;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::machine::Kind;
use vmshm_vm_tests::patience::{LATER, SOON, wait_for};
use vmshm_vm_tests::png_file::Picture;

use crate::shown::{add, check_same_as_inside, display, end, list};

#[test]
fn on_uml() {
    a_monitor_is_added(Kind::UmlDesktop, "/run/user/1000");
}

#[test]
fn on_qemu() {
    // Sockets need not lie where a login manager puts them.
    a_monitor_is_added(Kind::QemuDesktop, "/home/tester/run/here");
}

#[test]
#[ignore = "long: boots another emulated machine"]
fn on_qemu_over_copy() {
    a_monitor_is_added(Kind::QemuPrivateDesktop, "/tmp/elsewhere");
}

fn a_monitor_is_added(kind: Kind, runtime: &str) {
    let Some(machine) = fleet::borrow(kind) else {
        return;
    };
    let desktop = Desktop::start(&machine, runtime);
    let before = desktop.output_names();
    assert_eq!(before.len(), 1, "{before:?}");
    let (holder, name) = add(&machine, &desktop, "1280x720");
    desktop.terminal(&name, "second", "sh -c 'seq 1 30; sleep 3600'");
    let added = desktop.outputs();
    let added = added.iter().find(|output| output["name"] == name.as_str());
    let mode = &added.expect("it is there")["current_mode"];
    assert_eq!(
        (&mode["width"], &mode["height"]),
        (&1280.into(), &720.into())
    );
    for output in [before[0].as_str(), &name] {
        check_same_as_inside(&machine, &desktop, output);
    }
    let listed = list(&machine);
    assert_eq!(listed.len(), 2, "{listed:?}");
    for (number, screen) in listed.iter().enumerate() {
        assert_eq!(screen["number"], number, "{listed:?}");
    }
    end(holder, &desktop, &before);
    assert_eq!(list(&machine).len(), 1);

    // Plugged in for one picture.
    let space = tempfile::tempdir().expect("there is room");
    let file = space.path().join("shot.png");
    let path = file.to_str().expect("it is text");
    display(&machine, &["--add", "800x600", "--screenshot", path])
        .run_within(LATER)
        .success();
    let shot = Picture::read(&file);
    assert_eq!((shot.width, shot.height), (800, 600));
    wait_for("the output to be unplugged", SOON, || {
        desktop.output_names() == before
    });
}

#[test]
fn without_a_desktop_the_error_says_what_is_needed() {
    let Some(machine) = fleet::borrow(Kind::Uml) else {
        return;
    };
    let refused = display(&machine, &["--add", "1280x720", "--nowhere", "1"]).run();
    refused.refused(&["needs a wlroots compositor"]);
    assert_eq!(list(&machine).len(), 0);
}
