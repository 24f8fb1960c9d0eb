//! `vmshm list --watch`: what happens to the VMs of this host, a line for each event,
//! first of all those that are there. Ends with a signal, with `--timeout`, or when
//! nobody reads any more; none of these is a failure.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmshm_host::machines::MachineView;
use vmshm_host::observer::{Event, Happening, Observer};

use super::list::{access, machine_json};
use crate::arguments::Global;
use crate::failure::Failure;
use crate::interruption::Interruption;
use crate::output;

/// Runs it.
pub(crate) fn run(json: bool, global: &Global) -> Result<(), Failure> {
    let deadline = global
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    let interruption = Interruption::watch()?;
    let coloured = output::colour_on_stdout();
    let mut observer = Observer::new(global.place()).with_broker(global.broker());
    loop {
        for event in observer.look()? {
            let line = if json {
                format!("{}\n", event_json(&event))
            } else {
                event_text(&event, coloured)
            };
            // Who reads a pipe sees each event when it happens.
            match output::print_at_once(&line) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => {
                    return Err(Failure::from_error(&error, None).because("writing the output"));
                }
            }
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(());
        }
        let pause = observer.pause();
        let ended = interruption
            .wait(left.map_or(pause, |left| left.min(pause)))
            .map_err(|error| Failure::from_error(&error, None).because("cannot wait"))?;
        if ended {
            return Ok(());
        }
    }
}

fn event_json(event: &Event) -> Value {
    let mut value = machine_json(&event.view);
    if let Some(object) = value.as_object_mut() {
        object.insert("event".to_owned(), json!(event.happening.name()));
        if event.happening == Happening::Changed {
            object.insert("changed".to_owned(), json!(event.changed));
        }
        object.insert("blocks".to_owned(), json!(event.view.vmm.blocks.len()));
    }
    value
}

fn event_text(event: &Event, coloured: bool) -> String {
    let view = &event.view;
    let name = event.happening.name();
    let (start, end) = match event.happening {
        _ if !coloured => ("", ""),
        Happening::Appeared | Happening::Resumed => ("\x1b[32m", "\x1b[0m"),
        Happening::Disappeared => ("\x1b[31m", "\x1b[0m"),
        _ => ("\x1b[33m", "\x1b[0m"),
    };
    let details = match event.happening {
        Happening::Appeared => appearance(view),
        Happening::Agent => agent(view),
        Happening::Rebooted => format!("the guest has started again, {}", agent(view)),
        Happening::Changed => changes(event),
        Happening::Paused | Happening::Resumed | Happening::Disappeared => String::new(),
    };
    let line = format!(
        "{:>7}  {}:{}  {details}",
        view.vmm.pid, view.vmm.kind, view.vmm.name
    );
    format!(
        "{start}{name:<11}{end} {}\n",
        output::plain(line.trim_end())
    )
}

fn appearance(view: &MachineView) -> String {
    format!(
        "{}, access {}, guest {}, {}",
        output::size(view.vmm.ram_bytes),
        access(view),
        view.guest_os.as_deref().unwrap_or("unknown"),
        agent(view)
    )
}

fn agent(view: &MachineView) -> String {
    match &view.agent {
        None => "no agent".to_owned(),
        Some(agent) => format!("agent {}", agent.state.name()),
    }
}

fn changes(event: &Event) -> String {
    let view = &event.view;
    let texts: Vec<String> = event
        .changed
        .iter()
        .map(|field| match *field {
            "regions" => {
                let names: Vec<_> = view
                    .regions
                    .iter()
                    .map(|region| region.name.as_str())
                    .collect();
                format!(
                    "regions: {}",
                    if names.is_empty() {
                        "none".to_owned()
                    } else {
                        names.join(", ")
                    }
                )
            }
            "access" => format!("access {}", access(view)),
            "guest_os" => format!("guest {}", view.guest_os.as_deref().unwrap_or("unknown")),
            "blocks" => format!("RAM in {} blocks", view.vmm.blocks.len()),
            other => other.to_owned(),
        })
        .collect();
    texts.join("; ")
}
