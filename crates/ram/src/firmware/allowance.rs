//! What may be spent on judging one hypothesis: the guest chose where the tables lead, so
//! neither their number nor their length bounds the work. When it is spent, nothing more
//! is followed, and only what was shown until then counts.

use std::time::Instant;

/// Time and bytes that are left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    bytes: usize,
    deadline: Instant,
    over: bool,
}

impl Allowance {
    pub(super) const fn new(bytes: usize, deadline: Instant) -> Self {
        Self {
            bytes,
            deadline,
            over: false,
        }
    }

    /// The same bytes, with time for the next step.
    pub(super) const fn extend(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.over = false;
    }

    /// Whether so many bytes may still be read; if not, no others may either.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        match self.bytes.checked_sub(bytes) {
            Some(left) if !self.over && Instant::now() < self.deadline => self.bytes = left,
            _ => self.over = true,
        }
        !self.over
    }

    /// Whether something was refused.
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }
}
