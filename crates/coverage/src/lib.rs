//! Which branches of an instrumented test program were taken: what a fuzzer is guided by.
//!
//! LLVM's pass `sancov-module` with `-sanitizer-coverage-inline-8bit-counters` (clang's manual, SanitizerCoverage) gives each edge a byte that
//! counts how often it was taken, and has each module tell where its bytes are before `main`. In a program that was built without it nothing is told.
#![allow(unsafe_code, reason = "the counters are named by the compiler, as two addresses")]

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// The counters of all modules.
static COUNTERS: Mutex<Vec<&[AtomicU8]>> = Mutex::new(Vec::new());

/// Called by each instrumented module when the program starts, with where its counters begin and end.
///
/// # Safety
/// `first..end` has to be bytes that exist as long as the program and that nothing but counting changes.
// SAFETY: the name is reserved for this, and nothing else in a test program defines it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(first: *const u8, end: *const u8) {
    let count = end as usize - first as usize;
    // SAFETY: by the contract the bytes are there for ever. They are changed by plain increments of other threads, which
    // the compiler put there; a count that is lost by that is lost, and every byte is a valid one.
    let counters = unsafe { std::slice::from_raw_parts(first.cast::<AtomicU8>(), count) };
    COUNTERS.lock().unwrap_or_else(PoisonError::into_inner).push(counters);
}

/// Tells of each edge that was taken since the last call: its number, and how often (modulo 256).
pub fn take(mut each: impl FnMut(usize, u8)) {
    let modules = COUNTERS.lock().unwrap_or_else(PoisonError::into_inner);
    let counters = modules.iter().flat_map(|module| module.iter());
    for (edge, counter) in counters.enumerate() {
        if counter.load(Relaxed) != 0 {
            each(edge, counter.swap(0, Relaxed));
        }
    }
}
