//! The engine's settings that the compiler and the library OS must agree on.
//!
//! The engine refuses an artifact whose settings differ from its own, so both sides build their
//! [`wasmtime::Config`] here. What concerns one side only (the host's CPU, custom code memory, backtraces) stays
//! with that side.
#![no_std]

use wasmtime::Config;

/// The target of every artifact, hosted or not: there is one library OS, and it is built for this.
pub const TRIPLE: &str = "x86_64-unknown-none";

/// Address space reserved for each linear memory, so that a 32-bit address needs no bounds check.
pub const MEMORY_RESERVATION_BYTES: u64 = 4 << 30;

/// Unmapped space behind it, for the constant offsets of loads and stores.
pub const MEMORY_GUARD_BYTES: u64 = 32 << 20;

/// The most stack that WebAssembly code may use, in bytes; what the host needs lies beyond.
pub const WASM_STACK_BYTES: usize = 512 << 10;

/// The settings that are in every artifact.
pub fn config() -> Config {
    let mut config = Config::new();
    config
        .target(TRIPLE)
        .expect("the engine knows this target")
        .signals_based_traps(true)
        .memory_init_cow(true)
        .memory_reservation(MEMORY_RESERVATION_BYTES)
        .memory_guard_size(MEMORY_GUARD_BYTES)
        .max_wasm_stack(WASM_STACK_BYTES)
        .wasm_backtrace_max_frames(None);
    config
}

/// The CPU features that an artifact may use: what the engine calls them, and how its compiler is told.
/// Every x86-64-v2 CPU has the [baseline](BASELINE); the library OS itself is built for that.
pub const BASELINE: [&str; 5] = ["popcnt", "sse3", "sse4.1", "sse4.2", "ssse3"];
