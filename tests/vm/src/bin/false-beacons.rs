//! Runs in a guest: fills pages of its memory with beacons that are right but for one thing each.
//!
//! `false-beacons COUNT OWN BOOT-ID`: OWN is where the guest's true beacon lies, BOOT-ID the guest's. Says `ready N` when
//! the pages are there, and goes on to move the heartbeats of those that state a wrong address until it is killed.
#![allow(
    clippy::expect_used,
    reason = "a program of the tests that cannot go on says so by panicking"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use vmshm_link::beacon::{Beacon, KEEPER_PULSE, PAGE_BYTES};
use vmshm_link::{Extent, GuestPhysical};

#[repr(align(4096))]
#[derive(Clone)]
struct Page([u8; PAGE_BYTES]);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [count, own, boot_id] = &arguments[..] else {
        panic!("false-beacons COUNT OWN BOOT-ID");
    };
    let count: usize = count.parse().expect("COUNT is a number");
    let own: u64 = own.parse().expect("OWN is a number");
    let boot_id = u128::from_str_radix(&boot_id.replace('-', ""), 16).expect("BOOT-ID is one");
    let boot_id = boot_id.to_be_bytes();

    // Ones, so that every page is there before its address is asked for.
    let mut pages = vec![Page([1; PAGE_BYTES]); count];
    let pagemap = File::open("/proc/self/pagemap").expect("there is a page table");
    for (index, page) in pages.iter_mut().enumerate() {
        let address = std::ptr::from_ref(page) as u64;
        let mut entry = [0; 8];
        pagemap
            .read_exact_at(&mut entry, address / 4096 * 8)
            .expect("it can be read");
        let right = (u64::from_ne_bytes(entry) & ((1 << 55) - 1)) * 4096;
        assert_ne!(right, 0, "only root learns where pages lie");
        page.0 = match index % 4 {
            // A wrong checksum.
            0 => {
                let mut bytes = beacon(right, boot_id);
                bytes[0x30] ^= 1;
                bytes
            }
            // Another address than its own; its heart will beat.
            1 => beacon(right ^ 0x10_0000, boot_id),
            // A copy of the true one.
            2 => beacon(own, boot_id),
            // Right in all, but its heart does not beat.
            _ => beacon(right, boot_id),
        };
    }
    println!("ready {count}");
    let at = usize::try_from(KEEPER_PULSE).expect("it is in the page");
    for pulse in 1_u64.. {
        for page in pages.iter_mut().skip(1).step_by(4) {
            // Somebody else reads this, of whom the compiler does not know.
            std::hint::black_box(&mut page.0)[at..at + 8].copy_from_slice(&pulse.to_le_bytes());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn beacon(own: u64, boot_id: [u8; 16]) -> [u8; PAGE_BYTES] {
    let directory = [Extent {
        start: GuestPhysical(own & !0x3f_ffff),
        length: 0x1000,
    }];
    Beacon::new(GuestPhysical(own), boot_id, 0x5eed, &directory)
        .expect("it is one")
        .to_page()
}
