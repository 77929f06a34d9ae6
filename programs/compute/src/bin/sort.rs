//! Sorts a million numbers with the library's unstable sort, and a second time what is sorted.
#![no_std]
#![no_main]

use compute::{Holds, Numbers, check};

const COUNT: usize = 1 << 20;

static mut NUMBERS: [u32; COUNT] = [0; COUNT];

#[unsafe(no_mangle)]
extern "C" fn _start() {
    // SAFETY: `_start` is called once in an instance, which has one thread.
    let numbers = unsafe { &mut *(&raw mut NUMBERS) };
    for (place, number) in numbers.iter_mut().zip(Numbers::new()) {
        *place = number as u32;
    }
    let sum = |numbers: &[u32]| numbers.iter().fold(0u64, |sum, number| sum + u64::from(*number));
    let before = sum(numbers);
    numbers.sort_unstable();
    numbers.sort_unstable();
    check(Holds::from(numbers.is_sorted() && sum(numbers) == before));
}
