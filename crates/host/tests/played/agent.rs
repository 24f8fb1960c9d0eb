//! The played guest over a memory file.

use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmshm_played_guest::{Guest, Plan, play as play_guest};
use vmshm_shm::{Mapping, Protection};

const SIZE: u64 = 64 << 20;

/// Plays until its input ends.
pub fn play() {
    let file = memfd_create("guest-ram", MemfdFlags::empty()).expect("a memory file");
    ftruncate(&file, SIZE).expect("its size");
    // A VMM has all of it mapped; that is how it is found.
    let memory = Mapping::whole(&file, SIZE, Protection::ReadWrite).expect("mapped");
    let mut guest = Guest::new(Arc::new(memory), Plan::small());
    println!("ready");
    play_guest(&mut guest, &mut |_| None, &mut |answer| {
        println!("done:{answer}")
    });
}
