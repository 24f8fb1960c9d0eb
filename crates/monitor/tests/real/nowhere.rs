//! Frames that go nowhere: counted, and nothing else.

use vmshm_channel::sink::Sink;
use vmshm_link::frames::Rectangle;

use crate::material::{Display, Guest, Monitor, pattern};

#[test]
fn frames_are_taken_in_until_the_end() {
    let mut guest = Guest::new(1, 200, 100);
    let mut monitor = Monitor::start(Sink::Nowhere { verify: false }, None, Display::None);
    monitor.ready();
    guest.publish(pattern, true);
    monitor.attach(&guest);
    guest.wait_for(1);
    for number in 2..50 {
        let part = Rectangle {
            x: number,
            y: number,
            width: 10,
            height: 10,
        };
        let serial = guest.publish_part(pattern, true, part);
        guest.wait_for(serial);
    }
    monitor.end();
}
