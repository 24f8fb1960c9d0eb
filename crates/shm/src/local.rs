//! Shared memory inside one process: threads as the two sides, for tests and
//! in-process links. It refuses to grow.

extern crate alloc;
use alloc::boxed::Box;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

use crate::word::{Span, shared_memory_over_span};

/// Where the memory starts: at a cache line, as every mapping does.
const LINE: usize = 64;

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
        let length = size.div_ceil(8);
        let words: Box<[AtomicU64]> = (0..length + LINE / 8).map(|_| AtomicU64::new(0)).collect();
        let start: NonNull<u8> = NonNull::from(&*words).cast();
        let skipped = start.align_offset(LINE).min(LINE);
        // SAFETY: there are LINE bytes more than `length` words, so `skipped` bytes, at most
        // as many, stay inside the allocation and leave `length` words behind them.
        let base = unsafe { start.add(skipped) };
        // SAFETY: the boxed words live as long as this value, do not move, are reached
        // through atomics only, and `length` of them lie behind `base`, which is aligned to
        // eight bytes: the words are, and so is whatever is skipped up to a line.
        let span = unsafe { Span::new(base, length * 8, true) };
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
