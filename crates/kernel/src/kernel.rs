//! The state of the kernel and every way into it.
//!
//! Locks are taken in this order, and two of a kind never together: `authority`, a domain, a memory or channel, the devices, a virtual CPU, a queue,
//! a ring.
//! Whatever touches two domains holds `authority`.

use crate::capability::Object;
use crate::device::{Devices, LineState};
use crate::domain::{Channel, Domain, Memory};
use crate::log::Level;
use crate::machine::{Access, Machine, Page};
use crate::memory::{Refusal, Touch};
use crate::schedule::{Entry, Queue, Run};
use crate::table::{DomainId, Guard, Lock, Table, VcpuId, kind};
use crate::trace::{Event, Flag, Ring};
use crate::vcpu::{Listener, Vcpu, Waiting};
use abi::boot::status;
use abi::trace::Kind;
use abi::{Context, DomainRecord, DomainState, Error, PAGE_SIZE, Registers, Request};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};

/// The kernel, which all CPUs share.
pub struct Kernel<M: Machine> {
    /// The hardware.
    pub machine: M,
    /// Guards the tree of capabilities and the coming and going of objects.
    pub(crate) authority: Lock<(), M>,
    pub(crate) domains: Table<kind::Domain, Domain<M>, M>,
    pub(crate) vcpus: Table<kind::Vcpu, Vcpu, M>,
    pub(crate) memories: Table<kind::Memory, Memory, M>,
    pub(crate) channels: Table<kind::Channel, Channel, M>,
    pub(crate) devices: Lock<Devices, M>,
    pub(crate) seats: Vec<Seat<M>>,
    /// CPUs that sleep, as bits.
    pub(crate) idle: AtomicU64,
    /// CPUs for which one waits that may run on another.
    pub(crate) waited: AtomicU64,
    /// CPUs that do not look whether somebody waits for another: they are to be told.
    pub(crate) blind: AtomicU64,
    pub(crate) tracing: Flag,
    /// The first domain: with it the machine stops.
    pub(crate) first: Option<DomainId>,
    /// Frames of the machine that domains can have.
    pub(crate) frames: u64,
}

/// What others may use of a CPU.
pub(crate) struct Seat<M: Machine> {
    pub queue: Lock<Queue, M>,
    /// The queue changed: the CPU shall look before it goes back to ring 3.
    pub attention: AtomicBool,
    /// Where it notes what happens, if somebody wants to know.
    pub ring: Lock<Option<Ring>, M>,
}

/// What a CPU has for itself.
#[derive(Debug)]
pub struct Cpu {
    pub(crate) number: usize,
    pub(crate) current: Option<Current>,
    /// Whose page tables are loaded.
    active: Option<DomainId>,
    /// Whose vector registers are loaded.
    vectors: Option<VcpuId>,
}

/// What runs on a CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Current {
    pub vcpu: VcpuId,
    pub domain: DomainId,
}

/// How to go on after an entry into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Back to ring 3; only `rax` and `rdx` of the context are new.
    Return,
    /// To ring 3 with a context that may be wholly new.
    Enter,
    /// Wait for an interrupt, report it with [`Kernel::note`], then ask [`Kernel::awake`].
    Sleep,
    /// Stop the machine with this status.
    Stop(u8),
}

/// An exception of ring 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Intel SDM volume 3, table 6-1.
    pub vector: u8,
    /// What the CPU pushed, or 0.
    pub error: u64,
    /// For a page fault: the address.
    pub address: u64,
}

/// An interrupt of this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// Its alarm.
    Alarm,
    /// Another CPU asks it to look at its queue.
    Kick,
    /// A connected interrupt of a device, by the machine's number for it.
    Device {
        /// [`crate::Device::number`].
        number: usize,
        /// Which of its interrupts.
        line: u32,
    },
}

/// The vector of a page fault.
pub const PAGE_FAULT: u8 = 14;
/// Error code of a page fault: the access was a write (Intel SDM volume 3, figure 4-12).
const FAULT_WRITE: u64 = 1 << 1;
/// The access was made as ring 3. One that was not, but came from there, was the CPU's own, to its tables.
const FAULT_USER: u64 = 1 << 2;
/// A reserved bit was set in a page table entry: never the domain's doing.
const FAULT_RESERVED: u64 = 1 << 3;
/// The access was an instruction fetch.
const FAULT_FETCH: u64 = 1 << 4;
/// Bytes of the `syscall` instruction.
const SYSTEM_CALL_BYTES: u64 = 2;

/// What a request comes to.
pub(crate) enum Effect {
    Answer(u64),
    Load(Context),
    /// The virtual CPU sleeps.
    Sleep(Waiting),
    /// The domain has ended.
    End,
    Stop(u8),
}

impl Cpu {
    /// CPU `number`, which runs nothing yet.
    pub const fn new(number: usize) -> Self {
        Self { number, current: None, active: None, vectors: None }
    }
}

impl<M: Machine> Kernel<M> {
    /// A system call with these registers.
    pub fn system_call(&self, cpu: &mut Cpu, context: &mut Context) -> Next {
        let arguments = [context.rdi, context.rsi, context.rdx, context.r10, context.r8, context.r9];
        let registers = Registers { number: context.rax, arguments };
        let served = match Request::decode(registers) {
            Ok(request) => self.serve(cpu, request),
            Err(error) => Err(error.into()),
        };
        self.trace(cpu, |cpu| Event::request(cpu, context.rax, &served));
        match served {
            Ok(Effect::Answer(value)) => answer(context, Ok(value)),
            Ok(Effect::Sleep(waiting)) => {
                if matches!(waiting, Waiting::Retry { .. }) {
                    context.rip -= SYSTEM_CALL_BYTES;
                }
                self.park(cpu, context, Some(waiting));
                return self.dispatch(cpu, context);
            }
            Ok(Effect::End) if self.is_first(cpu) => return Next::Stop(status::DOMAIN_ENDED),
            Ok(Effect::End) => {
                self.park(cpu, context, None);
                return self.dispatch(cpu, context);
            }
            Ok(Effect::Stop(status)) => return Next::Stop(status),
            Ok(Effect::Load(loaded)) => {
                *context = loaded;
                return self.leave(cpu, context, Next::Enter);
            }
            Err(Refusal::Error(error)) => answer(context, Err(error)),
            Err(Refusal::Again(rest)) => {
                if let Some(page) = rest {
                    let done = page.address() - context.rsi;
                    (context.rsi, context.rdx) = (context.rsi + done, context.rdx - done);
                }
                context.rip -= SYSTEM_CALL_BYTES;
                return self.leave(cpu, context, Next::Enter);
            }
        }
        self.leave(cpu, context, Next::Return)
    }

    /// An exception in ring 3.
    pub fn fault(&self, cpu: &mut Cpu, fault: Fault, context: &mut Context) -> Next {
        let Some(current) = cpu.current else { return self.dispatch(cpu, context) };
        let mut out_of_memory = false;
        if fault.vector == PAGE_FAULT && fault.error & (FAULT_USER | FAULT_RESERVED) == FAULT_USER {
            let access = match fault.error {
                error if error & FAULT_FETCH != 0 => Access::Execute,
                error if error & FAULT_WRITE != 0 => Access::Write,
                _ => Access::Read,
            };
            let page = Page::containing(fault.address);
            let domain = self.domains.lock(current.domain);
            match domain.map(|mut domain| domain.space.touch(&self.machine, page, access)) {
                Some(Touch::Resolved(_)) => {
                    let event =
                        move |cpu: &Cpu| Event::here(Kind::Touch, cpu, fault.error as u32, fault.address);
                    self.trace(cpu, event);
                    return Next::Enter;
                }
                Some(Touch::OutOfMemory) => out_of_memory = true,
                Some(Touch::Denied) | None => (),
            }
        }
        context.vector = u64::from(fault.vector);
        context.error = fault.error;
        context.address = fault.address;
        context.out_of_memory = u64::from(out_of_memory);
        let vcpu = self.vcpus.lock(current.vcpu);
        match vcpu.and_then(|mut vcpu| vcpu.deliver_fault(&self.machine, context)) {
            Some(kind) => {
                let detail = kind as u32 | u32::from(fault.vector) << 8;
                self.trace(cpu, move |cpu| Event::here(Kind::Upcall, cpu, detail, fault.address));
                Next::Enter
            }
            None => self.end_by_fault(cpu, context),
        }
    }

    /// An interrupt while ring 3 ran.
    pub fn interrupt(&self, cpu: &mut Cpu, interrupt: Interrupt, context: &mut Context) -> Next {
        self.note(cpu, interrupt);
        self.leave(cpu, context, Next::Enter)
    }

    /// Notes an interrupt.
    pub fn note(&self, cpu: &mut Cpu, interrupt: Interrupt) {
        let seat = &self.seats[cpu.number];
        seat.queue.lock().counters.interrupts += 1;
        self.trace(cpu, move |cpu| Event::interrupt(cpu, interrupt));
        match interrupt {
            Interrupt::Alarm | Interrupt::Kick => seat.attention.store(true, Relaxed),
            Interrupt::Device { number, line } => {
                let mut devices = self.devices.lock();
                let Some((device, line_state)) = devices.line_of(number, line) else { return };
                self.machine.mask(device, line);
                let LineState::Ready(listener) = line_state.state else { return };
                line_state.state = LineState::Pending(listener);
                drop(devices);
                self.tell(cpu, listener);
            }
        }
    }

    /// A sleep is over, or the CPU is new: finds out what runs now.
    pub fn awake(&self, cpu: &mut Cpu, context: &mut Context) -> Next {
        self.dispatch(cpu, context)
    }

    /// Lets what runs go on as `next` says, or another if it is to make room.
    fn leave(&self, cpu: &mut Cpu, context: &mut Context, next: Next) -> Next {
        let Some(current) = cpu.current else { return self.dispatch(cpu, context) };
        let seat = &self.seats[cpu.number];
        let attention = seat.attention.load(Relaxed) && seat.attention.swap(false, SeqCst);
        if attention && self.must_switch(cpu, self.machine.now_ns()) {
            self.park(cpu, context, None);
            return self.dispatch(cpu, context);
        }
        let Some(mut vcpu) = self.vcpus.lock(current.vcpu) else { return next };
        vcpu.requests += u64::from(next == Next::Return);
        if attention {
            vcpu.advance(self.machine.now_ns());
            self.set_alarm(cpu.number, current.vcpu, &vcpu);
        }
        match vcpu.deliver(&self.machine, context) {
            Some(kind) => {
                self.trace(cpu, move |cpu| Event::here(Kind::Upcall, cpu, kind as u32, 0));
                Next::Enter
            }
            None => next,
        }
    }

    /// What runs does no more: it sleeps, or waits for its turn.
    fn park(&self, cpu: &mut Cpu, context: &Context, waiting: Option<Waiting>) {
        let Some(current) = cpu.current.take() else { return };
        let Some(mut vcpu) = self.vcpus.lock(current.vcpu) else { return };
        vcpu.saved = *context;
        self.machine.save_vectors(vcpu.vectors);
        vcpu.vectors_on = Some(cpu.number);
        vcpu.waiting = waiting;
        let mut queue = self.seats[cpu.number].queue.lock();
        if let Some(entry) = queue.get(current.vcpu) {
            entry.deadline_ns = vcpu.alarm_ns();
        }
        // What came before the lock was taken did not wake it: it looks once more by itself.
        let sleeps = waiting.is_some() && !vcpu.has_news();
        queue.put_back(if sleeps { Run::Blocked } else { Run::Ready }, self.machine.now_ns());
    }

    /// Finds what runs on this CPU now.
    fn dispatch(&self, cpu: &mut Cpu, context: &mut Context) -> Next {
        let seat = &self.seats[cpu.number];
        loop {
            seat.attention.store(false, Relaxed);
            let now_ns = self.machine.now_ns();
            let picked = {
                let mut queue = seat.queue.lock();
                queue.advance(now_ns);
                let is_alone = !queue.is_short && !self.is_waited_elsewhere(cpu.number);
                if is_alone { queue.pick(now_ns) } else { None }
            };
            let picked = picked.or_else(|| {
                self.lend_all(cpu.number, now_ns);
                self.steal(cpu, now_ns);
                seat.queue.lock().pick(now_ns)
            });
            if let Some(entry) = picked {
                if self.enter(cpu, &entry, now_ns, context) {
                    self.pass_on(cpu);
                    return Next::Enter;
                }
                continue;
            }
            // Who makes something ready after this sees the bit and kicks; what was made ready before is seen here.
            self.idle.fetch_or(1 << cpu.number, SeqCst);
            self.waited.fetch_and(!(1 << cpu.number), SeqCst);
            let alarm_ns = {
                let queue = seat.queue.lock();
                if queue.spare(cpu.number).is_some() || self.spare(cpu.number).is_some() {
                    continue;
                }
                queue.alarm().0
            };
            self.machine.set_alarm(alarm_ns);
            self.trace(cpu, move |cpu| Event::here(Kind::Idle, cpu, 0, alarm_ns));
            return Next::Sleep;
        }
    }

    /// If the CPU slept, it does not any more. It was asked to take what waits elsewhere, and has taken one: others are asked for the rest.
    fn pass_on(&self, cpu: &Cpu) {
        let bit = 1 << cpu.number;
        if self.idle.load(SeqCst) & bit == 0 {
            return;
        }
        self.idle.fetch_and(!bit, SeqCst);
        (0..self.seats.len()).filter(|&home| home != cpu.number).for_each(|home| self.ask(cpu.number, home));
    }

    /// Loads what was picked. It may find that it still has nothing to do, and sleep on.
    fn enter(&self, cpu: &mut Cpu, entry: &Entry, now_ns: u64, context: &mut Context) -> bool {
        let who = (entry.domain, entry.vcpu);
        let sleep_on = |run| self.seats[cpu.number].queue.lock().put_back(run, now_ns);
        {
            let Some(mut vcpu) = self.vcpus.lock(entry.vcpu) else {
                sleep_on(Run::Blocked);
                return false;
            };
            if vcpu.waiting.is_some() {
                match vcpu.wake(&self.machine, now_ns) {
                    Some(Waiting::Events { .. }) => {
                        let events = vcpu.take_events(&self.machine);
                        answer(&mut vcpu.saved, Ok(events));
                    }
                    Some(Waiting::Retry { .. }) => (),
                    None => {
                        let mut queue = self.seats[cpu.number].queue.lock();
                        if let Some(entry) = queue.get(entry.vcpu) {
                            entry.deadline_ns = vcpu.alarm_ns();
                        }
                        queue.put_back(Run::Blocked, now_ns);
                        return false;
                    }
                }
            }
            vcpu.advance(now_ns);
            *context = vcpu.saved;
            if vcpu.vectors_on != Some(cpu.number) || cpu.vectors != Some(entry.vcpu) {
                self.machine.load_vectors(vcpu.vectors);
            }
            self.trace(cpu, |_| Event::of_vcpu(Kind::Switch, who, 0, 0));
            if let Some(kind) = vcpu.deliver(&self.machine, context) {
                self.trace(cpu, |_| Event::of_vcpu(Kind::Upcall, who, kind as u32, 0));
            }
            self.set_alarm(cpu.number, entry.vcpu, &vcpu);
        }
        if cpu.active != Some(entry.domain) {
            let Some(mut domain) = self.domains.lock(entry.domain) else {
                sleep_on(Run::Blocked);
                return false;
            };
            self.machine.separate();
            self.machine.activate(&mut domain.space.tables);
            drop(domain);
            self.seats[cpu.number].queue.lock().counters.domain_switches += 1;
        }
        let current = Current { vcpu: entry.vcpu, domain: entry.domain };
        (cpu.current, cpu.active, cpu.vectors) = (Some(current), Some(entry.domain), Some(entry.vcpu));
        if let Some(share) = entry.divided {
            self.weigh(cpu.number, entry.vcpu, share);
        }
        true
    }

    /// Asks for the next alarm of this CPU.
    pub(crate) fn set_alarm(&self, here: usize, id: VcpuId, vcpu: &Vcpu) {
        let ((alarm_ns, cpus), look_ns) = {
            let mut queue = self.seats[here].queue.lock();
            if let Some(entry) = queue.get(id) {
                entry.deadline_ns = vcpu.alarm_ns();
            }
            (queue.alarm(), queue.look_ns())
        };
        let bit = 1 << here;
        self.show_waited(here, cpus & !bit != 0);
        // Who shows that one waits after this sees the bit and kicks; what was shown before is seen here.
        if self.blind.load(SeqCst) & bit == 0 && !self.is_waited_elsewhere(here) {
            self.blind.fetch_or(bit, SeqCst);
        }
        let looks = self.is_waited_elsewhere(here);
        self.machine.set_alarm(if looks { alarm_ns.min(look_ns) } else { alarm_ns });
    }

    pub(crate) fn tell(&self, cpu: &Cpu, listener: Listener) {
        self.raise(cpu, listener.vcpu, listener.event);
    }

    /// Raises an event, 0 to 63.
    pub(crate) fn raise(&self, cpu: &Cpu, id: VcpuId, event: u32) {
        let Some(mut vcpu) = self.vcpus.lock(id) else { return };
        if vcpu.raise(&self.machine, event) {
            self.rouse(cpu, id, &vcpu);
        }
    }

    /// There is something new for a virtual CPU: ends its sleep, or has its CPU look.
    pub(crate) fn rouse(&self, cpu: &Cpu, id: VcpuId, vcpu: &Vcpu) {
        if !vcpu.started {
            return;
        }
        let home = vcpu.home;
        let (looks, cpus) = {
            let mut queue = self.seats[home].queue.lock();
            let Some(&mut Entry { run, cpus, .. }) = queue.get(id) else { return };
            match run {
                Run::Running => (true, 0),
                Run::Ready => return,
                Run::Blocked => {
                    self.trace(cpu, |_| Event::of_vcpu(Kind::Wake, (vcpu.domain, id), 0, 0));
                    (queue.wake(id, self.machine.now_ns()), cpus)
                }
            }
        };
        if looks {
            self.attend(cpu.number, 1 << home);
            return;
        }
        // It waits for its turn: a CPU that sleeps may take it, or its own ends the slice of the one that runs.
        self.attend(cpu.number, first_of(self.idle.load(SeqCst) & cpus, home));
    }

    /// Has CPUs, as bits, look at their queues; `here` is the one that says so.
    pub(crate) fn attend(&self, here: usize, cpus: u64) {
        for number in (0..self.seats.len()).filter(|number| cpus >> number & 1 != 0) {
            let was_told = self.seats[number].attention.swap(true, SeqCst);
            // One that sleeps and was told has not looked yet.
            let looks = was_told && self.idle.load(SeqCst) >> number & 1 != 0;
            if number != here && !looks {
                self.machine.kick(number);
            }
        }
    }

    /// A fault that cannot be delivered: the domain is over.
    fn end_by_fault(&self, cpu: &mut Cpu, context: &mut Context) -> Next {
        let Some(current) = cpu.current else { return self.dispatch(cpu, context) };
        let &mut Context { vector, error, address, rip, rsp, out_of_memory, .. } = context;
        let state = DomainState::Faulted;
        let end = DomainRecord {
            state: state as u64,
            vector,
            error,
            address,
            rip,
            out_of_memory,
            ..Default::default()
        };
        {
            let domain = self.domains.lock(current.domain);
            let name = domain.as_ref().map_or("", |domain| domain.name());
            let memory = if out_of_memory != 0 { ", no frame was left" } else { "" };
            let level = if self.is_first(cpu) { Level::Error } else { Level::Warn };
            let text = format_args!(
                "the domain{}{name} ended: exception {vector} (error {error:#x}, address {address:#x}{memory}) at rip \
                 {rip:#x}, rsp {rsp:#x}, with upcalls masked or not set up",
                if name.is_empty() { "" } else { " " }
            );
            self.machine.log(level, text);
        }
        if self.is_first(cpu) {
            return Next::Stop(status::DOMAIN_ENDED);
        }
        self.end_domain(cpu, current.domain, state, end);
        self.park(cpu, context, None);
        self.dispatch(cpu, context)
    }

    fn is_first(&self, cpu: &Cpu) -> bool {
        cpu.current.is_some_and(|current| Some(current.domain) == self.first)
    }

    /// The domain that asks.
    pub(crate) fn current(&self, cpu: &Cpu) -> Result<Guard<'_, Domain<M>>, Refusal> {
        let current = cpu.current.ok_or(Error::StaleHandle)?;
        Ok(self.domains.lock(current.domain).ok_or(Error::StaleHandle)?)
    }

    /// The virtual CPU that asks.
    pub(crate) fn current_vcpu(&self, cpu: &Cpu) -> Result<(VcpuId, Guard<'_, Vcpu>), Refusal> {
        let current = cpu.current.ok_or(Error::StaleHandle)?;
        Ok((current.vcpu, self.vcpus.lock(current.vcpu).ok_or(Error::StaleHandle)?))
    }

    /// Copies words from or to the memory of a domain. Memory of devices is none.
    pub(crate) fn user_frames(
        &self,
        domain: &mut Domain<M>,
        (base, length): (u64, u64),
        access: Access,
        mut each: impl FnMut(&M, crate::machine::Frame, usize, core::ops::Range<usize>),
    ) -> Result<(), Refusal> {
        if base.checked_add(length).is_none_or(|end| end > 1 << 47) {
            return Err(Error::BadRange.into());
        }
        let mut done = 0;
        while done < length {
            let address = base + done;
            let offset = address % PAGE_SIZE;
            let count = (PAGE_SIZE - offset).min(length - done);
            let page = Page::containing(address);
            match domain.space.touch(&self.machine, page, access) {
                Touch::Resolved(mapping) if !domain.space.is_device(page) => {
                    if access == Access::Write {
                        self.machine.mark_written(&mut domain.space.tables, page);
                    }
                    let range = done as usize..(done + count) as usize;
                    each(&self.machine, mapping.frame, offset as usize, range);
                }
                Touch::Resolved(_) | Touch::Denied => return Err(Error::NotMapped.into()),
                Touch::OutOfMemory => return Err(Error::NoMemory.into()),
            }
            done += count;
        }
        Ok(())
    }

    /// What the caller's handle names in its own domain.
    pub(crate) fn object(
        &self,
        cpu: &Cpu,
        handle: abi::Handle,
        needed: abi::Rights,
    ) -> Result<Object, Refusal> {
        let domain = self.current(cpu)?;
        Ok(domain.capabilities.find(handle, needed).map(|(_, held)| held.object)?)
    }
}

fn answer(context: &mut Context, result: Result<u64, Error>) {
    (context.rax, context.rdx) = match result {
        Ok(value) => (0, value),
        Err(error) => (error.code(), 0),
    };
}

/// The first of these CPUs as a bit, or `other`'s if there are none.
pub(crate) const fn first_of(cpus: u64, other: usize) -> u64 {
    if cpus == 0 { 1 << other } else { cpus & cpus.wrapping_neg() }
}
