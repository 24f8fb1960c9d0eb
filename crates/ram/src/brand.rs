//! Brands: a pattern that is followed by the guest-physical address at which it stands.
//! Somebody in the guest wrote them, and each tells where one address lies. What is found
//! may be a stale copy: whoever concludes from it checks that nothing contradicts it.

use std::ops::ControlFlow;

use vmshm_link::GuestPhysical;

use crate::guest_ram::GuestRam;
use crate::layout_proof::Point;
use crate::ram_error::RamError;
use crate::scan::Step;

impl GuestRam {
    /// Every place where `pattern` is found, with the address that the eight bytes after
    /// it state (little-endian).
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub fn brands(&self, pattern: &[u8], step: Step) -> Result<Vec<Point>, RamError> {
        let mut points = Vec::new();
        let length = pattern.len() as u64;
        self.scan(pattern, step, &mut |at| {
            let mut stated = [0_u8; 8];
            if at
                .checked_add(length)
                .is_some_and(|after| self.read_at(after, &mut stated).is_ok())
            {
                points.push((GuestPhysical(u64::from_le_bytes(stated)), at));
            }
            ControlFlow::Continue(())
        })?;
        Ok(points)
    }
}
