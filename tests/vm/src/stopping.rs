//! Ends the threads of a test with it, also when it fails.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets the word that a thread of the test looks at when it is dropped: a scope waits for its threads, and a test that
/// failed would wait for ever.
#[derive(Debug)]
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
