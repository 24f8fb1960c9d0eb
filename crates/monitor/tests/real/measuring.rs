//! What showing costs. By hand: `cargo test --release -p vmshm-monitor --test real -- --ignored
//! --nocapture --test-threads 1 measuring`.

use std::time::{Duration, Instant};

use vmshm_channel::sink::{FromMonitor, Sink, Stats};
use vmshm_link::frames::Rectangle;

use crate::material::{Display, Guest, Monitor};
use crate::window::{Server, window_sink};

const SIZE: (u32, u32) = (1920, 1080);
const FRAME: Duration = Duration::from_micros(16_667);

fn show(what: &str, stats: &Stats) {
    let micros = |(median, high): (u64, u64)| format!("{} / {}", median / 1000, high / 1000);
    println!(
        "{what}: {} frames, {} skipped, {} retaken; us p50 / p99: copy {}, present {}, \
         acknowledged {}; {:.1} MB copied; processor {:.2} %",
        stats.frames,
        stats.skipped,
        stats.retaken,
        micros(stats.copy),
        micros(stats.present),
        micros(stats.acknowledged),
        stats.copied_bytes as f64 / 1e6,
        stats.cpu_nanos as f64 / stats.over_nanos as f64 * 100.0
    );
}

fn measure(what: &str, sink: Sink, display: Display<'_>) {
    let mut guest = Guest::new(1, SIZE.0, SIZE.1);
    let mut monitor = Monitor::start_counting(sink, None, display, 5000);
    monitor.ready();
    monitor.give_screen(&guest);
    guest.publish(|x, y| x * y, false);
    monitor.attach(&guest);
    guest.wait_for(1);
    let part = Rectangle {
        x: 100,
        y: 100,
        width: 400,
        height: 300,
    };
    for (name, damage) in [
        ("still", None),
        ("a part, 60 Hz", Some(part)),
        ("all, 60 Hz", Some(Rectangle::whole(SIZE.0, SIZE.1))),
        ("still again", None),
    ] {
        let stats = 'stats: {
            // The first report has other things in it, too.
            let mut reports = 0;
            let mut next = Instant::now();
            let mut acknowledged = Vec::new();
            loop {
                while let Ok(Some((message, _))) = monitor.channel.receive() {
                    if let FromMonitor::Stats(stats) = message {
                        reports += 1;
                        if reports == 2 {
                            acknowledged.sort_unstable();
                            let middle = acknowledged.get(acknowledged.len() / 2);
                            println!("{what}, {name}: announced to acknowledged {middle:?}");
                            break 'stats stats;
                        }
                    }
                }
                next += FRAME;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                if let Some(damage) = damage {
                    let serial = guest.announce(damage);
                    let start = Instant::now();
                    while guest.writer.reader(0).expect("succeeds").acknowledged != serial
                        && start.elapsed() < FRAME / 2
                    {
                        std::thread::sleep(Duration::from_micros(20));
                    }
                    acknowledged.push(start.elapsed());
                }
            }
        };
        show(&format!("{what}, {name}"), &stats);
    }
    monitor.end();
}

#[test]
#[ignore = "measures, and judges nothing"]
fn measuring_nowhere() {
    measure("nowhere", Sink::Nowhere { verify: false }, Display::None);
}

#[test]
#[ignore = "measures, and judges nothing"]
fn measuring_a_window() {
    if let Some(server) = Server::start_with_screen("1920x1080x24") {
        measure("window", window_sink(false), Display::X11(&server.display));
    }
}
