//! What happens on the CPUs of a machine, as its kernel notes it down.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Records of all CPUs, sorted by time among themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracePiece {
    /// What happened.
    pub records: Vec<TraceRecord>,
    /// By CPU, how many records came before these that nobody read in time.
    pub lost: Vec<u64>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRecord {
    /// When.
    pub at_ns: u64,
    /// On which CPU.
    pub cpu: u16,
    /// Whose doing it is, or whom it concerns.
    pub domain: TraceDomain,
    /// Which virtual CPU, by a number that is its own in the whole machine.
    pub vcpu: Option<u16>,
    /// What.
    pub event: TraceEvent,
}

/// Whom a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TraceDomain {
    /// Nobody.
    Nobody,
    /// The system's root.
    Root,
    /// A domain, by its place in [`crate::System::domains`].
    Named(u32),
    /// One that was gone before anybody asked for its name, by the kernel's number for it.
    Other(u64),
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceEvent {
    /// The CPU begins to run a virtual CPU.
    Switch,
    /// The CPU has nothing to run.
    Idle {
        /// When it looks again by itself; `None`: never.
        until_ns: Option<u64>,
    },
    /// A request was served.
    Request {
        /// The kernel's number for it.
        number: u16,
        /// What became of it.
        outcome: TraceOutcome,
    },
    /// The domain was entered for its timer.
    Tick,
    /// For an event that it listens to.
    Event,
    /// For an exception.
    Fault {
        /// Which.
        vector: u8,
        /// Of a page fault.
        address: u64,
    },
    /// For a capability that is taken from it.
    Revoking,
    /// A page fault was resolved.
    Touch {
        /// Where.
        address: u64,
        /// What for.
        access: TraceAccess,
    },
    /// The CPU's timer.
    Alarm,
    /// Another CPU has something for this one.
    Kick,
    /// A device's interrupt.
    Interrupt {
        /// The kernel's number for the device.
        device: u32,
        /// Which of its interrupts.
        line: u32,
    },
    /// Since the record before, translations were forgotten.
    Shootdown {
        /// So often for other CPUs.
        served: u32,
        /// So many CPUs were asked to.
        asked: u64,
    },
    /// A virtual CPU that slept waits for its turn now.
    Wake,
    /// The CPU took a virtual CPU from another.
    Steal {
        /// From which.
        from: u32,
    },
    /// The domain was made.
    Made,
    /// It has ended.
    Ended {
        /// By an exception that it could not be told of.
        faulted: bool,
        /// Else its status.
        status: u64,
    },
    /// It is gone, with all that it had.
    Destroyed,
    /// It is to be told of a capability that is taken from it.
    Revocation,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceOutcome {
    /// It was answered with a number.
    Answered(u64),
    /// It was refused, by the kernel's number for the error.
    Refused(u16),
    /// Who asked sleeps.
    Sleeps,
    /// It was served in part, and is made again.
    Again,
    /// There is nothing to return to.
    NoReturn,
}

/// What a page was touched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceAccess {
    /// To read it.
    Read,
    /// To write to it.
    Write,
    /// To run it.
    Execute,
}
