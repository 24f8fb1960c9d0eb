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
    let lead = from.align_offset(8).min(into.len());
    while done < into.len() {
        // SAFETY: done < into.len(), so the byte is inside the source.
        let at = unsafe { from.add(done) };
        if done >= lead && into.len() - done >= 8 {
            // SAFETY: eight bytes remain, and past `lead` the source is aligned to eight.
            let word = unsafe { AtomicU64::from_ptr(at.cast_mut().cast()) };
            into[done..done + 8].copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            done += 8;
        } else {
            // SAFETY: as above, one byte.
            let byte = unsafe { AtomicU8::from_ptr(at.cast_mut()) };
            into[done] = byte.load(Ordering::Relaxed);
            done += 1;
        }
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
    let lead = to.align_offset(8).min(from.len());
    while done < from.len() {
        // SAFETY: done < from.len(), so the byte is inside the destination.
        let at = unsafe { to.add(done) };
        if done >= lead
            && let Some(chunk) = from[done..].first_chunk::<8>()
        {
            // SAFETY: eight bytes remain, and past `lead` the destination is aligned to eight.
            let word = unsafe { AtomicU64::from_ptr(at.cast()) };
            word.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
            done += 8;
        } else {
            // SAFETY: as above, one byte.
            let byte = unsafe { AtomicU8::from_ptr(at) };
            byte.store(from[done], Ordering::Relaxed);
            done += 1;
        }
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
