//! `vmshm doctor`: for each VM what can be reached, what cannot, why, and what would
//! help. A first version: it tells of mapping, copying and the agent.

use std::fmt::Write as _;

use vmshm_host::machines::{self, AgentState, MachineView};
use vmshm_ram::Obstacle;

use crate::arguments::Doctor;
use crate::failure::Failure;
use crate::output;

/// Runs it.
pub(crate) fn run(doctor: &Doctor) -> Result<(), Failure> {
    let machines = match &doctor.vm {
        Some(vm) => machines::look_at(vec![machines::find(vm)?]),
        None => machines::list()?,
    };
    if machines.is_empty() {
        return output::print(
            "no VM found on this host\n  hint: a VM of another user or in another pid namespace may be hidden; run as root\n",
        );
    }
    let mut text = String::new();
    for machine in &machines {
        describe(&mut text, machine);
    }
    output::print(&text)
}

fn describe(text: &mut String, machine: &MachineView) {
    let vmm = &machine.vmm;
    let _ = writeln!(
        text,
        "{} ({}, process {}, {})",
        output::plain(&vmm.name),
        vmm.kind,
        vmm.pid,
        output::size(vmm.ram_bytes)
    );
    method(text, "map", &vmm.reach.map);
    method(text, "copy", &vmm.reach.copy);
    let (state, hint) = agent(machine);
    let _ = writeln!(text, "  agent: {state}");
    if let Some(hint) = hint {
        let _ = writeln!(text, "    hint: {hint}");
    }
}

fn method(text: &mut String, name: &str, result: &Result<(), Obstacle>) {
    match result {
        Ok(()) => {
            let _ = writeln!(text, "  {name}: yes");
        }
        Err(obstacle) => {
            let _ = writeln!(
                text,
                "  {name}: no: {}",
                output::plain(&obstacle.to_string())
            );
            if let Some(hint) = obstacle.hint() {
                let _ = writeln!(text, "    hint: {hint}");
            }
        }
    }
}

fn agent(machine: &MachineView) -> (&'static str, Option<&'static str>) {
    match machine.agent.as_ref().map(|agent| agent.state) {
        Some(AgentState::Seen) => ("running", None),
        Some(AgentState::Silent) => (
            "silent: its heartbeat stands still",
            Some("is the VM paused? (kill -CONT PID)"),
        ),
        Some(AgentState::Dead) => (
            "dead: its keeper still holds the memory",
            Some("start `vmshm-agent run` in the guest again, as root"),
        ),
        Some(AgentState::Nested) => (
            "several: a VM runs inside this VM",
            Some("run vmshm inside the outer guest to reach the inner one"),
        ),
        Some(AgentState::Incompatible) => (
            "of another protocol version",
            Some("use the same release of vmshm on both sides"),
        ),
        None => (
            "none",
            Some("start `vmshm-agent run` in the guest, as root"),
        ),
    }
}
