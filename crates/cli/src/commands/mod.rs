//! One module for each command.

pub(crate) mod bench;
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

/// Whether a VM's agent can be talked to in a session: attaches with a reaper beside.
pub(crate) fn attach(
    vm: &str,
    global: &crate::arguments::Global,
) -> Result<(vmshm_host::Session, crate::reaper::Reaper), crate::failure::Failure> {
    let vmm = vmshm_host::machines::find(vm)?;
    let options = global.attach()?;
    let reaper = crate::reaper::Reaper::start(&vmm, global);
    let session = vmshm_host::attach(&vmm, &options)?;
    Ok((session, reaper))
}
