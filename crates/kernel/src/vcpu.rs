//! A virtual CPU: its timer, its events, its upcalls.

use crate::capability::Place;
use crate::machine::{Frame, Machine};
use crate::table::{DomainId, VcpuId};
use abi::upcall::{Area, Context, Kind};
use abi::{Error, UpcallPage};
use core::mem::offset_of;

pub(crate) use crate::schedule::NEVER;
pub(crate) use abi::VCPUS_MAX;

/// Flags that a domain chooses (Intel SDM volume 1, section 3.4.3): carry, parity, adjust, zero, sign, trap,
/// direction, overflow.
const FLAGS_TAKEN: u64 = 0x0dd5;
/// Flags of everything that runs in ring 3: interrupts on, and the bit that is always 1.
const FLAGS_SET: u64 = 0x0202;
/// One past the last address that `rip` and `rsp` may hold: the end of the lower half, less a page, so that even
/// the address after an instruction is canonical.
pub(crate) const USER_END: u64 = (1 << 47) - abi::PAGE_SIZE;

const MASKED: usize = offset_of!(UpcallPage, masked) / 8;
const PENDING: usize = offset_of!(UpcallPage, pending) / 8;

/// Where upcalls go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upcall {
    /// The pinned page, by address and by frame.
    pub page: u64,
    pub frame: Frame,
    pub entry: u64,
    pub stack: u64,
}

/// Why a virtual CPU sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiting {
    /// In [`abi::Request::Wait`]. If a tick was due and masked when that began, it does not end it.
    Events { deadline_ns: u64, tick_was_due: bool },
    /// Until its request is worth making again, which it will do by itself.
    Retry { deadline_ns: u64 },
}

impl Waiting {
    fn deadline_ns(self) -> u64 {
        match self {
            Self::Events { deadline_ns, .. } | Self::Retry { deadline_ns } => deadline_ns,
        }
    }
}

/// Who is told, and by which bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub vcpu: VcpuId,
    /// 0 to 63.
    pub event: u32,
    /// The capability by which it listens: when that is gone it hears no more.
    pub by: Place,
}

/// The state of a virtual CPU.
#[derive(Debug)]
pub(crate) struct Vcpu {
    pub domain: DomainId,
    /// Which of its domain's.
    pub number: usize,
    /// The CPU in whose queue it is.
    pub home: usize,
    /// The CPU whose vector registers are still its own, if nobody else's were loaded there since.
    pub vectors_on: Option<usize>,
    /// Where it goes on when it runs again.
    pub saved: Context,
    /// Its vector registers while it does not run.
    pub vectors: Frame,
    pub started: bool,
    /// The first capability to it.
    pub origin: Option<Place>,
    /// The next of its domain's, which are a ring; `None` if it is the only one.
    pub next: Option<VcpuId>,
    /// How long it ran, and how often, when it left its queue.
    pub ran: (u64, u64),
    pub upcall: Option<Upcall>,
    pub waiting: Option<Waiting>,
    /// When the next tick falls due.
    pub deadline_ns: u64,
    /// A tick fell due and its upcall was not made yet.
    pub tick_due: bool,
    /// A capability is being revoked, and its upcall was not made yet.
    pub revocation_due: bool,
    /// What its request waits for may have come.
    pub retry_due: bool,
    /// Below which capability it tells of a revocation, and who is next if some are left.
    pub telling: Option<(Place, Option<Place>)>,
    /// Events that [`abi::Request::Wait`] has not taken.
    pub pending: u64,
    /// Of these, the ones that no upcall told of.
    pub untold: u64,
    /// Upcalls made, by kind less 1.
    pub upcalls: [u64; 4],
    /// Requests answered.
    pub requests: u64,
}

impl Vcpu {
    pub fn new(domain: DomainId, number: usize, home: usize, vectors: Frame) -> Self {
        Self {
            domain,
            number,
            home,
            vectors_on: None,
            saved: Context::default(),
            vectors,
            started: false,
            origin: None,
            next: None,
            ran: (0, 0),
            upcall: None,
            waiting: None,
            deadline_ns: NEVER,
            tick_due: false,
            revocation_due: false,
            retry_due: false,
            telling: None,
            pending: 0,
            untold: 0,
            upcalls: [0; 4],
            requests: 0,
        }
    }

    /// When the machine has to wake the kernel next.
    pub fn alarm_ns(&self) -> u64 {
        self.deadline_ns.min(self.waiting.map_or(NEVER, Waiting::deadline_ns))
    }

    /// Notes that it is `now_ns`.
    pub fn advance(&mut self, now_ns: u64) {
        if now_ns >= self.deadline_ns {
            self.deadline_ns = NEVER;
            self.tick_due = true;
        }
    }

    /// Whether its sleep is over, if it sleeps: what it slept for, then.
    pub fn wake<M: Machine>(&mut self, machine: &M, now_ns: u64) -> Option<Waiting> {
        self.advance(now_ns);
        let waiting = self.waiting?;
        // Whoever is woken for another's request does not find it at the next sleep.
        let retry_due = core::mem::take(&mut self.retry_due);
        let over = match waiting {
            Waiting::Events { tick_was_due, .. } => {
                let told = self.revocation_due && self.is_open(machine);
                self.pending != 0 || told || self.tick_due && !tick_was_due
            }
            // Its request is what looks; an upcall comes before that.
            Waiting::Retry { .. } => retry_due || self.is_due() && self.is_open(machine),
        };
        if !over && now_ns < waiting.deadline_ns() {
            return None;
        }
        self.waiting.take()
    }

    /// Whether something has come that its sleep may have been for.
    pub fn has_news(&self) -> bool {
        self.pending != 0 || self.retry_due || self.is_due()
    }

    /// Whether an upcall is due.
    fn is_due(&self) -> bool {
        self.tick_due || self.revocation_due || self.untold != 0
    }

    /// Sends upcalls to another place.
    pub fn set_upcall<M: Machine>(&mut self, machine: &M, upcall: Upcall) {
        self.upcall = Some(upcall);
        self.show_pending(machine);
    }

    /// Notes an event, 0 to 63. Answers whether it is news.
    pub fn raise<M: Machine>(&mut self, machine: &M, event: u32) -> bool {
        let bit = 1 << event;
        if self.pending & self.untold & bit != 0 {
            return false;
        }
        self.pending |= bit;
        self.untold |= bit;
        self.show_pending(machine);
        true
    }

    /// The pending events, which are then no more.
    pub fn take_events<M: Machine>(&mut self, machine: &M) -> u64 {
        let taken = core::mem::take(&mut self.pending);
        self.untold = 0;
        if taken != 0 {
            self.show_pending(machine);
        }
        taken
    }

    /// Whether an upcall of kind tick or event may be made now.
    pub fn is_open<M: Machine>(&self, machine: &M) -> bool {
        self.upcall.is_some_and(|upcall| read_word(machine, upcall.frame, MASKED) == 0)
    }

    /// Makes the upcall that is due, if any and if it is not masked: saves `context` and changes it to the handler's.
    pub fn deliver<M: Machine>(&mut self, machine: &M, context: &mut Context) -> Option<Kind> {
        if !self.is_due() || !self.is_open(machine) {
            return None;
        }
        let upcall = self.upcall?;
        let kind = if self.tick_due {
            self.tick_due = false;
            Kind::Tick
        } else if self.revocation_due {
            self.revocation_due = false;
            Kind::Revocation
        } else {
            self.untold = 0;
            Kind::Event
        };
        self.enter(machine, &upcall, kind, context);
        Some(kind)
    }

    /// Makes the upcall for the fault that `context` describes; `None` if the domain cannot take one.
    pub fn deliver_fault<M: Machine>(&mut self, machine: &M, context: &mut Context) -> Option<Kind> {
        let upcall = self.upcall.filter(|_| self.is_open(machine))?;
        self.enter(machine, &upcall, Kind::Fault, context);
        Some(Kind::Fault)
    }

    /// The context of an area, sanitised, with upcalls unmasked.
    pub fn resume<M: Machine>(&mut self, machine: &M, area: Area) -> Result<Context, Error> {
        let upcall = self.upcall.ok_or(Error::NotMapped)?;
        let mut words = [0; Context::WORDS];
        machine.read_words(upcall.frame, area_word(area), &mut words);
        let context = Context::from_words(words);
        if context.rip >= USER_END || context.rsp >= USER_END {
            return Err(Error::BadRange);
        }
        machine.write_words(upcall.frame, MASKED, &[0]);
        let rflags = context.rflags & FLAGS_TAKEN | FLAGS_SET;
        // What a fault said is said: a tick that comes at once must not seem to be one.
        Ok(Context { rflags, vector: 0, error: 0, address: 0, out_of_memory: 0, ..context })
    }

    fn enter<M: Machine>(&mut self, machine: &M, upcall: &Upcall, kind: Kind, context: &mut Context) {
        self.upcalls[kind as usize - 1] += 1;
        let area = if kind == Kind::Fault { Area::Fault } else { Area::Tick };
        machine.write_words(upcall.frame, area_word(area), &context.to_words());
        machine.write_words(upcall.frame, MASKED, &[1]);
        *context = fresh_context(upcall.entry, upcall.stack);
        context.rdi = kind as u64;
        context.rsi = upcall.page + area_word(area) as u64 * 8;
    }

    fn show_pending<M: Machine>(&self, machine: &M) {
        if let Some(upcall) = self.upcall {
            machine.write_words(upcall.frame, PENDING, &[self.pending]);
        }
    }
}

impl Upcall {
    /// Addresses that can be entered.
    pub fn check(entry: u64, stack: u64) -> Result<(), Error> {
        if entry < USER_END && stack < USER_END { Ok(()) } else { Err(Error::BadRange) }
    }
}

/// The context in which a domain starts to run at `rip`.
pub(crate) fn fresh_context(rip: u64, rsp: u64) -> Context {
    Context { rip, rsp, rflags: FLAGS_SET, ..Context::default() }
}

const fn area_word(area: Area) -> usize {
    match area {
        Area::Tick => offset_of!(UpcallPage, tick) / 8,
        Area::Fault => offset_of!(UpcallPage, fault) / 8,
    }
}

fn read_word<M: Machine>(machine: &M, frame: Frame, index: usize) -> u64 {
    let mut word = [0];
    machine.read_words(frame, index, &mut word);
    word[0]
}
