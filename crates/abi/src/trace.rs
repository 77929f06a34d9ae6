//! What the kernel writes down while a CPU is traced ([`crate::Request::Trace`]).
//!
//! The memory that it was given is slots of [`Record::WORDS`] words. The first holds a [`Head`], the others records in a ring: the
//! record of number `n`, counted from 0 since tracing began, is in slot `1 + n % capacity`. The kernel writes a record and then
//! [`Head::written`]. A reader that maps the memory copies records and reads the head again: number `n` was whole when it was
//! copied if `n + capacity` is above what the head says then ([`Head::is_whole`]); else it was overrun, and is lost.

/// The first slot of a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// How many records were written since tracing began.
    pub written: u64,
    /// How many the ring holds.
    pub capacity: u64,
    /// Which CPU is traced.
    pub cpu: u64,
    /// Zero.
    pub reserved: u64,
}

impl Head {
    /// The slots of a ring in so many bytes, less the first.
    pub const fn capacity_of(bytes: u64) -> u64 {
        (bytes / (Record::WORDS as u64 * 8)).saturating_sub(1)
    }

    /// Whether record `number` was whole when it was copied, before the head said this.
    pub const fn is_whole(&self, number: u64) -> bool {
        number < self.written && number.saturating_add(self.capacity) > self.written
    }
}

/// Something that happened on a CPU, in four words: the time; the domain; kind, virtual CPU and detail; the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, in nanoseconds of [`crate::Request::Now`].
    pub at_ns: u64,
    /// Whose doing it is, or whom it concerns: [`crate::DomainRecord::number`]; 0: nobody's.
    pub domain: u64,
    /// What.
    pub kind: Kind,
    /// Its virtual CPU, by a number that those of the whole machine do not share; of the domain itself [`Record::NO_VCPU`].
    pub vcpu: u16,
    /// See [`Kind`].
    pub detail: u32,
    /// See [`Kind`].
    pub value: u64,
}

/// What can happen, with what `detail` and `value` say then: 0 where nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The CPU begins to run a virtual CPU; as the first record: it did before it was traced.
    Switch = 1,
    /// The CPU has nothing to run. Value: when it looks again by itself.
    Idle = 2,
    /// A request was served. Detail: its number, and its [`Outcome`] from bit 16 on. Value: the answer.
    Request = 3,
    /// An upcall was made. Detail: its [`crate::upcall::Kind`], and from bit 8 on the vector of a fault. Value: the address of a page fault.
    Upcall = 4,
    /// A page fault was resolved. Detail: the error code. Value: the address.
    Touch = 5,
    /// An interrupt came. Detail: 0 an alarm, 1 another CPU's, 2 a device's. Value: of a device, its line, and its number from bit 32 on.
    Interrupt = 6,
    /// Since the record before, translations were forgotten for other CPUs so many times (detail), and others were asked to (value).
    Shootdown = 7,
    /// A virtual CPU that slept was woken, and waits for its turn.
    Wake = 8,
    /// The CPU took a virtual CPU from another, whose number is the detail.
    Steal = 9,
    /// A domain was made. Value: the number of its maker.
    Made = 10,
    /// A domain has ended. Detail: its [`crate::DomainState`]. Value: its status.
    Ended = 11,
    /// A domain and all that it had is gone.
    Destroyed = 12,
    /// A domain is told that a capability of its is being revoked.
    Revocation = 13,
}

/// What became of a request: 0, the code of an [`crate::Error`], or one of these.
pub struct Outcome;

impl Outcome {
    /// The virtual CPU sleeps.
    pub const SLEEPS: u32 = 0x100;
    /// It was served in part, and is made again.
    pub const AGAIN: u32 = 0x101;
    /// There is nothing to return to: it resumed something else, or ended.
    pub const NO_RETURN: u32 = 0x102;
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::Switch,
        Self::Idle,
        Self::Request,
        Self::Upcall,
        Self::Touch,
        Self::Interrupt,
        Self::Shootdown,
        Self::Wake,
        Self::Steal,
        Self::Made,
        Self::Ended,
        Self::Destroyed,
        Self::Revocation,
    ];
}

impl Record {
    /// Words that it takes.
    pub const WORDS: usize = 4;
    /// No virtual CPU.
    pub const NO_VCPU: u16 = u16::MAX;

    /// As it lies in memory.
    pub const fn to_words(&self) -> [u64; Self::WORDS] {
        let what = self.kind as u64 | (self.vcpu as u64) << 16 | (self.detail as u64) << 32;
        [self.at_ns, self.domain, what, self.value]
    }

    /// The inverse; `None` if there is no such kind.
    pub fn from_words([at_ns, domain, what, value]: [u64; Self::WORDS]) -> Option<Self> {
        let kind = *Kind::ALL.get(usize::from((what as u16).checked_sub(1)?))?;
        Some(Self { at_ns, domain, kind, vcpu: (what >> 16) as u16, detail: (what >> 32) as u32, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_words() {
        for (number, kind) in (1..).zip(Kind::ALL) {
            assert_eq!(kind as u8, number);
            let record = Record { at_ns: 1, domain: u64::MAX, kind, vcpu: 3, detail: u32::MAX, value: 5 };
            assert_eq!(Record::from_words(record.to_words()), Some(record));
        }
        for what in [0, 14, 0x100, 0x101, u64::MAX] {
            assert_eq!(Record::from_words([0, 0, what, 0]), None, "{what:#x}");
        }
    }

    #[test]
    fn what_was_overrun_is_not_whole() {
        assert_eq!(Head::capacity_of(4096), 127);
        assert_eq!(Head::capacity_of(0), 0);
        let head = Head { written: 300, capacity: 127, ..Head::default() };
        // The kernel may be writing number 300, over number 173.
        let whole: [bool; 4] = [173, 174, 299, 300].map(|number| head.is_whole(number));
        assert_eq!(whole, [false, true, true, false]);
        assert!(!Head::default().is_whole(0));
    }
}
