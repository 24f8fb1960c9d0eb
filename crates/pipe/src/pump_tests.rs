//! Both ends of a pipe in one process, over ordinary memory.

use super::*;
use std::sync::Mutex;
use std::time::Duration;
use vmshm_shm::LocalMemory;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .expect("not poisoned")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct ClosedSink;

impl Write for ClosedSink {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[allow(clippy::unnecessary_wraps, reason = "a tenure's shape")]
fn always() -> Result<(), LinkError> {
    Ok(())
}

fn memory() -> Arc<LocalMemory> {
    Arc::new(LocalMemory::new(4096 + 2 * 65536))
}

fn until_done(pumps: &mut [&mut Pump<Arc<LocalMemory>>]) {
    loop {
        // Every pump is asked each time: an end that is not polled tells nothing.
        let running = pumps
            .iter_mut()
            .filter_map(|pump| (pump.poll().expect("no failure") != Progress::Done).then_some(()))
            .count();
        if running == 0 {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn both_directions_arrive_whole_and_both_ends_finish() {
    let memory = memory();
    let down: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let up = vec![7_u8; 100_001];
    let (host_out, guest_out) = (Sink::default(), Sink::default());
    let mut host = Pump::start(
        Arc::clone(&memory),
        Side::Host,
        always,
        io::Cursor::new(down.clone()),
        host_out.clone(),
    )
    .expect("starts");
    assert_eq!(host.poll().expect("no failure"), Progress::WaitingForPeer);
    let mut guest = Pump::start(
        memory,
        Side::Guest,
        always,
        io::Cursor::new(up.clone()),
        guest_out.clone(),
    )
    .expect("starts");
    until_done(&mut [&mut host, &mut guest]);
    assert_eq!(*guest_out.0.lock().expect("not poisoned"), down);
    assert_eq!(*host_out.0.lock().expect("not poisoned"), up);
}

#[test]
fn a_reader_that_leaves_ends_the_pipe_in_good_order() {
    let memory = memory();
    let mut host = Pump::start(
        Arc::clone(&memory),
        Side::Host,
        always,
        io::repeat(1),
        Sink::default(),
    )
    .expect("starts");
    let mut guest =
        Pump::start(memory, Side::Guest, always, io::empty(), ClosedSink).expect("starts");
    until_done(&mut [&mut host, &mut guest]);
}

#[test]
fn nothing_is_written_once_the_memory_is_not_ours() {
    let memory = memory();
    let ours = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&ours);
    let tenure = move || match asked.load(Ordering::SeqCst) {
        true => Ok(()),
        false => Err(LinkError::Revoked),
    };
    let guest_out = Sink::default();
    let _guest = Pump::start(
        Arc::clone(&memory),
        Side::Guest,
        always,
        io::empty(),
        guest_out.clone(),
    )
    .expect("starts");
    // The input takes the memory away, and gives bytes after that.
    let (mut given, taken) = (0, Arc::clone(&ours));
    let input = ReadFrom(move |into: &mut [u8]| {
        given += 1;
        if given == 2 {
            taken.store(false, Ordering::SeqCst);
        }
        into.fill(given);
        into.len()
    });
    let mut host = Pump::start(memory, Side::Host, tenure, input, Sink::default()).expect("starts");
    let ended = loop {
        match host.poll() {
            Ok(_) => thread::sleep(Duration::from_millis(1)),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(ended, PumpError::Link(LinkError::Revoked)),
        "{ended}"
    );
    assert!(!guest_out.0.lock().expect("not poisoned").contains(&2));
}

struct ReadFrom<F>(F);

impl<F: FnMut(&mut [u8]) -> usize> Read for ReadFrom<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok((self.0)(into))
    }
}

/// A host's end that sends without end.
fn endless(memory: &Arc<LocalMemory>) -> Pump<Arc<LocalMemory>> {
    let (memory, input) = (Arc::clone(memory), io::repeat(1));
    Pump::start(memory, Side::Host, always, input, Sink::default()).expect("starts")
}

/// The two ends of a pipe whose guest sends nothing.
fn silent_guest_and_endless_host() -> (Pump<Arc<LocalMemory>>, Pump<Arc<LocalMemory>>) {
    let memory = memory();
    let input = io::empty();
    let guest = Pump::start(
        Arc::clone(&memory),
        Side::Guest,
        always,
        input,
        Sink::default(),
    );
    (guest.expect("starts"), endless(&memory))
}

#[test]
fn an_end_that_gives_up_is_reported_although_both_directions_have_ended() {
    let (guest, mut host) = silent_guest_and_endless_host();
    let has_ended = |direction: &Option<Direction>| {
        direction
            .as_ref()
            .is_none_or(std::thread::JoinHandle::is_finished)
    };
    while !has_ended(&host.receiver) {
        thread::sleep(Duration::from_millis(1));
    }
    guest.abort();
    while !has_ended(&host.sender) {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(matches!(host.poll(), Err(PumpError::PeerAborted)));
}

#[test]
fn an_end_that_gives_up_or_is_lost_is_reported() {
    let (guest, mut host) = silent_guest_and_endless_host();
    guest.abort();
    assert!(matches!(host.poll(), Err(PumpError::PeerAborted)));

    let memory = self::memory();
    let mut host = endless(&memory);
    duplex::mark_lost(&memory, Side::Guest).expect("written");
    assert!(matches!(host.poll(), Err(PumpError::PeerDied)));
}
