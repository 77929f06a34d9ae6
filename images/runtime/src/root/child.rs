//! A domain that the root has started.

use super::memory::Letter;
use crate::gate;
use crate::wire::{ChannelWire, Lost, MEMORY_BYTES, Wire};
use abi::boot::{DEVICES_MAX, DeviceRecord};
use abi::{
    Backing, BootInfo, Commit, CpuRecord, DomainParameters, DomainRecord, DomainState, Error, Handle,
    PAGE_SIZE, Protection, Request, Rights, Sharing, Span,
};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use bundle::Start;
use bundle::system::{Contents, Domain, Image, REGIONS, REGIONS_OF_PROCESS};
use control::{Counters, End, Memory, Usage};
use ring::Side;
use runtime::System;
use supervisor::{DomainLink, Event};

/// Where a child finds its [`BootInfo`].
const BOOT_INFO: u64 = 0x0800_0000;
/// The end of its first stack. Nothing is mapped below its beginning: the guard.
const STACK_END: u64 = 0x0900_0000;

/// What a library OS needs of capabilities, with some to spare.
const CAPABILITIES_MAX: u64 = 64;

/// What is read of a child before others have their turn: of the dearest that it can say, some milliseconds' work.
const TURN_BYTES: usize = 16 << 10;
/// So many turns' worth may lie there.
const TURNS: usize = MEMORY_BYTES as usize / TURN_BYTES + 1;

/// What children are made of.
pub struct Ground {
    /// The kernel.
    pub system: &'static System,
    /// What the root was told at its own start.
    pub boot: &'static BootInfo,
}

/// A domain that runs. What was made for it goes when this does.
pub struct Child {
    /// Perhaps it has written, or ended, or has room again. It rings only when we have looked, so at first we do.
    pub has_called: bool,
    /// What there is to say to it.
    pub link: DomainLink,
    /// What records of a trace call it.
    pub number: u64,
    domain: Owned,
    wire: ChannelWire,
    letter: Letter,
    quota_bytes: u64,
    scratch: Vec<u8>,
    own: Handle,
}

/// What came of listening to a child.
pub enum Heard {
    /// All that there was.
    All,
    /// A turn's worth, and there is more.
    Part,
    /// All, and that it is over.
    End(End),
}

/// A domain that ends when this goes.
struct Owned {
    system: &'static System,
    handle: Handle,
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.system.kernel().call(Request::End { domain: self.handle, status: 0 });
    }
}

impl Ground {
    fn call(&self, request: Request) -> Result<Handle, Error> {
        self.system.kernel().call(request).map(Handle::from_raw)
    }

    /// How many capabilities the root holds.
    pub fn capabilities(&self) -> u64 {
        inspect(self.system, self.boot.space).map_or(0, |record| record.capabilities)
    }

    /// What records of a trace call the root.
    pub fn number(&self) -> u64 {
        inspect(self.system, self.boot.space).map_or(0, |record| record.number)
    }

    /// What a CPU has done, if there is one of that number.
    pub fn cpu(&self, number: u64) -> Option<CpuRecord> {
        let mut record = CpuRecord::default();
        let into = Span::new(&raw mut record as u64, size_of::<CpuRecord>() as u64);
        let inspect = Request::Inspect { object: self.boot.machine, index: number, into };
        self.system.kernel().call(inspect).is_ok().then_some(record)
    }
}

fn inspect(system: &System, domain: Handle) -> Option<DomainRecord> {
    let mut record = DomainRecord::default();
    let into = Span::new(&raw mut record as u64, size_of::<DomainRecord>() as u64);
    system.kernel().call(Request::Inspect { object: domain, index: 0, into }).is_ok().then_some(record)
}

impl Child {
    /// What the root holds for each: the domain, its virtual CPU, its channel, its letter.
    pub const CAPABILITIES: u64 = 4;

    /// Makes the domain and lets it run. What happens to it raises `event`.
    pub fn start(
        ground: &Ground,
        wanted: &Domain,
        image: &Image,
        start: &Start,
        event: u32,
        link: DomainLink,
    ) -> Result<Self, Error> {
        let &Ground { system, boot } = ground;
        let parameters = parameters(wanted).to_words();
        let create = Request::CreateDomain { parent: boot.space, parameters: parameters.as_ptr() as u64 };
        let domain = Owned { system, handle: ground.call(create)? };
        let space = domain.handle;
        let vcpu = ground.call(Request::CreateVcpu { domain: space })?;
        let channel = ground.call(Request::CreateChannel { domain: boot.space, bytes: MEMORY_BYTES })?;
        let wire = ChannelWire::open(system, channel, event, Side::Maker)?;
        let grant = |capability, rights| ground.call(Request::Grant { capability, rights, domain: space });
        let info = BootInfo {
            quota_bytes: wanted.memory_bytes,
            module: Span::new(boot.module.base, wanted.module_bytes),
            // The kernel's log is not a tenant's: it has the channel.
            space: grant(space, Rights::CONTROL.union(Rights::OBSERVE))?,
            vcpu: grant(vcpu, Rights::CONTROL.union(Rights::OBSERVE).union(Rights::LISTEN))?,
            parent: grant_other_end(ground, channel, space)?,
            machine: Handle::NONE,
            module_memory: Handle::NONE,
            device_count: 0,
            devices: [DeviceRecord::default(); DEVICES_MAX],
            ..*boot
        };
        let letter = Letter::write(system, boot.space, &info, start)?;
        furnish(ground, space, wanted, image, &letter)?;
        let listen = Request::Listen { source: space, index: 0, vcpu: gate::vcpu(), event };
        ground.call(listen)?;
        ground.call(Request::Start { vcpu, entry: image.entry, stack: STACK_END, argument: BOOT_INFO })?;
        Ok(Self {
            has_called: true,
            link,
            number: inspect(system, space).map_or(0, |record| record.number),
            domain,
            wire,
            letter,
            quota_bytes: wanted.memory_bytes,
            scratch: vec![0; TURN_BYTES],
            own: boot.space,
        })
    }

    /// Takes in what it has said, at most a turn's worth, and whether it is over; says what there is to say.
    pub fn hear(&mut self, tell: &mut impl FnMut(Event<'_>)) -> Heard {
        // Looked at before what it has written, nothing that it wrote before its end is missed.
        let end = self.end();
        let read = self.wire.read(&mut self.scratch);
        let heard = read.map(|count| (count, self.link.take(&self.scratch[..count], tell)));
        let said = self.say();
        match (heard, end) {
            (Ok((TURN_BYTES, Ok(()))), _) => Heard::Part,
            (Ok((_, Ok(()))), None) if said == Ok(()) => Heard::All,
            // What has ended may have ended in the middle of a frame, and what is broken is not to be believed.
            (_, Some(end)) => {
                self.link.take_last_words(&self.wire.last_words(), tell);
                Heard::End(end)
            }
            (_, None) => {
                Heard::End(End::Broken { how: String::from("it broke the rules of the channel to its root") })
            }
        }
    }

    /// Takes in what it has said up to now, as much as can lie there, for it is to be ended.
    pub fn hear_rest(&mut self, tell: &mut impl FnMut(Event<'_>)) {
        for _ in 0..TURNS {
            if !matches!(self.hear(tell), Heard::Part) {
                return;
            }
        }
    }

    /// Is it over? Then there is not much left to hear.
    pub fn has_ended(&self) -> bool {
        inspect(self.domain.system, self.domain.handle)
            .is_none_or(|record| record.state != DomainState::Alive as u64)
    }

    /// Says as much as there is room for; it rings when there is room again.
    pub fn say(&mut self) -> Result<(), Lost> {
        loop {
            let unsent = self.link.unsent();
            if unsent.is_empty() {
                return Ok(());
            }
            match self.wire.write(&[unsent])? {
                0 => return Ok(()),
                count => self.link.sent(count),
            }
        }
    }

    /// What it uses.
    pub fn usage(&self) -> Option<Usage> {
        let record = inspect(self.domain.system, self.domain.handle)?;
        Some(Usage {
            memory: Memory { used_bytes: record.memory_bytes, peak_bytes: record.memory_bytes },
            cpu_ns: record.run_ns,
            counters: Counters {
                switches: Some(record.switches),
                faults: Some(record.touches),
                upcalls: Some(record.upcalls.iter().sum()),
                requests: Some(record.requests),
            },
        })
    }

    /// Ends it, if it has not, and takes back what it had. Answers how many bytes of that are missing.
    pub fn take_back(self) -> u64 {
        let Self { domain, wire, letter, quota_bytes, own, .. } = self;
        let system = domain.system;
        let taken = || inspect(system, own).map_or(0, |record| record.memory_bytes);
        let before = taken();
        drop(domain);
        let came_back = before.saturating_sub(taken());
        let made_bytes = Letter::BOOT_INFO.length + Letter::START.length + MEMORY_BYTES;
        let before = taken();
        drop((wire, letter));
        // Where the channel was mapped, tables may go as well.
        let made_came_back = before.saturating_sub(taken()).min(made_bytes);
        (quota_bytes + made_bytes).wrapping_sub(came_back + made_came_back)
    }

    /// How it ended, if it has.
    fn end(&self) -> Option<End> {
        let Some(record) = inspect(self.domain.system, self.domain.handle) else {
            return Some(End::Broken { how: String::from("the kernel knows it no more") });
        };
        if record.state == DomainState::Alive as u64 {
            return None;
        }
        Some(match record.state == DomainState::Ended as u64 {
            // Linux gives a parent the low eight bits.
            true => End::Exited { status: record.status as u8 },
            false if record.out_of_memory != 0 => End::Broken { how: String::from("out of memory") },
            false => End::Broken {
                how: format!(
                    "exception {} at {:#x}, address {:#x}",
                    record.vector, record.rip, record.address
                ),
            },
        })
    }
}

fn regions(wanted: &Domain) -> u64 {
    let started = wanted.programs.iter().map(|program| u64::from(program.instances)).sum::<u64>();
    REGIONS + (started + u64::from(wanted.children)) * REGIONS_OF_PROCESS
}

fn parameters(wanted: &Domain) -> DomainParameters {
    DomainParameters {
        name: DomainParameters::name_of(&wanted.name),
        memory_bytes: wanted.memory_bytes,
        capabilities_max: CAPABILITIES_MAX,
        // Numbers of processes whose end is still on its way have none; who would have more was refused.
        regions_max: regions(wanted).min(abi::REGIONS_MAX),
        vcpus_max: wanted.vcpus.into(),
        objects_max: 0,
        domains_max: 0,
        share: wanted.share,
        budget_ns: wanted.budget_ns,
        cpus: 0,
    }
}

/// The child has the other end of the channel, and the root does not keep it.
fn grant_other_end(ground: &Ground, channel: Handle, domain: Handle) -> Result<Handle, Error> {
    let capability = ground.call(Request::OtherEnd { channel })?;
    let rights = Rights::MAP.union(Rights::WRITE).union(Rights::LISTEN).union(Rights::SIGNAL);
    let granted = ground.call(Request::Grant { capability, rights, domain });
    ground.call(Request::Release { capability })?;
    granted
}

/// Lays out what a library OS begins with.
fn furnish(
    ground: &Ground,
    space: Handle,
    wanted: &Domain,
    image: &Image,
    letter: &Letter,
) -> Result<(), Error> {
    let map = |span, backing, protection, commit| {
        ground.call(Request::Map { space, span, backing, protection, commit }).map(drop)
    };
    let memory = ground.boot.module_memory;
    // What is never written is never copied, so this costs the child nothing.
    let of_module = |offset| Backing::Memory { memory, offset, sharing: Sharing::Private };
    for region in &image.regions {
        let protection = Protection::from(region.access);
        let commit = if protection == Protection::ReadWrite { Commit::Now } else { Commit::OnTouch };
        let backing = match region.contents {
            Contents::Module(offset) => of_module(offset),
            Contents::Zeros => Backing::Zero,
        };
        map(Span::new(region.address, region.length), backing, protection, commit)?;
    }
    let module = ground.boot.module.base;
    for part in &wanted.parts {
        let span = Span::new(module + part.at, part.length);
        map(span, of_module(part.offset), Protection::Read, Commit::OnTouch)?;
    }
    let start = Span::new(module + wanted.start_at, PAGE_SIZE);
    map(start, letter.backing(Letter::START.base), Protection::Read, Commit::OnTouch)?;
    let info = Span::new(BOOT_INFO, PAGE_SIZE);
    map(info, letter.backing(Letter::BOOT_INFO.base), Protection::Read, Commit::OnTouch)?;
    let stack = Span::new(STACK_END - BootInfo::STACK_BYTES, BootInfo::STACK_BYTES);
    map(stack, Backing::Zero, Protection::ReadWrite, Commit::Now)
}

/// Why a domain was not started, for people.
pub fn explain(error: Error) -> String {
    match error {
        Error::NoMemory => String::from("there is too little memory for it"),
        Error::TableFull => String::from("the machine has no room for another domain"),
        error => format!("the kernel refused it: {error:?}"),
    }
}
