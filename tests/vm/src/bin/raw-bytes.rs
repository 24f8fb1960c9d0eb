//! Runs in a guest: fills a part of a raw region with the random bytes of a seed, or compares it with them.
//!
//! `raw-bytes NAME fill|check SEED OFFSET LENGTH`. Ends with status 1 where bytes are wrong.
#![allow(
    clippy::expect_used,
    reason = "a program of the tests that cannot go on says so by panicking"
)]

use std::process::ExitCode;

use vmshm_vm_tests::bytes::RandomBytes;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, what, seed, offset, length] = arguments.as_slice() else {
        panic!("raw-bytes NAME fill|check SEED OFFSET LENGTH");
    };
    let number = |text: &String| text.parse::<u64>().expect("a number");
    let (seed, offset) = (number(seed), number(offset));
    let length = usize::try_from(number(length)).expect("it fits");
    let agent = vmshm_guest::Agent::connect().expect("the agent is there");
    let raw = agent
        .region(name.as_str())
        .raw()
        .expect("the region is there");
    let right = RandomBytes::new(seed).take(length);
    if what == "fill" {
        raw.write(offset, &right).expect("the region is that large");
        return ExitCode::SUCCESS;
    }
    let mut there = vec![0; length];
    raw.read(offset, &mut there)
        .expect("the region is that large");
    match there
        .iter()
        .zip(&right)
        .position(|(there, right)| there != right)
    {
        None => ExitCode::SUCCESS,
        Some(place) => {
            println!("another byte at {place:#x}");
            ExitCode::FAILURE
        }
    }
}
