use crate::{Backing, Commit, Error, Handle, Marks, Protection, Rights, Sharing, Span};

/// A request in the registers of a system call: the number in `rax`, then `rdi`, `rsi`, `rdx`, `r10`, `r8`, `r9`
/// (the order of the System V kernel convention). The answer comes back as the error's code in `rax` (0: none)
/// and the value in `rdx`; `rcx` and `r11` are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// Which request.
    pub number: u64,
    /// Its fields, the handle first.
    pub arguments: [u64; 6],
}

/// What a domain can ask of the kernel. The first field of each names the capability that allows it.
///
/// Answers are a number; 0 where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Declares a region: from now on `span` has this backing and protection. What was there before is gone, also when
    /// there turns out to be no memory ([`Error::NoMemory`]); every other error leaves it as it was. Answers with the
    /// physical address for [`Backing::Dma`]. Needs CONTROL on the address space.
    Map {
        /// The address space.
        space: Handle,
        /// Where, inside of [`crate::BootInfo::window`].
        span: Span,
        /// First contents.
        backing: Backing,
        /// Access.
        protection: Protection,
        /// When frames are taken.
        commit: Commit,
    },
    /// Changes the access to what is mapped in `span`, all of which must be mapped. The boot module can become
    /// executable, never writable. Needs CONTROL on the address space.
    Protect {
        /// The address space.
        space: Handle,
        /// Where.
        span: Span,
        /// Access from now on.
        protection: Protection,
    },
    /// Gives private pages in `span` back: the next touch sees the first contents again. Frames that were committed
    /// stay so. Memory of devices and for devices is left alone, holes are fine. Needs CONTROL on the
    /// address space.
    Reset {
        /// The address space.
        space: Handle,
        /// Where.
        span: Span,
    },
    /// Ends what is mapped in `span`; holes are fine. Needs CONTROL on the address space.
    Unmap {
        /// The address space.
        space: Handle,
        /// Where.
        span: Span,
    },
    /// Says where upcalls go. `page` must be one read-write page of zeros that is mapped already; the kernel
    /// pins it and lays an [`crate::UpcallPage`] there: until another page takes its place, requests that would change it
    /// answer [`Error::Busy`]. Needs CONTROL on the virtual CPU.
    SetUpcall {
        /// The virtual CPU.
        vcpu: Handle,
        /// Address of the page.
        page: u64,
        /// What is run: see [`crate::upcall`].
        entry: u64,
        /// The value of `rsp` when `entry` starts. The kernel writes nothing there.
        stack: u64,
    },
    /// Loads the context of one area of the upcall page and unmasks, in one step: returns only with an error. Needs
    /// CONTROL on the virtual CPU.
    Resume {
        /// The virtual CPU.
        vcpu: Handle,
        /// Which of the page's areas.
        area: crate::upcall::Area,
    },
    /// Asks for one tick upcall at `deadline_ns` on the kernel's clock; [`NEVER`](Request::NEVER) disarms. A
    /// deadline that has passed ticks at once. Needs CONTROL on the virtual CPU.
    SetTimer {
        /// The virtual CPU.
        vcpu: Handle,
        /// When, in nanoseconds of [`Request::Now`].
        deadline_ns: u64,
    },
    /// Sleeps until an event is pending or `deadline_ns` has come, and answers with the pending events as a set
    /// of bits, which are taken. An event that is pending already makes it return at once, with no gap to lose
    /// one in. A tick that falls due meanwhile ends the wait too, and so does a revocation (their upcalls come first). Needs
    /// LISTEN on the virtual CPU.
    Wait {
        /// The virtual CPU.
        vcpu: Handle,
        /// When to give up, in nanoseconds of [`Request::Now`].
        deadline_ns: u64,
    },
    /// Nanoseconds since the machine started; never goes back. Needs OBSERVE on the virtual CPU.
    Now {
        /// The virtual CPU.
        vcpu: Handle,
    },
    /// Nanoseconds that the virtual CPU has run: its clock stands while others have the CPU, and while it sleeps. Needs OBSERVE on the virtual
    /// CPU, which must be the caller's.
    CpuTime {
        /// The virtual CPU.
        vcpu: Handle,
    },
    /// Makes a source raise event `event` (0 to 63) of the virtual CPU, in [`Request::Wait`] and as an upcall. Sources are:
    /// a device's interrupt `index`, which is masked while pending, until [`Request::Acknowledge`]; a channel's end, when the other side
    /// signals or is gone; a domain, when it has ended. Needs LISTEN on the source and on the virtual CPU.
    Listen {
        /// A device, one end of a channel, or a domain.
        source: Handle,
        /// Of a device: which of its interrupts, an MSI-X vector, or 0 for its only line. Else 0.
        index: u32,
        /// Who is told.
        vcpu: Handle,
        /// Which bit.
        event: u32,
    },
    /// Lets an interrupt come again. Needs LISTEN on the device.
    Acknowledge {
        /// The device.
        device: Handle,
        /// Which of its interrupts.
        index: u32,
    },
    /// Reads 4 bytes of a PCI function's configuration space. Needs OBSERVE on the device.
    ReadConfig {
        /// The device.
        device: Handle,
        /// In bytes, a multiple of 4, below 256.
        offset: u32,
    },
    /// Writes 4 bytes of a PCI function's configuration space. BARs and what leads to interrupts are the kernel's
    /// and cannot be written ([`Error::NoRight`]). Needs CONTROL on the device.
    WriteConfig {
        /// The device.
        device: Handle,
        /// In bytes, a multiple of 4, below 256.
        offset: u32,
        /// The new value.
        value: u32,
    },
    /// Lets the domain use the device's I/O ports directly. Needs MAP on the device.
    OpenPorts {
        /// The device.
        device: Handle,
    },
    /// Writes up to [`Request::PRINT_BYTES_MAX`] bytes of text at `text` to the kernel's log: last words, not a
    /// console. Needs PRINT on the address space.
    Print {
        /// The address space.
        space: Handle,
        /// Where the text lies.
        text: Span,
    },
    /// Ends the whole machine with an exit status, 0 to 255. Does not return. Needs CONTROL on the machine.
    Stop {
        /// The machine.
        machine: Handle,
        /// What the outside sees, where there is a way to show it.
        status: u8,
    },
    /// Makes another capability to the same object in the caller's table, with those of `rights` that the first has.
    /// It goes when the first is revoked. Answers with its handle; with [`Error::Busy`] while the first, or one that it was derived from, is being
    /// revoked.
    Derive {
        /// Any capability.
        capability: Handle,
        /// What the new one shall allow.
        rights: Rights,
    },
    /// The same, in the table of another domain. Answers with the handle by which that domain names it. Needs GRANT on the
    /// capability and on the domain.
    Grant {
        /// Any capability.
        capability: Handle,
        /// What the new one shall allow.
        rights: Rights,
        /// Who gets it.
        domain: Handle,
    },
    /// Gives a capability back. What was derived from it counts as derived from where it came from. The object of a
    /// capability that was derived from none ends with it, and so does everything derived from it.
    Release {
        /// Any capability but the first ones to a domain, a virtual CPU, the machine, a device or the boot module ([`Error::Busy`]).
        capability: Handle,
    },
    /// Takes back everything that was derived from a capability, in all domains, with what was mapped by it. The holders
    /// are told by an upcall ([`crate::upcall::Kind::Revocation`]) and have until `deadline_ns` to release theirs; then the rest is
    /// taken. The virtual CPU sleeps until nothing is left; upcalls that are due for it meanwhile are made. A deadline that has passed
    /// takes everything at once. From the request on nothing more is derived from the capability, nor from what is taken back, until it is done.
    Revoke {
        /// Any capability.
        capability: Handle,
        /// On the kernel's clock.
        deadline_ns: u64,
    },
    /// Answers with the handle of a capability that is being revoked and that this request has not named yet, or
    /// [`Error::NothingThere`]. Needs OBSERVE on the domain, which must be the caller's.
    NextRevoked {
        /// The caller's domain.
        domain: Handle,
    },
    /// Makes a domain, out of the quotas of another: it has no memory, no capability and no virtual CPU yet. `parameters`
    /// is the address of a [`crate::DomainParameters`]. Answers with a handle that has every right. Needs CONTROL on the parent.
    CreateDomain {
        /// Whose quotas are shared, and with whom the new domain ends at the latest.
        parent: Handle,
        /// Where the parameters lie, in the caller's memory.
        parameters: u64,
    },
    /// Makes a virtual CPU, which does not run yet, of the caller's domain or of one that it made. Each of a domain's has an equal part
    /// of its share and budget. Answers with its handle, in the caller's table. Needs CONTROL on the domain.
    CreateVcpu {
        /// Whose it is.
        domain: Handle,
    },
    /// Lets a virtual CPU run for the first time: with this `rip`, `rsp` and `rdi`, all other registers zero. Needs
    /// CONTROL on it.
    Start {
        /// The virtual CPU.
        vcpu: Handle,
        /// The first instruction.
        entry: u64,
        /// `rsp`.
        stack: u64,
        /// `rdi`.
        argument: u64,
    },
    /// Ends a domain, with all domains that it made. The caller's own: its virtual CPUs stop, whoever listens is told, and the
    /// request does not return. Another: everything that it had goes back to where it came from, the domain exists no more, and all handles
    /// of it are stale. Needs CONTROL on the domain.
    End {
        /// The domain.
        domain: Handle,
        /// For its own end: what [`Request::Inspect`] shows.
        status: u64,
    },
    /// Makes memory: contiguous frames of zeros, at most [`Request::MEMORY_BYTES_MAX`], which the domain's quota pays for. Answers
    /// with its handle. Needs CONTROL on the domain, which must be the caller's.
    CreateMemory {
        /// The caller's domain.
        domain: Handle,
        /// In whole pages.
        bytes: u64,
    },
    /// Makes a channel: memory that two sides share ([`Backing::Memory`] maps either end), and a bell on each. Answers with the handle of
    /// one end. Needs CONTROL on the domain, which must be the caller's and pays.
    CreateChannel {
        /// The caller's domain.
        domain: Handle,
        /// Of memory, in whole pages; may be 0.
        bytes: u64,
    },
    /// Answers with a handle of a channel's other end. Needs CONTROL on this one, so that who is only given an end does
    /// not get both.
    OtherEnd {
        /// One end.
        channel: Handle,
    },
    /// Makes an event: a capability whose [`Request::Signal`] raises `event` of the virtual CPU. Answers with its
    /// handle. Needs LISTEN on the virtual CPU.
    CreateEvent {
        /// Who is told.
        vcpu: Handle,
        /// Which bit, 0 to 63.
        event: u32,
    },
    /// Raises an event, or the one that the other end of a channel listens with. Signals that nobody has taken yet
    /// are one. [`Error::Closed`]: nobody holds the other end any more. Needs SIGNAL.
    Signal {
        /// An event, or one end of a channel.
        target: Handle,
    },
    /// Lays what the kernel knows about an object at `into`: a [`crate::DomainRecord`], or for the machine a
    /// [`crate::CpuRecord`] of CPU number `index`. Answers with the bytes written. Needs OBSERVE.
    Inspect {
        /// A domain or the machine.
        object: Handle,
        /// Which of its parts.
        index: u64,
        /// In the caller's memory.
        into: Span,
    },
    /// Has the kernel write what happens on a CPU into a memory, as [`crate::trace`] says, and no longer where it did before.
    /// [`Handle::NONE`]: nowhere. It ends with either capability. Needs CONTROL on the machine, for who traces sees all domains; MAP and WRITE
    /// on the memory, which [`Request::CreateMemory`] has made.
    Trace {
        /// The machine.
        machine: Handle,
        /// The number of the CPU.
        cpu: u64,
        /// The memory.
        memory: Handle,
    },
    /// Lays a byte at `into` for each page of `span`, with bits of [`crate::mark`], and answers with how many pages that are: the first
    /// [`Request::MARKS_MAX`] at most. The marks are what CPUs noted when they went through `span`, and what the kernel wrote there
    /// for the domain; other mappings of the same memory, in this domain or another, and devices leave none. A page that nobody touched
    /// since it was mapped or reset, or that is not mapped, has none; a page that would be copied when it is written to has
    /// [`crate::mark::PRIVATE`] as soon as it is; pages for upcalls count as written to, always. Needs CONTROL on the address space.
    ReadMarks {
        /// The address space.
        space: Handle,
        /// Where, inside of [`crate::BootInfo::window`].
        span: Span,
        /// In the caller's memory. If it is unmapped meanwhile by another virtual CPU, marks that were to be cleared are lost.
        into: u64,
        /// What becomes of them.
        marks: Marks,
    },
}

impl Request {
    /// The deadline that never comes.
    pub const NEVER: u64 = u64::MAX;
    /// The most that one [`Request::Print`] can say.
    pub const PRINT_BYTES_MAX: u64 = 512;
    /// The most that one memory, one channel's memory or one region for devices can have: they are made in one step.
    pub const MEMORY_BYTES_MAX: u64 = 4 << 20;
    /// The most pages whose marks one [`Request::ReadMarks`] reads.
    pub const MARKS_MAX: u64 = 2048;

    /// What the request of this number is called.
    pub fn name_of(number: u64) -> Option<&'static str> {
        const NAMES: &str = "map protect reset unmap set-upcall resume set-timer wait now listen acknowledge read-config write-config \
            open-ports print stop derive grant release revoke next-revoked create-domain create-vcpu start end create-memory \
            create-channel other-end create-event signal inspect trace read-marks cpu-time";
        NAMES.split(' ').nth(usize::try_from(number.checked_sub(1)?).ok()?)
    }

    /// The request in registers.
    pub fn encode(self) -> Registers {
        let (number, arguments) = match self {
            Self::Map { space, span, backing, protection, commit } => {
                let (kind, first, second) = match backing {
                    Backing::Zero => (0, 0, 0),
                    Backing::Image { source } => (1, source, 0),
                    Backing::Device { device, window } => (2, device.raw(), u64::from(window)),
                    Backing::Dma { device } => (3, device.raw(), 0),
                    Backing::Memory { memory, offset, sharing: Sharing::Shared } => (4, memory.raw(), offset),
                    Backing::Memory { memory, offset, sharing: Sharing::Private } => {
                        (5, memory.raw(), offset)
                    }
                };
                let how = kind | (protection as u64) << 8 | (commit as u64) << 16;
                (1, [space.raw(), span.base, span.length, how, first, second])
            }
            Self::Protect { space, span, protection } => {
                (2, [space.raw(), span.base, span.length, protection as u64, 0, 0])
            }
            Self::Reset { space, span } => (3, [space.raw(), span.base, span.length, 0, 0, 0]),
            Self::Unmap { space, span } => (4, [space.raw(), span.base, span.length, 0, 0, 0]),
            Self::SetUpcall { vcpu, page, entry, stack } => (5, [vcpu.raw(), page, entry, stack, 0, 0]),
            Self::Resume { vcpu, area } => (6, [vcpu.raw(), area as u64, 0, 0, 0, 0]),
            Self::SetTimer { vcpu, deadline_ns } => (7, [vcpu.raw(), deadline_ns, 0, 0, 0, 0]),
            Self::Wait { vcpu, deadline_ns } => (8, [vcpu.raw(), deadline_ns, 0, 0, 0, 0]),
            Self::Now { vcpu } => (9, [vcpu.raw(), 0, 0, 0, 0, 0]),
            Self::Listen { source, index, vcpu, event } => {
                (10, [source.raw(), u64::from(index), vcpu.raw(), u64::from(event), 0, 0])
            }
            Self::Acknowledge { device, index } => (11, [device.raw(), u64::from(index), 0, 0, 0, 0]),
            Self::ReadConfig { device, offset } => (12, [device.raw(), u64::from(offset), 0, 0, 0, 0]),
            Self::WriteConfig { device, offset, value } => {
                (13, [device.raw(), u64::from(offset), u64::from(value), 0, 0, 0])
            }
            Self::OpenPorts { device } => (14, [device.raw(), 0, 0, 0, 0, 0]),
            Self::Print { space, text } => (15, [space.raw(), text.base, text.length, 0, 0, 0]),
            Self::Stop { machine, status } => (16, [machine.raw(), u64::from(status), 0, 0, 0, 0]),
            Self::Derive { capability, rights } => (17, [capability.raw(), rights.bits(), 0, 0, 0, 0]),
            Self::Grant { capability, rights, domain } => {
                (18, [capability.raw(), rights.bits(), domain.raw(), 0, 0, 0])
            }
            Self::Release { capability } => (19, [capability.raw(), 0, 0, 0, 0, 0]),
            Self::Revoke { capability, deadline_ns } => (20, [capability.raw(), deadline_ns, 0, 0, 0, 0]),
            Self::NextRevoked { domain } => (21, [domain.raw(), 0, 0, 0, 0, 0]),
            Self::CreateDomain { parent, parameters } => (22, [parent.raw(), parameters, 0, 0, 0, 0]),
            Self::CreateVcpu { domain } => (23, [domain.raw(), 0, 0, 0, 0, 0]),
            Self::Start { vcpu, entry, stack, argument } => (24, [vcpu.raw(), entry, stack, argument, 0, 0]),
            Self::End { domain, status } => (25, [domain.raw(), status, 0, 0, 0, 0]),
            Self::CreateMemory { domain, bytes } => (26, [domain.raw(), bytes, 0, 0, 0, 0]),
            Self::CreateChannel { domain, bytes } => (27, [domain.raw(), bytes, 0, 0, 0, 0]),
            Self::OtherEnd { channel } => (28, [channel.raw(), 0, 0, 0, 0, 0]),
            Self::CreateEvent { vcpu, event } => (29, [vcpu.raw(), u64::from(event), 0, 0, 0, 0]),
            Self::Signal { target } => (30, [target.raw(), 0, 0, 0, 0, 0]),
            Self::Inspect { object, index, into } => {
                (31, [object.raw(), index, into.base, into.length, 0, 0])
            }
            Self::Trace { machine, cpu, memory } => (32, [machine.raw(), cpu, memory.raw(), 0, 0, 0]),
            Self::ReadMarks { space, span, into, marks } => {
                (33, [space.raw(), span.base, span.length, into, marks as u64, 0])
            }
            Self::CpuTime { vcpu } => (34, [vcpu.raw(), 0, 0, 0, 0, 0]),
        };
        Registers { number, arguments }
    }

    /// The request that was in the registers. Whatever they held, this only reads them: the addresses and
    /// handles in it are allegations until the kernel has checked them.
    pub fn decode(registers: Registers) -> Result<Self, Error> {
        let [a, b, c, d, e, f] = registers.arguments;
        let handle = Handle::from_raw(a);
        let span = Span::new(b, c);
        let small = |value: u64| u32::try_from(value).map_err(|_| Error::Malformed);
        Ok(match registers.number {
            1 => Self::Map {
                space: handle,
                span,
                backing: match d & 0xff {
                    0 => Backing::Zero,
                    1 => Backing::Image { source: e },
                    2 => Backing::Device { device: Handle::from_raw(e), window: small(f)? },
                    3 => Backing::Dma { device: Handle::from_raw(e) },
                    4 => Backing::Memory { memory: Handle::from_raw(e), offset: f, sharing: Sharing::Shared },
                    5 => {
                        Backing::Memory { memory: Handle::from_raw(e), offset: f, sharing: Sharing::Private }
                    }
                    _ => return Err(Error::Malformed),
                },
                protection: Protection::from_code(d >> 8 & 0xff).ok_or(Error::Malformed)?,
                commit: match d >> 16 {
                    0 => Commit::OnTouch,
                    1 => Commit::Now,
                    _ => return Err(Error::Malformed),
                },
            },
            2 => Self::Protect {
                space: handle,
                span,
                protection: Protection::from_code(d).ok_or(Error::Malformed)?,
            },
            3 => Self::Reset { space: handle, span },
            4 => Self::Unmap { space: handle, span },
            5 => Self::SetUpcall { vcpu: handle, page: b, entry: c, stack: d },
            6 => Self::Resume {
                vcpu: handle,
                area: crate::upcall::Area::from_code(b).ok_or(Error::Malformed)?,
            },
            7 => Self::SetTimer { vcpu: handle, deadline_ns: b },
            8 => Self::Wait { vcpu: handle, deadline_ns: b },
            9 => Self::Now { vcpu: handle },
            10 => {
                Self::Listen { source: handle, index: small(b)?, vcpu: Handle::from_raw(c), event: small(d)? }
            }
            11 => Self::Acknowledge { device: handle, index: small(b)? },
            12 => Self::ReadConfig { device: handle, offset: small(b)? },
            13 => Self::WriteConfig { device: handle, offset: small(b)?, value: small(c)? },
            14 => Self::OpenPorts { device: handle },
            15 => Self::Print { space: handle, text: span },
            16 => Self::Stop { machine: handle, status: u8::try_from(b).map_err(|_| Error::Malformed)? },
            17 => Self::Derive { capability: handle, rights: Rights::from_bits(b) },
            18 => {
                Self::Grant { capability: handle, rights: Rights::from_bits(b), domain: Handle::from_raw(c) }
            }
            19 => Self::Release { capability: handle },
            20 => Self::Revoke { capability: handle, deadline_ns: b },
            21 => Self::NextRevoked { domain: handle },
            22 => Self::CreateDomain { parent: handle, parameters: b },
            23 => Self::CreateVcpu { domain: handle },
            24 => Self::Start { vcpu: handle, entry: b, stack: c, argument: d },
            25 => Self::End { domain: handle, status: b },
            26 => Self::CreateMemory { domain: handle, bytes: b },
            27 => Self::CreateChannel { domain: handle, bytes: b },
            28 => Self::OtherEnd { channel: handle },
            29 => Self::CreateEvent { vcpu: handle, event: small(b)? },
            30 => Self::Signal { target: handle },
            31 => Self::Inspect { object: handle, index: b, into: Span::new(c, d) },
            32 => Self::Trace { machine: handle, cpu: b, memory: Handle::from_raw(c) },
            33 => Self::ReadMarks {
                space: handle,
                span,
                into: d,
                marks: Marks::from_code(e).ok_or(Error::Malformed)?,
            },
            34 => Self::CpuTime { vcpu: handle },
            _ => return Err(Error::Malformed),
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::upcall::Area;

    fn every_request() -> [Request; 40] {
        let h = Handle::new(7, 3);
        let span = Span::new(0x10_0000, 0x3000);
        let map = |backing| Request::Map {
            space: h,
            span,
            backing,
            protection: Protection::ReadWrite,
            commit: Commit::Now,
        };
        [
            map(Backing::Zero),
            map(Backing::Image { source: 0x7000 }),
            map(Backing::Device { device: Handle::new(1, 9), window: 5 }),
            map(Backing::Dma { device: Handle::new(1, 9) }),
            map(Backing::Memory { memory: h, offset: 0x5000, sharing: Sharing::Shared }),
            map(Backing::Memory { memory: h, offset: 0x5000, sharing: Sharing::Private }),
            Request::Protect { space: h, span, protection: Protection::ReadExecute },
            Request::Reset { space: h, span },
            Request::Unmap { space: h, span },
            Request::SetUpcall { vcpu: h, page: 0x1000, entry: 0x2000, stack: 0x3000 },
            Request::Resume { vcpu: h, area: Area::Fault },
            Request::SetTimer { vcpu: h, deadline_ns: 5 },
            Request::Wait { vcpu: h, deadline_ns: Request::NEVER },
            Request::Now { vcpu: h },
            Request::CpuTime { vcpu: h },
            Request::Listen { source: h, index: 2, vcpu: Handle::new(2, 1), event: 63 },
            Request::Acknowledge { device: h, index: 2 },
            Request::ReadConfig { device: h, offset: 4 },
            Request::WriteConfig { device: h, offset: 4, value: 0xffff_ffff },
            Request::OpenPorts { device: h },
            Request::Print { space: h, text: Span::new(3, 4) },
            Request::Stop { machine: h, status: 255 },
            Request::Derive { capability: h, rights: Rights::MAP },
            Request::Grant { capability: h, rights: Rights::ALL, domain: Handle::new(4, 4) },
            Request::Release { capability: h },
            Request::Revoke { capability: h, deadline_ns: 9 },
            Request::NextRevoked { domain: h },
            Request::CreateDomain { parent: h, parameters: 0x1008 },
            Request::CreateVcpu { domain: h },
            Request::Start { vcpu: h, entry: 1, stack: 2, argument: 3 },
            Request::End { domain: h, status: 77 },
            Request::CreateMemory { domain: h, bytes: 8192 },
            Request::CreateChannel { domain: h, bytes: 4096 },
            Request::OtherEnd { channel: h },
            Request::CreateEvent { vcpu: h, event: 63 },
            Request::Signal { target: h },
            Request::Inspect { object: h, index: 1, into: span },
            Request::Trace { machine: h, cpu: 63, memory: Handle::NONE },
            Request::ReadMarks { space: h, span, into: 0x7000, marks: Marks::Keep },
            Request::ReadMarks { space: h, span, into: 0x7000, marks: Marks::Clear },
        ]
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for request in every_request() {
            assert_eq!(Request::decode(request.encode()), Ok(request));
        }
    }

    #[test]
    fn requests_are_called_as_they_are_here() {
        for request in every_request() {
            let name = Request::name_of(request.encode().number).expect("it has a name");
            let mut letters =
                std::format!("{request:?}").split(' ').next().unwrap_or_default().to_lowercase();
            letters.retain(|letter| letter != '-');
            assert_eq!(name.replace('-', ""), letters);
        }
        assert_eq!((Request::name_of(0), Request::name_of(u64::MAX)), (None, None));
    }

    #[test]
    fn nonsense_is_malformed() {
        for number in [0, 40, u64::MAX] {
            assert_eq!(Request::decode(Registers { number, arguments: [0; 6] }), Err(Error::Malformed));
        }
        for how in [6, 0x400, 0x2_0000, u64::MAX] {
            let arguments = [1, 0x1000, 0x1000, how, 0, 0];
            assert_eq!(Request::decode(Registers { number: 1, arguments }), Err(Error::Malformed));
        }
        let arguments = [1, 0x1000, 0x1000, 0x1000, 2, 0];
        assert_eq!(Request::decode(Registers { number: 33, arguments }), Err(Error::Malformed));
        let arguments = [1, 256, 0, 0, 0, 0];
        assert_eq!(Request::decode(Registers { number: 16, arguments }), Err(Error::Malformed));
    }

    #[test]
    fn error_codes_are_their_own_inverse() {
        for code in 1..=13 {
            assert_eq!(Error::from_code(code).map(Error::code), Some(code));
        }
        assert_eq!(Error::from_code(0), None);
        assert_eq!(Error::from_code(14), None);
    }
}
