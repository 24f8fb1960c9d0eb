//! Times single accesses and bulk copies on one VM: `timing PID [map|copy]`. It writes
//! only what it has read just before, at the end of the VM's first block.

use std::time::Instant;

use vmshm_ram::{BlockOffset, BlockPiece, GuestRam, Method, Protection, find_all, find_by_pid};
use vmshm_shm::SharedMemory;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let pid = arguments.first().ok_or("which process?")?.parse()?;
    for _ in 0..3 {
        let started = Instant::now();
        let count = find_all()?.len();
        println!("{count} VMs listed in {:?}", started.elapsed());
    }
    let vmm = find_by_pid(pid)?;
    let method = match arguments.get(1).map(String::as_str) {
        Some("map") => Method::Map,
        Some("copy") => Method::Copy,
        _ => Method::Auto,
    };
    let ram = GuestRam::open(&vmm, method)?;
    let length = 16 << 20;
    let block = ram.blocks().next().ok_or("no block")?.length;
    let piece = BlockPiece {
        at: BlockOffset {
            block: 0,
            offset: block - length,
        },
        length,
    };
    let view = ram.view(&[piece], Protection::ReadWrite)?;
    let mut buffer = vec![0_u8; usize::try_from(length)?];
    view.read(0, &mut buffer)?;
    let rounds = 20_000_u32;
    let started = Instant::now();
    for round in 0..rounds {
        view.load_acquire(u64::from(round % 512) * 8)?;
    }
    println!("load: {:?}", started.elapsed() / rounds);
    let word = view.load_acquire(0)?;
    let started = Instant::now();
    for _ in 0..rounds {
        view.store_release(0, word)?;
    }
    println!("store: {:?}", started.elapsed() / rounds);
    for size in [4096_usize, 65536, 1 << 20, 16 << 20] {
        let mut reading = std::time::Duration::MAX;
        let mut writing = std::time::Duration::MAX;
        for _ in 0..20 {
            let started = Instant::now();
            view.read(0, &mut buffer[..size])?;
            reading = reading.min(started.elapsed());
            let started = Instant::now();
            view.write(0, &buffer[..size])?;
            writing = writing.min(started.elapsed());
        }
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        let rate = |time: std::time::Duration| size as f64 / time.as_secs_f64() / 1e9;
        println!(
            "{size} bytes: read {reading:?} ({:.1} GB/s), write {writing:?} ({:.1} GB/s)",
            rate(reading),
            rate(writing)
        );
    }
    Ok(())
}
