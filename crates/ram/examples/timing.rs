//! Times single accesses and bulk copies on one VM: `timing PID [map|copy]`. It writes
//! only what it has read just before, at the end of the VM's first block.

use std::time::Instant;

use vmshm_ram::{
    BlockOffset, BlockPiece, GuestRam, Method, Protection, RamRead, find_all, find_by_pid,
};
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
    random_reads(&ram)
}

/// Words at random places of pages that exist: through a view, by a call each, and by
/// calls for a thousand.
fn random_reads(ram: &GuestRam) -> Result<(), Box<dyn std::error::Error>> {
    const MOST_RUNS: usize = 4096;
    const BATCH: usize = 1024;
    let length = ram.blocks().next().ok_or("no block")?.length;
    let mut pieces = Vec::new();
    ram.resident_runs(0, 0..length, &mut |run| {
        pieces.push(BlockPiece {
            at: BlockOffset {
                block: 0,
                offset: run.start,
            },
            length: run.end - run.start,
        });
        pieces.len() < MOST_RUNS
    })?;
    let view = ram.view(&pieces, Protection::Read)?;
    let size: u64 = pieces.iter().map(|piece| piece.length).sum();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut place = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % (size / 8) * 8
    };
    let rounds = 200_000_u32;
    // Once for the page tables, once for the clock.
    for warm in [false, true] {
        let started = Instant::now();
        let mut sum = 0_u64;
        for _ in 0..rounds {
            sum = sum.wrapping_add(view.load_relaxed(place())?);
        }
        std::hint::black_box(sum);
        if warm {
            println!(
                "random words of {} MiB through a view: {:?} each",
                size >> 20,
                started.elapsed() / rounds
            );
        }
    }
    let inside = |offset: u64| {
        let mut left = offset;
        pieces.iter().find_map(|piece| {
            if left < piece.length {
                return piece.at.checked_add(left);
            }
            left -= piece.length;
            None
        })
    };
    let places: Vec<BlockOffset> = (0..BATCH).filter_map(|_| inside(place())).collect();
    let mut words = vec![[0_u8; 8]; places.len()];
    let started = Instant::now();
    for (word, &at) in words.iter_mut().zip(&places) {
        ram.read_at(at, word)?;
    }
    println!(
        "random words by a call each: {:?} each",
        started.elapsed() / u32::try_from(places.len())?
    );
    let mut reads: Vec<RamRead<'_>> = words
        .iter_mut()
        .zip(&places)
        .map(|(into, &at)| RamRead { at, into })
        .collect();
    let started = Instant::now();
    ram.read_many(&mut reads, &mut |_, _| {})?;
    println!(
        "random words, {} with one request: {:?} each",
        places.len(),
        started.elapsed() / u32::try_from(places.len())?
    );
    Ok(())
}
