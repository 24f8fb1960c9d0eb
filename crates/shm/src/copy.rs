//! Copies between private buffers and memory that others write.
//!
//! A plain `memcpy` of memory that somebody else writes is a data race. On x86-64 the
//! copy is a loop of 16-byte loads and stores in assembly, opaque to the compiler. It
//! measured 0.9 to 1.2 times `memcpy` from DRAM, where `rep movsb` out of pages of
//! 4 KiB reached half of that on some processors. Short copies, ends, and other
//! processors use relaxed atomic words.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What one turn of the vector loop copies.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const BLOCK: usize = 64;
/// Below this many bytes single words are as fast.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const BLOCKS_FROM: usize = BLOCK;

/// Copies `into.len()` bytes of shared memory into a private buffer.
///
/// # Safety
/// `from` must be valid for reads of `into.len()` bytes, and must not overlap `into`.
#[inline]
pub(crate) unsafe fn from_shared(from: *const u8, into: &mut [u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    let (from, into) = if into.len() >= BLOCKS_FROM {
        let (blocks, rest) = into.split_at_mut(into.len() / BLOCK * BLOCK);
        // SAFETY: `blocks` is part of `into`, so both ranges are valid for its length.
        unsafe { copy_blocks(from, blocks.as_mut_ptr(), blocks.len() / BLOCK) };
        // SAFETY: blocks.len() <= the source's length.
        (unsafe { from.add(blocks.len()) }, rest)
    } else {
        (from, into)
    };
    if into.is_empty() {
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
    let (from, to) = if from.len() >= BLOCKS_FROM {
        let (blocks, rest) = from.split_at(from.len() / BLOCK * BLOCK);
        // SAFETY: `blocks` is part of `from`, so both ranges are valid for its length.
        unsafe { copy_blocks(blocks.as_ptr(), to, blocks.len() / BLOCK) };
        // SAFETY: blocks.len() <= the destination's length.
        (rest, unsafe { to.add(blocks.len()) })
    } else {
        (from, to)
    };
    if from.is_empty() {
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

/// Copies `count` blocks of [`BLOCK`] bytes; at least one.
///
/// # Safety
/// `count` is not zero; both ranges must be valid for as many blocks and must not
/// overlap.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
unsafe fn copy_blocks(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: SSE2 is part of x86-64; the loop touches exactly the two ranges that the
    // caller vouches for, at any alignment.
    unsafe {
        core::arch::asm!(
            "2:",
            "movdqu {a}, [{from}]",
            "movdqu {b}, [{from} + 16]",
            "movdqu {c}, [{from} + 32]",
            "movdqu {d}, [{from} + 48]",
            "movdqu [{to}], {a}",
            "movdqu [{to} + 16], {b}",
            "movdqu [{to} + 32], {c}",
            "movdqu [{to} + 48], {d}",
            "add {from}, 64",
            "add {to}, 64",
            "dec {count}",
            "jnz 2b",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            count = inout(reg) count => _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack)
        );
    }
}
