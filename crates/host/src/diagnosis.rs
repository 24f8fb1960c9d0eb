//! What can be done with a VM, what cannot, the exact cause, and what would help. It only
//! looks, and promises nothing: what is found stands for this moment and this user.

use vmshm_ram::{Access, Confidential, Examination, Namespace, Obstacle, VmmKind};

use crate::machines::{AgentState, MachineView};
use crate::os::advice;

/// One thing that stands in the way, or that is good to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// What it is.
    pub what: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl Cause {
    pub(crate) fn new(what: impl Into<String>, hint: Option<&str>) -> Self {
        Self {
            what: what.into(),
            hint: hint.map(str::to_owned),
        }
    }
}

impl From<&Obstacle> for Cause {
    fn from(obstacle: &Obstacle) -> Self {
        Self {
            what: obstacle.to_string(),
            hint: obstacle.hint(),
        }
    }
}

/// All that was found about one VM.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// The VM.
    pub machine: MachineView,
    /// Why it cannot be mapped, if it cannot.
    pub map: Option<Cause>,
    /// Why it cannot be copied, if it cannot.
    pub copy: Option<Cause>,
    /// Why a region of it could not be grafted; empty if it could.
    pub graft: Vec<Cause>,
    /// What else matters.
    pub notes: Vec<Cause>,
    /// How its agent is.
    pub agent: Cause,
}

/// What is good to know of this host and of this program's rights, whichever VM is meant.
#[must_use]
pub fn about_this_host() -> Vec<Cause> {
    crate::os::about_this_host()
}

/// Looks closer at VMs that were looked at.
#[must_use]
pub fn diagnose(machine: MachineView) -> Diagnosis {
    let examination = machine.vmm.examine();
    let reach = &machine.vmm.reach;
    let graft = crate::os::graft_obstacles(&machine.vmm, &examination);
    Diagnosis {
        map: reach
            .map
            .as_ref()
            .err()
            .map(|obstacle| why_not_mapped(obstacle, machine.vmm.kind, graft.is_empty())),
        copy: reach.copy.as_ref().err().map(Cause::from),
        graft,
        notes: notes(&examination),
        agent: agent(&machine),
        machine,
    }
}

/// As the obstacle says, with the remedies that this kind of VM has.
fn why_not_mapped(obstacle: &Obstacle, kind: VmmKind, may_be_grafted: bool) -> Cause {
    if !matches!(obstacle, Obstacle::Private { .. }) {
        return obstacle.into();
    }
    let mut hint = match kind {
        VmmKind::CloudHypervisor => {
            "use the copy method, or start the VM with --memory size=SIZE,shared=on".to_owned()
        }
        VmmKind::Qemu => obstacle.hint().unwrap_or_default(),
        _ => "use the copy method".to_owned(),
    };
    if may_be_grafted {
        hint = format!("use --method graft, which maps single regions; or {hint}");
    }
    Cause::new(obstacle.to_string(), Some(&hint))
}

fn notes(examination: &Examination) -> Vec<Cause> {
    let mut notes = Vec::new();
    if let Some(kind) = examination.confidential {
        let what = match kind {
            Confidential::GuestMemfd => {
                "the guest's private memory is in guest_memfd, which nobody outside can read"
                    .to_owned()
            }
            kind => format!("the guest's memory is encrypted ({kind}): what is read means nothing"),
        };
        let hint = "confidential VMs are made to keep their host out; share by other means";
        notes.push(Cause::new(what, Some(hint)));
    }
    for namespace in &examination.namespaces {
        let (what, hint) = match namespace {
            Namespace::User => (
                "it runs in another user namespace (a container?)",
                Some("where something is refused, run as root outside of the container"),
            ),
            Namespace::Mount => (
                "it runs in another mount namespace: the paths that it shows are its own",
                None,
            ),
            _ => (
                "it runs in another pid namespace: inside, it has another number",
                None,
            ),
        };
        notes.push(Cause::new(what, hint));
    }
    if examination.swapped > 0 {
        let mebibytes = examination.swapped.div_ceil(1 << 20);
        notes.push(Cause::new(
            format!("{mebibytes} MiB of the VM are swapped out: reading them is slow and brings them back"),
            None,
        ));
    }
    notes
}

fn agent(machine: &MachineView) -> Cause {
    let hidden = machine.vmm.access() == Access::None;
    match machine.agent.as_ref().map(|agent| agent.state) {
        Some(AgentState::Seen) => Cause::new("running", None),
        Some(AgentState::Silent) => Cause::new(
            "silent: its heartbeat stands still",
            Some(advice::IS_IT_PAUSED),
        ),
        Some(AgentState::Dead) => Cause::new(
            "dead: its keeper still holds the memory",
            Some("start `vmshm-agent run` in the guest again, as root"),
        ),
        Some(AgentState::Nested) => Cause::new(
            "several: a VM runs inside this VM",
            Some("run vmshm inside the outer guest to reach the inner one"),
        ),
        Some(AgentState::Incompatible) => Cause::new(
            "of another protocol version",
            Some("use the same release of vmshm on both sides"),
        ),
        None if hidden => Cause::new("not known: the guest's memory cannot be read", None),
        None => Cause::new(
            "none",
            Some("start `vmshm-agent run` in the guest, as root"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use vmshm_ram::Backing;

    use super::*;

    #[test]
    fn a_graft_is_advised_where_nothing_stands_in_its_way() {
        let private = Obstacle::Private {
            backing: Backing::PrivateAnonymous,
        };
        for kind in [VmmKind::Qemu, VmmKind::CloudHypervisor, VmmKind::Bochs] {
            let hint = |may| {
                why_not_mapped(&private, kind, may)
                    .hint
                    .expect("it can be copied")
            };
            assert!(hint(true).starts_with("use --method graft"));
            assert!(hint(true).ends_with(&hint(false)));
            assert!(hint(false).starts_with("use the copy method"));
        }
        let gone = why_not_mapped(&Obstacle::Gone, VmmKind::Qemu, true);
        assert_eq!(gone.hint, None);
    }
}
