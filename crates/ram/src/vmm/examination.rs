//! What beyond mapping and copying decides how a VM can be reached, for whoever asks why:
//! namespaces, filters of system calls, encryption, swap. It only looks, at
//! what the system shows; what may not be seen is left out and never guessed.

use std::fmt;

use super::{Vmm, VmmKind};
use crate::os::{Descriptor, Process};

/// A kind of namespace in which a VM's process and this one differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// User numbers and rights.
    User,
    /// Mounted file systems.
    Mount,
    /// Process numbers.
    Pid,
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Mount => "mount",
            Self::Pid => "pid",
        })
    }
}

/// How a guest's memory is kept from its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Confidential {
    /// AMD SEV, SEV-ES or SEV-SNP.
    Sev,
    /// Intel TDX.
    Tdx,
    /// Protected virtualization of another processor.
    Protected,
    /// The guest's private memory lies in the kernel's guest_memfd, which nobody can map.
    GuestMemfd,
}

impl fmt::Display for Confidential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sev => "AMD SEV",
            Self::Tdx => "Intel TDX",
            Self::Protected => "protected virtualization",
            Self::GuestMemfd => "guest_memfd",
        })
    }
}

/// What was found about one VM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Examination {
    /// The namespaces that are not this process's.
    pub namespaces: Vec<Namespace>,
    /// Whether, and how, the guest's memory is kept from the host.
    pub confidential: Option<Confidential>,
    /// Bytes of the VMM that are swapped out.
    pub swapped: u64,
    /// Whether the process filters its system calls.
    pub filters_calls: bool,
}

impl Vmm {
    /// Looks closer than the search did.
    #[must_use]
    pub fn examine(&self) -> Examination {
        let process = self.process();
        let status = process.status().unwrap_or_default();
        let descriptors = process.descriptors().unwrap_or_default();
        let confidential = confidential(self.kind, &self.words, &descriptors);
        Examination {
            namespaces: self.other_namespaces(&process),
            confidential,
            swapped: status.swapped.unwrap_or(0),
            filters_calls: status.seccomp == 2,
        }
    }

    fn other_namespaces(&self, process: &Process) -> Vec<Namespace> {
        let own = self.root.process(std::process::id());
        let kinds = [
            (Namespace::User, "user"),
            (Namespace::Mount, "mnt"),
            (Namespace::Pid, "pid"),
        ];
        kinds
            .into_iter()
            .filter(|(_, name)| {
                let both = (process.namespace(name), own.namespace(name));
                matches!(both, (Some(its), Some(ours)) if its != ours)
            })
            .map(|(kind, _)| kind)
            .collect()
    }
}

/// Whether the guest's memory is kept from the host, by the VMM's options and open files.
fn confidential(
    kind: VmmKind,
    words: &[String],
    descriptors: &[Descriptor],
) -> Option<Confidential> {
    let by_object = |value: &str| {
        let has = |name: &str| value.starts_with(name) || value.contains(&format!("\"{name}\""));
        if has("sev-guest") || has("sev-snp-guest") {
            Some(Confidential::Sev)
        } else if has("tdx-guest") {
            Some(Confidential::Tdx)
        } else if has("s390-pv-guest") || has("pef-guest") {
            Some(Confidential::Protected)
        } else {
            None
        }
    };
    let is_option = |word: &str, name: &str| word.trim_start_matches('-') == name;
    let mut pairs = words.windows(2);
    let told = match kind {
        VmmKind::Qemu => pairs.find_map(|pair| {
            let (option, value) = (&pair[0], &pair[1]);
            if is_option(option, "object") {
                by_object(value)
            } else if is_option(option, "machine") || is_option(option, "M") {
                let confidential = value.contains("confidential-guest-support=");
                (confidential || value.contains("memory-encryption="))
                    .then_some(Confidential::Protected)
            } else {
                None
            }
        }),
        VmmKind::CloudHypervisor => pairs.find_map(|pair| {
            let platform = pair[0] == "--platform";
            if platform && pair[1].contains("tdx=on") {
                Some(Confidential::Tdx)
            } else if platform && pair[1].contains("sev_snp=on") {
                Some(Confidential::Sev)
            } else {
                None
            }
        }),
        _ => None,
    };
    // The machine's property names an object, which says more.
    let object = words
        .windows(2)
        .filter(|pair| kind == VmmKind::Qemu && is_option(&pair[0], "object"))
        .find_map(|pair| by_object(&pair[1]));
    let held = || {
        let gmem = |open: &Descriptor| open.target.contains("kvm-gmem");
        descriptors
            .iter()
            .any(gmem)
            .then_some(Confidential::GuestMemfd)
    };
    object.or(told).or_else(held)
}

#[cfg(all(test, target_os = "linux"))]
#[path = "examination_tests.rs"]
mod tests;
