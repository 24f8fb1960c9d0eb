//! One module for each command.

pub(crate) mod bench;
pub(crate) mod broker;
pub(crate) mod display;
pub(crate) mod display_arguments;
mod display_monitor;
mod display_words;
pub(crate) mod doctor;
pub(crate) mod dump;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod list;
mod list_watch;
pub(crate) mod listen;
pub(crate) mod memory;
pub(crate) mod pipe;
pub(crate) mod region;
pub(crate) mod search;
pub(crate) mod translate;
pub(crate) mod wait;

/// A session with a VM's agent: by attaching, with a reaper beside, or by a broker, which
/// needs none.
pub(crate) fn attach(
    vm: &str,
    global: &crate::arguments::Global,
) -> Result<(vmshm_host::Session, Option<crate::reaper::Reaper>), crate::failure::Failure> {
    let (reached, reaper) = reach(vm, global, &global.attach()?)?;
    Ok((reached.session, reaper))
}

/// The same with the VM, where it can be seen.
pub(crate) fn reach(
    vm: &str,
    global: &crate::arguments::Global,
    options: &vmshm_host::AttachOptions,
) -> Result<(vmshm_host::Reached, Option<crate::reaper::Reaper>), vmshm_host::ReachError> {
    if options.broker.is_none()
        && let Ok(vmm) = vmshm_host::machines::find(vm)
        && vmm.access() != vmshm_ram::Access::None
    {
        // Before the session, so that there is no moment without one.
        let reaper = crate::reaper::Reaper::start(&vmm, global);
        let reached = vmshm_host::reaching::reach_found(vmm, options)?;
        return Ok((reached, Some(reaper)));
    }
    Ok((vmshm_host::reach(vm, options)?, None))
}
