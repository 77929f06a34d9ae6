//! Requests: what each needs, and who carries it out.

use crate::capability::{Mapped, Object, Place};
use crate::device::LineState;
use crate::domain::Domain;
use crate::kernel::{Cpu, Effect, Kernel};
use crate::machine::{Access, Frame, Machine, Page};
use crate::memory::{LOWER_HALF, Refusal, Space, Touch, check_protection, pages_of};
use crate::region::{Region, Share, Source};
use crate::table::{DomainId, VcpuId};
use crate::vcpu::{Listener, NEVER, USER_END, Upcall, Waiting};
use abi::boot::DeviceKind;
use abi::{Backing, Commit, Error, Handle, Marks, PAGE_SIZE, Protection, Request, Rights, Sharing, Span};

/// Where others may map for a domain: all of the lower half but its first page.
const OTHERS: Span = Span::new(PAGE_SIZE, USER_END - PAGE_SIZE);

impl<M: Machine> Kernel<M> {
    pub(crate) fn serve(&self, cpu: &Cpu, request: Request) -> Result<Effect, Refusal> {
        let value = match request {
            Request::Map { space, span, backing, protection, commit } => {
                self.map(cpu, space, span, backing, (protection, commit))?
            }
            Request::Protect { space, span, protection } => self.protect(cpu, space, span, protection)?,
            Request::Reset { space, span } => {
                self.in_space(cpu, space, span, |space, (first, end)| space.reset(&self.machine, first, end))?
            }
            Request::Unmap { space, span } => {
                self.in_space(cpu, space, span, |space, (first, end)| space.unmap(&self.machine, first, end))?
            }
            Request::SetUpcall { vcpu, page, entry, stack } => {
                self.set_upcall(cpu, vcpu, page, entry, stack)?
            }
            Request::Resume { vcpu, area } => {
                self.own_vcpu(cpu, vcpu, Rights::CONTROL)?;
                let (_, mut vcpu) = self.current_vcpu(cpu)?;
                return Ok(Effect::Load(vcpu.resume(&self.machine, area)?));
            }
            Request::SetTimer { vcpu, deadline_ns } => {
                self.own_vcpu(cpu, vcpu, Rights::CONTROL)?;
                self.set_timer(cpu, deadline_ns)?
            }
            Request::Wait { vcpu, deadline_ns } => {
                self.own_vcpu(cpu, vcpu, Rights::LISTEN)?;
                return self.wait(cpu, deadline_ns);
            }
            Request::Now { vcpu } => match self.object(cpu, vcpu, Rights::OBSERVE)? {
                Object::Vcpu(_) => self.machine.now_ns(),
                _ => return Err(Error::WrongKind.into()),
            },
            Request::CpuTime { vcpu } => {
                self.own_vcpu(cpu, vcpu, Rights::OBSERVE)?;
                let (id, now_ns) = (self.current_vcpu(cpu)?.0, self.machine.now_ns());
                self.seats[cpu.number].queue.lock().run_ns(id, now_ns).map_or(0, |(run_ns, _)| run_ns)
            }
            Request::Print { space, text } => self.print(cpu, space, text)?,
            Request::Stop { machine, status } => match self.object(cpu, machine, Rights::CONTROL)? {
                Object::Machine => return Ok(Effect::Stop(status)),
                _ => return Err(Error::WrongKind.into()),
            },
            Request::Listen { source, index, vcpu, event } => self.listen(cpu, source, index, vcpu, event)?,
            Request::Acknowledge { .. }
            | Request::ReadConfig { .. }
            | Request::WriteConfig { .. }
            | Request::OpenPorts { .. } => self.serve_device(cpu, request)?,
            Request::Derive { capability, rights } => self.derive(cpu, capability, rights)?,
            Request::Grant { capability, rights, domain } => self.grant(cpu, capability, rights, domain)?,
            Request::Release { capability } => self.release(cpu, capability)?,
            Request::Revoke { capability, deadline_ns } => return self.revoke(cpu, capability, deadline_ns),
            Request::NextRevoked { domain } => self.next_revoked(cpu, domain)?,
            Request::CreateDomain { parent, parameters } => self.create_domain(cpu, parent, parameters)?,
            Request::CreateVcpu { domain } => self.create_vcpu(cpu, domain)?,
            Request::Start { vcpu, entry, stack, argument } => {
                self.start_vcpu(cpu, vcpu, (entry, stack, argument))?
            }
            Request::End { domain, status } => return self.end(cpu, domain, status),
            Request::CreateMemory { domain, bytes } => self.create_memory(cpu, domain, bytes)?,
            Request::CreateChannel { domain, bytes } => self.create_channel(cpu, domain, bytes)?,
            Request::OtherEnd { channel } => self.other_end(cpu, channel)?,
            Request::CreateEvent { vcpu, event } => self.create_event(cpu, vcpu, event)?,
            Request::Signal { target } => self.signal(cpu, target)?,
            Request::Inspect { object, index, into } => self.inspect(cpu, object, index, into)?,
            Request::Trace { machine, cpu: number, memory } => {
                self.set_trace(cpu, machine, number, memory)?
            }
            Request::ReadMarks { space, span, into, marks } => {
                self.read_marks(cpu, space, span, (into, marks))?
            }
        };
        Ok(Effect::Answer(value))
    }

    /// Does something to a part of an address space: the caller's own window, or any of a domain that it controls.
    fn in_space(
        &self,
        cpu: &Cpu,
        space: Handle,
        span: Span,
        act: impl FnOnce(&mut Space<M>, (Page, Page)) -> Result<(), Refusal>,
    ) -> Result<u64, Refusal> {
        let mut domain = self.current(cpu)?;
        let target = domain.domain_of(space, Rights::CONTROL)?;
        let pages = pages_of(span)?;
        if target == domain.id {
            check_inside(domain.space.window, span)?;
            return act(&mut domain.space, pages).map(|()| 0);
        }
        drop(domain);
        let _tree = self.authority.lock();
        self.still(cpu, space, target)?;
        check_inside(OTHERS, span)?;
        let mut other = self.domains.lock(target).ok_or(Error::StaleHandle)?;
        act(&mut other.space, pages).map(|()| 0)
    }

    fn read_marks(
        &self,
        cpu: &Cpu,
        space: Handle,
        span: Span,
        (into, marks): (u64, Marks),
    ) -> Result<u64, Refusal> {
        self.current(cpu)?.domain_of(space, Rights::CONTROL)?;
        let (first, end) = pages_of(span)?;
        let mut bytes = [0; Request::MARKS_MAX as usize];
        let count = end.since(first).min(Request::MARKS_MAX);
        let bytes = &mut bytes[..count as usize];
        // No mark is taken that cannot be told.
        self.user_frames(&mut *self.current(cpu)?, (into, count), Access::Write, |_, _, _, _| ())?;
        self.in_space(cpu, space, Span::new(span.base, count * PAGE_SIZE), |space, (first, _)| {
            space.read_marks(&self.machine, first, marks, bytes);
            Ok(())
        })?;
        let mut current = self.current(cpu)?;
        self.user_frames(&mut current, (into, count), Access::Write, |machine, frame, offset, range| {
            machine.write(frame, offset, &bytes[range]);
        })?;
        Ok(count)
    }

    /// Checks, now that nothing can be revoked, that a handle still names a domain that the caller controls.
    fn still(&self, cpu: &Cpu, handle: Handle, expected: DomainId) -> Result<(), Refusal> {
        let found = self.current(cpu)?.domain_of(handle, Rights::CONTROL)?;
        if found == expected { Ok(()) } else { Err(Error::StaleHandle.into()) }
    }

    fn map(
        &self,
        cpu: &Cpu,
        space: Handle,
        span: Span,
        backing: Backing,
        (protection, commit): (Protection, Commit),
    ) -> Result<u64, Refusal> {
        let mut domain = self.current(cpu)?;
        let target = domain.domain_of(space, Rights::CONTROL)?;
        let (first, end) = pages_of(span)?;
        if target == domain.id {
            check_inside(domain.space.window, span)?;
            if let Backing::Dma { device } = backing {
                self.device(&domain, device, Rights::MAP)?;
                check_protection(Source::Dma(Frame::new(0)), protection)?;
                let frame = domain.space.map_dma(&self.machine, (first, end), protection, commit)?;
                return Ok(frame.address());
            }
            let source = self.source(&mut domain, backing, span, Mapped::Here)?;
            check_protection(source, protection)?;
            let region = Region { first, end, source, protection, commit };
            return domain.space.map(&self.machine, region).map(|()| 0);
        }
        drop(domain);
        let _tree = self.authority.lock();
        self.still(cpu, space, target)?;
        check_inside(OTHERS, span)?;
        if matches!(backing, Backing::Dma { .. } | Backing::Image { .. }) {
            return Err(Error::Unsupported.into());
        }
        let source = self.source(&mut *self.current(cpu)?, backing, span, Mapped::Elsewhere)?;
        check_protection(source, protection)?;
        let mut other = self.domains.lock(target).ok_or(Error::StaleHandle)?;
        let region = Region { first, end, source, protection, commit };
        other.space.map(&self.machine, region).map(|()| 0)
    }

    /// What a backing of the caller's means. The capability that it needs is noted to be mapped.
    fn source(
        &self,
        domain: &mut Domain<M>,
        backing: Backing,
        span: Span,
        mapped: Mapped,
    ) -> Result<Source, Refusal> {
        let pages = span.length / PAGE_SIZE;
        match backing {
            Backing::Zero => Ok(Source::Zero),
            Backing::Image { source } => image_source(&domain.space, Span::new(source, span.length)),
            Backing::Device { device, window } => {
                let (slot, index) = self.device(domain, device, Rights::MAP)?;
                let by = domain.note_mapped(slot, mapped);
                let devices = self.devices.lock();
                let windows = devices.get(index).record.windows;
                let window = windows.get(window as usize).ok_or(Error::Malformed)?;
                device_source(*window, pages, by)
            }
            Backing::Memory { memory, offset, sharing } => {
                let (slot, held) = domain.capabilities.find(memory, Rights::MAP)?;
                let writes = held.rights.allow(Rights::WRITE);
                let (first, count) = self.frames_of(held.object)?;
                let share = match sharing {
                    Sharing::Private => Share::Copied,
                    Sharing::Shared if writes => Share::Written,
                    Sharing::Shared => Share::ReadOnly,
                };
                let inside = Span::new(0, count * PAGE_SIZE).contains(Span::new(offset, span.length));
                if !offset.is_multiple_of(PAGE_SIZE) || !inside {
                    return Err(Error::BadRange.into());
                }
                let by = domain.note_mapped(slot, mapped);
                Ok(Source::Memory(first.offset(offset / PAGE_SIZE), share, by))
            }
            Backing::Dma { .. } => Err(Error::Unsupported.into()),
        }
    }

    fn frames_of(&self, object: Object) -> Result<(Frame, u64), Refusal> {
        match object {
            Object::Memory(id) => {
                let memory = self.memories.lock(id).ok_or(Error::StaleHandle)?;
                Ok((memory.first, memory.pages))
            }
            Object::Channel(id, _) => {
                let channel = self.channels.lock(id).ok_or(Error::StaleHandle)?;
                Ok((channel.first, channel.pages))
            }
            _ => Err(Error::WrongKind.into()),
        }
    }

    fn protect(&self, cpu: &Cpu, space: Handle, span: Span, protection: Protection) -> Result<u64, Refusal> {
        let mut domain = self.current(cpu)?;
        let outside = !domain.space.window.contains(span);
        if domain.domain_of(space, Rights::CONTROL)? == domain.id && outside {
            // What the domain began with: it may give access up, and run what it was given to read.
            check_inside(OTHERS, span)?;
            if protection == Protection::ReadWrite {
                return Err(Error::Protection.into());
            }
            return domain.space.protect(&self.machine, pages_of(span)?, protection).map(|()| 0);
        }
        drop(domain);
        self.in_space(cpu, space, span, |space, pages| space.protect(&self.machine, pages, protection))
    }

    fn set_upcall(&self, cpu: &Cpu, vcpu: Handle, page: u64, entry: u64, stack: u64) -> Result<u64, Refusal> {
        self.own_vcpu(cpu, vcpu, Rights::CONTROL)?;
        let mut domain = self.current(cpu)?;
        let span = Span::new(page, PAGE_SIZE);
        let (first, _) = pages_of(span)?;
        check_inside(domain.space.window, span)?;
        Upcall::check(entry, stack)?;
        let region = domain.space.regions.find(first).ok_or(Error::NotMapped)?;
        if region.source != Source::Zero || region.protection != Protection::ReadWrite {
            return Err(Error::NotMapped.into());
        }
        let Touch::Resolved(mapping) = domain.space.touch(&self.machine, first, Access::Write) else {
            return Err(Error::NoMemory.into());
        };
        let (_, mut vcpu) = self.current_vcpu(cpu)?;
        domain.space.pinned[vcpu.number] = Some(first);
        vcpu.set_upcall(&self.machine, Upcall { page, frame: mapping.frame, entry, stack });
        Ok(0)
    }

    fn set_timer(&self, cpu: &Cpu, deadline_ns: u64) -> Result<u64, Refusal> {
        let (id, mut vcpu) = self.current_vcpu(cpu)?;
        vcpu.tick_due = false;
        vcpu.deadline_ns = deadline_ns;
        if deadline_ns != NEVER {
            vcpu.advance(self.machine.now_ns());
        }
        self.set_alarm(cpu.number, id, &vcpu);
        Ok(0)
    }

    fn wait(&self, cpu: &Cpu, deadline_ns: u64) -> Result<Effect, Refusal> {
        let (_, mut vcpu) = self.current_vcpu(cpu)?;
        if vcpu.pending != 0 {
            return Ok(Effect::Answer(vcpu.take_events(&self.machine)));
        }
        Ok(Effect::Sleep(Waiting::Events { deadline_ns, tick_was_due: vcpu.tick_due }))
    }

    fn print(&self, cpu: &Cpu, space: Handle, text: Span) -> Result<u64, Refusal> {
        let mut domain = self.current(cpu)?;
        domain.domain_of(space, Rights::PRINT)?;
        if text.length > Request::PRINT_BYTES_MAX {
            return Err(Error::BadRange.into());
        }
        if text.length == 0 {
            return Ok(0);
        }
        // Behind the name of who says it; the first domain needs none.
        const PREFIX_MAX: usize = 34;
        let mut buffer = [0; PREFIX_MAX + Request::PRINT_BYTES_MAX as usize];
        let mut begin = 0;
        let name = domain.name;
        let name = crate::domain::name_of(&name);
        for part in if name.is_empty() { ["", ""] } else { [name, ": "] } {
            buffer[begin..begin + part.len()].copy_from_slice(part.as_bytes());
            begin += part.len();
        }
        let end = begin + text.length as usize;
        self.user_frames(
            &mut domain,
            (text.base, text.length),
            Access::Read,
            |machine, frame, offset, range| {
                machine.read(frame, offset, &mut buffer[begin + range.start..begin + range.end]);
            },
        )?;
        self.machine.print(&buffer[..end]);
        Ok(0)
    }

    fn listen(
        &self,
        cpu: &Cpu,
        source: Handle,
        index: u32,
        vcpu: Handle,
        event: u32,
    ) -> Result<u64, Refusal> {
        let _tree = self.authority.lock();
        let (by, source) = self.held(cpu, source, Rights::LISTEN)?;
        let listener = Listener { vcpu: self.hearer(cpu, vcpu, event)?, event, by };
        match source.object {
            Object::Device(device) => {
                let mut devices = self.devices.lock();
                let (device, line) = devices.line(device, index)?;
                if !line.connected {
                    self.machine.connect(device, index)?;
                    line.connected = true;
                } else if line.state == LineState::Off {
                    self.machine.unmask(device, index);
                }
                line.state = match line.state {
                    LineState::Off | LineState::Ready(_) => LineState::Ready(listener),
                    LineState::Pending(_) => LineState::Pending(listener),
                };
            }
            Object::Channel(id, side) => {
                let mut channel = self.channels.lock(id).ok_or(Error::StaleHandle)?;
                channel.ends[side.index()].listener = Some(listener);
            }
            Object::Domain(id) => {
                let mut domain = self.domains.lock(id).ok_or(Error::StaleHandle)?;
                domain.listener = Some(listener);
            }
            _ => return Err(Error::WrongKind.into()),
        }
        Ok(0)
    }

    fn serve_device(&self, cpu: &Cpu, request: Request) -> Result<u64, Refusal> {
        let mut domain = self.current(cpu)?;
        match request {
            Request::Acknowledge { device, index } => {
                let (_, device) = self.device(&domain, device, Rights::LISTEN)?;
                let mut devices = self.devices.lock();
                let (device, line) = devices.line(device, index)?;
                match line.state {
                    LineState::Off => return Err(Error::Malformed.into()),
                    LineState::Ready(_) => (),
                    LineState::Pending(listener) => {
                        line.state = LineState::Ready(listener);
                        self.machine.unmask(device, index);
                    }
                }
                Ok(0)
            }
            Request::ReadConfig { device, offset } => {
                let (_, device) = self.device(&domain, device, Rights::OBSERVE)?;
                let devices = self.devices.lock();
                let device = devices.get(device);
                let offset = device.check_offset(offset)?;
                Ok(u64::from(self.machine.read_config(device, offset)))
            }
            Request::WriteConfig { device, offset, value } => {
                let (_, device) = self.device(&domain, device, Rights::CONTROL)?;
                let devices = self.devices.lock();
                let device = devices.get(device);
                let offset = device.check_offset(offset)?;
                if !device.may_write(offset) {
                    return Err(Error::NoRight.into());
                }
                self.machine.write_config(device, offset, value);
                Ok(0)
            }
            Request::OpenPorts { device } => {
                let (_, device) = self.device(&domain, device, Rights::MAP)?;
                let devices = self.devices.lock();
                let device = devices.get(device);
                if device.record.kind != DeviceKind::RealTimeClock {
                    return Err(Error::Unsupported.into());
                }
                self.machine.open_ports(&mut domain.space.tables, device);
                Ok(0)
            }
            // `serve` has the others.
            _ => Err(Error::Malformed.into()),
        }
    }

    /// A device, by the caller's handle: its slot, and which.
    fn device(&self, domain: &Domain<M>, handle: Handle, needed: Rights) -> Result<(u32, usize), Refusal> {
        let (slot, held) = domain.capabilities.find(handle, needed)?;
        match held.object {
            Object::Device(index) => Ok((slot, index)),
            _ => Err(Error::WrongKind.into()),
        }
    }

    /// A virtual CPU that the caller names, to be told of things by an event.
    fn hearer(&self, cpu: &Cpu, vcpu: Handle, event: u32) -> Result<VcpuId, Refusal> {
        match self.object(cpu, vcpu, Rights::LISTEN)? {
            Object::Vcpu(_) if event > 63 => Err(Error::Malformed.into()),
            Object::Vcpu(id) => Ok(id),
            _ => Err(Error::WrongKind.into()),
        }
    }

    /// Checks that a handle names the virtual CPU that asks.
    fn own_vcpu(&self, cpu: &Cpu, handle: Handle, needed: Rights) -> Result<(), Refusal> {
        match self.object(cpu, handle, needed)? {
            Object::Vcpu(id) if cpu.current.is_some_and(|current| current.vcpu == id) => Ok(()),
            Object::Vcpu(_) => Err(Error::NoRight.into()),
            _ => Err(Error::WrongKind.into()),
        }
    }
}

impl<M: Machine> Domain<M> {
    /// The domain that a handle names.
    pub(crate) fn domain_of(&self, handle: Handle, needed: Rights) -> Result<DomainId, Refusal> {
        match self.capabilities.find(handle, needed)?.1.object {
            Object::Domain(id) => Ok(id),
            _ => Err(Error::WrongKind.into()),
        }
    }

    fn note_mapped(&mut self, slot: u32, mapped: Mapped) -> Place {
        if let Some(held) = self.capabilities.slot(slot) {
            held.mapped = held.mapped.max(mapped);
        }
        Place { domain: self.id, slot }
    }
}

fn check_inside(allowed: Span, span: Span) -> Result<(), Error> {
    if allowed.contains(span) { Ok(()) } else { Err(Error::BadRange) }
}

/// The frames behind memory that a domain has mapped and cannot write to.
fn image_source<M: Machine>(space: &Space<M>, part: Span) -> Result<Source, Refusal> {
    let (first, end) = pages_of(part)?;
    let bounds = Span::new(0, LOWER_HALF.1.address());
    check_inside(bounds, part)?;
    let region = space.regions.find(first).ok_or(Error::NotMapped)?;
    match region.source.offset(first.since(region.first)) {
        Source::Memory(..) if region.end < end => Err(Error::BadRange.into()),
        // Else it might never be gone.
        Source::Memory(_, _, by) if space.leaving == Some(by) => Err(Error::Busy.into()),
        Source::Memory(frame, Share::Copied | Share::ReadOnly, by) => {
            Ok(Source::Memory(frame, Share::Copied, by))
        }
        _ => Err(Error::BadRange.into()),
    }
}

/// The pages around a device's memory window, at least `pages` of them.
fn device_source(window: Span, pages: u64, by: Place) -> Result<Source, Refusal> {
    let first = Frame::containing(window.base);
    let end = window.end().ok_or(Error::BadRange)?.div_ceil(PAGE_SIZE);
    let granted = Frame::new(end).since(first).ok_or(Error::BadRange)?;
    if window.length == 0 || pages > granted {
        return Err(Error::BadRange.into());
    }
    Ok(Source::Device(first, by))
}
