//! Lists the VMs of this host with their RAM blocks, layout and guest system, and says
//! how long each step took. `survey [PID] [HEX-PATTERN]`: one process only; look for a
//! pattern, too. Refuses nothing: what cannot be done is printed.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use vmshm_ram::{GuestRam, Method, Step, Vmm, find_all, find_by_pid, guest_os};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let started = Instant::now();
    let found = match arguments.first().and_then(|word| word.parse().ok()) {
        Some(pid) => find_by_pid(pid).map(|vmm| vec![vmm]),
        None => find_all(),
    };
    println!("found in {:?}", started.elapsed());
    let pattern = arguments.get(1).map(|word| bytes_of(word));
    match found {
        Ok(vms) => vms.iter().for_each(|vmm| show(vmm, pattern.as_deref())),
        Err(error) => println!("error: {error}; hint: {:?}", error.hint()),
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2)
        .filter_map(|index| u8::from_str_radix(hex.get(index * 2..index * 2 + 2)?, 16).ok())
        .collect()
}

fn show(vmm: &Vmm, pattern: Option<&[u8]>) {
    println!(
        "{} {} {} ram={:#x} shared={} access={} {:?} {:?}",
        vmm.pid,
        vmm.kind,
        vmm.name,
        vmm.ram_bytes,
        vmm.is_shared(),
        vmm.access(),
        vmm.machine,
        vmm.evidence
    );
    for block in &vmm.blocks {
        println!(
            "  {} {:#x} at {} file offset {:#x} {}",
            block.backing,
            block.length,
            block.start,
            block.file_offset(),
            block.label()
        );
    }
    for result in [&vmm.reach.map, &vmm.reach.copy] {
        if let Err(obstacle) = result {
            println!("  obstacle: {obstacle}; hint: {:?}", obstacle.hint());
        }
    }
    match vmm.rule_layout() {
        Ok(layout) => {
            for range in layout.ranges() {
                println!(
                    "  {} {:#x} -> {} ({})",
                    range.extent.start, range.extent.length, range.at, range.source
                );
            }
        }
        Err(error) => println!("  no layout: {error}"),
    }
    for method in [Method::Map, Method::Copy] {
        match GuestRam::open(vmm, method) {
            Ok(ram) => try_out(vmm, &ram, pattern),
            Err(error) => println!("  {method:?}: {error}"),
        }
    }
}

fn try_out(vmm: &Vmm, ram: &GuestRam, pattern: Option<&[u8]>) {
    let started = Instant::now();
    let system = guest_os(vmm, ram, Duration::from_secs(2));
    println!(
        "  {}: {:?}, guest {:?} in {:?}",
        ram.access(),
        ram.liveness().run_state(),
        system.map(|system| system.to_string()),
        started.elapsed()
    );
    let started = Instant::now();
    let mut resident = 0;
    for block in 0..ram.blocks().len() {
        let length = ram.block(block).map_or(0, |block| block.length);
        let _ = ram.resident_runs(block, 0..length, &mut |run| {
            resident += run.end - run.start;
            true
        });
    }
    println!(
        "    resident {} MiB, told in {:?}",
        resident >> 20,
        started.elapsed()
    );
    let Some(pattern) = pattern else { return };
    for step in [Step::HugePage, Step::Page, Step::Byte] {
        let started = Instant::now();
        let mut first = None;
        let stats = ram.scan(pattern, step, &mut |at| {
            first.get_or_insert(at);
            ControlFlow::Continue(())
        });
        println!(
            "    {step:?}: {stats:?} first {first:?} in {:?}",
            started.elapsed()
        );
    }
}
