//! Copies between private buffers and memory that others write.
//!
//! A plain `memcpy` of memory that somebody else writes is a data race. On x86-64
//! the copy is one `rep movsb`: to the compiler an opaque instruction, to the
//! processor the fastest copy from DRAM that needs no vector state. Short copies
//! and other processors use relaxed atomic words.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Below this many bytes `rep movsb` costs more to start than the copy itself.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const STRING_COPY_FROM: usize = 256;

/// Copies `into.len()` bytes of shared memory into a private buffer.
///
/// # Safety
/// `from` must be valid for reads of `into.len()` bytes, and must not overlap `into`.
#[inline]
pub(crate) unsafe fn from_shared(from: *const u8, into: &mut [u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if into.len() >= STRING_COPY_FROM {
        // SAFETY: both ranges are valid for `into.len()` bytes by the caller's promise.
        unsafe { string_copy(from, into.as_mut_ptr(), into.len()) };
        return;
    }
    let mut done = 0;
    if from.align_offset(8) == 0 {
        for chunk in into.chunks_exact_mut(8) {
            // SAFETY: the chunk lies inside `into`, so as many bytes lie inside the source.
            let at = unsafe { from.add(done) };
            // SAFETY: eight bytes from there on are valid, and aligned as the source is.
            let word = unsafe { AtomicU64::from_ptr(at.cast_mut().cast()) };
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            done += 8;
        }
    }
    for byte in into.iter_mut().skip(done) {
        // SAFETY: done < into.len(), so the byte is inside the source.
        let at = unsafe { from.add(done) };
        // SAFETY: as above; a byte is aligned anywhere.
        *byte = unsafe { AtomicU8::from_ptr(at.cast_mut()) }.load(Ordering::Relaxed);
        done += 1;
    }
}

/// Copies a private buffer into shared memory.
///
/// # Safety
/// `to` must be valid for writes of `from.len()` bytes, and must not overlap `from`.
#[inline]
pub(crate) unsafe fn to_shared(from: &[u8], to: *mut u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if from.len() >= STRING_COPY_FROM {
        // SAFETY: both ranges are valid for `from.len()` bytes by the caller's promise.
        unsafe { string_copy(from.as_ptr(), to, from.len()) };
        return;
    }
    let mut done = 0;
    if to.align_offset(8) == 0 {
        for chunk in from.chunks_exact(8) {
            // SAFETY: the chunk lies inside `from`, so as many bytes lie inside the destination.
            let at = unsafe { to.add(done) };
            // SAFETY: eight bytes from there on are valid, and aligned as the destination is.
            let word = unsafe { AtomicU64::from_ptr(at.cast()) };
            word.store(
                chunk.try_into().map_or(0, u64::from_ne_bytes),
                Ordering::Relaxed,
            );
            done += 8;
        }
    }
    for byte in from.iter().skip(done) {
        // SAFETY: done < from.len(), so the byte is inside the destination.
        let at = unsafe { to.add(done) };
        // SAFETY: as above; a byte is aligned anywhere.
        unsafe { AtomicU8::from_ptr(at) }.store(*byte, Ordering::Relaxed);
        done += 1;
    }
}

/// `rep movsb`; see Intel's optimisation manual, "Enhanced REP MOVSB".
///
/// # Safety
/// Both ranges must be valid for `length` bytes and must not overlap.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
unsafe fn string_copy(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: the direction flag is clear by the ABI; the instruction touches exactly
    // the two ranges that the caller vouches for.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") length => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}
