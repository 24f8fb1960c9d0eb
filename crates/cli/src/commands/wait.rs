//! `vmshm wait`: until a VM, or its agent, is there.

use std::time::{Duration, Instant};

use vmshm_host::machines::{self, SelectError};
use vmshm_host::{AttachOptions, attach::see, reaching};
use vmshm_ram::FindError;

use crate::arguments::{Global, Wait};
use crate::failure::Failure;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs it.
pub(crate) fn run(wait: &Wait, global: &Global) -> Result<(), Failure> {
    let start = Instant::now();
    let mut told = global.quiet;
    loop {
        let failure = match look(wait, global)? {
            None => return Ok(()),
            Some(failure) => failure,
        };
        if global.timeout.is_some_and(|limit| start.elapsed() >= limit) {
            return Err(failure);
        }
        if !told && start.elapsed() > Duration::from_secs(1) {
            told = true;
            let what = if wait.agent { "the agent in " } else { "" };
            eprintln!("waiting for {what}{}", wait.vm);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Looks once: nothing when it is there, else why not. A name that fits several VMs
/// will not become clearer by waiting.
fn look(wait: &Wait, global: &Global) -> Result<Option<Failure>, Failure> {
    let vmm = match machines::find(&wait.vm) {
        Ok(vmm) => vmm,
        Err(error @ (SelectError::Unknown(_) | SelectError::Find(FindError::NoProcess { .. }))) => {
            return Ok(Some(error.into()));
        }
        Err(error) => return Err(error.into()),
    };
    if !wait.agent {
        return Ok(None);
    }
    let options = AttachOptions {
        timeout: Duration::from_secs(1),
        ..global.attach()?
    };
    let Err(error) = see(&vmm, &options) else {
        return Ok(None);
    };
    if !reaching::is_lack_of_rights(&error) {
        return Ok(Some(error.into()));
    }
    // Time brings no rights; but a broker sees for whom it serves.
    let mut views = machines::look_by(vec![vmm.clone()], options.place);
    let seen = views.first_mut().map_or(Ok(false), |view| {
        let told = machines::see_by_broker(view, options.broker.as_deref());
        told.map(|()| view.agent.is_some())
    });
    match seen {
        Ok(true) => Ok(None),
        Ok(false) => Ok(Some(Failure::new("the broker sees no agent there", None))),
        Err(broker) if broker.is_absence() => Err(reaching::without_broker(&vmm, error).into()),
        Err(broker) => Ok(Some(Failure::from_error(&broker, broker.hint()))),
    }
}
