//! Tests of asking a monitor, with a monitor of our own behind a socket.

use super::*;
use crate::address::VmmVirtual;
use crate::block::Backing;
use proptest::prelude::*;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};

/// As long as a slow machine may take.
const PATIENT: Limits = Limits {
    greeting: Duration::from_secs(60),
    answers: Duration::from_secs(60),
};

/// As QEMU 7.2 prints it for `-machine pc -m 6G` (shortened).
const TREE: &str = r#"FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan
FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-00000000000c2fff (prio 0, ram): pc.ram
  00000000000c3000-00000000000e7fff (prio 0, rom): pc.ram @00000000000c3000
  00000000000e8000-00000000bfffffff (prio 0, ram): pc.ram @00000000000e8000 KVM
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
  0000000100000000-00000001bfffffff (prio 0, ram): pc.ram @00000000c0000000
FlatView #2
 AS "cpu-smm-0", root: memory
  0000000000000000-00000000bfffffff (prio 0, ram): pc.ram
"#;
const BASE: u64 = 0x7fb1_97e0_0000;

fn blocks() -> Vec<RamBlock> {
    vec![RamBlock {
        backing: Backing::PrivateAnonymous,
        name: String::new(),
        start: VmmVirtual(BASE),
        length: 6 << 30,
        file: None,
        listed: None,
    }]
}

/// The monitors of these tests are served by this process.
fn own() -> u32 {
    std::process::id()
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn only_monitors_that_listen_on_a_path_for_control_are_found() {
    let paths = monitor_paths(&words(
        "qemu -qmp unix:/run/a.sock,server=on,wait=off -qmp unix:/run/client.sock \
         -qmp tcp:127.0.0.1:4444,server=on -chardev socket,id=m,path=b.sock,server=on,wait=off \
         -mon chardev=m,mode=control -chardev socket,id=r,path=/r,server=on -mon r,mode=readline \
         -chardev socket,id=charmonitor,fd=27,server=on -mon chardev=charmonitor,mode=control",
    ));
    assert_eq!(paths, ["/run/a.sock", "b.sock"]);
}

#[test]
fn the_processors_ram_is_read_from_the_tree_with_its_shadowed_parts() {
    let ranges = ram_ranges(TREE);
    let pairs: Vec<_> = ranges
        .iter()
        .map(|range| (range.start.0, range.length))
        .collect();
    assert_eq!(
        pairs,
        [
            (0, 0xc000_0000),
            (0xfffc_0000, 0x4_0000),
            (0x1_0000_0000, 0xc000_0000)
        ]
    );
}

/// A monitor that greets, and answers as QEMU does, with what the closure says.
fn serve(path: &std::path::Path, answer: impl Fn(&str) -> String + Send + 'static) {
    let listener = UnixListener::bind(path).expect("bound");
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // One that has no time for an answer goes.
            let _ = serve_one(stream, &answer);
        }
    });
}

fn serve_one(stream: UnixStream, answer: &impl Fn(&str) -> String) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    // What happens while somebody connects is told first.
    let greeting = format!(
        "{}\r\n{}\r\n",
        json!({"event": "JOB_STATUS_CHANGE"}),
        json!({"QMP": {"version": {}, "capabilities": []}})
    );
    reader.get_mut().write_all(greeting.as_bytes())?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let command: Value = serde_json::from_str(&line).expect("a command");
        let human = command["arguments"]["command-line"].as_str();
        let reply = human.map_or(json!({}), |line| Value::from(answer(line)));
        let text = format!(
            "{}\r\n{}\r\n",
            json!({"event": "X"}),
            json!({"return": reply})
        );
        reader.get_mut().write_all(text.as_bytes())?;
        line.clear();
    }
    Ok(())
}

#[test]
fn what_a_monitor_says_becomes_a_layout_in_the_vms_blocks() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("qmp");
    serve(&path, |line| match line {
        "info mtree -f" => TREE.to_owned(),
        "gpa2hva 0x0" => format!("Host virtual address for 0x0 (pc.ram) is {BASE:#x}\r\n"),
        "gpa2hva 0x100000000" => format!(
            "Host virtual address for 0x100000000 (pc.ram) is {:#x}\r\n",
            BASE + 0xc000_0000
        ),
        // The ROM is memory of the VMM, but not guest RAM.
        _ => "Host virtual address for 0xfffc0000 (pc.bios) is 0x7fb196000000\r\n".to_owned(),
    });
    let layout = ask(&path, own(), &blocks(), PATIENT).expect("a layout");
    assert_eq!(layout.ranges().len(), 2);
    let high = layout.translate(GuestPhysical(0x1_0000_1000)).expect("RAM");
    assert_eq!(high.at.offset, 0xc000_1000);
    assert_eq!(high.source, Source::Qmp);
    assert!(layout.translate(GuestPhysical(0xfffc_0000)).is_err());
}

#[test]
fn a_monitor_that_is_taken_or_talks_nonsense_is_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let taken = directory.path().join("taken");
    // Connections wait in the queue: nobody accepts them.
    let _listener = UnixListener::bind(&taken).expect("bound");
    assert!(matches!(
        ask(&taken, own(), &blocks(), LIMITS),
        Err(MonitorError::Taken)
    ));
    let odd = directory.path().join("odd");
    serve(&odd, |_| "no such command".to_owned());
    assert!(matches!(
        ask(&odd, own(), &blocks(), PATIENT),
        Err(MonitorError::Unclear)
    ));
    let nothing = directory.path().join("nothing");
    assert!(matches!(
        ask(&nothing, own(), &blocks(), PATIENT),
        Err(MonitorError::Unreachable(_))
    ));
    let long = directory.path().join("x".repeat(200));
    assert!(ask(&long, own(), &blocks(), PATIENT).is_err());
}

/// A monitor that greets, and then says the same without end.
fn flood(path: &std::path::Path, message: &'static [u8]) {
    let listener = UnixListener::bind(path).expect("bound");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let _ = stream.write_all(b"{\"QMP\": {}}\n");
        let much = message.repeat(10_000);
        while stream.write_all(&much).is_ok() {}
    });
}

#[test]
fn a_monitor_that_never_stops_talking_is_left() {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, message) in [("messages", &b"{}\n"[..]), ("no line", b"{\"a\":   ")] {
        let path = directory.path().join(name);
        flood(&path, message);
        let talkative = Limits {
            greeting: PATIENT.greeting,
            ..LIMITS
        };
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(ask(&path, own(), &blocks(), talkative)));
        let answer = is_done.recv_timeout(Duration::from_secs(60));
        let answer = answer.expect("the monitor is left after a while");
        assert!(matches!(answer, Err(MonitorError::Unclear)), "{answer:?}");
    }
}

#[test]
fn a_monitor_that_another_process_serves_is_not_believed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("qmp");
    serve(&path, |_| unreachable!("nothing may be asked"));
    let answer = ask(&path, own() + 1, &blocks(), PATIENT);
    let Err(MonitorError::Foreign { pid }) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(pid, own());
}

#[test]
fn the_command_line_counts_with_which_the_vm_was_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("qmp");
    serve(&path, |line| match line {
        "info mtree -f" => TREE.to_owned(),
        "gpa2hva 0x0" => format!("Host virtual address for 0x0 (pc.ram) is {BASE:#x}\r\n"),
        _ => "No memory is mapped".to_owned(),
    });
    let mut vmm = crate::vmm::find_by_pid(own()).expect("this process");
    vmm.blocks = blocks();
    let option = format!("unix:{},server=on", path.display());
    vmm.words = ["qemu", "-qmp", &option].map(str::to_owned).to_vec();
    // What now runs under the number has other words.
    // On a busy machine its answers may come too late.
    let layout = (0..100).find_map(|_| vmm.layout_by_monitor().ok());
    let layout = layout.expect("a layout");
    assert_eq!(layout.ranges()[0].source, Source::Qmp);
}

proptest! {
    #[test]
    fn any_answer_is_survived(text in "[0-9a-f() ,:@.\\-\\nASramoprFlatView\"]{0,200}") {
        let _ = ram_ranges(&text);
        let _ = host_address(&text);
    }
}
