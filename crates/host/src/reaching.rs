//! How a program comes to a session with a VM: by attaching itself, or by a broker where it
//! may not. A broker that is named is used; the usual one only where attaching is forbidden.

use std::path::Path;

use vmshm_ram::{FindError, Method, VmmKind};
use vmshm_ram::{Obstacle, OpenError, Vmm};

use crate::attach::{AttachError, AttachOptions, attach};
use crate::brokered::{BrokerError, SOCKET, named_by_environment};
use crate::machines::{self, SelectError};
use crate::os::Brokered;
use crate::session::Session;

/// A session, and the VM where it could be seen.
#[derive(Debug)]
pub struct Reached {
    /// The session.
    pub session: Session,
    /// The VM, as it was found; nothing where only the broker sees it.
    pub vmm: Option<Vmm>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// No VM, or several, for a name.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The VM cannot be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The VM is another user's, and no broker runs.
    #[error("{vm} belongs to {owner}; you are uid {own}")]
    NotYours {
        /// The VM.
        vm: String,
        /// Whose it is.
        owner: String,
        /// Who asks.
        own: u32,
    },
    /// A broker has other memory than was asked for.
    #[error("{vm}: a broker gives grafted regions only, and the method is {method}")]
    OnlyGrafted {
        /// What was asked for.
        vm: String,
        /// How it was to be reached.
        method: Method,
    },
    /// A broker gave none.
    #[error("{vm}: {source}")]
    Broker {
        /// What was asked for.
        vm: String,
        /// Why.
        #[source]
        source: BrokerError,
    },
}

impl ReachError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Select(error) => error.hint(),
            Self::Attach(error) => error.hint(),
            Self::NotYours { .. } => Some("sudo systemctl start vmshm-broker".to_owned()),
            Self::OnlyGrafted { .. } => Some("leave out --method".to_owned()),
            Self::Broker { source, .. } => source.hint(),
        }
    }
}

/// Comes to a session with the VM that `selector` names: a process number, a name, or
/// `vmm:name`.
///
/// # Errors
/// [`ReachError`].
pub fn reach(selector: &str, options: &AttachOptions) -> Result<Reached, ReachError> {
    let named = options.broker.clone().or_else(named_by_environment);
    let found = machines::find(selector);
    if let Some(path) = named {
        let vmm = found.ok();
        return by_broker(&path, selector, vmm, options);
    }
    let usual = Path::new(SOCKET);
    match found {
        Ok(vmm) => reach_found(vmm, options),
        // Processes of others may be hidden; the broker sees them.
        Err(error) if may_be_hidden(&error) && usual.exists() => {
            by_broker(usual, selector, None, options).map_err(|by_broker| match by_broker {
                ReachError::Broker { source, .. } if source.is_absence() => error.into(),
                other => other,
            })
        }
        Err(error) => Err(error.into()),
    }
}

/// Comes to a session with a VM that was found.
///
/// # Errors
/// [`ReachError`].
pub fn reach_found(vmm: Vmm, options: &AttachOptions) -> Result<Reached, ReachError> {
    let pid = vmm.pid.to_string();
    if let Some(path) = options.broker.clone().or_else(named_by_environment) {
        return by_broker(&path, &pid, Some(vmm), options);
    }
    let error = match attach(&vmm, options) {
        Ok(session) => {
            return Ok(Reached {
                session,
                vmm: Some(vmm),
            });
        }
        Err(error) => error,
    };
    if lack_of_rights(&error).is_none() || !is_grafted(options.method) {
        return Err(error.into());
    }
    let alone = without_broker(&vmm, error);
    match by_broker(Path::new(SOCKET), &pid, Some(vmm), options) {
        Err(ReachError::Broker { source, .. }) if source.is_absence() => Err(alone),
        other => other,
    }
}

/// Why there is nothing to attach, where no broker runs.
#[must_use]
pub fn without_broker(vmm: &Vmm, error: AttachError) -> ReachError {
    let owners = lack_of_rights(&error).and_then(Obstacle::owner);
    match owners {
        Some((owner, own)) => ReachError::NotYours {
            vm: format!("{} {}", product(vmm.kind), vmm.pid),
            owner,
            own,
        },
        None => ReachError::Attach(error),
    }
}

fn by_broker(
    path: &Path,
    selector: &str,
    vmm: Option<Vmm>,
    options: &AttachOptions,
) -> Result<Reached, ReachError> {
    let name = || {
        vmm.as_ref()
            .map_or_else(|| selector.to_owned(), |vmm| vmm.name.clone())
    };
    if !is_grafted(options.method) {
        return Err(ReachError::OnlyGrafted {
            vm: name(),
            method: options.method,
        });
    }
    // The same VM as the one that was found, whatever else is called so.
    let exact = vmm.as_ref().map(|vmm| vmm.pid.to_string());
    let named = exact.as_deref().unwrap_or(selector);
    let failed = |source| ReachError::Broker { vm: name(), source };
    let brokered = Brokered::open(path, named, options.timeout).map_err(failed)?;
    Ok(Reached {
        session: Session::brokered_one(brokered),
        vmm,
    })
}

/// Whether what a broker gives fits: a graft.
const fn is_grafted(method: Method) -> bool {
    matches!(method, Method::Auto | Method::Graft)
}

/// What lets this process not attach, where another one with more rights could.
#[must_use]
pub fn lack_of_rights(error: &AttachError) -> Option<&Obstacle> {
    let AttachError::Open { source, .. } = error else {
        return None;
    };
    let obstacle = match source {
        OpenError::Unreachable(obstacle) | OpenError::Method { obstacle, .. } => obstacle,
        _ => return None,
    };
    obstacle.is_lack_of_rights().then_some(obstacle)
}

/// Whether this process only has too few rights.
#[must_use]
pub fn is_lack_of_rights(error: &AttachError) -> bool {
    lack_of_rights(error).is_some()
}

const fn may_be_hidden(error: &SelectError) -> bool {
    matches!(
        error,
        SelectError::Unknown(_)
            | SelectError::Find(FindError::NoProcess { .. } | FindError::Refused { .. })
    )
}

/// A VMM as people call it.
const fn product(kind: VmmKind) -> &'static str {
    match kind {
        VmmKind::Uml => "user-mode Linux",
        VmmKind::Qemu => "QEMU",
        VmmKind::Bochs => "Bochs",
        VmmKind::Vmware => "VMware",
        VmmKind::VirtualBox => "VirtualBox",
        VmmKind::Firecracker => "Firecracker",
        VmmKind::CloudHypervisor => "Cloud Hypervisor",
        _ => "process",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_no_broker_has_is_refused_before_one_is_asked() {
        for method in [Method::Copy, Method::Map] {
            let options = AttachOptions {
                method,
                broker: Some("/does/not/exist.sock".into()),
                ..AttachOptions::default()
            };
            let error = reach("nobody is called so", &options).expect_err("no such way");
            assert!(matches!(error, ReachError::OnlyGrafted { .. }), "{error:?}");
            assert!(error.hint().is_some_and(|hint| hint.contains("--method")));
        }
    }
}
