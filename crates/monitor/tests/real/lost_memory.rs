//! Memory that is not there.

use vmshm_channel::sink::{FromMonitor, Sink};
use vmshm_link::frames::FRAMES_SIZE;

use crate::material::{Display, Guest, Monitor, reserved_section};

#[test]
fn memory_that_nothing_backs_is_refused_and_survived() {
    let mut monitor = Monitor::start(Sink::Nowhere { verify: false }, None, Display::None);
    monitor.ready();
    let guest = Guest {
        frames: reserved_section(FRAMES_SIZE),
        ..Guest::new(3, 16, 16)
    };
    monitor.give_frames(&guest);
    let FromMonitor::BadGuest { message } = monitor.next() else {
        panic!("no complaint");
    };
    assert!(message.contains("cannot map"), "{message}");
    monitor.end();
}
