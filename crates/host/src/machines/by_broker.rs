//! VMs that this process may not look into, as a broker of this host sees them: the one that is
//! named, else the usual one. What may be looked into is seen by oneself.

use std::path::Path;
use std::time::Duration;

use vmshm_link::directory::RegionEntry;
use vmshm_ram::{Access, FindError};

use super::{AgentState, AgentView, MachineView, list_by};
use crate::brokered::wire::Machine;
use crate::brokered::{self, BrokerError};
use crate::os::Brokered;
use crate::sighting::Where;

/// How long a broker may take to look at all VMs.
const PATIENCE: Duration = Duration::from_secs(10);

/// All that a broker tells: VMs, each with the regions that it would give.
#[derive(Debug)]
pub(crate) struct Told(Vec<(Machine, Vec<RegionEntry>)>);

impl Told {
    /// Asks a broker.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub(crate) fn ask(broker: Option<&Path>) -> Result<Self, BrokerError> {
        let path = broker.unwrap_or(Path::new(brokered::SOCKET));
        brokered::list(path, PATIENCE).map(Self)
    }

    /// Nothing: what there is where no broker is.
    pub(crate) const fn nothing() -> Self {
        Self(Vec::new())
    }

    /// Makes a view of a VM into which this process may not look say what was told of it, and
    /// no more than that. Any other view stays as it is.
    pub(crate) fn complete(&self, view: &mut MachineView) {
        if !is_dark(view) {
            return;
        }
        let told = self.0.iter().find(|(machine, _)| {
            machine.pid == view.vmm.pid && machine.start_time == view.vmm.start_time
        });
        view.brokered = told.is_some();
        view.regions = told.map_or_else(Vec::new, |(_, regions)| regions.clone());
        view.guest_os = told.and_then(|(machine, _)| machine.guest_os.clone());
        view.agent = told.and_then(|(machine, _)| agent(machine));
    }
}

fn agent(machine: &Machine) -> Option<AgentView> {
    machine.agent.clone().map(|version| AgentView {
        version: Some(version),
        state: AgentState::Seen,
        boot_id: Some(machine.boot_id).filter(|boot_id| *boot_id != [0; 16]),
    })
}

/// Whether this process may not look into the VM.
pub(crate) fn is_dark(view: &MachineView) -> bool {
    view.vmm.access() == Access::None
}

/// Whether there may be a broker that could be asked.
pub(crate) fn may_be_there(broker: Option<&Path>) -> bool {
    broker.is_some() || Path::new(brokered::SOCKET).exists()
}

/// Makes views say what a broker tells, where only it can; where none tells anything, they stay.
pub(crate) fn complete_all<'a>(
    views: impl Iterator<Item = &'a mut MachineView>,
    broker: Option<&Path>,
) {
    let dark: Vec<_> = views.filter(|view| is_dark(view)).collect();
    if dark.is_empty() || !may_be_there(broker) {
        return;
    }
    match Told::ask(broker) {
        Ok(told) => dark.into_iter().for_each(|view| told.complete(view)),
        Err(error) => tracing::debug!(%error, "the broker tells nothing"),
    }
}

/// As [`list_by`], where VMs that this process may not look into are seen by a broker's eyes:
/// by the one that is named, else by the usual one if it runs.
///
/// # Errors
/// [`FindError`] when processes cannot be listed at all.
pub fn list_with_broker(
    place: Where,
    broker: Option<&Path>,
) -> Result<Vec<MachineView>, FindError> {
    let mut views = list_by(place)?;
    complete_all(views.iter_mut(), broker);
    Ok(views)
}

/// Asks a broker about a VM that this process may not look into, and makes the view say what it
/// tells. One that tells nothing of that VM is asked for a session, which it refuses with the
/// cause, or gives where its list was older than the agent.
///
/// # Errors
/// [`BrokerError`]; the view is as it was.
pub fn see_by_broker(view: &mut MachineView, broker: Option<&Path>) -> Result<(), BrokerError> {
    Told::ask(broker)?.complete(view);
    if is_dark(view) && !view.brokered {
        let path = broker.unwrap_or(Path::new(brokered::SOCKET));
        Brokered::open(path, &view.vmm.pid.to_string(), PATIENCE)?;
        view.brokered = true;
        view.agent = Some(AgentView {
            version: None,
            state: AgentState::Seen,
            boot_id: None,
        });
    }
    Ok(())
}
