//! The newest value with a writer that laps its reader, and one that dies anywhere.

use loom::thread;
use vmshm_link::latest::{LatestLayout, LatestReader, LatestWriter};
use vmshm_shm::SharedMemory;

use crate::check;
use crate::memory::{Dying, LoomMemory};

const LAYOUT: LatestLayout = LatestLayout {
    newest: 0,
    slots: 8,
    value: 16,
    stride: 24,
};

fn memory() -> LoomMemory {
    LoomMemory::new(104, &[(0, 104)])
}

/// Publishes values up to the version `last`: the version and its complement.
fn publish(memory: impl SharedMemory, last: u64) -> Option<()> {
    let mut writer = LatestWriter::resume(memory, LAYOUT).ok()?;
    while writer.version() < last {
        let next = writer.version() + 1;
        let value = [next.to_le_bytes(), (!next).to_le_bytes()].concat();
        assert_eq!(writer.publish(&value).ok()?, next);
    }
    Some(())
}

/// Looks once, and checks what it found.
fn look(reader: &mut LatestReader<LoomMemory>) -> u64 {
    let mut bytes = [0; 16];
    let Some((version, count)) = reader.try_read(&mut bytes).expect("a right peer") else {
        return 0;
    };
    assert_eq!(count, 16);
    let value = [version.to_le_bytes(), (!version).to_le_bytes()].concat();
    assert_eq!(bytes[..], value, "a torn value");
    version
}

#[test]
fn a_value_is_never_torn_however_often_its_reader_is_lapped() {
    check(3, || {
        let memory = memory();
        publish(memory.clone(), 1).expect("alone");
        let mut reader = LatestReader::open(memory.clone(), LAYOUT).expect("fits");
        let writer = thread::spawn(move || publish(memory, 6).expect("alone"));
        let first = look(&mut reader);
        writer.join().expect("no panic");
        assert!(first <= look(&mut reader));
        assert_eq!(look(&mut reader), 6);
    });
}

#[test]
fn a_writer_that_dies_anywhere_leaves_the_last_whole_value() {
    for step in 1..14 {
        check(2, move || {
            let memory = memory();
            publish(memory.clone(), 2).expect("alone");
            let mut reader = LatestReader::open(memory.clone(), LAYOUT).expect("fits");
            let writer = thread::spawn(move || {
                let _ = publish(Dying::new(memory.clone(), step), 4);
                publish(memory, 6).expect("alone");
            });
            let first = look(&mut reader);
            writer.join().expect("no panic");
            assert!(first <= look(&mut reader));
            assert_eq!(look(&mut reader), 6);
        });
    }
}
