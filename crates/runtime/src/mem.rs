//! The C functions that compiled Rust calls to copy and fill: `memcpy`, `memmove`, `memset`.
//!
//! The compiler's own for a target without libc start a repeated string operation for every length, which takes some
//! forty cycles before the first byte; nearly all of the engine's copies are shorter than that is worth. Here short
//! lengths are a few overlapping loads and stores. Long ones are repeated string operations all the same, and nothing
//! else: the CPU has nothing faster, and [`crate::trap`] can cut one short when a program has to end in the middle,
//! or when there is no page for what comes next.

use core::arch::asm;
use core::arch::x86_64::{__m128i, _mm_set1_epi8};

/// From here on a repeated string operation is worth its start.
const LONG_BYTES: usize = 512;
/// What one step of a loop over vectors moves.
type Step = [__m128i; 4];
const STEP_BYTES: usize = size_of::<Step>();
/// The first and the last step are all.
const SHORT_BYTES: usize = 2 * STEP_BYTES;

/// `memcpy` of C: copies `length` bytes; the two may not overlap.
///
/// # Safety
/// As for [`core::ptr::copy_nonoverlapping`].
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe { copy_upwards(to, from, length) };
    to
}

/// `memmove` of C: copies `length` bytes; the two may overlap.
///
/// # Safety
/// As for [`core::ptr::copy`].
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller's; upwards, nothing is overwritten before it was read. Short copies load everything first.
    unsafe {
        if length <= SHORT_BYTES || (to as usize).wrapping_sub(from as usize) >= length {
            copy_upwards(to, from, length);
        } else {
            copy_downwards(to, from, length);
        }
    }
    to
}

/// `memset` of C: fills `length` bytes with the low byte of `value`.
///
/// # Safety
/// As for [`core::ptr::write_bytes`].
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
pub unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    let word = u64::from(value as u8) * 0x0101_0101_0101_0101;
    // SAFETY: the caller's.
    unsafe {
        if length >= LONG_BYTES {
            fill_long(to, word, length);
        } else if length >= 16 {
            fill_vectors(to, value as u8, length);
        } else {
            fill_short(to, word, length);
        }
    }
    to
}

/// From the first byte to the last; `to` may lie anywhere below `from`, or beyond its end.
#[inline(always)]
unsafe fn copy_upwards(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: the caller's.
    unsafe {
        if length <= SHORT_BYTES {
            copy_short(to, from, length);
        } else if length < LONG_BYTES {
            copy_steps(to, from, length);
        } else {
            copy_long(to, from, length);
        }
    }
}

/// At most [`SHORT_BYTES`], everything loaded before anything is stored.
#[inline(always)]
unsafe fn copy_short(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: each stretch that is named lies within `length` bytes.
    unsafe {
        match length {
            65.. => copy_ends::<Step>(to, from, length),
            33.. => copy_ends::<[__m128i; 2]>(to, from, length),
            16.. => copy_ends::<__m128i>(to, from, length),
            8.. => copy_ends::<u64>(to, from, length),
            4.. => copy_ends::<u32>(to, from, length),
            2.. => copy_ends::<u16>(to, from, length),
            1 => to.write(from.read()),
            0 => {}
        }
    }
}

/// The first and the last `T` of `length` bytes, which may overlap.
#[inline(always)]
unsafe fn copy_ends<T: Copy>(to: *mut u8, from: *const u8, length: usize) {
    let last = length - size_of::<T>();
    // SAFETY: `T` is no longer than `length`, and any bytes are one.
    unsafe {
        let ends = (from.cast::<T>().read_unaligned(), from.add(last).cast::<T>().read_unaligned());
        to.cast::<T>().write_unaligned(ends.0);
        to.add(last).cast::<T>().write_unaligned(ends.1);
    }
}

/// More than a step, in steps; the last, which overlaps the one before, is loaded first, while it is what it was.
#[inline(always)]
unsafe fn copy_steps(to: *mut u8, from: *const u8, length: usize) {
    let last = length - STEP_BYTES;
    // SAFETY: all steps lie within `length` bytes.
    unsafe {
        let end = from.add(last).cast::<Step>().read_unaligned();
        let mut offset = 0;
        while offset < last {
            let step = from.add(offset).cast::<Step>().read_unaligned();
            to.add(offset).cast::<Step>().write_unaligned(step);
            offset += STEP_BYTES;
        }
        to.add(last).cast::<Step>().write_unaligned(end);
    }
}

/// Upwards: whole words, then the bytes that are left.
unsafe fn copy_long(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "rep movsq",
            "mov rcx, {rest}",
            "rep movsb",
            rest = in(reg) length % 8,
            inout("rcx") length / 8 => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Downwards: the bytes beyond the last whole word, then the words.
unsafe fn copy_downwards(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: the caller's; the direction flag is clear again at the end, as the ABI wants.
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "sub rsi, 7",
            "sub rdi, 7",
            "mov rcx, {words}",
            "rep movsq",
            "cld",
            words = in(reg) length / 8,
            inout("rcx") length % 8 => _,
            inout("rdi") to.add(length - 1) => _,
            inout("rsi") from.add(length - 1) => _,
            options(nostack)
        );
    }
}

/// Whole words, then the bytes that are left.
unsafe fn fill_long(to: *mut u8, word: u64, length: usize) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "rep stosq",
            "mov rcx, {rest}",
            "rep stosb",
            rest = in(reg) length % 8,
            inout("rcx") length / 8 => _, inout("rdi") to => _, in("rax") word,
            options(nostack, preserves_flags)
        );
    }
}

/// 16 bytes and more.
#[inline(always)]
unsafe fn fill_vectors(to: *mut u8, value: u8, length: usize) {
    // SAFETY: SSE2 is there on every x86-64.
    let vector = unsafe { _mm_set1_epi8(value as i8) };
    // SAFETY: all that is named lies within `length` bytes.
    unsafe {
        let store = |at: usize| to.add(at).cast::<__m128i>().write_unaligned(vector);
        if length >= STEP_BYTES {
            let last = length - STEP_BYTES;
            let mut offset = 0;
            while offset < last {
                to.add(offset).cast::<Step>().write_unaligned([vector; 4]);
                offset += STEP_BYTES;
            }
            to.add(last).cast::<Step>().write_unaligned([vector; 4]);
            return;
        }
        store(0);
        store(length - 16);
        if length > 32 {
            store(16);
            store(length - 32);
        }
    }
}

/// Fewer than 16 bytes.
#[inline(always)]
unsafe fn fill_short(to: *mut u8, word: u64, length: usize) {
    // SAFETY: the first and the last of each width lie within `length` bytes.
    unsafe {
        if length >= 8 {
            to.cast::<u64>().write_unaligned(word);
            to.add(length - 8).cast::<u64>().write_unaligned(word);
        } else if length >= 4 {
            to.cast::<u32>().write_unaligned(word as u32);
            to.add(length - 4).cast::<u32>().write_unaligned(word as u32);
        } else if length >= 2 {
            to.cast::<u16>().write_unaligned(word as u16);
            to.add(length - 2).cast::<u16>().write_unaligned(word as u16);
        } else if length == 1 {
            to.write(word as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Around every border of the functions.
    fn lengths() -> impl Iterator<Item = usize> {
        (0..160).chain(500..530).chain([1000, 4095, 4096, 4097, 70_000])
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
    }

    #[test]
    fn copies_are_exact_and_touch_nothing_else() {
        for length in lengths() {
            for shift in [0, 1, 7] {
                let from = pattern(length + shift);
                let mut to = alloc::vec![0xee; length + 16];
                // SAFETY: both have the length.
                unsafe { memcpy(to[8..].as_mut_ptr(), from[shift..].as_ptr(), length) };
                assert_eq!(to[8..8 + length], from[shift..], "{length} bytes");
                assert!(to[..8].iter().chain(&to[8 + length..]).all(|byte| *byte == 0xee), "{length} bytes");
            }
        }
    }

    #[test]
    fn moves_are_exact_however_they_overlap() {
        for length in lengths() {
            for distance in [0, 1, 3, 8, 15, 64, 200, length / 2, length] {
                let original = pattern(length + distance);
                let mut up = original.clone();
                // SAFETY: both stretches lie within the buffer.
                unsafe { memmove(up[distance..].as_mut_ptr(), up.as_ptr(), length) };
                assert_eq!(up[distance..], original[..length], "{length} bytes up by {distance}");
                let mut down = original.clone();
                // SAFETY: the same.
                unsafe { memmove(down.as_mut_ptr(), down[distance..].as_ptr(), length) };
                assert_eq!(down[..length], original[distance..], "{length} bytes down by {distance}");
            }
        }
    }

    #[test]
    fn fills_are_exact_and_touch_nothing_else() {
        for length in lengths() {
            let mut to = alloc::vec![0xee; length + 16];
            // SAFETY: the buffer has the length. Only the low byte counts.
            unsafe { memset(to[8..].as_mut_ptr(), 0x1234, length) };
            assert!(to[8..8 + length].iter().all(|byte| *byte == 0x34), "{length} bytes");
            assert!(to[..8].iter().chain(&to[8 + length..]).all(|byte| *byte == 0xee), "{length} bytes");
        }
    }
}
