//! The engine's settings that the compiler and the library OS must agree on.
//!
//! The engine refuses an artifact whose settings differ from its own, so both sides build their
//! [`wasmtime::Config`] here. What concerns one side only (the host's CPU, custom code memory, backtraces) stays
//! with that side.
#![no_std]

use wasmtime::{Config, WasmBacktraceDetails};

/// The target of every artifact, hosted or not: there is one library OS, and it is built for this.
pub const TRIPLE: &str = "x86_64-unknown-none";

/// Address space reserved for each linear memory, so that a 32-bit address needs no bounds check.
pub const MEMORY_RESERVATION_BYTES: u64 = 4 << 30;

/// Unmapped space behind it, for the constant offsets of loads and stores.
pub const MEMORY_GUARD_BYTES: u64 = 32 << 20;

/// The most stack that WebAssembly code may use, in bytes; what the host needs lies beyond.
pub const WASM_STACK_BYTES: usize = 512 << 10;

/// What a process's exceptions lie in. The engine keeps them in a heap that it collects, in functions of its own that can be neither
/// preempted nor ended: so it is short, and what is noted for it (4 bytes for each of what may be 4,096 objects) is little enough to be had
/// always (`runtime::heap`).
pub const EXCEPTIONS_BYTES: u64 = 128 << 10;

/// The most tags of exceptions that a module may have: a collection notes the type of each that it meets.
pub const TAGS_MAX: u32 = 256;

/// The settings that are in every artifact.
pub fn config() -> Config {
    let mut config = Config::new();
    config
        .target(TRIPLE)
        .expect("the engine knows this target")
        // A collected heap of any size can be neither preempted nor bounded (see `EXCEPTIONS_BYTES`).
        .wasm_gc(false)
        // Each memory is a reservation, and the domain has so many for each process.
        .wasm_multi_memory(false)
        .gc_heap_initial_size(EXCEPTIONS_BYTES)
        .gc_heap_reservation(EXCEPTIONS_BYTES)
        .gc_heap_reservation_for_growth(0)
        .gc_heap_guard_size(0)
        .gc_heap_may_move(false)
        .signals_based_traps(true)
        .memory_init_cow(true)
        .memory_reservation(MEMORY_RESERVATION_BYTES)
        .memory_guard_size(MEMORY_GUARD_BYTES)
        .max_wasm_stack(WASM_STACK_BYTES)
        .wasm_backtrace_max_frames(None)
        // Function names come with the module and need none of these. Details must be switched off in so many
        // words: the engine's default asks an environment variable, on the compiler's side only.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .generate_address_map(false)
        .debug_symbols(false);
    config
}

/// The CPU features that an artifact may use: what the engine and the Rust standard library call them, and how the
/// engine's compiler is told. In alphabetical order, which is how artifacts list them.
pub const FEATURES: [(&str, &str); 18] = [
    ("avx", "has_avx"),
    ("avx2", "has_avx2"),
    ("avx512bitalg", "has_avx512bitalg"),
    ("avx512dq", "has_avx512dq"),
    ("avx512f", "has_avx512f"),
    ("avx512vbmi", "has_avx512vbmi"),
    ("avx512vl", "has_avx512vl"),
    ("avx512vnni", "has_avx512vnni"),
    ("avxvnni", "has_avx_vnni"),
    ("bmi1", "has_bmi1"),
    ("bmi2", "has_bmi2"),
    ("fma", "has_fma"),
    ("lzcnt", "has_lzcnt"),
    ("popcnt", "has_popcnt"),
    ("sse3", "has_sse3"),
    ("sse4.1", "has_sse41"),
    ("sse4.2", "has_sse42"),
    ("ssse3", "has_ssse3"),
];

/// The features that every x86-64-v2 CPU has; the library OS itself is built for that.
pub const BASELINE: [&str; 5] = ["popcnt", "sse3", "sse4.1", "sse4.2", "ssse3"];
