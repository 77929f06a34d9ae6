//! A domain as a Linux process of its own, with quotas, that keeps no more of Linux than it needs.
//!
//! The parent describes a [`Domain`] and [starts](Domain::start) it as a child, which calls [`serve`]. All that the child
//! works with comes to it as open descriptors (`handover`), so that it opens nothing by a path of its own.
//! It is killed by Linux when the thread that started it ends.

mod child;
mod group;
mod handover;
mod limits;
mod running;
mod throttle;

use crate::files::Grant;
use crate::launch::Runtime;
use bundle::Plan;
use serde::{Deserialize, Serialize};
use std::fs::File;

pub use child::{ServeError, serve};
pub use running::{End, Reason, Running, Usage};

/// Something that is not bounded here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// This process can make no control group: what Linux itself keeps for a domain is in no quota, and a domain weighs as its threads do, together.
    ControlGroup,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ControlGroup => f.write_str(
                "there are no control groups for it here: `memory` bounds what a domain writes, but not the page tables that Linux keeps for it, and `cpu-share` counts for each of its virtual CPUs (see systemd-run --user --scope -p Delegate=yes)",
            ),
        }
    }
}

/// What quotas leave unbounded here.
pub fn missing() -> Option<Missing> {
    (!group::Group::can_be()).then_some(Missing::ControlGroup)
}

/// A domain that can be started, again and again.
#[derive(Debug)]
pub struct Domain {
    /// The library OS.
    pub runtime: Runtime,
    /// What it is to do. The directories of its programs are `grants`, by their numbers.
    pub plan: Plan,
    /// The programs' artifacts, by their numbers in the plan.
    pub artifacts: Vec<File>,
    /// The trap helper's artifact.
    pub trap_helper: File,
    /// The directories that it is given.
    pub grants: Vec<Grant>,
    /// What it may use of the machine.
    pub quotas: Quotas,
    /// Whether it keeps the rights of whoever starts it.
    pub confinement: Confinement,
}

/// What a domain may use of the machine. Its process has a thread for each virtual CPU of its plan, and cannot make another: so it is on as many
/// CPUs at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quotas {
    /// Memory of its own, in bytes: all that the library OS may make writable, touched or not. Beyond it Linux refuses, and
    /// the library OS is told that there is no memory (`limits`).
    pub memory_bytes: u64,
    /// How it fares where domains compete for a CPU.
    pub cpu_share: Share,
    /// The most CPU time it gets, in thousandths of one CPU; `None`: all there is.
    pub cpu_budget_permille: Option<u32>,
}

/// A weight among weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Its own, 1 to 10,000.
    pub weight: u16,
    /// The largest among the domains that it competes with.
    pub heaviest: u16,
}

/// Whether a domain's process keeps rights that it does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Confinement {
    /// It gives up all that this Linux lets it give up.
    Confined,
    /// It keeps them: to find out whether the confinement is in the way of something.
    Unconfined,
}
