//! What happens on each CPU, written to memory that somebody gave for it.
//!
//! Off, it costs where something happens the look at one flag. On, each CPU writes to its own ring, under a lock that is the last of all: who
//! takes a capability away that a ring hangs on ends that ring first, and then nobody writes to its frames any more.

use crate::capability::{Object, Place};
use crate::kernel::{Cpu, Effect, Interrupt, Kernel};
use crate::machine::{Frame, Machine, Shootdowns};
use crate::memory::Refusal;
use crate::table::{DomainId, VcpuId};
use abi::trace::{Head, Kind, Outcome, Record};
use abi::{Error, Handle, PAGE_SIZE, Rights};
use core::sync::atomic::{AtomicBool, Ordering};

/// Whether any CPU is traced. On a line of the cache where nothing is that changes.
#[repr(align(64))]
#[derive(Debug, Default)]
pub(crate) struct Flag(AtomicBool);

/// Where a CPU's records go.
#[derive(Debug)]
pub(crate) struct Ring {
    /// The capabilities that it hangs on: to the machine, and to the memory.
    pub by: [Place; 2],
    pub first: Frame,
    head: Head,
    /// As they were at the last record.
    shootdowns: Shootdowns,
}

/// What is noted, but for the time.
pub(crate) struct Event {
    kind: Kind,
    domain: u64,
    vcpu: u16,
    detail: u32,
    value: u64,
}

const RECORDS_PER_PAGE: u64 = PAGE_SIZE / (Record::WORDS as u64 * 8);

impl Event {
    /// Something of a domain.
    pub fn of(kind: Kind, domain: DomainId, detail: u32, value: u64) -> Self {
        Self { kind, domain: domain.number(), vcpu: Record::NO_VCPU, detail, value }
    }

    /// Something of a virtual CPU.
    pub fn of_vcpu(kind: Kind, (domain, vcpu): (DomainId, VcpuId), detail: u32, value: u64) -> Self {
        Self { vcpu: vcpu.index() as u16, ..Self::of(kind, domain, detail, value) }
    }

    /// Something of what runs on a CPU, if anything does.
    pub fn here(kind: Kind, cpu: &Cpu, detail: u32, value: u64) -> Self {
        match cpu.current {
            Some(current) => Self::of_vcpu(kind, (current.domain, current.vcpu), detail, value),
            None => Self { kind, domain: 0, vcpu: Record::NO_VCPU, detail, value },
        }
    }

    /// A request by its number, and what it came to.
    pub fn request(cpu: &Cpu, number: u64, served: &Result<Effect, Refusal>) -> Self {
        let (outcome, value) = match served {
            Ok(Effect::Answer(value)) => (0, *value),
            Ok(Effect::Sleep(_)) => (Outcome::SLEEPS, 0),
            Ok(Effect::Load(_) | Effect::End | Effect::Stop(_)) => (Outcome::NO_RETURN, 0),
            Err(Refusal::Error(error)) => (error.code() as u32, 0),
            Err(Refusal::Again(_)) => (Outcome::AGAIN, 0),
        };
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        Self::here(Kind::Request, cpu, u32::from(number) | outcome << 16, value)
    }

    /// An interrupt.
    pub fn interrupt(cpu: &Cpu, interrupt: Interrupt) -> Self {
        let (which, value) = match interrupt {
            Interrupt::Alarm => (0, 0),
            Interrupt::Kick => (1, 0),
            Interrupt::Device { number, line } => (2, (number as u64) << 32 | u64::from(line)),
        };
        Self::here(Kind::Interrupt, cpu, which, value)
    }
}

impl Ring {
    fn begin<M: Machine>(machine: &M, cpu: usize, by: [Place; 2], first: Frame, pages: u64) -> Self {
        let capacity = Head::capacity_of(pages * PAGE_SIZE);
        let head = Head { capacity, cpu: cpu as u64, ..Head::default() };
        machine.write_words(first, 0, &[0, head.capacity, head.cpu, 0]);
        Self { by, first, head, shootdowns: machine.shootdowns(cpu) }
    }

    fn write<M: Machine>(&mut self, machine: &M, event: &Event) {
        let &Event { kind, domain, vcpu, detail, value } = event;
        let record = Record { at_ns: machine.now_ns(), domain, kind, vcpu, detail, value };
        let slot = 1 + self.head.written % self.head.capacity;
        let (page, index) = (slot / RECORDS_PER_PAGE, (slot % RECORDS_PER_PAGE) as usize);
        machine.write_words(self.first.offset(page), index * Record::WORDS, &record.to_words());
        self.head.written += 1;
        core::sync::atomic::fence(Ordering::Release);
        machine.write_words(self.first, 0, &[self.head.written]);
    }
}

impl<M: Machine> Kernel<M> {
    /// Notes something, if it is wanted.
    #[inline(always)]
    pub(crate) fn trace(&self, cpu: &Cpu, event: impl FnOnce(&Cpu) -> Event) {
        if self.tracing.0.load(Ordering::Relaxed) {
            self.write_trace(cpu, &event(cpu));
        }
    }

    /// Apart and once for all events: so the way around it is short, and so is the kernel.
    #[cold]
    #[inline(never)]
    fn write_trace(&self, cpu: &Cpu, event: &Event) {
        let number = cpu.number;
        let Some(seat) = self.seats.get(number) else { return };
        let mut ring = seat.ring.lock();
        let Some(ring) = &mut *ring else { return };
        if let (0, Some(current), true) = (ring.head.written, cpu.current, event.kind != Kind::Switch) {
            // Since before it was traced.
            ring.write(&self.machine, &Event::of_vcpu(Kind::Switch, (current.domain, current.vcpu), 0, 0));
        }
        let now = self.machine.shootdowns(number);
        let before = core::mem::replace(&mut ring.shootdowns, now);
        if now != before {
            let (asked, served) = (now.asked - before.asked, now.served - before.served);
            let vcpu = Record::NO_VCPU;
            let event = Event { kind: Kind::Shootdown, domain: 0, vcpu, detail: served as u32, value: asked };
            ring.write(&self.machine, &event);
        }
        ring.write(&self.machine, event);
    }

    pub(crate) fn set_trace(
        &self,
        cpu: &Cpu,
        machine: Handle,
        number: u64,
        memory: Handle,
    ) -> Result<u64, Refusal> {
        let _tree = self.authority.lock();
        let (by_machine, held) = self.held(cpu, machine, Rights::CONTROL)?;
        if held.object != Object::Machine {
            return Err(Error::WrongKind.into());
        }
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let seat = self.seats.get(number).ok_or(Error::NothingThere)?;
        let ring = match memory {
            Handle::NONE => None,
            memory => {
                let (by_memory, held) = self.held(cpu, memory, Rights::MAP.union(Rights::WRITE))?;
                let Object::Memory(id) = held.object else { return Err(Error::WrongKind.into()) };
                let memory = self.memories.lock(id).ok_or(Error::StaleHandle)?;
                if memory.owner.is_none() {
                    // The boot module, which stays as it is.
                    return Err(Error::NoRight.into());
                }
                let by = [by_machine, by_memory];
                Some(Ring::begin(&self.machine, number, by, memory.first, memory.pages))
            }
        };
        let is_other = number != cpu.number && ring.is_some();
        *seat.ring.lock() = ring;
        self.show_tracing();
        if is_other {
            // It may run on and on: so it has a first record, which says what it runs.
            self.machine.kick(number);
        }
        Ok(0)
    }

    /// Ends the rings that hang on a capability.
    pub(crate) fn end_trace(&self, by: Place) {
        if !self.tracing.0.load(Ordering::Relaxed) {
            return;
        }
        for seat in &self.seats {
            seat.ring.lock().take_if(|ring| ring.by.contains(&by));
        }
        self.show_tracing();
    }

    /// The flag follows the rings; both change under `authority` only.
    fn show_tracing(&self) {
        let any = self.seats.iter().any(|seat| seat.ring.lock().is_some());
        self.tracing.0.store(any, Ordering::Relaxed);
    }

    /// For tests.
    #[cfg(test)]
    pub(crate) fn is_tracing(&self) -> bool {
        self.tracing.0.load(Ordering::Relaxed)
    }
}
