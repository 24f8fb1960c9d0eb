//! One reading of the page that an agent's beacon stands in, for whoever watches it: the
//! whole page at once, of a VM that is there. It judges nothing that the page says.

use vmshm_link::LinkError;
use vmshm_link::beacon::PAGE_BYTES;
use vmshm_ram::{Liveness, RunState, View};
use vmshm_shm::{Fault, SharedMemory};

use crate::ending::SessionEnd;

/// Whether the VMM `pid` runs, and what `page` has.
///
/// # Errors
/// [`SessionEnd::VmGone`] when the VMM is gone; a fault of the page otherwise.
pub(crate) fn read_beacon_page(
    liveness: &Liveness,
    pid: u32,
    page: &View,
) -> Result<(RunState, [u8; PAGE_BYTES]), SessionEnd> {
    let run_state = liveness.run_state();
    if run_state == RunState::Gone {
        return Err(SessionEnd::VmGone { pid });
    }
    let mut bytes = [0; PAGE_BYTES];
    match page.read(0, &mut bytes) {
        Ok(()) => Ok((run_state, bytes)),
        Err(Fault::Unreachable { .. }) => Err(SessionEnd::VmGone { pid }),
        Err(fault) => Err(LinkError::from(fault).into()),
    }
}
