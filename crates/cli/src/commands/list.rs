//! `vmshm list`: the VMs of this host. Only looks.

use serde_json::{Value, json};
use vmshm_host::machines::{self, AgentView, MachineView};
use vmshm_link::directory::RegionEntry;
use vmshm_ram::Access;

use super::list_watch;
use crate::arguments::{Global, List};
use crate::failure::Failure;
use crate::output;

/// Runs it.
pub(crate) fn run(list: &List, global: &Global) -> Result<(), Failure> {
    if list.watch {
        return list_watch::run(list.json, global);
    }
    let machines = look(global)?;
    if list.json {
        let array: Vec<Value> = machines.iter().map(machine_json).collect();
        return output::print(&format!("{:#}\n", Value::from(array)));
    }
    if machines.is_empty() {
        eprintln!("no VMs found");
        return Ok(());
    }
    let heading = [
        "PID", "VMM", "NAME", "RAM", "BACKING", "ACCESS", "GUEST", "AGENT", "REGIONS",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(machines.iter().map(machine_row));
    output::print(&output::table(&rows))?;
    if let Some(note) = note(machines.iter().map(access)) {
        output::tell(note, global.quiet);
    }
    Ok(())
}

/// What is said once of VMs that cannot be reached in any way.
fn note(accesses: impl IntoIterator<Item = String>) -> Option<&'static str> {
    let none = Access::None.to_string();
    let is_dark = accesses.into_iter().any(|access| access == none);
    is_dark.then_some("note: access none: `vmshm doctor NAME` says why")
}

fn look(global: &Global) -> Result<Vec<MachineView>, Failure> {
    let broker = global.broker();
    Ok(machines::list_with_broker(
        global.place(),
        broker.as_deref(),
    )?)
}

/// How a VM can be reached: by oneself, or by a broker.
pub(super) fn access(machine: &MachineView) -> String {
    if machine.brokered {
        "broker".to_owned()
    } else {
        machine.vmm.access().to_string()
    }
}

fn backing(machine: &MachineView) -> &'static str {
    if machine.vmm.is_shared() {
        "shared"
    } else {
        "private"
    }
}

/// A VM as scripts see it.
pub(crate) fn machine_json(machine: &MachineView) -> Value {
    json!({
        "pid": machine.vmm.pid,
        "vmm": machine.vmm.kind.to_string(),
        "name": machine.vmm.name,
        "ram_bytes": machine.vmm.ram_bytes,
        "backing": backing(machine),
        "access": access(machine),
        "guest_os": machine.guest_os,
        "agent": machine.agent.as_ref().map(agent_json),
        "regions": machine.regions.iter().map(region_json).collect::<Vec<_>>(),
    })
}

/// An agent as scripts see it.
pub(crate) fn agent_json(agent: &AgentView) -> Value {
    json!({
        "version": agent.version,
        "state": agent.state.name(),
        "boot_id": agent.boot_id.as_ref().map(uuid),
    })
}

/// A region as scripts see it.
pub(crate) fn region_json(region: &RegionEntry) -> Value {
    json!({
        "name": region.name.as_str(),
        "kind": region.kind.name(),
        "size": region.size,
    })
}

/// Sixteen bytes as Linux prints a boot id.
fn uuid(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ]
    .join("-")
}

fn machine_row(machine: &MachineView) -> Vec<String> {
    let regions: Vec<_> = machine
        .regions
        .iter()
        .map(|region| region.name.as_str())
        .collect();
    vec![
        machine.vmm.pid.to_string(),
        machine.vmm.kind.to_string(),
        machine.vmm.name.clone(),
        output::size(machine.vmm.ram_bytes),
        backing(machine).to_owned(),
        access(machine),
        machine.guest_os.clone().unwrap_or_else(|| "?".to_owned()),
        machine
            .agent
            .as_ref()
            .map_or("-", |agent| agent.state.name())
            .to_owned(),
        regions.join(","),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_is_reached_is_said_who_tells_why() {
        let note = |accesses: &[&str]| note(accesses.iter().map(|&access| access.to_owned()));
        assert_eq!(note(&["map", "copy", "broker"]), None);
        let told = note(&["map", "none", "none"]);
        assert!(told.is_some_and(|text| text.contains("vmshm doctor")));
    }

    #[test]
    fn boot_ids_look_as_linux_prints_them() {
        let mut bytes = [0; 16];
        bytes[0] = 0xab;
        bytes[15] = 1;
        assert_eq!(uuid(&bytes), "ab000000-0000-0000-0000-000000000001");
    }
}
