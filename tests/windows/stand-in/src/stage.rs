//! Sets the scene: RAM, decoys, the guest, and the talk with whoever started this.

use std::io::{self, Write};
use std::os::windows::io::OwnedHandle;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use serde_json::json;
use vmshm_link::beacon::{PAGE, PAGE_BYTES};
use vmshm_played_guest::{Guest, GuestMemory, Plan, Range, play};
use vmshm_shm::{Mapping, Protection};

use crate::arguments::Arguments;
use crate::os::{self, PrivateMemory};

const MIB: u64 = 1 << 20;
/// Where RAM goes on above the hole.
const HIGH: u64 = 4 << 30;

/// Plays until standard input ends.
pub(crate) fn run() -> ExitCode {
    match set(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn set(arguments: &Arguments) -> io::Result<()> {
    let size = arguments.size * MIB;
    let plan = Plan::split(size, arguments.hole * MIB, HIGH);
    let mut handles = Vec::new();
    for _ in 0..arguments.handles {
        handles.push(os::event()?);
    }
    if arguments.private {
        let decoys = (0..arguments.decoys).map(|_| PrivateMemory::new(size));
        let decoys = decoys.collect::<io::Result<Vec<_>>>()?;
        return act(arguments, PrivateMemory::new(size)?, plan, &decoys);
    }
    // Some before the RAM and some after it, so that no order of handles tells which is which.
    let before = arguments.decoys / 2;
    let name = arguments.name.as_deref();
    let name = name.map(|name| name.replace("{pid}", &std::process::id().to_string()));
    let mut decoys = Vec::new();
    for _ in 0..before {
        decoys.push(mapped(&os::section(None, size)?, size, &mut handles)?);
    }
    let memory = mapped(&os::section(name.as_deref(), size)?, size, &mut handles)?;
    for _ in before..arguments.decoys {
        decoys.push(mapped(&os::section(None, size)?, size, &mut handles)?);
    }
    act(arguments, memory, plan, &decoys)
}

/// Maps all of a section, and keeps it open.
fn mapped(
    section: &OwnedHandle,
    size: u64,
    handles: &mut Vec<OwnedHandle>,
) -> io::Result<Arc<Mapping>> {
    let memory = Mapping::whole(section, size, Protection::ReadWrite);
    handles.push(section.try_clone()?);
    memory.map(Arc::new).map_err(io::Error::other)
}

fn act<M: GuestMemory>(
    arguments: &Arguments,
    memory: M,
    plan: Plan,
    decoys: &[M],
) -> io::Result<()> {
    let beacon = plan.beacon.0;
    let place = |range: &Range| {
        let extent = range.extent;
        json!({ "start": extent.start.0, "length": extent.length, "offset": range.offset })
    };
    let ranges: Vec<_> = plan.ranges.iter().map(place).collect();
    let mut guest = if arguments.no_agent {
        Guest::without_agent(memory.clone(), plan)
    } else {
        Guest::new(memory.clone(), plan)
    };
    guest.step();
    disguise(&memory, decoys, beacon)?;
    say(&json!({ "pid": std::process::id(), "beacon": beacon, "ranges": ranges }));
    play(&mut guest, &mut |_| None, &mut |answer| {
        say(&json!({ "done": answer }));
    });
    Ok(())
}

/// Makes decoys look like the RAM: a copy of the beacon that does not beat, at its own place or at another.
fn disguise<M: GuestMemory>(memory: &M, decoys: &[M], beacon: u64) -> io::Result<()> {
    let mut page = [0; PAGE_BYTES];
    memory.read(beacon, &mut page).map_err(io::Error::other)?;
    for (index, decoy) in decoys.iter().enumerate() {
        let place = match index % 3 {
            0 => beacon,
            1 => beacon + 2 * MIB + PAGE,
            _ => continue,
        };
        decoy.write(place, &page).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Writes a line; whoever started this may be gone, and then the input ends, too.
fn say(line: &serde_json::Value) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}
