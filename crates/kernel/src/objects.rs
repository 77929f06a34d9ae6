//! Memories, channels and events; and what can be seen of objects.

use crate::capability::{Object, Side};
use crate::domain::{Channel, Domain, End, Limits, Memory};
use crate::kernel::{Cpu, Kernel};
use crate::machine::{Access, Frame, Machine};
use crate::memory::Refusal;
use crate::schedule::Counters;
use crate::table::Guard;
use abi::{CpuRecord, DomainRecord, Error, Handle, PAGE_SIZE, Rights, Span};

impl<M: Machine> Kernel<M> {
    pub(crate) fn create_memory(&self, cpu: &Cpu, domain: Handle, bytes: u64) -> Result<u64, Refusal> {
        let _tree = self.authority.lock();
        if bytes == 0 {
            return Err(Error::BadRange.into());
        }
        let (mut owner, first, pages) = self.take_frames(cpu, domain, bytes)?;
        let id = owner.id;
        let memory = self.memories.insert(|_| Memory { first, pages, owner: Some(id) });
        let Some(memory) = memory else {
            self.give_frames_back(&mut owner, first, pages);
            return Err(Error::TableFull.into());
        };
        drop(owner);
        match self.insert_origin(id, Object::Memory(memory)) {
            Ok((_, handle)) => Ok(handle.raw()),
            Err(error) => {
                self.end_object(Object::Memory(memory));
                Err(error.into())
            }
        }
    }

    pub(crate) fn create_channel(&self, cpu: &Cpu, domain: Handle, bytes: u64) -> Result<u64, Refusal> {
        let _tree = self.authority.lock();
        let (mut owner, first, pages) = self.take_frames(cpu, domain, bytes)?;
        let id = owner.id;
        let ends = [End { holders: 1, ..End::default() }, End::default()];
        let channel = self.channels.insert(|_| Channel { first, pages, owner: id, ends });
        let Some(channel) = channel else {
            self.give_frames_back(&mut owner, first, pages);
            return Err(Error::TableFull.into());
        };
        drop(owner);
        let object = Object::Channel(channel, Side::First);
        match self.insert_origin(id, object) {
            Ok((_, handle)) => Ok(handle.raw()),
            Err(error) => {
                self.end_object(object);
                Err(error.into())
            }
        }
    }

    pub(crate) fn other_end(&self, cpu: &Cpu, channel: Handle) -> Result<u64, Refusal> {
        let _tree = self.authority.lock();
        let (place, held) = self.held(cpu, channel, Rights::CONTROL)?;
        let Object::Channel(id, side) = held.object else { return Err(Error::WrongKind.into()) };
        self.insert_other(place, Object::Channel(id, side.other()), Rights::ALL)
    }

    pub(crate) fn create_event(&self, cpu: &Cpu, vcpu: Handle, event: u32) -> Result<u64, Refusal> {
        let _tree = self.authority.lock();
        let (place, held) = self.held(cpu, vcpu, Rights::LISTEN)?;
        let Object::Vcpu(id) = held.object else { return Err(Error::WrongKind.into()) };
        if event > 63 {
            return Err(Error::Malformed.into());
        }
        let rights = Rights::SIGNAL.union(Rights::GRANT);
        self.insert_other(place, Object::Event(id, event), rights)
    }

    pub(crate) fn signal(&self, cpu: &Cpu, target: Handle) -> Result<u64, Refusal> {
        let listener = match self.object(cpu, target, Rights::SIGNAL)? {
            Object::Event(vcpu, event) => {
                self.vcpus.lock(vcpu).ok_or(Error::Closed)?;
                self.raise(cpu, vcpu, event);
                return Ok(0);
            }
            Object::Channel(id, side) => {
                let channel = self.channels.lock(id).ok_or(Error::StaleHandle)?;
                let other = channel.ends[side.other().index()];
                if other.closed {
                    return Err(Error::Closed.into());
                }
                other.listener
            }
            _ => return Err(Error::WrongKind.into()),
        };
        if let Some(listener) = listener {
            self.tell(cpu, listener);
        }
        Ok(0)
    }

    pub(crate) fn inspect(&self, cpu: &Cpu, object: Handle, index: u64, into: Span) -> Result<u64, Refusal> {
        let (mut words, count) = ([0; DomainRecord::WORDS], DomainRecord::WORDS);
        const { assert!(CpuRecord::WORDS <= DomainRecord::WORDS) }
        let count = match self.object(cpu, object, Rights::OBSERVE)? {
            Object::Domain(id) => {
                let domain = self.domains.lock(id).ok_or(Error::StaleHandle)?;
                words = self.domain_record(domain).to_words();
                count
            }
            Object::Machine => {
                let record = self.cpu_record(index).ok_or(Error::NothingThere)?;
                words[..CpuRecord::WORDS].copy_from_slice(&record.to_words());
                CpuRecord::WORDS
            }
            _ => return Err(Error::WrongKind.into()),
        };
        let length = count as u64 * 8;
        if into.length < length || !into.base.is_multiple_of(8) {
            return Err(Error::BadRange.into());
        }
        let mut current = self.current(cpu)?;
        self.user_frames(
            &mut current,
            (into.base, length),
            Access::Write,
            |machine, frame, offset, range| {
                machine.write_words(frame, offset / 8, &words[range.start / 8..range.end / 8]);
            },
        )?;
        Ok(length)
    }

    fn domain_record(&self, domain: Guard<'_, Domain<M>>) -> DomainRecord {
        let mut record = DomainRecord {
            memory_bytes: domain.space.used * PAGE_SIZE,
            memory_bytes_max: domain.space.quota * PAGE_SIZE,
            capabilities: domain.capabilities.count() as u64,
            regions: domain.space.regions.count() as u64,
            domains: domain.taken.domains,
            touches: domain.space.touches,
            number: domain.id.number(),
            ..domain.end
        };
        let vcpus = domain.vcpus;
        drop(domain);
        for id in vcpus.into_iter().flatten() {
            let Some(vcpu) = self.vcpus.lock(id) else { continue };
            record.vcpus += 1;
            record.requests += vcpu.requests;
            for (sum, count) in record.upcalls.iter_mut().zip(vcpu.upcalls) {
                *sum += count;
            }
            let ran = self.seats[vcpu.home].queue.lock().run_ns(id, self.machine.now_ns());
            let (run_ns, switches) = ran.unwrap_or(vcpu.ran);
            record.run_ns += run_ns;
            record.switches += switches;
        }
        record
    }

    fn cpu_record(&self, index: u64) -> Option<CpuRecord> {
        let number = usize::try_from(index).ok()?;
        let seat = self.seats.get(number)?;
        let now_ns = self.machine.now_ns();
        let queue = seat.queue.lock();
        let Counters { run_ns, switches, domain_switches, interrupts } = queue.counters_at(now_ns);
        Some(CpuRecord {
            cpus: self.seats.len() as u64,
            now_ns,
            run_ns,
            switches,
            domain_switches,
            interrupts,
            shootdowns: self.machine.shootdowns(number).served,
            ready: queue.ready_count() as u64,
            free_frames: self.machine.free_count(),
            frames: self.frames,
            traced: seat.ring.lock().is_some().into(),
        })
    }

    /// Takes contiguous frames of zeros for an object of the caller's.
    fn take_frames(
        &self,
        cpu: &Cpu,
        handle: Handle,
        bytes: u64,
    ) -> Result<(Guard<'_, Domain<M>>, Frame, u64), Refusal> {
        let mut domain = self.current(cpu)?;
        if domain.domain_of(handle, Rights::CONTROL)? != domain.id {
            return Err(Error::NoRight.into());
        }
        if !bytes.is_multiple_of(PAGE_SIZE) {
            return Err(Error::BadRange.into());
        }
        let pages = bytes / PAGE_SIZE;
        let max = domain.limits;
        if !domain.taken.take(Limits::OBJECT, max) {
            return Err(Error::TableFull.into());
        }
        let first = match pages {
            0 => Ok(Frame::new(0)),
            _ => domain.space.allocate_run(&self.machine, pages),
        };
        let first = first.inspect_err(|_| domain.taken.give_back(Limits::OBJECT))?;
        domain.space.charge(pages)?;
        Ok((domain, first, pages))
    }

    fn give_frames_back(&self, domain: &mut Domain<M>, first: Frame, pages: u64) {
        if pages > 0 {
            self.machine.free_run(first, pages);
        }
        domain.space.discharge(pages);
        domain.taken.give_back(Limits::OBJECT);
    }
}
