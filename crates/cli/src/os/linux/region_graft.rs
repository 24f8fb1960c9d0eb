//! `vmshm region graft`: a region becomes a file of its own in the VM's process, and back.
//! Says how long the VM stood still for it, and how the result was proved.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use vmshm_host::attach::{AttachError, see};
use vmshm_host::graft::{self, GraftFailure, GraftedRegion, Pause};
use vmshm_host::reaching::{self, ReachError};
use vmshm_host::{AttachOptions, SessionEnd, attach, machines};
use vmshm_link::beacon::Beacon;
use vmshm_link::directory::RegionEntry;
use vmshm_ram::{Method, Vmm};

use crate::arguments::{Global, RegionGraft};
use crate::failure::Failure;
use crate::output;
use crate::reaper::Reaper;

/// How long is looked for a guest whose programs may use a graft that is undone.
const ASKING: Duration = Duration::from_secs(1);

/// What to do about a VM of another user.
const ONLY_OWNER: &str = "run as root: only root and the VM's user graft by name; a broker grafts by itself what it gives";

/// Runs it.
pub(crate) fn graft_region(graft: &RegionGraft, global: &Global) -> Result<(), Failure> {
    let vmm = machines::find(&graft.target.vm)?;
    if graft.undo {
        undo(graft, &vmm, global)
    } else {
        make(graft, &vmm, global)
    }
}

fn make(graft: &RegionGraft, vmm: &Vmm, global: &Global) -> Result<(), Failure> {
    let mut options = global.attach()?;
    if options.method == Method::Graft {
        // What is opened is grafted once, below, where it can be told of.
        options.method = Method::Auto;
    }
    let name = &graft.target.region;
    let _reaper = Reaper::start(vmm, global);
    let mut session =
        attach(vmm, &options).map_err(|error| match reaching::without_broker(vmm, error) {
            error @ ReachError::NotYours { .. } => {
                Failure::new(&error.to_string(), Some(ONLY_OWNER))
            }
            other => other.into(),
        })?;
    let region = graft::hold(&mut session, name, global.patience())?;
    let grafted = graft::graft(&mut session, &region)?;
    if graft.json {
        let object = described(name, &vmm.name, &grafted);
        return output::print(&format!("{object:#}\n"));
    }
    let size = output::size(grafted.size);
    let file = format!("memfd:vmshm-{}", grafted.id);
    let text = if grafted.pauses.is_empty() {
        format!(
            "region {name} of {size} is grafted already: {file} of process {}\n",
            grafted.pid
        )
    } else {
        format!(
            "region {name} of {size} is grafted: {file} of process {}\npause: {}\nproved: {}\n",
            grafted.pid,
            pause(&grafted.pauses),
            grafted.proof
        )
    };
    output::print(&text)
}

fn undo(graft: &RegionGraft, vmm: &Vmm, global: &Global) -> Result<(), Failure> {
    let name = &graft.target.region;
    let id = id(graft, vmm, global)?;
    let pauses = match attach(vmm, &brief(global)?) {
        Ok(mut session) => graft::undo_in(&mut session, &id)?,
        // The guest may be gone, and the graft is not.
        Err(_) => graft::undo(vmm.pid, &id)?,
    };
    if graft.json {
        let mut object = json!({
            "region": name,
            "vm": vmm.name,
            "pid": vmm.pid,
            "id": id,
            "grafted": false,
        });
        add_pauses(&mut object, &pauses);
        return output::print(&format!("{object:#}\n"));
    }
    output::print(&format!(
        "region {name} is private memory of process {} again\npause: {}\n",
        vmm.pid,
        pause(&pauses)
    ))
}

/// How the guest is attached to where it is only asked who uses the region.
fn brief(global: &Global) -> Result<AttachOptions, Failure> {
    let options = global.attach()?;
    Ok(AttachOptions {
        method: Method::Auto,
        timeout: options.timeout.min(ASKING),
        ..options
    })
}

/// Which graft is meant: the one of a region, or one by its own name, which also serves
/// where the region or its guest is gone.
fn id(graft: &RegionGraft, vmm: &Vmm, global: &Global) -> Result<String, Failure> {
    let name = &graft.target.region;
    let mut standing: Vec<String> = graft::standing(vmm.pid)?
        .into_iter()
        .map(|one| one.id)
        .collect();
    let plain = name.strip_prefix("memfd:").unwrap_or(name);
    let plain = plain.strip_prefix("vmshm-").unwrap_or(plain);
    if standing.iter().any(|id| id == plain) {
        return Ok(plain.to_owned());
    }
    let found = see(vmm, &global.attach()?).and_then(|seen| {
        for region in seen.directory.regions() {
            let region = region.map_err(SessionEnd::from)?;
            if region.name.as_str() == name {
                return Ok(Some(graft::id(seen.beacon(), region.id)));
            }
        }
        Ok(None)
    });
    let why = match found {
        Ok(Some(id)) => return Ok(id),
        Ok(None) => None,
        Err(error) => Some(error),
    };
    standing.truncate(8);
    Err(unseen(name, &vmm.name, &standing, why))
}

/// Why a region was not found: its guest was looked at in vain, or could not be.
fn unseen(name: &str, vm: &str, standing: &[String], why: Option<AttachError>) -> Failure {
    match why {
        // It is there, most likely, and nothing can be undone of a VM that is paused.
        Some(error @ AttachError::Silent { stopped: true, .. }) => error.into(),
        _ if !standing.is_empty() => Failure::new(
            &format!("no region `{name}` is to be seen in {vm}"),
            Some(&format!(
                "its process has these grafts: {}; `vmshm region graft VM/GRAFT --undo` takes such a name, too",
                standing.join(", ")
            )),
        ),
        None => Failure::new(
            &format!("there is no region `{name}`, and nothing is grafted"),
            Some("`vmshm region list VM` shows the regions that exist"),
        ),
        Some(error) => error.into(),
    }
}

/// Whether each of these regions is a file of its own in a VM's process; nothing where that may
/// not be seen.
pub(crate) fn grafted_regions(
    pid: u32,
    beacon: &Beacon,
    regions: &[RegionEntry],
) -> Option<Vec<bool>> {
    let standing = graft::standing(pid).ok()?;
    let is_grafted = |region: &RegionEntry| {
        let id = graft::id(beacon, region.id);
        standing.iter().any(|one| one.id == id)
    };
    Some(regions.iter().map(is_grafted).collect())
}

fn described(name: &str, vm: &str, grafted: &GraftedRegion) -> Value {
    let mut object = json!({
        "region": name,
        "vm": vm,
        "pid": grafted.pid,
        "id": grafted.id,
        "file": format!("memfd:vmshm-{}", grafted.id),
        "size": grafted.size,
        "grafted": true,
        "new": !grafted.pauses.is_empty(),
        "proof": grafted.proof.name(),
    });
    add_pauses(&mut object, &grafted.pauses);
    object
}

/// How long the VM stood still, as scripts see it.
fn add_pauses(object: &mut Value, pauses: &[Pause]) {
    let all = graft::in_all(pauses);
    let more = [
        ("stopping_ms", json!(milliseconds(all.stopping))),
        ("pause_ms", json!(milliseconds(all.standing))),
        ("longest_pause_ms", json!(milliseconds(longest(pauses)))),
        ("pauses", json!(pauses.len())),
    ];
    if let Some(fields) = object.as_object_mut() {
        fields.extend(more.map(|(name, value)| (name.to_owned(), value)));
    }
}

fn longest(pauses: &[Pause]) -> Duration {
    let standing = pauses.iter().map(|pause| pause.standing);
    standing.max().unwrap_or_default()
}

fn milliseconds(time: Duration) -> f64 {
    // Microseconds are exact enough for people, and short.
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn pause(pauses: &[Pause]) -> String {
    let all = graft::in_all(pauses);
    let mut text = format!(
        "{:.2} ms, and {:.2} ms for stopping",
        milliseconds(all.standing),
        milliseconds(all.stopping)
    );
    if pauses.len() > 2 {
        let longest = milliseconds(longest(pauses));
        let _ = write!(
            text,
            "; {longest:.2} ms at the longest of {} times",
            pauses.len()
        );
    }
    text
}

impl From<GraftFailure> for Failure {
    fn from(failure: GraftFailure) -> Self {
        let hint = failure.hint();
        Self::from_error(&failure, hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_of_a_paused_vm_is_not_called_unknown() {
        let grafts = ["1.00000000000000ab".to_owned()];
        let silent = |stopped| {
            Some(AttachError::Silent {
                name: "web".to_owned(),
                waited: 5.0,
                stopped,
            })
        };
        let text = |why| unseen("m", "web", &grafts, why).to_string();
        assert!(text(silent(true)).contains("the VM is paused"));
        // A guest that is gone may have left grafts, which have names of their own.
        for why in [silent(false), None] {
            assert!(text(why).contains("no region `m`"));
        }
    }
}
