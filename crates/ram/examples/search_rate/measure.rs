//! Measures searching guest RAM beside its floors: `search_rate [MIB] [ROUNDS]`. This
//! process plays the VMM, with a memory file as guest RAM. Each round measures all of
//! them one after the other; what is printed are the medians of the rounds' ratios.
//!
//! Two floors: `memchr::memmem` over the same bytes in private memory, and the same with
//! first getting at them through a fresh mapping, as anyone has to who looks into
//! another process. Rates by the clock suffer from whatever else runs; those per second of
//! processor time do not.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::Instant;

use memchr::memmem::Finder;
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::time::{ClockId, clock_gettime};
use vmshm_link::{Extent, GuestPhysical};
use vmshm_ram::{
    BlockOffset, Found, GuestRam, Layout, LayoutRange, Method, Patterns, SearchOptions, SearchSink,
    Source, find_by_pid,
};
use vmshm_shm::{Mapping, Piece, Protection, SharedMemory};

/// What is searched for; it lies nowhere.
const NEEDLE: &[u8] = b"Linux version 6.1";

pub type Failure = Box<dyn std::error::Error>;

/// Gigabytes per second by the clock, and per second of processor time.
#[derive(Debug, Clone, Copy)]
struct Rate {
    wall: f64,
    processor: f64,
}

fn measure(bytes: usize, work: impl FnOnce() -> Result<usize, Failure>) -> Result<Rate, Failure> {
    let processor = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let (started, used) = (Instant::now(), processor());
    let found = work()?;
    let rate = |seconds: f64| bytes as f64 / seconds / 1e9;
    let rates = Rate {
        wall: rate(started.elapsed().as_secs_f64()),
        processor: rate(processor() - used),
    };
    if found == 0 {
        Ok(rates)
    } else {
        Err("found what is not there".into())
    }
}

/// Nothing is to be found.
struct Count(usize);

impl SearchSink for Count {
    fn found(&mut self, matches: &[Found]) -> ControlFlow<()> {
        self.0 += matches.len();
        ControlFlow::Continue(())
    }
}

/// Measures, and prints the ratios.
pub fn run() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |word| word.parse());
    let length = number(1024)? << 20;
    let rounds = number(7)?;

    let file = memfd_create("guest-ram", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, length as u64)?;
    let whole = Piece {
        offset: 0,
        length: length as u64,
    };
    let guest = Mapping::new(&file, &[whole], Protection::ReadWrite)?;
    let private = fill(&guest, length)?;

    let inode = fstat(&file)?.st_ino;
    let mut vmm = find_by_pid(std::process::id())?;
    vmm.blocks
        .retain(|block| block.file.is_some_and(|file| file.inode == inode));
    let layout = Layout::new(vec![LayoutRange {
        extent: Extent {
            start: GuestPhysical(0),
            length: length as u64,
        },
        at: BlockOffset::default(),
        source: Source::Proved,
    }])?;
    let search = |method, patterns: &Patterns, threads| -> Result<usize, Failure> {
        let options = SearchOptions {
            threads,
            ..SearchOptions::default()
        };
        let mut count = Count(0);
        GuestRam::open(&vmm, method)?.search(&layout, patterns, &options, &mut count)?;
        Ok(count.0)
    };

    let finder = Finder::new(NEEDLE);
    let one = Patterns::new(vec![NEEDLE.to_vec()])?;
    let sixteen: Vec<Vec<u8>> = (0..16_u8)
        .map(|number| [&[b'A' + number][..], NEEDLE].concat())
        .collect();
    let automaton = aho_corasick::AhoCorasick::new(&sixteen)?;
    let many = Patterns::new(sixteen)?;
    let single = Some(NonZeroUsize::MIN);
    type Work<'a> = (&'a str, Box<dyn Fn() -> Result<usize, Failure> + 'a>);
    let works: [Work<'_>; 8] = [
        (
            "memmem, private memory",
            Box::new(|| Ok(finder.find_iter(&private).count())),
        ),
        (
            "memmem, fresh mapping",
            Box::new(|| through_mapping(&file, length, &finder)),
        ),
        (
            "search, one thread",
            Box::new(|| search(Method::Map, &one, single)),
        ),
        (
            "search, all cores",
            Box::new(|| search(Method::Map, &one, None)),
        ),
        (
            "search by copy, one thread",
            Box::new(|| search(Method::Copy, &one, single)),
        ),
        (
            "aho-corasick, private memory, 16 patterns",
            Box::new(|| Ok(automaton.find_iter(&private).count())),
        ),
        (
            "search, 16 patterns, one thread",
            Box::new(|| search(Method::Map, &many, single)),
        ),
        (
            "search, 16 patterns, all cores",
            Box::new(|| search(Method::Map, &many, None)),
        ),
    ];
    let mut rates: Vec<Vec<Rate>> = Vec::new();
    for _ in 0..rounds {
        let round: Result<Vec<Rate>, Failure> = works
            .iter()
            .map(|(_, work)| measure(length, work))
            .collect();
        rates.push(round?);
    }
    println!("medians of {rounds} rounds over {} MiB", length >> 20);
    println!("GB/s   GB/CPU-s  beside memmem in private memory, in a fresh mapping (by CPU time)");
    for (index, (name, _)) in works.iter().enumerate() {
        let of = |value: &dyn Fn(&[Rate]) -> f64| median(rates.iter().map(|round| value(round)));
        println!(
            "{:5.1}  {:5.1}     {:4.2} ({:4.2})   {:4.2} ({:4.2})   {name}",
            of(&|round| round[index].wall),
            of(&|round| round[index].processor),
            of(&|round| round[index].wall / round[0].wall),
            of(&|round| round[index].processor / round[0].processor),
            of(&|round| round[index].wall / round[1].wall),
            of(&|round| round[index].processor / round[1].processor),
        );
    }
    Ok(())
}

/// Fills the guest's memory with bytes that repeat nowhere, and private memory alike.
fn fill(guest: &Mapping, length: usize) -> Result<Vec<u8>, Failure> {
    let mut private = vec![0_u8; length];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for (at, chunk) in private.chunks_exact_mut(4096).enumerate() {
        for word in chunk.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        guest.write(at as u64 * 4096, chunk)?;
    }
    Ok(private)
}

/// Searches by mapping 2 MiB at a time. Shared memory may not be looked at in place, so
/// this copies, too.
fn through_mapping(
    file: impl rustix::fd::AsFd,
    length: usize,
    finder: &Finder<'_>,
) -> Result<usize, Failure> {
    let step = 2 << 20;
    let mut buffer = vec![0_u8; 32 << 10];
    let mut found = 0;
    for offset in (0..length).step_by(step) {
        let piece = Piece {
            offset: offset as u64,
            length: step.min(length - offset) as u64,
        };
        let mapping = Mapping::new(&file, &[piece], Protection::Read)?;
        for at in (0..piece.length).step_by(buffer.len()) {
            mapping.read(at, &mut buffer)?;
            found += finder.find_iter(&buffer).count();
        }
    }
    Ok(found)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
