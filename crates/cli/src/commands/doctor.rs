//! `vmshm doctor`: for each VM what can be reached, what cannot, why, and what would
//! help.

use std::fmt::Write as _;

use serde_json::{Value, json};
use vmshm_host::diagnosis::{Cause, Diagnosis, about_this_host, diagnose};
use vmshm_host::machines;
use vmshm_ram::Access;

use crate::arguments::{Doctor, Global};
use crate::failure::Failure;
use crate::os;
use crate::output;

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
    let all: Vec<Diagnosis> = machines.into_iter().map(diagnose).collect();
    if doctor.json {
        // What is printed is of VMs; of the host only what is missing is said.
        for fact in facts.iter().filter(|fact| fact.hint.is_some()) {
            let mut text = String::new();
            lines(&mut text, "note: ", fact);
            eprint!("{text}");
        }
        let array: Vec<Value> = all
            .iter()
            .map(|one| as_json(one, by_broker(one, global).as_ref()))
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
    for diagnosis in &all {
        let broker = by_broker(diagnosis, global);
        describe(&mut text, diagnosis, broker.as_ref());
    }
    output::print(&text)
}

fn describe(text: &mut String, diagnosis: &Diagnosis, broker: Option<&Option<Cause>>) {
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
        None => {}
        Some(None) => text.push_str("  broker: yes\n"),
        Some(Some(cause)) => line(text, "broker: no", cause),
    }
    for cause in &diagnosis.notes {
        line(text, "note", cause);
    }
    line(text, "agent", &diagnosis.agent);
}

/// Why no broker gives regions of a VM into which this user may not look; asked of no other.
fn by_broker(diagnosis: &Diagnosis, global: &Global) -> Option<Option<Cause>> {
    let vmm = &diagnosis.machine.vmm;
    if vmm.access() != Access::None {
        return None;
    }
    let cause = |what: String, hint: Option<String>| Some(Cause { what, hint });
    Some(
        match machines::seen_by_broker(vmm, global.broker().as_deref()) {
            Ok(true) => None,
            Ok(false) => cause(
                "it sees no agent there, or its rules give this user nothing of that VM".to_owned(),
                Some("whoever administers this host can add a rule".to_owned()),
            ),
            Err(error) if error.is_absence() => cause("none runs".to_owned(), error.hint()),
            Err(error) => cause(error.to_string(), error.hint()),
        },
    )
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

fn as_json(diagnosis: &Diagnosis, broker: Option<&Option<Cause>>) -> Value {
    let vmm = &diagnosis.machine.vmm;
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
        "broker": broker.map(|cause| method_json(cause.as_ref())),
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
