//! Several displays at once: two of one screen, and two screens.

use vmshm_vm_tests::desktop::Desktop;
use vmshm_vm_tests::fleet;
use vmshm_vm_tests::machine::Kind;
use vmshm_vm_tests::patience::LATER;

use crate::shown::{add, check_same_as_inside, display, end, number};

#[test]
fn two_displays_of_one_screen_and_displays_of_two_screens() {
    let Some(machine) = fleet::borrow(Kind::UmlDesktop) else {
        return;
    };
    let desktop = Desktop::start(&machine, "/run/user/1000");
    let before = desktop.output_names();
    let (first, one) = add(&machine, &desktop, "1024x768");
    let with_one = desktop.output_names();
    let (second, two) = add(&machine, &desktop, "640x480");
    desktop.terminal(&one, "one", "sh -c 'while :; do seq 1 50; sleep 0.2; done'");
    desktop.terminal(&two, "two", "sh -c 'seq 1 20; sleep 3600'");
    // Two more of the first added one, and its picture beside them.
    let shown = number(&machine, &one).to_string();
    let watch = ["--screen", &shown, "--nowhere", "4"];
    let watchers = [
        display(&machine, &watch).start(),
        display(&machine, &watch).start(),
    ];
    check_same_as_inside(&machine, &desktop, &two);
    for watcher in watchers {
        let seen = watcher.wait(LATER).json();
        assert!(seen["frames"].as_u64().expect("a number") >= 4, "{seen}");
    }
    end(second, &desktop, &with_one);
    end(first, &desktop, &before);
}
