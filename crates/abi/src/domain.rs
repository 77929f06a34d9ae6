//! What is said about domains: when they are made, and when somebody looks.

use crate::PAGE_SIZE;

/// The most virtual CPUs that a domain can have.
pub const VCPUS_MAX: usize = 16;

/// The most regions that a domain can have.
pub const REGIONS_MAX: u64 = 16_384;

/// How many capabilities there can be from one that was derived from none down to another.
pub const DERIVED_MAX: u8 = 64;

/// What a new domain may have. Memory and whatever is counted is taken from its parent's own. Share, budget and CPUs are not: each child may
/// have as much of them as its parent, whatever the others have: so several together may have more.
///
/// It travels as words in the order of the fields ([`DomainParameters::to_words`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DomainParameters {
    /// What the kernel's log calls it: UTF-8, zeros behind it.
    pub name: [u8; 32],
    /// Memory, in bytes: its pages, its page tables, and what the kernel keeps about it.
    pub memory_bytes: u64,
    /// The most capabilities that its table can hold.
    pub capabilities_max: u64,
    /// The most regions that it can declare.
    pub regions_max: u64,
    /// The most virtual CPUs, 1 to [`VCPUS_MAX`].
    pub vcpus_max: u64,
    /// The most memories and channels that it can make, each.
    pub objects_max: u64,
    /// The most domains that it can make.
    pub domains_max: u64,
    /// Its weight against other domains that want to run: 1 to [`DomainParameters::SHARE_MAX`], and at most its parent's.
    pub share: u64,
    /// The CPU time that its virtual CPUs may take together in each [`DomainParameters::PERIOD_NS`], in nanoseconds, at most its
    /// parent's; 0: no limit but that.
    pub budget_ns: u64,
    /// The CPUs that it may run on, as bits, all of them its parent's; 0: those.
    pub cpus: u64,
}

impl DomainParameters {
    /// Words that it travels in.
    pub const WORDS: usize = size_of::<Self>() / 8;
    /// The heaviest weight.
    pub const SHARE_MAX: u64 = 10_000;
    /// The weight of who has no other wish.
    pub const SHARE_DEFAULT: u64 = 100;
    /// How often a budget is renewed.
    pub const PERIOD_NS: u64 = 100_000_000;

    /// The fields as they lie in memory.
    pub fn to_words(&self) -> [u64; Self::WORDS] {
        let mut words = [0; Self::WORDS];
        for (word, bytes) in words.iter_mut().zip(self.name.chunks_exact(8)) {
            *word = bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        }
        words[4..].copy_from_slice(&[
            self.memory_bytes,
            self.capabilities_max,
            self.regions_max,
            self.vcpus_max,
            self.objects_max,
            self.domains_max,
            self.share,
            self.budget_ns,
            self.cpus,
        ]);
        words
    }

    /// The inverse of [`DomainParameters::to_words`].
    pub fn from_words(words: [u64; Self::WORDS]) -> Self {
        let mut name = [0; 32];
        for (bytes, word) in name.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let [
            _,
            _,
            _,
            _,
            memory_bytes,
            capabilities_max,
            regions_max,
            vcpus_max,
            objects_max,
            domains_max,
            share,
            budget_ns,
            cpus,
        ] = words;
        Self {
            name,
            memory_bytes,
            capabilities_max,
            regions_max,
            vcpus_max,
            objects_max,
            domains_max,
            share,
            budget_ns,
            cpus,
        }
    }

    /// `text` as a [`DomainParameters::name`], cut where it is too long.
    pub fn name_of(text: &str) -> [u8; 32] {
        let mut name = [0; 32];
        let mut length = text.len().min(name.len());
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        name[..length].copy_from_slice(&text.as_bytes()[..length]);
        name
    }

    /// The frames of [`DomainParameters::memory_bytes`].
    pub const fn frames(&self) -> u64 {
        self.memory_bytes / PAGE_SIZE
    }
}

/// Whether a domain lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u64)]
pub enum DomainState {
    /// It can run.
    #[default]
    Alive = 0,
    /// It ended itself ([`crate::Request::End`]).
    Ended = 1,
    /// It raised an exception that could not be delivered to it.
    Faulted = 2,
}

/// What [`crate::Request::Inspect`] shows of a domain. All words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DomainRecord {
    /// A [`DomainState`].
    pub state: u64,
    /// Of [`DomainState::Ended`].
    pub status: u64,
    /// Of [`DomainState::Faulted`]: the exception vector.
    pub vector: u64,
    /// The error code.
    pub error: u64,
    /// For a page fault: the address.
    pub address: u64,
    /// Where it was.
    pub rip: u64,
    /// For a page fault: 1 if only a frame was missing.
    pub out_of_memory: u64,
    /// Bytes of memory taken.
    pub memory_bytes: u64,
    /// The most that may be.
    pub memory_bytes_max: u64,
    /// Capabilities that it holds.
    pub capabilities: u64,
    /// Regions that it declared.
    pub regions: u64,
    /// Virtual CPUs.
    pub vcpus: u64,
    /// Domains that it made and that exist.
    pub domains: u64,
    /// Time that its virtual CPUs ran, in nanoseconds.
    pub run_ns: u64,
    /// How often one of them was given a CPU.
    pub switches: u64,
    /// Page faults that the kernel resolved.
    pub touches: u64,
    /// Upcalls made, by [`crate::upcall::Kind`] less 1.
    pub upcalls: [u64; 4],
    /// Requests made.
    pub requests: u64,
    /// What it is called in [`crate::trace`]: no other ever is.
    pub number: u64,
}

/// What [`crate::Request::Inspect`] shows of the machine's CPU with that number. All words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CpuRecord {
    /// How many CPUs there are.
    pub cpus: u64,
    /// Time since the start, in nanoseconds.
    pub now_ns: u64,
    /// Time that this CPU ran ring 3, in nanoseconds.
    pub run_ns: u64,
    /// Switches from one virtual CPU to another.
    pub switches: u64,
    /// Of those, between domains.
    pub domain_switches: u64,
    /// Interrupts taken.
    pub interrupts: u64,
    /// Requests by other CPUs to forget translations, served.
    pub shootdowns: u64,
    /// Virtual CPUs that can run or do, here.
    pub ready: u64,
    /// Frames of the machine that are free.
    pub free_frames: u64,
    /// Frames of the machine.
    pub frames: u64,
    /// 1 while the CPU is traced ([`crate::Request::Trace`]), else 0.
    pub traced: u64,
}

/// Records that are words and nothing else.
macro_rules! words {
    ($record:ty) => {
        impl $record {
            /// Words in a record.
            pub const WORDS: usize = size_of::<Self>() / 8;
        }
    };
}
words!(DomainRecord);
words!(CpuRecord);

impl DomainRecord {
    /// The fields as they lie in memory.
    pub fn to_words(&self) -> [u64; Self::WORDS] {
        let [ticks, events, faults, revocations] = self.upcalls;
        [
            self.state,
            self.status,
            self.vector,
            self.error,
            self.address,
            self.rip,
            self.out_of_memory,
            self.memory_bytes,
            self.memory_bytes_max,
            self.capabilities,
            self.regions,
            self.vcpus,
            self.domains,
            self.run_ns,
            self.switches,
            self.touches,
            ticks,
            events,
            faults,
            revocations,
            self.requests,
            self.number,
        ]
    }
}

impl CpuRecord {
    /// The fields as they lie in memory.
    pub fn to_words(&self) -> [u64; Self::WORDS] {
        [
            self.cpus,
            self.now_ns,
            self.run_ns,
            self.switches,
            self.domain_switches,
            self.interrupts,
            self.shootdowns,
            self.ready,
            self.free_frames,
            self.frames,
            self.traced,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_words() {
        let parameters = DomainParameters {
            name: DomainParameters::name_of("alice"),
            memory_bytes: 1,
            capabilities_max: 2,
            regions_max: 3,
            vcpus_max: 4,
            objects_max: 5,
            domains_max: 6,
            share: 7,
            budget_ns: 8,
            cpus: 9,
        };
        assert_eq!(DomainParameters::from_words(parameters.to_words()), parameters);
        let long = "é".repeat(40);
        assert_eq!(core::str::from_utf8(&DomainParameters::name_of(&long)).map(str::len), Ok(32));
    }
}
