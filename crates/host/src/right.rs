//! Whether a session's regions may still be written. It waits for nothing.

use std::sync::Arc;
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};

use vmshm_endpoint::Right;
use vmshm_link::LinkError;
use vmshm_link::slot::Tenure;
use vmshm_ram::View;

/// The right to write what a session holds: whether the session's slot is still this
/// process's. Two loads, or two system calls over copying memory. Where a broker keeps the
/// session it is one load of what the broker said last: what is written after the end goes
/// to a file that is no guest's memory any more.
#[derive(Debug, Clone)]
pub struct WriteRight(Basis);

#[derive(Debug, Clone)]
enum Basis {
    Slot(Tenure<Arc<View>>),
    #[cfg(target_os = "linux")]
    Word(Arc<AtomicBool>),
}

impl WriteRight {
    pub(crate) const fn of_slot(tenure: Tenure<Arc<View>>) -> Self {
        Self(Basis::Slot(tenure))
    }

    /// As long as the word says no end.
    #[cfg(target_os = "linux")]
    pub(crate) const fn of_word(is_over: Arc<AtomicBool>) -> Self {
        Self(Basis::Word(is_over))
    }

    /// Looks.
    ///
    /// # Errors
    /// [`LinkError`] when nothing may be written.
    pub(crate) fn check(&self) -> Result<(), LinkError> {
        match &self.0 {
            Basis::Slot(tenure) => tenure.verify(),
            #[cfg(target_os = "linux")]
            Basis::Word(is_over) if is_over.load(Ordering::Relaxed) => Err(LinkError::Revoked),
            #[cfg(target_os = "linux")]
            Basis::Word(_) => Ok(()),
        }
    }
}

impl Right for WriteRight {
    #[inline]
    fn verify(&self) -> Result<(), LinkError> {
        self.check()
    }
}
