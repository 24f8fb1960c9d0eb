//! `vmshm doctor`: for each VM what can be reached, what cannot, why, and what would
//! help.

use std::fmt::Write as _;

use serde_json::{Value, json};
use vmshm_host::brokered::BrokerError;
use vmshm_host::diagnosis::{Cause, Diagnosis, about_this_host, diagnose};
use vmshm_host::machines::{self, MachineView};
use vmshm_ram::Access;

use crate::arguments::{Doctor, Global};
use crate::failure::Failure;
use crate::os;
use crate::output;

/// Whether a broker gives this user regions of a VM.
enum ByBroker {
    /// It was not asked: the user may look into the VM.
    NeedNot,
    Gives,
    DoesNot(Cause),
}

/// Runs it.
pub(crate) fn run(doctor: &Doctor, global: &Global) -> Result<(), Failure> {
    let facts = about_this_host();
    let machines = match &doctor.vm {
        Some(vm) => machines::look_by(vec![machines::find(vm)?], global.place()),
        None => {
            // Whoever does not see everything should know.
            if let Some(hidden) = os::hidden_machines() {
                eprintln!("note: {hidden}");
            }
            machines::list_by(global.place())?
        }
    };
    let all: Vec<(Diagnosis, ByBroker)> = machines
        .into_iter()
        .map(|mut machine| {
            let broker = by_broker(&mut machine, global);
            (diagnose(machine), broker)
        })
        .collect();
    if doctor.json {
        // What is printed is of VMs; of the host only what is missing is said.
        for fact in facts.iter().filter(|fact| fact.hint.is_some()) {
            let mut text = String::new();
            lines(&mut text, "note: ", fact);
            eprint!("{text}");
        }
        let array: Vec<Value> = all
            .iter()
            .map(|(diagnosis, broker)| as_json(diagnosis, broker))
            .collect();
        return output::print(&format!("{:#}\n", Value::from(array)));
    }
    let mut text = String::new();
    if !facts.is_empty() {
        text.push_str("this host\n");
    }
    for fact in &facts {
        lines(&mut text, "  ", fact);
    }
    if all.is_empty() {
        let hint = os::NO_MACHINE_HINT;
        let _ = writeln!(text, "no VM found on this host\n  hint: {hint}");
    }
    for (diagnosis, broker) in &all {
        describe(&mut text, diagnosis, broker);
    }
    output::print(&text)
}

fn describe(text: &mut String, diagnosis: &Diagnosis, broker: &ByBroker) {
    let vmm = &diagnosis.machine.vmm;
    let _ = writeln!(
        text,
        "{} ({}, process {}, {})",
        output::plain(&vmm.name),
        vmm.kind,
        vmm.pid,
        output::size(vmm.ram_bytes)
    );
    for (name, cause) in [("map", &diagnosis.map), ("copy", &diagnosis.copy)] {
        match cause {
            None => {
                let _ = writeln!(text, "  {name}: yes");
            }
            Some(cause) => line(text, &format!("{name}: no"), cause),
        }
    }
    if diagnosis.graft.is_empty() {
        text.push_str("  graft: nothing stands in its way\n");
    }
    for cause in &diagnosis.graft {
        line(text, "graft: no", cause);
    }
    match broker {
        ByBroker::NeedNot => {}
        ByBroker::Gives => text.push_str("  broker: yes\n"),
        ByBroker::DoesNot(cause) => line(text, "broker: no", cause),
    }
    for cause in &diagnosis.notes {
        line(text, "note", cause);
    }
    line(text, "agent", &diagnosis.agent);
}

/// Asks a broker about a VM into which this user may not look, and about no other. What it tells
/// is known of the VM then.
fn by_broker(machine: &mut MachineView, global: &Global) -> ByBroker {
    if machine.vmm.access() != Access::None {
        return ByBroker::NeedNot;
    }
    let (what, hint) = match machines::see_by_broker(machine, global.broker().as_deref()) {
        Ok(()) if machine.agent.is_some() => return ByBroker::Gives,
        Ok(()) => (
            "it sees no agent there".to_owned(),
            Some("start `vmshm-agent run` in the guest, as root".to_owned()),
        ),
        Err(error) if error.is_absence() => ("none runs".to_owned(), error.hint()),
        Err(BrokerError::Refused { explanation, hint }) => (explanation, hint),
        Err(error) => (error.to_string(), error.hint()),
    };
    ByBroker::DoesNot(Cause { what, hint })
}

fn line(text: &mut String, what: &str, cause: &Cause) {
    lines(text, &format!("  {what}: "), cause);
}

/// A cause behind some words, and its hint below.
fn lines(text: &mut String, words: &str, cause: &Cause) {
    let _ = writeln!(text, "{words}{}", output::plain(&cause.what));
    if let Some(hint) = &cause.hint {
        let indent = if words.starts_with(' ') { "    " } else { "" };
        let _ = writeln!(text, "{indent}hint: {}", output::plain(hint));
    }
}

fn as_json(diagnosis: &Diagnosis, broker: &ByBroker) -> Value {
    let vmm = &diagnosis.machine.vmm;
    let broker = match broker {
        ByBroker::NeedNot => Value::Null,
        ByBroker::Gives => method_json(None),
        ByBroker::DoesNot(cause) => method_json(Some(cause)),
    };
    json!({
        "pid": vmm.pid,
        "vmm": vmm.kind.to_string(),
        "name": vmm.name,
        "ram_bytes": vmm.ram_bytes,
        "map": method_json(diagnosis.map.as_ref()),
        "copy": method_json(diagnosis.copy.as_ref()),
        "graft": {
            "works": diagnosis.graft.is_empty(),
            "causes": diagnosis.graft.iter().map(cause_json).collect::<Vec<_>>(),
        },
        "broker": broker,
        "notes": diagnosis.notes.iter().map(cause_json).collect::<Vec<_>>(),
        "agent": cause_json(&diagnosis.agent),
    })
}

fn method_json(cause: Option<&Cause>) -> Value {
    json!({
        "works": cause.is_none(),
        "cause": cause.map(|cause| cause.what.as_str()),
        "hint": cause.and_then(|cause| cause.hint.as_deref()),
    })
}

fn cause_json(cause: &Cause) -> Value {
    json!({ "what": cause.what, "hint": cause.hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_chose_does_nothing_to_the_terminal() {
        let cause = Cause {
            what: "the file /tmp/\u{1b}[2Jram was removed".to_owned(),
            hint: Some("look at /tmp/\u{1b}[2Jram\nyes".to_owned()),
        };
        let mut text = String::new();
        line(&mut text, "map: no", &cause);
        let expected = "  map: no: the file /tmp/\\u{1b}[2Jram was removed\n    hint: look at /tmp/\\u{1b}[2Jram\\nyes\n";
        assert_eq!(text, expected);
    }
}
