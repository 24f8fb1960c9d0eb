//! A program that takes its standard streams ends each direction by dropping its file, while
//! it goes on running. It is its own other program, so it has no test harness, which would
//! use the streams, too.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Set for the program that takes its streams.
const CHILD: &str = "VMSHM_TEST_TAKES_STREAMS";
/// Not UTF-8, and with what text streams change.
const BYTES: &[u8] = b"\x00\xff\r\n\x1a\n\xfe end";

fn main() {
    if std::env::var_os(CHILD).is_some() {
        child();
    } else {
        both_directions_end_while_the_program_runs();
        println!("standard_streams: ok");
    }
}

fn child() {
    let (mut input, mut output) = vmshm_pipe::take_standard_streams().expect("taken");
    println!("this leads nowhere");
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).expect("read");
    output.write_all(&bytes).expect("written");
    drop(output);
    // The parent ends this before.
    std::thread::sleep(Duration::from_secs(300));
}

fn both_directions_end_while_the_program_runs() {
    let mut child = Command::new(std::env::current_exe().expect("named"))
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(BYTES).expect("written");
    drop(input);
    let mut answer = Vec::new();
    let mut output = child.stdout.take().expect("piped");
    output.read_to_end(&mut answer).expect("read");
    let is_running = matches!(child.try_wait(), Ok(None));
    child.kill().expect("killed");
    child.wait().expect("reaped");
    assert_eq!(answer, BYTES);
    assert!(is_running, "the output ended by itself");
}
