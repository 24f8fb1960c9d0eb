//! `vmshm region graft`: a region becomes a file of its own in the VM's process, and back.
//! Says how long the VM stood still for it, and how the result was proved.

use std::time::Duration;

use serde_json::{Value, json};
use vmshm_host::attach::see;
use vmshm_host::graft::{self, GraftFailure, GraftedRegion, Pause};
use vmshm_host::{AttachOptions, attach, machines, reaching};
use vmshm_ram::{Method, Vmm};

use crate::arguments::{Global, RegionGraft};
use crate::failure::Failure;
use crate::output;
use crate::reaper::Reaper;

/// How long is looked for a guest whose programs may use a graft that is undone.
const ASKING: Duration = Duration::from_secs(1);

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
        attach(vmm, &options).map_err(|error| reaching::without_broker(vmm, error))?;
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
            pause(grafted.pause),
            grafted.proof
        )
    };
    output::print(&text)
}

fn undo(graft: &RegionGraft, vmm: &Vmm, global: &Global) -> Result<(), Failure> {
    let name = &graft.target.region;
    let id = id(graft, vmm, global)?;
    let took = match attach(vmm, &brief(global)?) {
        Ok(mut session) => graft::undo_in(&mut session, &id)?,
        // The guest may be gone, and the graft is not.
        Err(_) => graft::undo(vmm.pid, &id)?,
    };
    if graft.json {
        let object = json!({
            "region": name,
            "vm": vmm.name,
            "pid": vmm.pid,
            "id": id,
            "grafted": false,
            "stopping_ms": milliseconds(took.stopping),
            "pause_ms": milliseconds(took.standing),
        });
        return output::print(&format!("{object:#}\n"));
    }
    output::print(&format!(
        "region {name} is private memory of process {} again\npause: {}\n",
        vmm.pid,
        pause(took)
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
    let found = see(vmm, &global.attach()?)
        .map_err(Failure::from)
        .and_then(|seen| {
            for region in seen.directory.regions() {
                let region = region?;
                if region.name.as_str() == name {
                    return Ok(Some(graft::id(seen.beacon(), region.id)));
                }
            }
            Ok(None)
        });
    match found {
        Ok(Some(id)) => Ok(id),
        Ok(None) | Err(_) if !standing.is_empty() => {
            standing.truncate(8);
            let names = standing.join(", ");
            Err(Failure::new(
                &format!("no region `{name}` is to be seen in {}", vmm.name),
                Some(&format!(
                    "its process has these grafts: {names}; `vmshm region graft VM/GRAFT --undo` takes such a name, too"
                )),
            ))
        }
        Ok(None) => Err(Failure::new(
            &format!("there is no region `{name}`, and nothing is grafted"),
            Some("`vmshm region list VM` shows the regions that exist"),
        )),
        Err(failure) => Err(failure),
    }
}

fn described(name: &str, vm: &str, grafted: &GraftedRegion) -> Value {
    let longest = grafted.pauses.iter().map(|pause| pause.standing).max();
    json!({
        "region": name,
        "vm": vm,
        "pid": grafted.pid,
        "id": grafted.id,
        "file": format!("memfd:vmshm-{}", grafted.id),
        "size": grafted.size,
        "grafted": true,
        "new": !grafted.pauses.is_empty(),
        "stopping_ms": milliseconds(grafted.pause.stopping),
        "pause_ms": milliseconds(grafted.pause.standing),
        "longest_pause_ms": milliseconds(longest.unwrap_or_default()),
        "pauses": grafted.pauses.len(),
        "proof": grafted.proof.name(),
    })
}

fn milliseconds(time: Duration) -> f64 {
    // Microseconds are exact enough for people, and short.
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn pause(pause: Pause) -> String {
    format!(
        "{:.2} ms, and {:.2} ms for stopping",
        milliseconds(pause.standing),
        milliseconds(pause.stopping)
    )
}

impl From<GraftFailure> for Failure {
    fn from(failure: GraftFailure) -> Self {
        let hint = failure.hint();
        Self::from_error(&failure, hint)
    }
}
