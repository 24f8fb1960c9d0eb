//! Making the pages of a mapping present by one call instead of one fault each: under
//! user-mode Linux a fault costs some 100 µs.

#![allow(
    unsafe_code,
    reason = "locking pages takes their address; nothing is accessed through it"
)]

use core::ptr;

use vmshm_shm::{Mapping, SharedMemory};

/// Makes `length` bytes of `mapping` from `offset` on present, as far as the system
/// lets us: what fails here is only slower later.
pub(crate) fn prefault(mapping: &Mapping, offset: u64, length: u64) {
    let end = offset.saturating_add(length).min(mapping.size());
    let (Ok(address), Ok(length)) = (
        usize::try_from(mapping.address().saturating_add(offset)),
        usize::try_from(end.saturating_sub(offset)),
    ) else {
        return;
    };
    if length > 0 {
        // SAFETY: the range was just clipped to the mapping, which outlives the call;
        // locking changes no byte.
        let _ = unsafe { rustix::mm::mlock(ptr::without_provenance_mut(address), length) };
    }
}
