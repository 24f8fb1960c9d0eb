//! Grafts a region of a VM, or undoes it, and kills itself on the way.
//!
//! `die-grafting VM NAME graft|undo STEPS` dies after so many steps; 0 is never. It ends with status 0 where it came to
//! its end before that.
#![allow(
    clippy::expect_used,
    reason = "a program of the tests that cannot go on says so by panicking"
)]

use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use vmshm_host::graft::{self, Step};
use vmshm_host::{AttachOptions, attach, machines};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vm, name, what, steps] = arguments.as_slice() else {
        panic!("die-grafting VM NAME graft|undo STEPS");
    };
    let last: u64 = steps.parse().expect("STEPS is a number");
    let vmm = machines::find(vm).expect("the VM is there");
    let options = AttachOptions {
        timeout: Duration::from_secs(60),
        ..AttachOptions::default()
    };
    let mut session = attach(&vmm, &options).expect("a session");
    let region = graft::hold(&mut session, name, options.timeout).expect("the region");
    let mut made = 0;
    let mut watch = |_: Step| {
        made += 1;
        if made == last {
            kill_process(getpid(), Signal::KILL).expect("one may kill oneself");
        }
    };
    if what == "graft" {
        let grafted = graft::graft_watched(&mut session, &region, &mut watch).expect("grafted");
        println!("{:?}", grafted.pauses);
    } else {
        let id = graft::id(
            session.direct().expect("its own session").beacon(),
            region.id,
        );
        let pause = graft::undo_watched(vmm.pid, &id, &mut watch).expect("undone");
        println!("{pause:?}");
    }
    println!("{made} steps");
}
