//! The coming and going of domains, virtual CPUs, memories and channels.

use crate::capability::{Capabilities, Object, Place};
use crate::domain::{Domain, Limits};
use crate::kernel::{Cpu, Effect, Kernel};
use crate::log::Level;
use crate::machine::{Access, Machine};
use crate::memory::{PIECE_ENTRIES, Refusal, Space};
use crate::region::{REGIONS_MAX, Regions};
use crate::schedule::{Budget, Entry};
use crate::start::WINDOW;
use crate::table::{DomainId, VcpuId};
use crate::trace::Event;
use crate::vcpu::{Upcall, VCPUS_MAX, Vcpu, fresh_context};
use abi::trace::Kind;
use abi::{DomainParameters, DomainRecord, DomainState, Error, Handle, Rights};

/// The most capabilities that a domain can have.
pub(crate) const CAPABILITIES_MAX: u64 = 1 << 16;
/// Frames of every domain: its root table. And of each virtual CPU: its vector registers.
const ROOT_FRAMES: u64 = 1;
pub(crate) const VCPU_FRAMES: u64 = 1;

impl<M: Machine> Kernel<M> {
    pub(crate) fn create_domain(&self, cpu: &Cpu, parent: Handle, parameters: u64) -> Result<u64, Refusal> {
        let _tree = self.authority.lock();
        let mut parameters = self.read_parameters(cpu, parent, parameters)?;
        let mut current = self.current(cpu)?;
        let id = current.id;
        let limits = check(&parameters)?;
        self.bound(&mut parameters, &current)?;
        current.space.charge(parameters.frames())?;
        let max = current.limits;
        if !current.taken.take(limits.of_child(), max) {
            current.space.discharge(parameters.frames());
            return Err(Error::TableFull.into());
        }
        drop(current);
        let made = self.make_domain(cpu, id, &parameters, limits);
        if made.is_err() {
            self.give_back(id, parameters.frames(), limits.of_child());
        }
        made
    }

    /// A domain has no more of the CPUs than its parent may have; what several have together is not summed.
    fn bound(&self, parameters: &mut DomainParameters, parent: &Domain<M>) -> Result<(), Error> {
        parameters.cpus &= self.all_cpus();
        if parameters.cpus == 0 {
            parameters.cpus = parent.cpus;
        }
        if parameters.budget_ns == 0 {
            parameters.budget_ns = parent.budget_ns;
        }
        let fits = parameters.share <= parent.share
            && parameters.cpus & !parent.cpus == 0
            && (parent.budget_ns == 0 || parameters.budget_ns <= parent.budget_ns);
        if fits { Ok(()) } else { Err(Error::NoRight) }
    }

    fn all_cpus(&self) -> u64 {
        u64::MAX >> (64 - self.seats.len())
    }

    fn make_domain(
        &self,
        cpu: &Cpu,
        parent: DomainId,
        parameters: &DomainParameters,
        limits: Limits,
    ) -> Result<u64, Refusal> {
        let id = self.insert_domain(Some(parent), parameters, limits)?;
        match self.insert_origin(parent, Object::Domain(id)) {
            Ok((place, handle)) => {
                if let Some(mut domain) = self.domains.lock(id) {
                    domain.origin = Some(place);
                }
                self.trace(cpu, |_| Event::of(Kind::Made, id, 0, parent.number()));
                let name = crate::domain::name_of(&parameters.name);
                self.machine.log(Level::Debug, format_args!("made the domain {name}"));
                Ok(handle.raw())
            }
            Err(error) => {
                if let Some(domain) = self.domains.remove(id) {
                    self.machine.destroy_space(domain.space.tables);
                }
                Err(error.into())
            }
        }
    }

    /// Makes a domain that nobody has a capability to.
    pub(crate) fn insert_domain(
        &self,
        parent: Option<DomainId>,
        parameters: &DomainParameters,
        limits: Limits,
    ) -> Result<DomainId, Refusal> {
        if own_frames(parameters) > parameters.frames() {
            return Err(Error::NoMemory.into());
        }
        let capabilities = Capabilities::new(parameters.capabilities_max as usize)?;
        let regions = Regions::new(parameters.regions_max as usize)?;
        let tables = self.machine.create_space().ok_or(Error::NoMemory)?;
        let all = self.all_cpus();
        let space = Space {
            regions,
            tables,
            window: WINDOW,
            used: own_frames(parameters),
            quota: parameters.frames(),
            pinned: [None; VCPUS_MAX],
            touches: 0,
            leaving: None,
        };
        let mut parts = Some((space, capabilities));
        let id = self.domains.insert(|id| {
            let Some((space, capabilities)) = parts.take() else { unreachable!() };
            Domain {
                id,
                name: parameters.name,
                parent,
                origin: None,
                space,
                capabilities,
                vcpus: [None; VCPUS_MAX],
                state: DomainState::Alive,
                end: DomainRecord::default(),
                listener: None,
                limits,
                taken: Limits::default(),
                share: parameters.share,
                budget_ns: parameters.budget_ns,
                cpus: if parameters.cpus & all == 0 { all } else { parameters.cpus & all },
            }
        });
        if let Some((space, _)) = parts {
            self.machine.destroy_space(space.tables);
        }
        Ok(id.ok_or(Error::TableFull)?)
    }

    fn read_parameters(&self, cpu: &Cpu, parent: Handle, address: u64) -> Result<DomainParameters, Refusal> {
        let mut domain = self.current(cpu)?;
        if domain.domain_of(parent, Rights::CONTROL)? != domain.id {
            return Err(Error::NoRight.into());
        }
        let mut bytes = [0; DomainParameters::WORDS * 8];
        let span = (address, bytes.len() as u64);
        self.user_frames(&mut domain, span, Access::Read, |machine, frame, offset, range| {
            machine.read(frame, offset, &mut bytes[range]);
        })?;
        let mut words = [0; DomainParameters::WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        }
        Ok(DomainParameters::from_words(words))
    }

    pub(crate) fn create_vcpu(&self, cpu: &Cpu, handle: Handle) -> Result<u64, Refusal> {
        let _tree = self.authority.lock();
        let current = self.current(cpu)?;
        let (here, target) = (current.id, current.domain_of(handle, Rights::CONTROL)?);
        drop(current);
        let (number, share, budget_ns, cpus) = {
            let mut domain = self.domains.lock(target).ok_or(Error::StaleHandle)?;
            if domain.state != DomainState::Alive {
                return Err(Error::StaleHandle.into());
            }
            // So that its first capability ends with it or after it.
            if target != here && domain.parent != Some(here) {
                return Err(Error::NoRight.into());
            }
            let number = domain.vcpus.iter().position(Option::is_none).ok_or(Error::TableFull)?;
            let max = domain.limits;
            domain.space.charge(VCPU_FRAMES)?;
            if !domain.taken.take(Limits::VCPU, max) {
                domain.space.discharge(VCPU_FRAMES);
                return Err(Error::TableFull.into());
            }
            // Each has an equal part of what the domain has, as long as all want to run; of a budget never nothing, which would be no limit.
            let parts = max.vcpus.clamp(1, VCPUS_MAX as u64);
            (number, (domain.share, parts), domain.budget_ns.div_ceil(parts), domain.cpus)
        };
        let made = self.make_vcpu(target, number, (share, budget_ns, cpus)).and_then(|id| {
            let handle = self.hand_over(id, (target, number), here);
            Ok(handle.inspect_err(|_| self.drop_vcpu(id))?.raw())
        });
        if made.is_err()
            && let Some(mut domain) = self.domains.lock(target)
        {
            domain.vcpus[number] = None;
            domain.space.discharge(VCPU_FRAMES);
            domain.taken.give_back(Limits::VCPU);
        }
        made
    }

    /// Gives a new virtual CPU to its domain, unless that has ended meanwhile, and then a handle of it to who made it: nobody can start it before
    /// its domain's end stops it.
    fn hand_over(
        &self,
        id: VcpuId,
        (domain, number): (DomainId, usize),
        maker: DomainId,
    ) -> Result<Handle, Error> {
        let domain = self.domains.lock(domain).filter(|domain| domain.state == DomainState::Alive);
        let mut domain = domain.ok_or(Error::StaleHandle)?;
        domain.vcpus[number] = Some(id);
        let first = domain.vcpus[0].filter(|first| *first != id);
        drop(domain);
        let (place, handle) = self.insert_origin(maker, Object::Vcpu(id))?;
        let next = first.and_then(|first| Some(self.vcpus.lock(first)?.next.replace(id).unwrap_or(first)));
        if let Some(mut vcpu) = self.vcpus.lock(id) {
            (vcpu.origin, vcpu.next) = (Some(place), next);
        }
        Ok(handle)
    }

    /// Makes a virtual CPU in the queue of the CPU that is the least laden of those that it may run on.
    pub(crate) fn make_vcpu(
        &self,
        domain: DomainId,
        number: usize,
        ((share, parts), budget_ns, cpus): ((u64, u64), u64, u64),
    ) -> Result<VcpuId, Refusal> {
        let allowed = self.seats.iter().enumerate().filter(|(number, _)| cpus >> number & 1 != 0);
        let home = allowed.min_by_key(|(_, seat)| seat.queue.lock().load()).map_or(0, |(number, _)| number);
        let vectors = self.machine.allocate().ok_or(Error::NoMemory)?;
        self.machine.fresh_vectors(vectors);
        let id = self.vcpus.insert(|_| Vcpu::new(domain, number, home, vectors));
        let Some(id) = id else {
            self.machine.free_run(vectors, 1);
            return Err(Error::TableFull.into());
        };
        let budget = (budget_ns > 0).then(|| Budget::new(budget_ns, self.machine.now_ns()));
        let mut entry = Entry::new(id, domain, (share / parts).max(1), budget, cpus);
        entry.divided = (parts > 1).then_some(share);
        let added = self.seats[home].queue.lock().add(entry);
        added.inspect_err(|_| self.drop_vcpu(id))?;
        Ok(id)
    }

    /// Ends a virtual CPU that is in no queue, or does not run.
    fn drop_vcpu(&self, id: VcpuId) {
        let Some(vcpu) = self.vcpus.remove(id) else { return };
        self.seats[vcpu.home].queue.lock().remove(id);
        self.machine.free_run(vcpu.vectors, 1);
    }

    pub(crate) fn start_vcpu(
        &self,
        cpu: &Cpu,
        vcpu: Handle,
        (entry, stack, argument): (u64, u64, u64),
    ) -> Result<u64, Refusal> {
        let Object::Vcpu(id) = self.object(cpu, vcpu, Rights::CONTROL)? else {
            return Err(Error::WrongKind.into());
        };
        Upcall::check(entry, stack)?;
        let mut vcpu = self.vcpus.lock(id).ok_or(Error::StaleHandle)?;
        if vcpu.started {
            return Err(Error::Busy.into());
        }
        vcpu.started = true;
        vcpu.saved = fresh_context(entry, stack);
        vcpu.saved.rdi = argument;
        self.rouse(cpu, id, &vcpu);
        Ok(0)
    }

    pub(crate) fn end(&self, cpu: &Cpu, handle: Handle, status: u64) -> Result<Effect, Refusal> {
        let current = self.current(cpu)?;
        let (own, target) = (current.id, current.domain_of(handle, Rights::CONTROL)?);
        drop(current);
        if target == own {
            let state = DomainState::Ended;
            let end = DomainRecord { state: state as u64, status, ..DomainRecord::default() };
            self.end_domain(cpu, own, state, end);
            return Ok(Effect::End);
        }
        let _tree = self.authority.lock();
        if self.is_above(target, own) {
            // A domain below it has a handle of it: the one above would end with its own end half done.
            return Err(Error::Busy.into());
        }
        self.destroy(cpu, target)?;
        Ok(Effect::Answer(0))
    }

    /// A domain is over: nothing of it runs any more, who listens is told, and what it had stays until its parent ends it.
    pub(crate) fn end_domain(&self, cpu: &Cpu, id: DomainId, state: DomainState, end: DomainRecord) {
        let (vcpus, listener) = {
            let Some(mut domain) = self.domains.lock(id) else { return };
            if domain.state != DomainState::Alive {
                return;
            }
            (domain.state, domain.end) = (state, end);
            self.trace(cpu, |_| Event::of(Kind::Ended, id, state as u32, end.status));
            (domain.vcpus, domain.listener)
        };
        for id in vcpus.into_iter().flatten() {
            self.stop(cpu, id);
        }
        if let Some(listener) = listener {
            self.tell(cpu, listener);
        }
    }

    /// Has a virtual CPU leave its queue, at once or as soon as its CPU looks. Answers whether it has.
    fn stop(&self, cpu: &Cpu, id: VcpuId) -> bool {
        let Some(mut vcpu) = self.vcpus.lock(id) else { return true };
        let home = vcpu.home;
        let gone = {
            let mut queue = self.seats[home].queue.lock();
            if let Some(entry) = queue.get(id) {
                entry.stop = true;
                vcpu.ran = (entry.run_ns, entry.switches);
            }
            queue.remove(id).is_some() || queue.get(id).is_none()
        };
        drop(vcpu);
        if !gone {
            self.attend(cpu.number, 1 << home);
        }
        gone
    }

    fn is_above(&self, id: DomainId, below: DomainId) -> bool {
        let mut at = Some(below);
        while let Some(domain) = at {
            if domain == id {
                return true;
            }
            at = self.domains.lock(domain).and_then(|domain| domain.parent);
        }
        false
    }

    /// Takes everything back that a domain and those below it have. Asks to be called again until it is done, at the latest after each
    /// domain.
    fn destroy(&self, cpu: &Cpu, top: DomainId) -> Result<(), Refusal> {
        let killed = DomainRecord { state: DomainState::Ended as u64, ..DomainRecord::default() };
        let mut id = top;
        loop {
            // Those above first, or they could make others for ever.
            self.end_domain(cpu, id, DomainState::Ended, killed);
            let Some(child) = self.child_of(id) else { break };
            id = child;
        }
        self.destroy_one(cpu, id)?;
        if id == top { Ok(()) } else { Err(Refusal::Again(None)) }
    }

    fn child_of(&self, id: DomainId) -> Option<DomainId> {
        self.domains
            .ids()
            .find(|&child| self.domains.lock(child).is_some_and(|child| child.parent == Some(id)))
    }

    /// The same for a domain that is over and has none below.
    fn destroy_one(&self, cpu: &Cpu, domain_id: DomainId) -> Result<(), Refusal> {
        let id = domain_id;
        let Some(vcpus) = self.domains.lock(id).map(|domain| domain.vcpus) else { return Ok(()) };
        for id in vcpus.into_iter().flatten() {
            if !self.stop(cpu, id) {
                return Err(Refusal::Again(None));
            }
        }
        let last = || self.domains.lock(id).and_then(|mut domain| domain.capabilities.last());
        let left = &mut { PIECE_ENTRIES };
        while let Some(slot) = last() {
            let place = Place { domain: id, slot };
            if self.with(place, |held| held.parent.is_none()).unwrap_or(false) {
                self.take_below(cpu, place, left)?;
            }
            self.remove(cpu, place, left)?;
        }
        for id in vcpus.into_iter().flatten() {
            let origin = self.vcpus.lock(id).and_then(|vcpu| vcpu.origin);
            if let Some(origin) = origin.filter(|origin| origin.domain != domain_id) {
                self.take_below(cpu, origin, left)?;
                self.remove(cpu, origin, left)?;
            }
            self.drop_vcpu(id);
        }
        if let Some(mut domain) = self.domains.lock(id) {
            domain.space.end(&self.machine).map_err(|_| Refusal::Again(None))?;
        }
        if let Some(origin) = self.domains.lock(id).and_then(|domain| domain.origin) {
            self.take_below(cpu, origin, left)?;
            self.remove(cpu, origin, left)?;
        }
        let Some(domain) = self.domains.remove(id) else { return Ok(()) };
        self.machine.destroy_space(domain.space.tables);
        self.trace(cpu, |_| Event::of(Kind::Destroyed, id, 0, 0));
        let name = crate::domain::name_of(&domain.name);
        self.machine.log(Level::Debug, format_args!("took back the domain {name}"));
        if let Some(parent) = domain.parent {
            self.give_back(parent, domain.space.quota, domain.limits.of_child());
        }
        Ok(())
    }

    fn give_back(&self, id: DomainId, frames: u64, limits: Limits) {
        if let Some(mut domain) = self.domains.lock(id) {
            domain.space.discharge(frames);
            domain.taken.give_back(limits);
        }
    }
}

/// The limits that parameters ask for, if they are numbers that can be.
fn check(parameters: &DomainParameters) -> Result<Limits, Error> {
    let &DomainParameters {
        capabilities_max, regions_max, vcpus_max, objects_max, domains_max, share, ..
    } = parameters;
    let sound = (1..=CAPABILITIES_MAX).contains(&capabilities_max)
        && (1..=REGIONS_MAX as u64).contains(&regions_max)
        && (1..=VCPUS_MAX as u64).contains(&vcpus_max)
        && (1..=DomainParameters::SHARE_MAX).contains(&share);
    let limits = Limits { vcpus: vcpus_max, objects: objects_max, domains: domains_max };
    if sound { Ok(limits) } else { Err(Error::Malformed) }
}

/// What the kernel keeps about a domain, in frames.
pub(crate) fn own_frames(parameters: &DomainParameters) -> u64 {
    ROOT_FRAMES
        + Capabilities::frames(parameters.capabilities_max as usize)
        + Regions::frames(parameters.regions_max as usize)
}
