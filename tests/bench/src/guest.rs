//! `one-way-64B`: 64 bytes from the host to a guest and back, through our ring of records and over the bare cache lines
//! of the same region, in turns. The guest's agent answers.

use std::time::Duration;

use anyhow::{Context, Result};
use vmshm_host::attach::{AttachOptions, attach};
use vmshm_host::bench::Turns;
use vmshm_host::machines;

use crate::latency::Latency;
use crate::measurement::{Measurement, Plan, Round, rounds};
use crate::waiting::Waiting;

const TIMEOUT: Duration = Duration::from_secs(20);

/// The row, on the VM of this name.
pub fn measure(plan: &Plan, vm: &str) -> Result<Measurement> {
    let vmm = machines::find(vm).with_context(|| format!("there is no VM {vm}"))?;
    let mut session = attach(&vmm, &AttachOptions::default())?;
    let region = Turns::region(&mut session, TIMEOUT)?;
    let mut turns = Turns::start(&mut session, &region, TIMEOUT)?;
    const TRIAL: usize = 4000;
    let trial = Latency::of(turns.lines(&mut session, TRIAL)?)?;
    let messages = plan.part.as_secs_f64() * 1e9 / (trial.p50 * 2.0).max(1.0);
    let messages = (messages as usize).max(1000);
    let mut waiting = Waiting::of(vec![std::process::id(), vmm.pid]);
    let rounds = rounds(plan, &mut waiting, |number| {
        let (ours, floor) = if number % 2 == 0 {
            let ours = turns.records(&mut session, messages)?;
            (ours, turns.lines(&mut session, messages)?)
        } else {
            let floor = turns.lines(&mut session, messages)?;
            (turns.records(&mut session, messages)?, floor)
        };
        let (ours, floor) = (Latency::of(ours)?, Latency::of(floor)?);
        Ok(Round {
            ours: ours.p50,
            floor: Some(floor.p50),
            ours_p999: Some(ours.p999),
            floor_p999: Some(floor.p999),
            ..Round::default()
        })
    })?;
    let mut additional = serde_json::Map::new();
    additional.insert("messages_per_round".into(), messages.into());
    let method = if region.memory.is_mapped() {
        "map"
    } else {
        "copy"
    };
    additional.insert("method".into(), method.into());
    Ok(Measurement {
        name: "one-way-64B",
        unit: "ns",
        better: "lower",
        peer_name: None,
        rounds,
        additional,
    })
}
