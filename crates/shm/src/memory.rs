//! The seam between everything that talks through shared memory and the ways to
//! reach it.

extern crate alloc;
use alloc::sync::Arc;
use core::sync::atomic::{Ordering, fence};

use crate::Fault;

/// Memory that another party reads and writes at the same time.
///
/// Offsets are in bytes from the start of the memory. Word operations are atomic
/// and need offsets that are multiples of eight. Copies promise neither atomicity
/// nor order within themselves.
///
/// Order: a value stored by [`store_release`](Self::store_release) carries with it
/// everything the storing side wrote before, for whoever reads the value through
/// [`load_acquire`](Self::load_acquire). Nothing stronger is offered: no fence
/// between a store and a later load crosses every VM border.
pub trait SharedMemory {
    /// Size of the memory in bytes.
    fn size(&self) -> u64;

    /// Loads the word at `offset`; later accesses are not ordered by it.
    ///
    /// # Errors
    /// [`Fault`] when the word is outside, misaligned, or cannot be reached.
    fn load_relaxed(&self, offset: u64) -> Result<u64, Fault>;

    /// Loads the word at `offset`; later accesses happen after it.
    ///
    /// # Errors
    /// As [`load_relaxed`](Self::load_relaxed).
    fn load_acquire(&self, offset: u64) -> Result<u64, Fault>;

    /// Stores the word at `offset`; earlier accesses are not ordered by it.
    ///
    /// # Errors
    /// As [`load_relaxed`](Self::load_relaxed).
    fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault>;

    /// Stores the word at `offset`; earlier accesses happen before it.
    ///
    /// # Errors
    /// As [`load_relaxed`](Self::load_relaxed).
    fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault>;

    /// Copies shared memory from `offset` into `into`.
    ///
    /// # Errors
    /// [`Fault`] when the range is outside or cannot be reached.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault>;

    /// Copies `from` into shared memory at `offset`.
    ///
    /// # Errors
    /// [`Fault`] when the range is outside or cannot be reached.
    fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault>;

    /// Keeps what was loaded before, by copies as well, before every load and store after
    /// it. A load is never kept behind an earlier store.
    #[inline]
    fn order_loads(&self) {
        fence(Ordering::Acquire);
    }

    /// Keeps what was loaded and stored before, by copies as well, before every store
    /// after it. A load is never kept behind an earlier store.
    #[inline]
    fn order_stores(&self) {
        fence(Ordering::Release);
    }

    /// Asks the processor to fetch `length` bytes at `offset`, which will be read soon. A
    /// hint: nothing happens where there are none or it means nothing.
    fn prefetch(&self, offset: u64, length: u64) {
        let _ = (offset, length);
    }

    /// Asks the processor for the line of the word at `offset`, which will be written
    /// soon and which another party may hold. A hint, as [`prefetch`](Self::prefetch).
    fn prefetch_to_write(&self, offset: u64) {
        let _ = offset;
    }

    /// Whether every operation is a system call, so that few are better than many.
    fn is_costly(&self) -> bool {
        false
    }
}

/// Passes every operation on to the memory that a pointer points to.
macro_rules! shared_memory_through_pointer {
    ($pointer:ty) => {
        impl<M: SharedMemory + ?Sized> SharedMemory for $pointer {
            #[inline]
            fn size(&self) -> u64 {
                (**self).size()
            }
            #[inline]
            fn load_relaxed(&self, offset: u64) -> Result<u64, Fault> {
                (**self).load_relaxed(offset)
            }
            #[inline]
            fn load_acquire(&self, offset: u64) -> Result<u64, Fault> {
                (**self).load_acquire(offset)
            }
            #[inline]
            fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), Fault> {
                (**self).store_relaxed(offset, value)
            }
            #[inline]
            fn store_release(&self, offset: u64, value: u64) -> Result<(), Fault> {
                (**self).store_release(offset, value)
            }
            #[inline]
            fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
                (**self).read(offset, into)
            }
            #[inline]
            fn write(&self, offset: u64, from: &[u8]) -> Result<(), Fault> {
                (**self).write(offset, from)
            }
            #[inline]
            fn order_loads(&self) {
                (**self).order_loads();
            }
            #[inline]
            fn order_stores(&self) {
                (**self).order_stores();
            }
            #[inline]
            fn prefetch(&self, offset: u64, length: u64) {
                (**self).prefetch(offset, length);
            }
            #[inline]
            fn prefetch_to_write(&self, offset: u64) {
                (**self).prefetch_to_write(offset);
            }
            #[inline]
            fn is_costly(&self) -> bool {
                (**self).is_costly()
            }
        }
    };
}

shared_memory_through_pointer!(&M);
shared_memory_through_pointer!(Arc<M>);
