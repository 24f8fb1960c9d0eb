//! Recognises any other program by the KVM virtual machine that it holds: crosvm, kvmtool,
//! a VMM of one's own. Its RAM is chosen by general signs, and where RAM appears to the
//! guest is not known. A program that only has the device open is refused.

use super::candidate::{Candidate, Draft};
use super::{Evidence, Machine, VmmKind, signs};

/// Judges one process.
pub(super) fn recognise(candidate: &Candidate) -> Option<Draft> {
    if !candidate.holds_kvm() {
        return None;
    }
    let blocks = candidate
        .mappings()
        .map(signs::ram_like)
        .unwrap_or_default();
    Some(Draft {
        kind: VmmKind::Kvm,
        name: None,
        ram_bytes: blocks.iter().map(|block| block.length).sum(),
        blocks,
        evidence: vec![Evidence::KvmDescriptor],
        machine: Machine::Counted,
        told_shared: false,
        barred: None,
    })
}
