//! Atomic words and the bounds check that precedes every raw access.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::Fault;

/// A span of memory that stays valid as long as its holder lives.
///
/// Every access is checked against the span and then made through atomics or
/// opaque copies only.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    base: NonNull<u8>,
    length: usize,
    /// Whole words in the span.
    words: u64,
    writable: bool,
}

/// An offset inside a span as a number of the processor's own width.
#[allow(
    clippy::cast_possible_truncation,
    reason = "below the length of a span, which is a usize"
)]
#[inline]
const fn address(offset: u64) -> usize {
    offset as usize
}

impl Span {
    /// # Safety
    /// `base` must be aligned to eight bytes and point to `length` bytes that stay
    /// mapped for as long as this value is used, and that no Rust reference covers;
    /// they must be writable if `writable` says so.
    pub(crate) const unsafe fn new(base: NonNull<u8>, length: usize, writable: bool) -> Self {
        Self {
            base,
            length,
            words: length as u64 / 8,
            writable,
        }
    }

    /// The same without what lies behind its first `length` bytes.
    #[allow(
        dead_code,
        reason = "for Linux's files of huge pages, which can only be mapped whole"
    )]
    pub(crate) fn shortened(self, length: usize) -> Self {
        let length = self.length.min(length);
        Self {
            length,
            words: length as u64 / 8,
            ..self
        }
    }

    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    #[inline]
    pub(crate) const fn check_writable(&self) -> Result<(), Fault> {
        if self.writable {
            Ok(())
        } else {
            Err(Fault::ReadOnly)
        }
    }

    pub(crate) const fn length(&self) -> usize {
        self.length
    }

    /// The address of `length` bytes at `offset`, if they lie inside.
    #[inline(always)]
    pub(crate) fn bytes(&self, offset: u64, length: usize) -> Result<NonNull<u8>, Fault> {
        match usize::try_from(offset) {
            Ok(start) if length <= self.length && start <= self.length - length => {
                // SAFETY: start + length <= self.length, so the result stays inside the span.
                Ok(unsafe { self.base.add(start) })
            }
            _ => Err(self.outside(offset, length as u64)),
        }
    }

    #[cold]
    #[inline(never)]
    const fn outside(&self, offset: u64, length: u64) -> Fault {
        Fault::OutOfBounds {
            offset,
            length,
            size: self.length as u64,
        }
    }

    #[inline(always)]
    fn word(&self, offset: u64) -> Result<&AtomicU64, Fault> {
        // One comparison for both: what is not a multiple of eight becomes a huge number.
        let index = offset.rotate_right(3);
        if index >= self.words {
            return Err(self.no_word(offset));
        }
        // SAFETY: index < self.words <= self.length / 8 and offset = 8 * index, so offset + 8
        // <= self.length, which fits an address.
        let at = unsafe { self.base.add(address(offset)) };
        // SAFETY: eight bytes inside the span, which is valid for our lifetime; base and
        // offset are multiples of eight; AtomicU64 may be shared with writers that we do not
        // know.
        Ok(unsafe { AtomicU64::from_ptr(at.as_ptr().cast()) })
    }

    #[cold]
    #[inline(never)]
    const fn no_word(&self, offset: u64) -> Fault {
        if offset & 7 == 0 {
            self.outside(offset, 8)
        } else {
            Fault::Misaligned { offset }
        }
    }

    /// Asks the processor for the cache lines of `length` bytes at `offset`.
    #[inline]
    pub(crate) fn prefetch(&self, offset: u64, length: u64) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if let Ok(length) = usize::try_from(length)
            && let Ok(start) = self.bytes(offset, length)
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            for line in (0..length).step_by(64) {
                // SAFETY: line < length, so the address is inside the span; a prefetch never
                // faults and writes nothing.
                let at = unsafe { start.add(line) };
                // SAFETY: as above.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at.as_ptr().cast_const().cast()) };
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = (offset, length);
    }

    /// Asks the processor for the line of the word at `offset`, to be written.
    #[inline]
    pub(crate) fn prefetch_to_write(&self, offset: u64) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if let Ok(at) = self.bytes(offset, 8) {
            // SAFETY: the address is inside the span; PREFETCHW never faults, changes no
            // memory, and does nothing on processors without it (AMD64 manual, volume 3;
            // Intel SDM, volume 2). The intrinsic becomes another instruction where the
            // compiler is not told that the processor has this one.
            unsafe {
                core::arch::asm!(
                    "prefetchw [{at}]",
                    at = in(reg) at.as_ptr(),
                    options(nostack, preserves_flags, readonly)
                );
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = offset;
    }

    #[inline(always)]
    pub(crate) fn load(&self, offset: u64, order: Ordering) -> Result<u64, Fault> {
        Ok(self.word(offset)?.load(order))
    }

    #[inline(always)]
    pub(crate) fn store(&self, offset: u64, value: u64, order: Ordering) -> Result<(), Fault> {
        match self.word(offset) {
            Ok(word) if self.writable => {
                word.store(value, order);
                Ok(())
            }
            Ok(_) => Err(Fault::ReadOnly),
            Err(fault) => Err(fault),
        }
    }
}

/// Implements [`crate::SharedMemory`] for a type with a `span` field.
macro_rules! shared_memory_over_span {
    ($type:ty) => {
        impl $crate::SharedMemory for $type {
            #[inline]
            fn size(&self) -> u64 {
                self.span.length() as u64
            }
            #[inline]
            fn load_relaxed(&self, offset: u64) -> Result<u64, $crate::Fault> {
                self.span
                    .load(offset, core::sync::atomic::Ordering::Relaxed)
            }
            #[inline]
            fn load_acquire(&self, offset: u64) -> Result<u64, $crate::Fault> {
                self.span
                    .load(offset, core::sync::atomic::Ordering::Acquire)
            }
            #[inline]
            fn store_relaxed(&self, offset: u64, value: u64) -> Result<(), $crate::Fault> {
                self.span
                    .store(offset, value, core::sync::atomic::Ordering::Relaxed)
            }
            #[inline]
            fn store_release(&self, offset: u64, value: u64) -> Result<(), $crate::Fault> {
                self.span
                    .store(offset, value, core::sync::atomic::Ordering::Release)
            }
            #[inline]
            fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), $crate::Fault> {
                let from = self.span.bytes(offset, into.len())?;
                // SAFETY: `bytes` proved the source; `into` is private and exclusive.
                unsafe { $crate::copy::from_shared(from.as_ptr(), into) };
                Ok(())
            }
            #[inline]
            fn prefetch(&self, offset: u64, length: u64) {
                self.span.prefetch(offset, length);
            }
            #[inline]
            fn prefetch_to_write(&self, offset: u64) {
                self.span.prefetch_to_write(offset);
            }
            #[inline]
            fn write(&self, offset: u64, from: &[u8]) -> Result<(), $crate::Fault> {
                self.span.check_writable()?;
                let to = self.span.bytes(offset, from.len())?;
                // SAFETY: `bytes` proved the destination; `from` is private.
                unsafe { $crate::copy::to_shared(from, to.as_ptr()) };
                Ok(())
            }
        }
    };
}
pub(crate) use shared_memory_over_span;
