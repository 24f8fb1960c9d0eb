//! The end: whatever was plugged in is unplugged.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::outputs::is_virtual;
use super::super::sway::{GET_OUTPUTS, Ipc, RUN_COMMAND, done, is_plain};
use super::{Active, Job, Plugging, Step};

/// How long it may take.
const END: Duration = Duration::from_secs(3);

impl Plugging {
    /// Unplugs all that was plugged in: the source ends. Waits for sway, but not for long.
    pub fn end(&mut self) {
        let Some(path) = self.sway.clone() else {
            return;
        };
        let deadline = Instant::now() + END;
        let mut names = std::mem::take(&mut self.plugged);
        let active = self.active.take();
        let halfway = match &active {
            Some(Active {
                step: Step::Creating { known } | Step::Appearing { known, again: None },
                ..
            }) => Some(known.clone()),
            _ => None,
        };
        let jobs = self.jobs.drain(..).chain(active.map(|active| active.job));
        names.extend(jobs.filter_map(|job| match job {
            Job::Remove { name } => Some(name),
            _ => None,
        }));
        if names.is_empty() && halfway.is_none() {
            return;
        }
        let mut ipc = match Ipc::connect(&path) {
            Ok(ipc) => ipc,
            Err(error) => {
                tracing::warn!("monitors that were added stay: {error}");
                return;
            }
        };
        if let Some(known) = halfway
            && let Ok(outputs) = ipc.ask(GET_OUTPUTS, "", deadline)
        {
            let new = outputs_in(&outputs).filter(|name| is_virtual(name) && !known.contains(name));
            names.extend(new);
        }
        for name in names.iter().filter(|name| is_plain(name)) {
            let unplugged = ipc
                .ask(RUN_COMMAND, &format!("output {name} unplug"), deadline)
                .and_then(|answer| done(&answer));
            match unplugged {
                Ok(()) => self.ledger.forget(name),
                Err(error) => {
                    tracing::warn!("{name} cannot be removed: {error}");
                    let _ = ipc.ask(RUN_COMMAND, &format!("output {name} disable"), deadline);
                }
            }
        }
    }
}

/// The names in sway's list of outputs.
fn outputs_in(answer: &Value) -> impl Iterator<Item = String> + '_ {
    let outputs = answer.as_array().into_iter().flatten();
    outputs.filter_map(|one| Some(one.get("name")?.as_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_outputs_are_read_from_sways_list() {
        let list = serde_json::json!([{"name": "HEADLESS-1"}, {"name": 7}, {}, {"name": "DP-1"}]);
        let names: Vec<String> = outputs_in(&list).collect();
        assert_eq!(names, ["HEADLESS-1", "DP-1"]);
        assert_eq!(outputs_in(&Value::Null).count(), 0);
    }
}
