//! A stream with its end, read in pieces that are not those it was written in.

use loom::thread;
use vmshm_link::ring::RingLayout;
use vmshm_link::stream::{Received, StreamReader, StreamWriter};

use crate::check;
use crate::memory::LoomMemory;

const LAYOUT: RingLayout = RingLayout {
    tail: 0,
    head: 8,
    data: 16,
    capacity: 128,
};

#[test]
fn bytes_arrive_in_order_and_then_the_end() {
    check(4, || {
        let memory = LoomMemory::new(144, &[(0, 144)]);
        let mut writer = StreamWriter::start(memory.clone(), LAYOUT).expect("fits");
        let mut reader = StreamReader::start(memory, LAYOUT).expect("fits");
        let sender = thread::spawn(move || {
            let mut rest: &[u8] = b"abcdefghijklmnopqr";
            while !rest.is_empty() {
                match writer.try_write(rest).expect("a right peer") {
                    0 => thread::yield_now(),
                    count => rest = &rest[count..],
                }
            }
            while !writer.try_end().expect("a right peer") {
                thread::yield_now();
            }
            assert_eq!(writer.try_write(b"late"), Ok(0));
        });
        let mut found = Vec::new();
        let mut into = [0; 5];
        loop {
            match reader.try_read(&mut into).expect("a right peer") {
                Received::Bytes(count) => found.extend_from_slice(&into[..count]),
                Received::Nothing => thread::yield_now(),
                Received::End => break,
            }
        }
        assert_eq!(found, b"abcdefghijklmnopqr");
        sender.join().expect("no panic");
    });
}
