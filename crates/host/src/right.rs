//! Whether a session's regions may still be written. It waits for nothing.

use std::sync::Arc;

use vmshm_endpoint::Right;
use vmshm_link::LinkError;
use vmshm_link::slot::Tenure;
use vmshm_ram::View;

use crate::os::BrokeredRight;

/// The right to write what a session holds: whether the session's slot is still this
/// process's. Two loads, or two system calls over copying memory. Where a broker keeps the
/// session it is one load of what the broker said last: what is written after the end goes
/// to a file that is no guest's memory any more.
#[derive(Debug, Clone)]
pub struct WriteRight(Basis);

#[derive(Debug, Clone)]
enum Basis {
    Slot(Tenure<Arc<View>>),
    Brokered(BrokeredRight),
}

impl WriteRight {
    pub(crate) const fn of_slot(tenure: Tenure<Arc<View>>) -> Self {
        Self(Basis::Slot(tenure))
    }

    /// Looks.
    ///
    /// # Errors
    /// [`LinkError`] when nothing may be written.
    pub(crate) fn check(&self) -> Result<(), LinkError> {
        match &self.0 {
            Basis::Slot(tenure) => tenure.verify(),
            Basis::Brokered(right) => right.check(),
        }
    }
}

impl From<BrokeredRight> for WriteRight {
    fn from(right: BrokeredRight) -> Self {
        Self(Basis::Brokered(right))
    }
}

impl Right for WriteRight {
    #[inline]
    fn verify(&self) -> Result<(), LinkError> {
        self.check()
    }
}
