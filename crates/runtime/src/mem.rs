//! The C functions that compiled Rust calls to copy and fill: `memcpy`, `memmove`, `memset`.
//!
//! The compiler's own for a target without libc start a repeated string operation for every length, which takes some
//! forty cycles before the first byte; nearly all of the engine's copies are shorter than that is worth. Here short
//! lengths are a few overlapping loads and stores. Long ones are repeated string operations all the same, and nothing
//! else: the CPU has nothing faster, and [`crate::trap`] can cut one short when a program has to end in the middle,
//! or when there is no page for what comes next.

use core::arch::asm;
use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_set1_epi8, _mm_storeu_si128};

/// From here on a repeated string operation is worth its start.
const LONG_BYTES: usize = 512;
/// What one step of a loop over vectors moves.
const STEP_BYTES: usize = 64;

/// `memcpy` of C: copies `length` bytes; the two may not overlap.
///
/// # Safety
/// As for [`core::ptr::copy_nonoverlapping`].
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe {
        if length <= 2 * STEP_BYTES {
            copy_short(to, from, length);
        } else if length < LONG_BYTES {
            // The last step overlaps the ones before.
            let last = length - STEP_BYTES;
            let mut offset = 0;
            while offset < last {
                copy_vectors::<4>(to.add(offset), from.add(offset));
                offset += STEP_BYTES;
            }
            copy_vectors::<4>(to.add(last), from.add(last));
        } else {
            copy_long(to, from, length);
        }
    }
    to
}

/// `memmove` of C: copies `length` bytes; the two may overlap.
///
/// # Safety
/// As for [`core::ptr::copy`].
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller's; short copies load everything before they store.
    unsafe {
        if length <= 2 * STEP_BYTES {
            copy_short(to, from, length);
        } else if (to as usize).wrapping_sub(from as usize) >= length {
            // Upwards, nothing is overwritten before it was read.
            copy_long(to, from, length);
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
            let vector = _mm_set1_epi8(value as i8);
            let mut offset = 0;
            while offset < length - 16 {
                _mm_storeu_si128(to.add(offset).cast(), vector);
                offset += 16;
            }
            _mm_storeu_si128(to.add(length - 16).cast(), vector);
        } else {
            fill_short(to, word, length);
        }
    }
    to
}

/// At most two steps, everything loaded before anything is stored.
#[inline(always)]
unsafe fn copy_short(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: each stretch that is named lies within `length` bytes.
    unsafe {
        match length {
            65.. => copy_ends::<[__m128i; 4]>(to, from, length),
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

#[inline(always)]
unsafe fn copy_vectors<const COUNT: usize>(to: *mut u8, from: *const u8) {
    // SAFETY: the caller has so many vectors there.
    unsafe {
        let vectors: [__m128i; COUNT] =
            core::array::from_fn(|index| _mm_loadu_si128(from.cast::<__m128i>().add(index)));
        for (index, vector) in vectors.into_iter().enumerate() {
            _mm_storeu_si128(to.cast::<__m128i>().add(index), vector);
        }
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
