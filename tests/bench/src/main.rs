//! Measures vmshm beside its peers and prints the figures of every round as JSON. `cargo xtask bench` runs it, judges
//! what it prints, and boots the VM that two of the rows need.
//!
//! Refuses names of rows that it does not know, and rows of a VM without one.

mod guest;
mod idle;
mod interruption;
mod latency;
mod local;
mod measurement;
mod memory;
mod pair;
mod processors;
mod stream;
mod threads;
mod together;
mod waiting;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use measurement::{Measurement, Plan};
use processors::Processors;

/// Measures vmshm beside its peers; use it through `cargo xtask bench`
#[derive(Parser)]
struct Arguments {
    /// The rows to measure
    #[arg(required_unless_present_any = ["memory", "sleep_in_guest"])]
    names: Vec<String>,
    /// Undisturbed rounds that are enough
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// No round of a row starts after so many seconds
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// The longest that the ends of an undisturbed round wait for a processor, as a share of the round
    #[arg(long, default_value_t = 0.01)]
    most_waiting: f64,
    /// Measure less
    #[arg(long)]
    quick: bool,
    /// The VM of the rows that need one
    #[arg(long)]
    vm: Option<String>,
    /// Be the guest's end of the row `idle`
    #[arg(long, hide = true)]
    sleep_in_guest: bool,
    #[command(flatten)]
    answer: pair::Answer,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.sleep_in_guest {
        return idle::sleep_in_guest();
    }
    // Whoever started this is the one who wants the figures.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    if arguments.answer.is_asked() {
        return pair::answer(&arguments.answer);
    }
    interruption::note()?;
    let plan = Plan {
        rounds: arguments.rounds,
        at_most: Duration::from_secs_f64(arguments.seconds),
        most_waiting: arguments.most_waiting,
        part: Duration::from_millis(if arguments.quick { 4 } else { 8 }),
        quick: arguments.quick,
        processors: Processors::choose()?,
    };
    let mut measured = Vec::new();
    for name in &arguments.names {
        eprintln!("measuring {name}");
        measured.push(row(name, &plan, arguments.vm.as_deref())?);
    }
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

fn row(name: &str, plan: &Plan, vm: Option<&str>) -> Result<Measurement> {
    let vm = || vm.with_context(|| format!("the row {name} needs --vm"));
    match name {
        "one-way-64B" => guest::measure(plan, vm()?),
        "one-way-64B-host" => pair::measure(plan),
        "idle" => idle::measure(plan, vm()?),
        "ring-u64" => threads::single(plan),
        "ring-u64-batch" => threads::batched(plan),
        "stream-1GiB" => stream::measure(plan),
        _ => bail!("there is no row {name}"),
    }
}
