//! The tree of capabilities: deriving, granting, and taking back.
//!
//! Each capability lies in a slot of its holder's table, with links to the one that it was derived from and to those that were
//! derived from it. Links change only under `authority`; a table is locked for each step, one at a time.

use crate::capability::{Below, Capability, Mapped, Notice, Object, Place, Side};
use crate::device::LineState;
use crate::domain::Limits;
use crate::kernel::{Cpu, Effect, Kernel};
use crate::machine::Machine;
use crate::memory::{LOOKS_PER_ENTRY, PIECE_ENTRIES, Refusal};
use crate::table::{ChannelId, DomainId};
use crate::trace::Event;
use crate::vcpu::Waiting;
use abi::trace::Kind;
use abi::{Error, Handle, Rights};

/// The most capabilities that are taken, told of or moved before the kernel looks at interrupts again.
pub(crate) const PIECE_CAPABILITIES: usize = 64;
/// What one of them counts, in a piece that is counted in entries of page tables.
const CAPABILITY_ENTRIES: usize = PIECE_ENTRIES / PIECE_CAPABILITIES;

/// Offset of the command register in a PCI function's configuration space, and its bits for the low half (PCI Local Bus 3.0, section 6.2.2).
const PCI_COMMAND: u8 = 4;
const PCI_BUS_MASTER: u32 = 1 << 2;

impl<M: Machine> Kernel<M> {
    pub(crate) fn derive(&self, cpu: &Cpu, handle: Handle, rights: Rights) -> Result<u64, Refusal> {
        let _tree = self.authority.lock();
        let (from, held) = self.held(cpu, handle, Rights::NONE)?;
        self.insert_below(from, held, rights, from.domain)
    }

    pub(crate) fn grant(
        &self,
        cpu: &Cpu,
        handle: Handle,
        rights: Rights,
        domain: Handle,
    ) -> Result<u64, Refusal> {
        let _tree = self.authority.lock();
        let (from, held) = self.held(cpu, handle, Rights::GRANT)?;
        let Object::Domain(to) = self.object(cpu, domain, Rights::GRANT)? else {
            return Err(Error::WrongKind.into());
        };
        self.insert_below(from, held, rights, to)
    }

    pub(crate) fn release(&self, cpu: &Cpu, handle: Handle) -> Result<u64, Refusal> {
        let _tree = self.authority.lock();
        let domain = self.current(cpu)?;
        // Also one that was given back in part: this is asked for the rest.
        let (slot, &Capability { parent, object, .. }) = domain.capabilities.find_ending(handle)?;
        let (place, left) = (Place { domain: domain.id, slot }, &mut { PIECE_ENTRIES });
        drop(domain);
        if parent.is_none() {
            if self.is_lasting(object) {
                return Err(Error::Busy.into());
            }
            self.take_below(cpu, place, left)?;
        }
        self.remove(cpu, place, left)?;
        Ok(0)
    }

    /// Whether an object does not end with its first capability.
    fn is_lasting(&self, object: Object) -> bool {
        match object {
            Object::Domain(_) | Object::Vcpu(_) | Object::Machine | Object::Device(_) => true,
            // The boot module: what the first domain runs is mapped by it.
            Object::Memory(id) => self.memories.lock(id).is_some_and(|memory| memory.owner.is_none()),
            Object::Channel(..) | Object::Event(..) => false,
        }
    }

    pub(crate) fn revoke(&self, cpu: &Cpu, handle: Handle, deadline_ns: u64) -> Result<Effect, Refusal> {
        let _tree = self.authority.lock();
        let (place, held) = self.held(cpu, handle, Rights::NONE)?;
        if held.first_child.is_none() {
            self.with(place, |held| held.below = Below::Stays);
            return Ok(Effect::Answer(0));
        }
        if self.machine.now_ns() >= deadline_ns {
            self.take_below(cpu, place, &mut { PIECE_ENTRIES })?;
            return Ok(Effect::Answer(0));
        }
        self.tell_below(cpu, place, held.below)?;
        Ok(Effect::Sleep(Waiting::Retry { deadline_ns }))
    }

    pub(crate) fn next_revoked(&self, cpu: &Cpu, domain: Handle) -> Result<u64, Refusal> {
        let mut current = self.current(cpu)?;
        if current.domain_of(domain, Rights::OBSERVE)? != current.id {
            return Err(Error::NoRight.into());
        }
        Ok(current.capabilities.take_notice().ok_or(Error::NothingThere)?.raw())
    }

    /// Puts the first capability to an object into a table.
    pub(crate) fn insert_origin(&self, domain: DomainId, object: Object) -> Result<(Place, Handle), Error> {
        let mut holder = self.domains.lock(domain).ok_or(Error::StaleHandle)?;
        let (slot, handle) = holder.capabilities.insert(Capability::new(object, Rights::ALL))?;
        Ok((Place { domain, slot }, handle))
    }

    /// Adds a capability below another, to `object`, which may be another side of the same.
    pub(crate) fn insert_other(&self, from: Place, object: Object, rights: Rights) -> Result<u64, Refusal> {
        let depth = self.with(from, |held| held.depth).ok_or(Error::StaleHandle)?;
        let held = Capability { depth, ..Capability::new(object, rights) };
        self.insert_below(from, held, rights, from.domain)
    }

    /// Takes everything below a capability, a piece at a time; `left` is what is left of the piece, in entries.
    pub(crate) fn take_below(&self, cpu: &Cpu, place: Place, left: &mut usize) -> Result<(), Refusal> {
        self.with(place, |held| held.below = held.below.max(Below::Goes));
        loop {
            let mut leaf = place;
            while let Some(child) = self.with(leaf, |held| held.first_child).flatten() {
                leaf = child;
            }
            if leaf == place {
                self.with(place, |held| held.below = Below::Stays);
                return Ok(());
            }
            self.remove(cpu, leaf, left)?;
        }
    }

    /// Takes one capability out: first what hangs on it, then itself. What is below it goes to the one above it. One with nothing below
    /// that is not mapped is taken at once or not at all.
    pub(crate) fn remove(&self, cpu: &Cpu, place: Place, left: &mut usize) -> Result<(), Refusal> {
        spend(left)?;
        let mut mapped = Mapped::Nowhere;
        self.with(place, |held| {
            held.notice = Notice::Ending;
            mapped = held.mapped;
        });
        self.end_trace(place);
        self.unmap_all(place, mapped, left)?;
        self.wake_revokers(cpu, place);
        self.lift_below(place, left)?;
        let Some(held) = self.with(place, |held| *held) else { return Ok(()) };
        self.unlink(&held);
        if let Some(mut holder) = self.domains.lock(place.domain) {
            holder.capabilities.remove(place.slot);
        }
        match held.object {
            Object::Channel(id, side) => self.drop_end(cpu, place, id, side),
            Object::Device(index) => self.drop_device(place, index, held.rights),
            Object::Domain(id) => {
                if let Some(mut domain) = self.domains.lock(id) {
                    domain.listener.take_if(|listener| listener.by == place);
                }
            }
            _ => (),
        }
        if held.parent.is_none() {
            self.end_object(held.object);
        }
        Ok(())
    }

    /// Does something with the capability in a place.
    pub(crate) fn with<R>(&self, place: Place, act: impl FnOnce(&mut Capability) -> R) -> Option<R> {
        self.domains.lock(place.domain)?.capabilities.slot(place.slot).map(act)
    }

    pub(crate) fn held(
        &self,
        cpu: &Cpu,
        handle: Handle,
        needed: Rights,
    ) -> Result<(Place, Capability), Refusal> {
        let domain = self.current(cpu)?;
        let (slot, held) = domain.capabilities.find(handle, needed)?;
        Ok((Place { domain: domain.id, slot }, *held))
    }

    fn insert_below(
        &self,
        from: Place,
        held: Capability,
        rights: Rights,
        to: DomainId,
    ) -> Result<u64, Refusal> {
        if held.depth == abi::DERIVED_MAX {
            return Err(Error::TableFull.into());
        }
        // Or its holder would not be told, and there might be no end of it.
        if self.line(from).any(|(_, held)| held.below != Below::Stays) {
            return Err(Error::Busy.into());
        }
        let new = Capability {
            parent: Some(from),
            depth: held.depth + 1,
            next: self.with(from, |held| held.first_child).flatten(),
            ..Capability::new(held.object, held.rights.intersection(rights))
        };
        let (slot, handle) = {
            let mut holder = self.domains.lock(to).ok_or(Error::StaleHandle)?;
            if holder.state != abi::DomainState::Alive {
                return Err(Error::StaleHandle.into());
            }
            holder.capabilities.insert(new)?
        };
        let place = Place { domain: to, slot };
        self.with(from, |held| held.first_child = Some(place));
        if let Some(next) = new.next {
            self.with(next, |held| held.previous = Some(place));
        }
        if let Object::Channel(id, side) = held.object
            && let Some(mut channel) = self.channels.lock(id)
        {
            channel.ends[side.index()].holders += 1;
        }
        Ok(handle.raw())
    }

    /// A capability and those that it was derived from, upwards.
    fn line(&self, place: Place) -> impl Iterator<Item = (Place, Capability)> + '_ {
        let at = |place| self.with(place, |held| (place, *held));
        core::iter::successors(at(place), move |(_, held)| at(held.parent?))
    }

    /// What follows a capability in the tree below `top`: first what was derived from it.
    fn after(&self, place: Place, top: Place) -> Option<Place> {
        let first = self.with(place, |held| held.first_child)?;
        let mut line = self.line(place).take_while(|(at, _)| *at != top);
        first.or_else(|| line.find_map(|(_, held)| held.next))
    }

    /// Puts what was derived from a capability before it in the list that it is in: what follows what stays as it was.
    fn lift_below(&self, place: Place, left: &mut usize) -> Result<(), Refusal> {
        while let Some(Capability { parent: Some(parent), previous, first_child: Some(child), .. }) =
            self.with(place, |held| *held)
        {
            spend(left)?;
            let link = (Some(parent), previous, Some(place));
            let next = self.with(child, |held| {
                let next = held.next;
                (held.parent, held.previous, held.next) = link;
                next
            });
            self.with(place, |held| (held.first_child, held.previous) = (next.flatten(), Some(child)));
            if let Some(next) = next.flatten() {
                self.with(next, |next| next.previous = None);
            }
            match previous {
                Some(previous) => self.with(previous, |previous| previous.next = Some(child)),
                None => self.with(parent, |parent| parent.first_child = Some(child)),
            };
        }
        Ok(())
    }

    /// Takes a capability out of the lists.
    fn unlink(&self, held: &Capability) {
        match (held.previous, held.parent) {
            (Some(previous), _) => self.with(previous, |previous| previous.next = held.next),
            (None, Some(parent)) => self.with(parent, |parent| parent.first_child = held.next),
            (None, None) => None,
        };
        if let Some(next) = held.next {
            self.with(next, |next| next.previous = held.previous);
        }
    }

    fn unmap_all(&self, place: Place, mapped: Mapped, left: &mut usize) -> Result<(), Refusal> {
        let mut unmap = |id: DomainId| match self.domains.lock(id) {
            Some(mut domain) => domain.space.unmap_capability(&self.machine, place, left),
            None => Ok(()),
        };
        match mapped {
            Mapped::Nowhere => return Ok(()),
            Mapped::Here => {
                unmap(place.domain)?;
                // Afterwards: what is done again in each piece must leave something of it.
                let looked = self.domains.lock(place.domain).map_or(0, |domain| domain.space.regions.count());
                *left = left.saturating_sub(looked / LOOKS_PER_ENTRY);
            }
            Mapped::Elsewhere => {
                self.domains.ids().try_for_each(unmap)?;
                // To look everywhere is a piece by itself.
                *left = 0;
            }
        }
        self.with(place, |held| held.mapped = Mapped::Nowhere);
        Ok(())
    }

    /// Tells the holders of everything below a capability that it is being revoked, a piece at a time. Nothing comes there meanwhile.
    fn tell_below(&self, cpu: &Cpu, top: Place, before: Below) -> Result<(), Refusal> {
        let telling = self.current_vcpu(cpu)?.1.telling;
        self.with(top, |held| held.below = Below::Awaited);
        // If the next is gone, or some of what was below it is before it by now, from the beginning: who was told is not told again.
        let stays = |at| self.with(at, |held| held.notice != Notice::Ending) == Some(true);
        let is_there = |at| stays(at) && self.line(at).any(|(at, _)| at == top);
        let goes_on = |&(of, next): &(Place, Option<Place>)| of == top && next.is_none_or(is_there);
        let told = telling.filter(|_| before == Below::Awaited).filter(goes_on);
        let mut next = told.map_or(Some(top), |(_, next)| next);
        for _ in 0..PIECE_CAPABILITIES {
            let Some(at) = next else { break };
            let tell = |held: &mut Capability| {
                let is_new = at != top && held.notice == Notice::None;
                if is_new {
                    held.notice = Notice::Untold;
                }
                is_new
            };
            if self.with(at, tell) == Some(true) {
                self.tell_revoked(cpu, at.domain);
            }
            next = self.after(at, top);
        }
        self.current_vcpu(cpu)?.1.telling = Some((top, next));
        if next.is_none() { Ok(()) } else { Err(Refusal::Again(None)) }
    }

    fn tell_revoked(&self, cpu: &Cpu, domain: DomainId) {
        let first = self.domains.lock(domain).and_then(|domain| domain.vcpus[0]);
        let Some(id) = first else { return };
        let Some(mut vcpu) = self.vcpus.lock(id) else { return };
        if core::mem::replace(&mut vcpu.revocation_due, true) {
            return;
        }
        self.trace(cpu, |_| Event::of(Kind::Revocation, domain, 0, 0));
        self.rouse(cpu, id, &vcpu);
    }

    /// Has everyone look again who waits for this capability or one above it to be free.
    fn wake_revokers(&self, cpu: &Cpu, place: Place) {
        for (at, _) in self.line(place).filter(|(_, held)| held.below == Below::Awaited) {
            let vcpus = self.domains.lock(at.domain).map(|domain| domain.vcpus);
            for id in vcpus.into_iter().flatten().flatten() {
                if let Some(mut vcpu) = self.vcpus.lock(id) {
                    vcpu.retry_due = true;
                    self.rouse(cpu, id, &vcpu);
                }
            }
        }
    }

    /// One capability to an end of a channel is gone, and who listened by it: with the last, the other side is told.
    fn drop_end(&self, cpu: &Cpu, place: Place, id: ChannelId, side: Side) {
        let told = {
            let Some(mut channel) = self.channels.lock(id) else { return };
            let end = &mut channel.ends[side.index()];
            end.listener.take_if(|listener| listener.by == place);
            end.holders -= 1;
            if end.holders > 0 {
                return;
            }
            end.closed = true;
            channel.ends[side.other().index()].listener
        };
        if let Some(listener) = told {
            self.tell(cpu, listener);
        }
    }

    /// One capability to a device is gone: interrupts that were listened to by it stop. When its holder has no other to map the device, its
    /// ports are closed; when it has none either to control it, the device reaches no memory any more, which may be this holder's.
    fn drop_device(&self, place: Place, index: usize, rights: Rights) {
        let Some(mut holder) = self.domains.lock(place.domain) else { return };
        let mut devices = self.devices.lock();
        let [maps, controls] = holder.capabilities.reach(index);
        if !maps {
            self.machine.close_ports(&mut holder.space.tables, devices.get(index));
        }
        let (device, lines) = devices.lines(index);
        for (number, line) in lines.iter_mut().enumerate() {
            let (LineState::Ready(listener) | LineState::Pending(listener)) = line.state else { continue };
            if listener.by == place {
                self.machine.mask(device, number as u32);
                line.state = LineState::Off;
            }
        }
        let reached = rights.allow(Rights::MAP) || rights.allow(Rights::CONTROL);
        if reached && !maps && !controls && device.record.kind == abi::boot::DeviceKind::Pci {
            let command = self.machine.read_config(device, PCI_COMMAND) & 0xffff & !PCI_BUS_MASTER;
            self.machine.write_config(device, PCI_COMMAND, command);
        }
    }

    /// The last that there was of an object.
    pub(crate) fn end_object(&self, object: Object) {
        let (owner, first, pages) = match object {
            Object::Memory(id) => match self.memories.remove(id) {
                Some(memory) => (memory.owner, memory.first, memory.pages),
                None => return,
            },
            Object::Channel(id, _) => match self.channels.remove(id) {
                Some(channel) => (Some(channel.owner), channel.first, channel.pages),
                None => return,
            },
            _ => return,
        };
        let Some(owner) = owner else { return };
        if pages > 0 {
            self.machine.free_run(first, pages);
        }
        if let Some(mut owner) = self.domains.lock(owner) {
            owner.space.discharge(pages);
            owner.taken.give_back(Limits::OBJECT);
        }
    }
}

/// Counts one capability of a piece, if anything is left of it.
fn spend(left: &mut usize) -> Result<(), Refusal> {
    *left = left.checked_sub(CAPABILITY_ENTRIES).ok_or(Refusal::Again(None))?;
    Ok(())
}
