//! What is said between a running system and those who look into it: `selkis ps`, `top`, `log`, `crash`, `trace` and `kill`.
//!
//! Both sides begin with [`GREETING`], which holds the version; then the client sends [`Request`]s and the system answers each with
//! [`Reply`]s, in order: one, or for a log several until [`Reply::LogEnd`], for a trace until [`Reply::TraceEnd`],
//! for crashes until [`Reply::CrashEnd`]. All in frames ([`encode`], [`Decoder`]):
//! ```text
//! u32, little-endian: bytes that follow     postcard: one message
//! ```
//! [`metrics`] writes what [`Request::List`] answers as Prometheus reads it. The crate knows no transport and no platform: the same frames travel on a unix socket and into a machine.
//!
//! Times are in nanoseconds since the system started, unless their names say otherwise.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

mod crash;
mod frame;
mod message;
mod metrics;
mod names;
mod status;
mod trace;

pub use crash::{Crash, CrashFrame, CrashLimits, CrashReport, Measure};
pub use frame::{
    Decoder, FrameError, GREETING, Message, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, VERSION, encode,
};
pub use message::{
    Follow, From, How, Line, LineEnd, LogEnd, LogPiece, Names, ProgramName, Refusal, Reply, Request,
    Selector, Stream,
};
pub use metrics::{METRICS_TYPE, metrics};
pub use names::meant;
pub use status::{
    Counters, Cpu, Domain, End, LogSize, Memory, Phase, Platform, ProcessUsage, Program, State, System, Usage,
};
pub use trace::{TraceAccess, TraceDomain, TraceEvent, TraceOutcome, TracePiece, TraceRecord};
