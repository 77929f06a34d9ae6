//! The logic of a system's root: what is started, what is started again and when, what is kept of what programs write, and what the
//! control protocol is answered.
//!
//! It does nothing itself and knows no time: whoever has processes and a clock tells the [`Supervisor`] of [`Event`]s and carries
//! out the [`Effect`]s. That is the `selkis up` command (hosted) or a root in a machine.
//! ```text
//!           Begin                 Started                    Ended
//!   (idle) ───────▶ starting ───────────────▶ running ─────────────────▶ ended
//!                      ▲                         │ kill        │ policy
//!                      │ deadline                ▼             ▼
//!                      └───────────────────── stopping ──▶ backoff ──▶ stopped
//!                                             (then stopped)      kill
//! ```
//! That is a process, which is one program of a domain or one of its instances. A killed one is never started again. A domain is
//! started for the first process that is to start in it, and ended when nothing follows for any. If it ends otherwise its processes
//! have ended with it, and it is started again with the first that is.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

mod answer;
mod attention;
mod backoff;
mod crash;
mod domain;
mod domain_link;
mod event;
mod life;
mod log;
mod news;
pub mod relay;
mod room;
mod status;
mod supervisor;
mod usage;

pub use answer::{Answer, Progress, Trace};
pub use attention::{Attention, WAIT_NS_MAX};
pub use backoff::{FIRST_NS, MAX_NS, STABLE_NS};
pub use crash::{crash, read_crash};
pub use domain_link::DomainLink;
pub use event::{
    DomainId, DomainSetup, Effect, Event, Next, Notice, ProcessId, ProgramSetup, Restart, Setup,
};
pub use life::GRACE_NS;
pub use log::LINE_BYTES_MAX;
pub use news::News;
pub use room::memory_bytes_max;
pub use supervisor::{MEASURE_NS, Outcome, Supervisor};
