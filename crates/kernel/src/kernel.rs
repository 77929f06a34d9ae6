//! The state of the kernel and every way into it.

use crate::capability::{Capabilities, Object};
use crate::device::{Devices, Line};
use crate::machine::{Access, Frame, Machine, Page};
use crate::memory::{Space, Touch, pages_of};
use crate::region::{Region, Source};
use crate::vcpu::{NEVER, TickAtStart, Upcall, Vcpu, Waiting};
use abi::boot::{DeviceKind, status};
use abi::{Backing, Commit, Context, Error, Handle, PAGE_SIZE, Protection, Registers, Request, Rights, Span};
use core::fmt::Write as _;

/// The kernel with its one domain.
#[derive(Debug)]
pub struct Kernel<M> {
    /// The hardware.
    pub machine: M,
    pub(crate) capabilities: Capabilities,
    pub(crate) space: Space,
    pub(crate) vcpu: Vcpu,
    pub(crate) devices: Devices,
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
    /// The machine's alarm.
    Alarm,
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

/// What a request comes to.
enum Effect {
    Answer(u64),
    Load(Context),
    Sleep,
    Stop(u8),
}

impl<M: Machine> Kernel<M> {
    /// A system call with these registers.
    pub fn system_call(&mut self, context: &mut Context) -> Next {
        let arguments = [context.rdi, context.rsi, context.rdx, context.r10, context.r8, context.r9];
        let registers = Registers { number: context.rax, arguments };
        match Request::decode(registers).and_then(|request| self.serve(request)) {
            Ok(Effect::Answer(value)) => answer(context, Ok(value)),
            Ok(Effect::Sleep) => return self.awake(context),
            Ok(Effect::Stop(status)) => return Next::Stop(status),
            Ok(Effect::Load(loaded)) => {
                *context = loaded;
                self.vcpu.deliver(&mut self.machine, context);
                return Next::Enter;
            }
            Err(error) => answer(context, Err(error)),
        }
        self.leave(context)
    }

    /// An exception in ring 3.
    pub fn fault(&mut self, fault: Fault, context: &mut Context) -> Next {
        let mut out_of_memory = false;
        if fault.vector == PAGE_FAULT && fault.error & (FAULT_USER | FAULT_RESERVED) == FAULT_USER {
            let access = match fault.error {
                error if error & FAULT_FETCH != 0 => Access::Execute,
                error if error & FAULT_WRITE != 0 => Access::Write,
                _ => Access::Read,
            };
            match self.space.touch(&mut self.machine, Page::containing(fault.address), access) {
                Touch::Resolved(_) => return Next::Enter,
                Touch::OutOfMemory => out_of_memory = true,
                Touch::Denied => (),
            }
        }
        context.vector = u64::from(fault.vector);
        context.error = fault.error;
        context.address = fault.address;
        context.out_of_memory = u64::from(out_of_memory);
        match self.vcpu.deliver_fault(&mut self.machine, context) {
            Some(_) => Next::Enter,
            None => self.end_domain(context),
        }
    }

    /// An interrupt while ring 3 ran.
    pub fn interrupt(&mut self, interrupt: Interrupt, context: &mut Context) -> Next {
        self.note(interrupt);
        self.vcpu.deliver(&mut self.machine, context);
        Next::Enter
    }

    /// Notes an interrupt.
    pub fn note(&mut self, interrupt: Interrupt) {
        match interrupt {
            Interrupt::Alarm => {
                self.vcpu.advance(self.machine.now_ns());
                self.machine.set_alarm(self.vcpu.alarm_ns());
            }
            Interrupt::Device { number, line } => {
                let Some((device, state)) = self.devices.line_of(number, line) else { return };
                self.machine.mask(device, line);
                if let Line::Ready(event) = *state {
                    *state = Line::Pending(event);
                    self.vcpu.raise(&mut self.machine, event);
                }
            }
        }
    }

    /// Whether the domain's wait is over.
    pub fn awake(&mut self, context: &mut Context) -> Next {
        let Some(waiting) = self.vcpu.waiting else { return self.leave(context) };
        let now_ns = self.machine.now_ns();
        self.vcpu.advance(now_ns);
        let ticked = self.vcpu.tick_due && waiting.tick_was_due == TickAtStart::NotDue;
        if self.vcpu.pending == 0 && !ticked && now_ns < waiting.deadline_ns {
            self.machine.set_alarm(self.vcpu.alarm_ns());
            return Next::Sleep;
        }
        self.vcpu.waiting = None;
        self.machine.set_alarm(self.vcpu.alarm_ns());
        answer(context, Ok(self.vcpu.take_events(&mut self.machine)));
        self.leave(context)
    }

    /// The domain is over: takes everything back and says why.
    fn end_domain(&mut self, context: &Context) -> Next {
        self.capabilities.revoke_all();
        self.vcpu = Vcpu::new();
        self.space.end(&mut self.machine);
        let &Context { vector, error, address, rip, rsp, out_of_memory, .. } = context;
        let memory = if out_of_memory != 0 { ", no frame was left" } else { "" };
        let _ = writeln!(
            Log(&mut self.machine),
            "kernel: the domain ended: exception {vector} (error {error:#x}, address {address:#x}{memory}) at rip {rip:#x}, \
             rsp {rsp:#x}, with upcalls masked or not set up"
        );
        Next::Stop(status::DOMAIN_ENDED)
    }

    fn leave(&mut self, context: &mut Context) -> Next {
        match self.vcpu.deliver(&mut self.machine, context) {
            Some(_) => Next::Enter,
            None => Next::Return,
        }
    }

    fn serve(&mut self, request: Request) -> Result<Effect, Error> {
        let value = match request {
            Request::Map { space, span, backing, protection, commit } => {
                self.holds(space, Object::Space, Rights::CONTROL)?;
                self.map(span, backing, protection, commit)?
            }
            Request::Protect { space, span, protection } => {
                self.holds(space, Object::Space, Rights::CONTROL)?;
                self.protect(span, protection)?
            }
            Request::Reset { space, span } => {
                self.holds(space, Object::Space, Rights::CONTROL)?;
                let (first, end) = self.in_window(span)?;
                self.space.reset(&mut self.machine, first, end).map(|()| 0)?
            }
            Request::Unmap { space, span } => {
                self.holds(space, Object::Space, Rights::CONTROL)?;
                let (first, end) = self.in_window(span)?;
                self.space.unmap(&mut self.machine, first, end).map(|()| 0)?
            }
            Request::SetUpcall { vcpu, page, entry, stack } => {
                self.holds(vcpu, Object::Vcpu, Rights::CONTROL)?;
                self.set_upcall(page, entry, stack)?
            }
            Request::Resume { vcpu, area } => {
                self.holds(vcpu, Object::Vcpu, Rights::CONTROL)?;
                return self.vcpu.resume(&mut self.machine, area).map(Effect::Load);
            }
            Request::SetTimer { vcpu, deadline_ns } => {
                self.holds(vcpu, Object::Vcpu, Rights::CONTROL)?;
                self.set_timer(deadline_ns)
            }
            Request::Wait { vcpu, deadline_ns } => {
                self.holds(vcpu, Object::Vcpu, Rights::LISTEN)?;
                return Ok(self.wait(deadline_ns));
            }
            Request::Now { vcpu } => {
                self.holds(vcpu, Object::Vcpu, Rights::OBSERVE)?;
                self.machine.now_ns()
            }
            Request::Print { space, text } => {
                self.holds(space, Object::Space, Rights::OBSERVE)?;
                self.print(text)?
            }
            Request::Stop { machine, status } => {
                self.holds(machine, Object::Machine, Rights::CONTROL)?;
                return Ok(Effect::Stop(status));
            }
            // Named, so that a new request is not forgotten.
            Request::Listen { .. }
            | Request::Acknowledge { .. }
            | Request::ReadConfig { .. }
            | Request::WriteConfig { .. }
            | Request::OpenPorts { .. } => self.serve_device(request)?,
        };
        Ok(Effect::Answer(value))
    }

    fn serve_device(&mut self, request: Request) -> Result<u64, Error> {
        match request {
            Request::Listen { device, index, vcpu, event } => {
                let device = self.device(device, Rights::LISTEN)?;
                self.holds(vcpu, Object::Vcpu, Rights::NONE)?;
                self.listen(device, index, event)
            }
            Request::Acknowledge { device, index } => {
                let device = self.device(device, Rights::LISTEN)?;
                let (device, line) = self.devices.line(device, index)?;
                match *line {
                    Line::Off => return Err(Error::Malformed),
                    Line::Ready(_) => (),
                    Line::Pending(event) => {
                        *line = Line::Ready(event);
                        self.machine.unmask(device, index);
                    }
                }
                Ok(0)
            }
            Request::ReadConfig { device, offset } => {
                let device = self.devices.get(self.device(device, Rights::OBSERVE)?);
                let offset = device.check_offset(offset)?;
                Ok(u64::from(self.machine.read_config(device, offset)))
            }
            Request::WriteConfig { device, offset, value } => {
                let device = self.devices.get(self.device(device, Rights::CONTROL)?);
                let offset = device.check_offset(offset)?;
                if !device.may_write(offset) {
                    return Err(Error::NoRight);
                }
                self.machine.write_config(device, offset, value);
                Ok(0)
            }
            Request::OpenPorts { device } => {
                let device = self.devices.get(self.device(device, Rights::MAP)?);
                if device.record.kind != DeviceKind::RealTimeClock {
                    return Err(Error::Unsupported);
                }
                self.machine.open_ports(device);
                Ok(0)
            }
            // `serve` has the others.
            _ => Err(Error::Malformed),
        }
    }

    fn map(
        &mut self,
        span: Span,
        backing: Backing,
        protection: Protection,
        commit: Commit,
    ) -> Result<u64, Error> {
        let (first, end) = self.in_window(span)?;
        let executable = protection == Protection::ReadExecute;
        let source = match backing {
            Backing::Zero => Source::Zero,
            Backing::Image { source } => self.module_source(Span::new(source, span.length))?,
            Backing::Device { .. } | Backing::Dma { .. } if executable => return Err(Error::Protection),
            Backing::Device { device, window } => {
                let device = self.devices.get(self.device(device, Rights::MAP)?);
                let window = device.record.windows.get(window as usize).ok_or(Error::Malformed)?;
                device_source(*window, end.since(first))?
            }
            Backing::Dma { device } => {
                self.device(device, Rights::MAP)?;
                let frame = self.space.map_dma(&mut self.machine, (first, end), protection, commit)?;
                return Ok(frame.address());
            }
        };
        self.space.map(&mut self.machine, Region { first, end, source, protection, commit }).map(|()| 0)
    }

    /// The frames behind a part of the boot module.
    fn module_source(&self, part: Span) -> Result<Source, Error> {
        if !part.is_pages() || !self.space.module.contains(part) {
            return Err(Error::BadRange);
        }
        let page = Page::containing(part.base);
        let region = self.space.regions.find(page).ok_or(Error::NotMapped)?;
        Ok(region.source.offset(page.since(region.first)))
    }

    fn protect(&mut self, span: Span, protection: Protection) -> Result<u64, Error> {
        let (first, end) = pages_of(span)?;
        let in_module = self.space.module.contains(span);
        if !in_module && !self.space.window.contains(span) {
            return Err(Error::BadRange);
        }
        if in_module && protection == Protection::ReadWrite {
            return Err(Error::Protection);
        }
        self.space.protect(&mut self.machine, (first, end), protection).map(|()| 0)
    }

    fn set_upcall(&mut self, page: u64, entry: u64, stack: u64) -> Result<u64, Error> {
        let (first, _) = self.in_window(Span::new(page, PAGE_SIZE))?;
        Upcall::check(entry, stack)?;
        let region = self.space.regions.find(first).ok_or(Error::NotMapped)?;
        if region.source != Source::Zero || region.protection != Protection::ReadWrite {
            return Err(Error::NotMapped);
        }
        let Touch::Resolved(mapping) = self.space.touch(&mut self.machine, first, Access::Write) else {
            return Err(Error::NoMemory);
        };
        self.space.pinned = Some(first);
        self.vcpu.set_upcall(&mut self.machine, Upcall { page, frame: mapping.frame, entry, stack });
        Ok(0)
    }

    fn set_timer(&mut self, deadline_ns: u64) -> u64 {
        self.vcpu.tick_due = false;
        self.vcpu.deadline_ns = deadline_ns;
        if deadline_ns != NEVER {
            self.vcpu.advance(self.machine.now_ns());
        }
        self.machine.set_alarm(self.vcpu.alarm_ns());
        0
    }

    fn wait(&mut self, deadline_ns: u64) -> Effect {
        if self.vcpu.pending != 0 {
            return Effect::Answer(self.vcpu.take_events(&mut self.machine));
        }
        let tick_was_due = if self.vcpu.tick_due { TickAtStart::Due } else { TickAtStart::NotDue };
        self.vcpu.waiting = Some(Waiting { deadline_ns, tick_was_due });
        Effect::Sleep
    }

    fn listen(&mut self, device: usize, index: u32, event: u32) -> Result<u64, Error> {
        if event > 63 {
            return Err(Error::Malformed);
        }
        let (device, line) = self.devices.line(device, index)?;
        *line = match *line {
            Line::Off => {
                self.machine.connect(device, index)?;
                Line::Ready(event)
            }
            Line::Ready(_) => Line::Ready(event),
            Line::Pending(_) => Line::Pending(event),
        };
        Ok(0)
    }

    fn print(&mut self, text: Span) -> Result<u64, Error> {
        if text.length > Request::PRINT_BYTES_MAX || text.end().is_none_or(|end| end > 1 << 47) {
            return Err(Error::BadRange);
        }
        let mut buffer = [0; Request::PRINT_BYTES_MAX as usize];
        let mut filled = 0;
        while filled < text.length as usize {
            let address = text.base + filled as u64;
            let offset = (address % PAGE_SIZE) as usize;
            let count = (PAGE_SIZE as usize - offset).min(text.length as usize - filled);
            match self.space.touch(&mut self.machine, Page::containing(address), Access::Read) {
                Touch::Resolved(mapping) if !self.is_device(address) => {
                    self.machine.read(mapping.frame, offset, &mut buffer[filled..filled + count]);
                }
                Touch::Resolved(_) | Touch::Denied => return Err(Error::NotMapped),
                Touch::OutOfMemory => return Err(Error::NoMemory),
            }
            filled += count;
        }
        self.machine.print(&buffer[..filled]);
        Ok(0)
    }

    fn is_device(&self, address: u64) -> bool {
        let region = self.space.regions.find(Page::containing(address));
        region.is_some_and(|region| matches!(region.source, Source::Device(_)))
    }

    fn in_window(&self, span: Span) -> Result<(Page, Page), Error> {
        let pages = pages_of(span)?;
        if self.space.window.contains(span) { Ok(pages) } else { Err(Error::BadRange) }
    }

    fn holds(&self, handle: Handle, object: Object, needed: Rights) -> Result<(), Error> {
        match self.capabilities.find(handle, needed)? {
            found if found == object => Ok(()),
            _ => Err(Error::WrongKind),
        }
    }

    fn device(&self, handle: Handle, needed: Rights) -> Result<usize, Error> {
        match self.capabilities.find(handle, needed)? {
            Object::Device(index) => Ok(index),
            _ => Err(Error::WrongKind),
        }
    }
}

/// The pages around a device's memory window, at least `pages` of them.
fn device_source(window: Span, pages: u64) -> Result<Source, Error> {
    let first = Frame::containing(window.base);
    let end = window.end().ok_or(Error::BadRange)?.div_ceil(PAGE_SIZE);
    let granted = Frame::new(end).since(first).ok_or(Error::BadRange)?;
    if window.length == 0 || pages > granted { Err(Error::BadRange) } else { Ok(Source::Device(first)) }
}

/// The kernel's log as a place to format to.
pub(crate) struct Log<'m, M>(pub &'m mut M);

impl<M: Machine> core::fmt::Write for Log<'_, M> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.print(text.as_bytes());
        Ok(())
    }
}

fn answer(context: &mut Context, result: Result<u64, Error>) {
    (context.rax, context.rdx) = match result {
        Ok(value) => (0, value),
        Err(error) => (error.code(), 0),
    };
}
