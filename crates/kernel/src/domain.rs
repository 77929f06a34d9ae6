//! A domain, and the small objects that belong to one.

use crate::capability::{Capabilities, Place};
use crate::machine::{Frame, Machine};
use crate::memory::Space;
use crate::table::{DomainId, VcpuId};
use crate::vcpu::{Listener, VCPUS_MAX};
use abi::{DomainRecord, DomainState};

/// A domain.
pub(crate) struct Domain<M: Machine> {
    pub id: DomainId,
    pub name: [u8; 32],
    pub parent: Option<DomainId>,
    /// The first capability to it, which its parent holds: its own, if it is the first domain.
    pub origin: Option<Place>,
    pub space: Space<M>,
    pub capabilities: Capabilities,
    pub vcpus: [Option<VcpuId>; VCPUS_MAX],
    pub state: DomainState,
    /// Why it is not alive any more: the first fields of what is shown of it.
    pub end: DomainRecord,
    /// Who is told of its end.
    pub listener: Option<Listener>,
    /// What it may have, and what of that is taken, by itself and by the domains that it made.
    pub limits: Limits,
    pub taken: Limits,
    pub share: u64,
    pub budget_ns: u64,
    pub cpus: u64,
}

/// Things that are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub vcpus: u64,
    pub objects: u64,
    pub domains: u64,
}

impl Limits {
    /// Takes `more` as well, if `max` allows it.
    pub fn take(&mut self, more: Self, max: Self) -> bool {
        let Self { vcpus, objects, domains } = *self;
        let sum = Self {
            vcpus: vcpus.saturating_add(more.vcpus),
            objects: objects.saturating_add(more.objects),
            domains: domains.saturating_add(more.domains),
        };
        let fits = sum.vcpus <= max.vcpus && sum.objects <= max.objects && sum.domains <= max.domains;
        if fits {
            *self = sum;
        }
        fits
    }

    /// Gives `less` back.
    pub fn give_back(&mut self, less: Self) {
        self.vcpus -= less.vcpus;
        self.objects -= less.objects;
        self.domains -= less.domains;
    }

    /// One memory or channel.
    pub const OBJECT: Self = Self { vcpus: 0, objects: 1, domains: 0 };
    /// One virtual CPU.
    pub const VCPU: Self = Self { vcpus: 1, objects: 0, domains: 0 };

    /// What a domain with these limits takes of its parent's.
    pub fn of_child(self) -> Self {
        Self { domains: self.domains.saturating_add(1), ..self }
    }
}

impl<M: Machine> Domain<M> {
    /// Its name as text.
    pub fn name(&self) -> &str {
        name_of(&self.name)
    }
}

/// The text of a name.
pub(crate) fn name_of(name: &[u8; 32]) -> &str {
    let text = name.split(|&byte| byte == 0).next().unwrap_or(&[]);
    core::str::from_utf8(text).unwrap_or("?")
}

/// Frames with a capability.
#[derive(Debug)]
pub(crate) struct Memory {
    pub first: Frame,
    pub pages: u64,
    /// Who pays for the frames and gets them back; `None`: they are the boot module's.
    pub owner: Option<DomainId>,
}

/// Shared frames, and a bell on either side.
#[derive(Debug)]
pub(crate) struct Channel {
    pub first: Frame,
    pub pages: u64,
    pub owner: DomainId,
    pub ends: [End; 2],
}

/// One end of a channel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct End {
    /// Who is told when the other side signals.
    pub listener: Option<Listener>,
    /// Capabilities to this end.
    pub holders: u32,
    /// It had holders, and has none any more.
    pub closed: bool,
}
