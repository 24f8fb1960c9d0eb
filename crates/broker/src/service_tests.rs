//! Clients over real sockets, good ones and bad, before a broker with a played VM.

use std::sync::atomic::AtomicU32;
use std::thread::JoinHandle;

use vmshm_host::brokered::wire::Packet;
use vmshm_host::brokered::{self, BrokerError};
use vmshm_host::endpoint::{Connection as _, OpenError, RegionKind, Right, Wish};
use vmshm_host::{End, ReachError, Role, SessionEnd, Vm, VmOptions};
use vmshm_link::control::{RefusalCode, Reply, Request};
use vmshm_link::fields::Text;
use vmshm_link::input::InputEvent;
use vmshm_link::screens::{Events, ScreenRequest};

use super::*;
use crate::play::Play;

const RULES: &str = r#"
[[allow]]
uid = 1000
vms = ["web"]
regions = ["numbers", "mine-*"]

[[allow]]
uid = 1001
vms = ["*"]
regions = ["*"]
make = true
max_size = "64K"
screens = true
"#;

/// As long as a slow machine may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker that runs.
struct Scene {
    directory: tempfile::TempDir,
    play: Play,
    uid: Arc<AtomicU32>,
    stop: Stop,
    counter: Counter,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Scene {
    fn new(limits: Limits) -> Self {
        let directory = tempfile::tempdir().expect("made");
        let rules = directory.path().join("rules.toml");
        std::fs::write(&rules, RULES).expect("written");
        let listener = Listener::bind(&directory.path().join("socket")).expect("listens");
        let play = Play::with_region("numbers");
        let uid = Arc::new(AtomicU32::new(1000));
        let mut broker = Broker::new(listener, play.clone(), rules, limits);
        let whose = Arc::clone(&uid);
        broker.whose = Box::new(move |socket| {
            let (pid, mut user) = credentials::peer(socket, false)?;
            user.uid = whose.load(Ordering::SeqCst);
            user.gid = user.uid;
            Ok((pid, user))
        });
        Self {
            directory,
            play,
            uid,
            stop: broker.stop(),
            counter: broker.shared.counter.clone(),
            thread: Some(std::thread::spawn(move || broker.run())),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Connects as a user. Connections are counted as whose they are when they are taken in,
    /// so the next one waits for that.
    fn vm(&self, uid: u32, selector: &str) -> Result<Vm, OpenError> {
        self.uid.store(uid, Ordering::SeqCst);
        let options = VmOptions {
            broker: Some(self.path()),
            timeout: PATIENCE,
            ..VmOptions::default()
        };
        Vm::connect_with(selector, options)
    }

    /// A connection on which anything can be said.
    fn raw(&self, uid: u32) -> Raw {
        self.uid.store(uid, Ordering::SeqCst);
        Raw::connect(&self.path())
    }

    /// The same, greeted.
    fn session(&self, uid: u32) -> Raw {
        let raw = self.raw(uid);
        raw.say(&hello("web").to_packet());
        let welcome = raw.hear();
        assert!(
            matches!(welcome, Some(FromBroker::Welcome { .. })),
            "{welcome:?}"
        );
        raw
    }

    /// Waits until nothing of any client is left.
    fn wait_for_nobody(&self) {
        wait_until(|| self.counter.connections() == 0);
        assert_eq!(self.play.left(), (0, 0));
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "it never came");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn hello(selector: &str) -> ToBroker {
    ToBroker::Hello {
        version: vmshm_link::VERSION,
        purpose: Purpose::Session(selector.to_owned()),
        patience_millis: 60_000,
    }
}

/// A client that says what it likes.
struct Raw {
    socket: Socket,
    last: std::cell::Cell<u64>,
}

impl Raw {
    fn connect(path: &std::path::Path) -> Self {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (family, kind) = (
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
        );
        let socket = rustix::net::socket_with(family, kind, flags, None).expect("made");
        let address = rustix::net::SocketAddrUnix::new(path).expect("short");
        wait_until(|| rustix::net::connect(&socket, &address).is_ok());
        Self {
            socket: Socket::new(socket),
            last: std::cell::Cell::new(0),
        }
    }

    fn say(&self, packet: &Packet) {
        self.socket.try_send(packet, None).expect("taken");
    }

    /// What comes next; nothing at the end.
    fn hear(&self) -> Option<FromBroker> {
        self.hear_with_file().map(|(message, _)| message)
    }

    fn hear_with_file(&self) -> Option<(FromBroker, Option<OwnedFd>)> {
        let mut found = None;
        wait_until(|| match self.socket.try_receive() {
            Ok(Some(received)) => {
                let message = FromBroker::parse(received.bytes()).expect("well formed");
                found = Some((message, received.file));
                true
            }
            Ok(None) => true,
            Err(Errno::AGAIN) => false,
            Err(error) => panic!("{error}"),
        });
        found
    }

    /// Asks, and waits for the answer.
    fn ask(&self, request: &Request) -> (Reply, Option<OwnedFd>) {
        let tag = self.last.get() + 1;
        self.last.set(tag);
        self.say(&ToBroker::of_request(tag, request));
        loop {
            let (message, file) = self.hear_with_file().expect("an answer");
            match message {
                FromBroker::Reply { tag: of, reply } if of == tag => return (*reply, file),
                FromBroker::Condition(_) => {}
                other => panic!("no answer: {other:?}"),
            }
        }
    }

    fn refused(&self, request: &Request) -> (RefusalCode, String) {
        match self.ask(request) {
            (Reply::Refused { code, explanation }, None) => (code, explanation.as_str().to_owned()),
            other => panic!("not refused: {other:?}"),
        }
    }

    fn granted(&self, request: &Request) -> (vmshm_link::control::RegionReply, OwnedFd) {
        match self.ask(request) {
            (Reply::Region(granted), Some(file)) => (granted, file),
            other => panic!("not granted: {other:?}"),
        }
    }

    /// Waits until the connection is over.
    fn wait_for_end(&self) {
        while self.hear().is_some() {}
    }
}

fn name(text: &str) -> Text<64> {
    Text::new(text)
}

fn link(text: &str, size: u64, role: Role) -> Request {
    Request::Link {
        kind: RegionKind::Raw,
        size,
        name: name(text),
        record: 0,
        role,
    }
}

fn wish(text: &str, size: u64, role: Role) -> Wish {
    Wish {
        name: text.to_owned(),
        kind: RegionKind::Raw,
        size,
        record: 0,
        role,
        timeout: PATIENCE,
    }
}

#[test]
fn a_program_works_in_a_region_as_if_it_had_attached() {
    use vmshm_shm::SharedMemory;
    let scene = Scene::new(Limits::default());
    let vm = scene.vm(1000, "web").expect("a session");
    assert!(vm.is_mapped());
    let listed = vm.regions().expect("listed");
    assert_eq!(listed.len(), 1);
    let held = vm.open(&wish("numbers", 0, Role::End)).expect("held");
    assert_eq!(held.right.verify(), Ok(()));
    held.memory.store_release(8, 77).expect("stored");
    let mut bytes = [0; 8];
    rustix::io::pread(&*scene.play.file("numbers"), &mut bytes, 8).expect("read");
    assert_eq!(u64::from_le_bytes(bytes), 77);
    vm.close(held.region);
    wait_until(|| scene.play.log() == ["link numbers 0", "back 1", "close 1"]);
    drop(vm);
    scene.wait_for_nobody();
}

#[test]
fn a_reply_tells_neither_where_a_region_lies_nor_how_it_was_proved() {
    let scene = Scene::new(Limits::default());
    let raw = scene.session(1000);
    let (granted, _file) = raw.granted(&link("numbers", 0, Role::End));
    assert_eq!((granted.extents, granted.key, granted.placement), (1, 0, 0));
    for request in [
        Request::Extents {
            region: granted.region,
            first: 0,
        },
        Request::Proved {
            region: granted.region,
            placement: 1,
        },
    ] {
        assert_eq!(raw.refused(&request).0, RefusalCode::Denied);
    }
    assert_eq!(scene.play.log(), ["link numbers 0"]);
}

#[test]
fn who_only_watches_gets_a_file_that_cannot_be_written() {
    let scene = Scene::new(Limits::default());
    let raw = scene.session(1001);
    let (_, file) = raw.granted(&link("numbers", 0, Role::Watch));
    assert!(rustix::io::pwrite(&file, b"x", 0).is_err());
    let watch = Request::Screen(ScreenRequest::Watch { screen: 1 });
    let (frames, file) = raw.granted(&watch);
    assert!(
        rustix::io::pwrite(&file, b"x", 0).is_ok(),
        "a reader's line is written"
    );
    let pixels = Request::Screen(ScreenRequest::Pixels { region: 9 });
    let (_, file) = raw.granted(&pixels);
    assert!(rustix::io::pwrite(&file, b"x", 0).is_err());
    // Leaving the screen lets go of its frames: they are taken back before.
    raw.ask(&Request::Screen(ScreenRequest::Leave { screen: 1 }));
    let log = scene.play.log();
    let back = format!("back {}", frames.region);
    let at = |word: &str| log.iter().position(|one| one == word).expect("logged");
    assert!(at(&back) < at("leave 1"), "{log:?}");
}

#[test]
fn what_no_rule_allows_is_refused_and_never_reaches_the_guest() {
    let scene = Scene::new(Limits::default());
    let raw = scene.session(1000);
    let region = link("secrets", 0, Role::Watch);
    let (code, why) = raw.refused(&region);
    assert_eq!(code, RefusalCode::Denied);
    assert!(
        why.contains("user 1000 may not use region `secrets`"),
        "{why}"
    );
    let (code, why) = raw.refused(&link("mine-1", 4096, Role::End));
    assert_eq!(code, RefusalCode::NotFound);
    assert!(why.contains("may not make region `mine-1`"), "{why}");
    // One that is there is opened, whatever size was said.
    raw.granted(&link("numbers", 4096, Role::End));
    for request in [
        Request::Create {
            kind: RegionKind::Raw,
            size: 4096,
            name: name("numbers"),
        },
        Request::Remove {
            name: name("numbers"),
        },
        Request::Screen(ScreenRequest::Describe { number: 0 }),
        Request::Screen(ScreenRequest::Pixels { region: 1 }),
    ] {
        assert_eq!(raw.refused(&request).0, RefusalCode::Denied, "{request:?}");
    }
    let nobody = Request::Close { region: 99 };
    assert_eq!(raw.refused(&nobody).0, RefusalCode::NotFound);
    let other = scene.session(1001);
    let (code, why) = other.refused(&link("big", 1 << 20, Role::End));
    assert_eq!(code, RefusalCode::NotFound);
    assert!(why.contains("at most 65536 bytes"), "{why}");
    // Input is never answered.
    let events = Events::new(&[InputEvent::ReleaseAll]);
    let input = Request::Screen(ScreenRequest::Input { screen: 1, events });
    other.say(&ToBroker::of_request(0, &input));
    other.granted(&link("small", 4096, Role::End));
    let log = scene.play.log();
    assert_eq!(log, ["link numbers 0", "link small 4096"]);
}

#[test]
fn who_is_refused_by_a_rule_is_sent_to_the_administrator_of_the_host() {
    let scene = Scene::new(Limits::default());
    let vm = scene.vm(1000, "web").expect("a session");
    let refused = vm.region("secrets").timeout(PATIENCE).raw();
    let error = refused.expect_err("no rule");
    assert!(
        matches!(
            error,
            OpenError::Refused {
                code: RefusalCode::Denied,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.hint().as_deref(), Some(brokered::ADD_A_RULE));
    let options = || vmshm_host::AttachOptions {
        broker: Some(scene.path()),
        ..vmshm_host::AttachOptions::default()
    };
    let mut session = vmshm_host::reach("web", &options()).expect("one").session;
    let refused = session.open_region("secrets", RegionKind::Raw, 0, PATIENCE);
    let hint = refused.expect_err("no rule").hint();
    assert_eq!(hint.as_deref(), Some(brokered::ADD_A_RULE));
}

#[test]
fn a_user_without_a_rule_is_told_so() {
    let scene = Scene::new(Limits::default());
    for (uid, selector, words) in [
        (1002, "web", "user 1002 may use nothing"),
        (1000, "other", "user 1000 may use nothing of other"),
        (1001, "nowhere", "no VM is called \"nowhere\""),
    ] {
        let error = scene.vm(uid, selector).expect_err("refused");
        let text = error.to_string();
        assert!(text.contains(words), "{text}");
    }
    scene.uid.store(1002, Ordering::SeqCst);
    let refused = brokered::list(&scene.path(), PATIENCE).expect_err("refused");
    assert!(
        refused
            .hint()
            .is_some_and(|hint| hint.contains("uid = 1002"))
    );
    scene.uid.store(1000, Ordering::SeqCst);
    let listed = brokered::list(&scene.path(), PATIENCE).expect("a list");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].1.len(), 1);
    std::fs::write(scene.directory.path().join("rules.toml"), "nonsense").expect("written");
    let error = scene.vm(1000, "web").expect_err("refused");
    assert!(error.to_string().contains("line 1"), "{error}");
    scene.wait_for_nobody();
}

#[test]
fn a_vm_whose_memory_cannot_be_lent_is_not_told_of_and_refused_with_the_cause() {
    let scene = Scene::new(Limits::default());
    let why = Refused::new("its memory is a device's", Some("ask root".to_owned()));
    scene.play.have_no_memory_to_lend(Some(why));
    scene.uid.store(1000, Ordering::SeqCst);
    let listed = brokered::list(&scene.path(), PATIENCE).expect("a list");
    assert!(listed.is_empty(), "{listed:?}");
    let error = scene.vm(1000, "web").expect_err("nothing to lend");
    assert!(error.to_string().ends_with("its memory is a device's"));
    assert_eq!(error.hint().as_deref(), Some("ask root"));
    // Whoever has no right to the VM hears that, and nothing of its memory.
    let error = scene.vm(1000, "other").expect_err("no rule");
    assert!(error.to_string().contains("may use nothing of"), "{error}");
    scene.wait_for_nobody();
    scene.play.have_no_memory_to_lend(None);
    let listed = brokered::list(&scene.path(), PATIENCE).expect("a list");
    assert_eq!(listed.len(), 1);
}

#[test]
fn without_a_broker_the_reason_is_told() {
    let options = vmshm_host::AttachOptions {
        broker: Some("/does/not/exist.sock".into()),
        ..vmshm_host::AttachOptions::default()
    };
    let error = vmshm_host::reach("web", &options).expect_err("nobody listens");
    assert!(matches!(
        &error,
        ReachError::Broker {
            source: BrokerError::Connect { .. },
            ..
        }
    ));
    let hint = error.hint().expect("a hint");
    assert_eq!(hint, "sudo systemctl start vmshm-broker");
}

#[test]
fn a_guest_that_is_gone_ends_the_links_with_the_reason() {
    let scene = Scene::new(Limits::default());
    let vm = scene.vm(1000, "web").expect("a session");
    let held = vm.open(&wish("numbers", 0, Role::End)).expect("held");
    scene.play.end(SessionEnd::GuestRestarted);
    wait_until(|| vm.end().is_some());
    assert_eq!(vm.end(), Some(End::GuestRestarted));
    assert_eq!(held.tether.check(), Err(End::GuestRestarted));
    assert!(held.right.verify().is_err());
    scene.wait_for_nobody();
}

#[test]
fn a_region_that_is_over_ends_alone() {
    let scene = Scene::new(Limits::default());
    let vm = scene.vm(1001, "web").expect("a session");
    let held = vm.open(&wish("numbers", 0, Role::End)).expect("held");
    let other = vm.open(&wish("more", 4096, Role::End)).expect("held");
    scene.play.end_region("numbers");
    wait_until(|| held.tether.check().is_err());
    assert_eq!(held.tether.check(), Err(End::RegionRemoved));
    assert_eq!(other.tether.check(), Ok(()));
}

#[test]
fn the_agent_hears_of_a_close_only_when_the_file_is_back() {
    let scene = Scene::new(Limits::default());
    let raw = scene.session(1000);
    let (granted, _file) = raw.granted(&link("numbers", 0, Role::End));
    scene.play.be_slow(true);
    let close = Request::Close {
        region: granted.region,
    };
    raw.say(&ToBroker::of_request(50, &close));
    wait_until(|| scene.play.log().len() == 2);
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(scene.play.log(), ["link numbers 0", "back 1"]);
    scene.play.be_slow(false);
    wait_until(|| scene.play.log().len() == 3);
    assert_eq!(scene.play.log()[2], "close 1");
}

#[test]
fn a_client_that_dies_leaves_nothing_behind() {
    let scene = Scene::new(Limits::default());
    for _ in 0..20 {
        let raw = scene.session(1000);
        raw.granted(&link("numbers", 0, Role::End));
        // Some die in the middle of a question.
        raw.say(&ToBroker::of_request(50, &link("numbers", 0, Role::End)));
        drop(raw);
    }
    scene.wait_for_nobody();
}

#[test]
fn one_that_breaks_the_rules_of_the_talk_is_hung_up_and_others_are_served() {
    let scene = Scene::new(Limits::default());
    let good = scene.vm(1000, "web").expect("a session");
    let garbage = |bytes: &[u8], raw: &Raw| {
        let _ = rustix::net::send(&raw.socket, bytes, rustix::net::SendFlags::NOSIGNAL);
    };
    // Before the greeting.
    let mut bad = Vec::new();
    for bytes in [&[0xff; 900][..], &[1], &[0x21; 64]] {
        let raw = scene.raw(1001);
        garbage(bytes, &raw);
        bad.push(raw);
    }
    // And afterwards.
    let raw = scene.session(1001);
    garbage(&[0xff; 1024], &raw);
    bad.push(raw);
    let raw = scene.session(1001);
    raw.say(&hello("web").to_packet());
    bad.push(raw);
    let raw = scene.session(1001);
    raw.say(&ToBroker::of_request(0, &link("numbers", 0, Role::End)));
    bad.push(raw);
    let raw = scene.session(1001);
    let file: OwnedFd = std::fs::File::open("/dev/null").expect("opens").into();
    let packet = ToBroker::of_request(7, &link("numbers", 0, Role::End));
    raw.socket
        .try_send(&packet, Some(file.as_fd()))
        .expect("taken");
    bad.push(raw);
    bad.iter().for_each(Raw::wait_for_end);
    let held = good.open(&wish("numbers", 0, Role::End)).expect("served");
    assert_eq!(held.tether.check(), Ok(()));
    assert_eq!(good.end(), None);
    drop(good);
    scene.wait_for_nobody();
}

#[test]
fn one_that_never_reads_is_hung_up() {
    let scene = Scene::new(Limits::default());
    let good = scene.vm(1000, "web").expect("a session");
    let raw = scene.session(1001);
    let mut tag = 0;
    // Answers pile up until the system keeps no more.
    wait_until(|| {
        tag += 1;
        let packet = ToBroker::of_request(tag, &Request::Close { region: 99 });
        match raw.socket.try_send(&packet, None) {
            Ok(()) | Err(Errno::AGAIN) => false,
            Err(error) => error == Errno::PIPE || error == Errno::CONNRESET,
        }
    });
    assert!(good.open(&wish("numbers", 0, Role::End)).is_ok());
    drop(good);
    drop(raw);
    scene.wait_for_nobody();
}

#[test]
fn one_that_asks_without_an_end_waits_for_itself_alone() {
    let scene = Scene::new(Limits::default());
    scene.play.be_deaf();
    let raw = scene.session(1000);
    let mut sent = 0_u64;
    // What it may have open is bounded; then the broker reads no more of it.
    let mut send_all = || {
        loop {
            let packet = ToBroker::of_request(sent + 1, &link("numbers", 0, Role::End));
            if raw.socket.try_send(&packet, None).is_err() {
                return sent;
            }
            sent += 1;
        }
    };
    wait_until(|| send_all() > 32 && scene.play.log().len() == 32);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(scene.play.log().len(), 32);
    assert!(scene.vm(1001, "web").is_ok(), "others are served");
    drop(raw);
    scene.wait_for_nobody();
}

#[test]
fn a_user_has_only_so_many_connections_and_the_next_one_is_told() {
    let limits = Limits {
        per_user: 3,
        per_user_and_vm: 2,
        ..Limits::default()
    };
    let scene = Scene::new(limits);
    let _first = scene.session(1000);
    let second = scene.session(1000);
    let silent = scene.raw(1000);
    wait_until(|| scene.counter.connections() == 3);
    let fourth = scene.raw(1000);
    match fourth.hear() {
        Some(FromBroker::Refused { explanation, .. }) => {
            assert_eq!(
                explanation,
                "user 1000 has 3 connections, which is the most"
            );
        }
        other => panic!("{other:?}"),
    }
    let others = [scene.session(1001), scene.session(1001)];
    let third = scene.raw(1001);
    third.say(&hello("web").to_packet());
    match third.hear() {
        Some(FromBroker::Refused { explanation, .. }) => {
            assert!(
                explanation.contains("uses this VM with 2 programs"),
                "{explanation}"
            );
        }
        other => panic!("{other:?}"),
    }
    // Only the first stays: any other one may be the last to leave.
    drop((second, silent, others));
    wait_until(|| scene.counter.connections() == 1);
    assert!(scene.vm(1000, "web").is_ok());
}

#[test]
fn one_that_says_nothing_does_not_stay() {
    let scene = Scene::new(Limits::default());
    // It cannot be taken in before.
    let start = Instant::now();
    let raw = scene.raw(1000);
    raw.wait_for_end();
    assert!(start.elapsed() >= GREETING);
    scene.wait_for_nobody();
}

#[test]
fn a_broker_that_ends_says_so_and_takes_all_back() {
    let scene = Scene::new(Limits::default());
    let vm = scene.vm(1000, "web").expect("a session");
    let held = vm.open(&wish("numbers", 0, Role::End)).expect("held");
    scene.stop.set();
    wait_until(|| held.tether.check().is_err());
    wait_until(|| scene.play.left() == (0, 0));
    assert!(held.right.verify().is_err());
    assert_eq!(vm.end(), held.tether.check().err());
}

/// How many descriptors this process has.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("there").count()
}

/// Run alone, in a process of its own: it counts descriptors and threads.
#[test]
#[ignore = "run by `ten_thousand_connections_leave_nothing_behind`"]
fn flood() {
    let scene = Scene::new(Limits::default());
    let good = scene.vm(1001, "web").expect("a session");
    let held = good.open(&wish("numbers", 0, Role::End)).expect("held");
    scene.uid.store(1000, Ordering::SeqCst);
    let before = descriptors();
    for _ in 0..100 {
        // Some are taken in and say nothing, some are refused.
        let batch: Vec<Raw> = (0..100).map(|_| Raw::connect(&scene.path())).collect();
        assert_eq!(good.end(), None);
        assert_eq!(held.tether.check(), Ok(()));
        drop(batch);
    }
    // Connections are taken in one after the other: once this one is answered, none of the
    // others can count as the next user's.
    let last = scene.raw(1000);
    let _ = last.socket.try_send(&hello("web").to_packet(), None);
    assert!(last.hear().is_some());
    drop(last);
    // Others are served at once.
    let another = scene.vm(1001, "web").expect("served");
    another.open(&wish("numbers", 0, Role::End)).expect("held");
    drop(another);
    wait_until(|| scene.counter.connections() == 1);
    wait_until(|| descriptors() <= before);
    wait_until(|| {
        let threads = std::fs::read_dir("/proc/self/task").expect("there").count();
        // The harness, this test, the broker, the good client's two.
        threads <= 6
    });
    println!("flooded");
}

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    let output = std::process::Command::new(std::env::current_exe().expect("known"))
        .args([
            "--exact",
            "service::tests::flood",
            "--ignored",
            "--nocapture",
        ])
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("flooded"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
