//! Shared memory inside one process: threads as the two sides, for tests and
//! in-process links. It refuses to grow.

extern crate alloc;
use alloc::boxed::Box;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

use crate::word::{Span, shared_memory_over_span};

/// Zeroed words on this process's heap, seen as shared memory.
#[derive(Debug)]
pub struct LocalMemory {
    span: Span,
    _words: Box<[AtomicU64]>,
}

impl LocalMemory {
    /// Makes a memory of `size` bytes, rounded up to whole words.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let words: Box<[AtomicU64]> = (0..size.div_ceil(8)).map(|_| AtomicU64::new(0)).collect();
        let base = NonNull::from(&*words).cast();
        // SAFETY: the boxed words live as long as this value, do not move, are aligned
        // to eight bytes, and are reached through atomics only.
        let span = unsafe { Span::new(base, words.len() * 8, true) };
        Self {
            span,
            _words: words,
        }
    }
}

// SAFETY: all access goes through atomics or copies that allow concurrent writers.
unsafe impl Send for LocalMemory {}
// SAFETY: as above.
unsafe impl Sync for LocalMemory {}

shared_memory_over_span!(LocalMemory);
