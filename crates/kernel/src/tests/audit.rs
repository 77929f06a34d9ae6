//! What is true of a kernel whenever no CPU is in it: found by counting everything again.

use crate::capability::{Below, Capability, Mapped, Notice, Object, Place, Side};
use crate::device::{Line, LineState};
use crate::domain::{Domain, Limits};
use crate::fake::Fake;
use crate::kernel::{Cpu, Kernel};
use crate::lifecycle::own_frames;
use crate::machine::{Access, Frame, Machine, Mapping, Owner, Page, Walk};
use crate::memory::PIECE_ENTRIES;
use crate::region::{Region, Share, Source};
use crate::schedule::{Entry, Run};
use crate::table::{DomainId, VcpuId};
use crate::vcpu::{VCPUS_MAX, Vcpu, Waiting};
use abi::boot::DeviceKind;
use abi::{Commit, DomainParameters, DomainState, Protection, Rights, Span};
use spin::RelaxStrategy;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::vec::Vec;

/// What is held in the slots of all domains.
type Tree = BTreeMap<(DomainId, u32), Capability>;

/// Checks everything. `cpus` are all of them.
pub fn audit<R: RelaxStrategy>(kernel: &Kernel<Fake<R>>, cpus: &[&Cpu]) {
    // A lock that was left held is waited for here, and with one thread that is an error by itself.
    drop(kernel.authority.lock());
    let domains: Vec<DomainId> = kernel.domains.ids().collect();
    let vcpus: Vec<VcpuId> = kernel.vcpus.ids().collect();
    let tree = tree(kernel, &domains);
    check_links(&tree);
    check_objects(kernel, &tree, &domains);
    check_channels(kernel, &tree);
    check_devices(kernel, &domains);
    check_rings(kernel, &tree);
    let mut owned = BTreeSet::new();
    for &id in &domains {
        let domain = kernel.domains.lock(id).expect("it was listed");
        check_regions(kernel, &tree, &domain);
        check_mappings(kernel, &domain, &mut owned);
    }
    domains.iter().for_each(|&id| check_accounts(kernel, id, &domains));
    check_frames(kernel, owned, &vcpus);
    check_queues(kernel, cpus, &vcpus);
    check_revokers(kernel, &tree, cpus);
    check_told(kernel, &tree);
    assert!(kernel.machine.state().is_flushed(), "a CPU may reach what was unmapped");
}

fn tree<R: RelaxStrategy>(kernel: &Kernel<Fake<R>>, domains: &[DomainId]) -> Tree {
    let mut tree = Tree::new();
    for &id in domains {
        let domain = kernel.domains.lock(id).expect("it was listed");
        assert_eq!(domain.id, id);
        let held = domain.capabilities.iter().map(|(slot, _, held)| ((id, slot), *held));
        let before = tree.len();
        tree.extend(held);
        assert_eq!(domain.capabilities.count(), tree.len() - before, "what {id:?} holds is counted");
    }
    tree
}

fn key(place: Place) -> (DomainId, u32) {
    (place.domain, place.slot)
}

/// Everything that has a parent is in that one's list, once; nothing is above itself; and rights only shrink.
fn check_links(tree: &Tree) {
    let mut listed = BTreeSet::new();
    for (&at, held) in tree {
        let (mut next, mut previous) = (held.first_child, None);
        while let Some(child) = next {
            assert!(listed.insert(key(child)), "{child:?} is in two lists");
            let below =
                tree.get(&key(child)).unwrap_or_else(|| panic!("{at:?} lists {child:?}, which is empty"));
            assert_eq!(below.parent.map(key), Some(at), "{child:?}");
            assert_eq!(below.previous, previous, "{child:?}");
            check_derived(held, below);
            (next, previous) = (below.next, Some(child));
        }
        let above = |at: &Capability| at.parent.and_then(|parent| tree.get(&key(parent)));
        let depth = core::iter::successors(Some(held), |at| above(at)).take(tree.len() + 1).count();
        assert!(depth <= tree.len(), "{at:?} is above itself");
    }
    let derived = tree.values().filter(|held| held.parent.is_some()).count();
    assert_eq!(listed.len(), derived, "everything derived is listed");
}

fn check_derived(from: &Capability, held: &Capability) {
    let most = match (from.object, held.object) {
        // Whoever controls an end can have the other with every right.
        (Object::Channel(from, _), Object::Channel(to, _)) if from == to => Rights::ALL,
        (Object::Vcpu(from), Object::Event(to, _)) if from == to => Rights::SIGNAL.union(Rights::GRANT),
        (one, other) if one == other => from.rights,
        _ => panic!("{held:?} below {from:?}"),
    };
    assert!(most.allow(held.rights), "{held:?} below {from:?}");
}

/// What capabilities name exists, and what exists has one capability that is above all others to it.
fn check_objects<R: RelaxStrategy>(kernel: &Kernel<Fake<R>>, tree: &Tree, domains: &[DomainId]) {
    for (at, held) in tree {
        let exists = match held.object {
            Object::Domain(id) => kernel.domains.lock(id).is_some(),
            Object::Vcpu(id) | Object::Event(id, _) => kernel.vcpus.lock(id).is_some(),
            Object::Memory(id) => kernel.memories.lock(id).is_some(),
            Object::Channel(id, _) => kernel.channels.lock(id).is_some(),
            Object::Machine | Object::Device(_) => true,
        };
        assert!(exists, "{at:?} names what is gone: {held:?}");
    }
    let firsts = |is: fn(&Object) -> bool| {
        tree.values().filter(|held| held.parent.is_none() && is(&held.object)).count()
    };
    assert_eq!(firsts(|object| matches!(object, Object::Memory(_))), kernel.memories.ids().count());
    assert_eq!(firsts(|object| matches!(object, Object::Channel(..))), kernel.channels.ids().count());
    assert_eq!(firsts(|object| matches!(object, Object::Domain(_))), domains.len());
    assert_eq!(firsts(|object| matches!(object, Object::Event(..))), 0);
    for &id in domains {
        let origin = kernel.domains.lock(id).expect("it was listed").origin.expect("every domain has one");
        let held = tree.get(&key(origin)).expect("it is held");
        assert!(held.parent.is_none() && held.object == Object::Domain(id), "{held:?} is first to {id:?}");
    }
    for id in kernel.vcpus.ids() {
        let (origin, domain) = {
            let vcpu = kernel.vcpus.lock(id).expect("it was listed");
            (vcpu.origin.expect("every virtual CPU has one"), vcpu.domain)
        };
        let state = kernel.domains.lock(domain).expect("its domain exists").state;
        // A domain that is being taken apart may have lost it already.
        if state == DomainState::Alive {
            let held = tree.get(&key(origin)).expect("it is held");
            assert!(held.parent.is_none() && held.object == Object::Vcpu(id), "{held:?} is first to {id:?}");
        }
    }
}

fn check_channels<R: RelaxStrategy>(kernel: &Kernel<Fake<R>>, tree: &Tree) {
    for id in kernel.channels.ids() {
        let ends = kernel.channels.lock(id).expect("it was listed").ends;
        for side in [Side::First, Side::Second] {
            let held = tree.values().filter(|held| held.object == Object::Channel(id, side)).count();
            assert_eq!(ends[side.index()].holders as usize, held, "holders of {id:?}, {side:?}");
        }
    }
}

/// An interrupt can come exactly when somebody listens who has acknowledged the last; and only who may map a device reaches its ports.
fn check_devices<R: RelaxStrategy>(kernel: &Kernel<Fake<R>>, domains: &[DomainId]) {
    let count = kernel.devices.lock().iter().count();
    for index in 0..count {
        let mut devices = kernel.devices.lock();
        let (device, lines) = devices.lines(index);
        let has_ports = device.record.kind == DeviceKind::RealTimeClock;
        let state = kernel.machine.state();
        for (line, Line { state: now, connected }) in (0..).zip(lines.iter()) {
            let key = (device.number, line);
            assert_eq!(state.connected.contains(&key), *connected, "{key:?}");
            let comes = *connected && !state.masked.contains(&key);
            assert_eq!(comes, matches!(now, LineState::Ready(_)), "{key:?} is {now:?}");
        }
        drop((state, devices));
        for &id in domains {
            let domain = kernel.domains.lock(id).expect("it was listed");
            let [maps, _] = check_reach(&domain, index);
            let opened = has_ports && domain.space.tables.open_ports > 0;
            assert!(maps || !opened, "{id:?} reaches ports of a device that it may not map");
        }
    }
}

/// Whatever hangs on a capability, hangs on one that is there and is to these frames.
fn check_regions<R: RelaxStrategy>(kernel: &Kernel<Fake<R>>, tree: &Tree, domain: &Domain<Fake<R>>) {
    let mut end = Page::containing(0);
    for region in domain.space.regions.iter() {
        assert!(end <= region.first && region.first < region.end, "{region:?}");
        end = region.end;
        let Some(by) = region.source.capability() else { continue };
        let held = tree.get(&key(by)).unwrap_or_else(|| panic!("{region:?} hangs on nothing"));
        assert!(held.rights.allow(Rights::MAP), "{region:?} by {held:?}");
        let reach = if by.domain == domain.id { Mapped::Here } else { Mapped::Elsewhere };
        assert!(held.mapped >= reach, "{region:?} would stay when {held:?} goes");
        let frames = match held.object {
            Object::Memory(id) => kernel.memories.lock(id).map(|memory| (memory.first, memory.pages)),
            Object::Channel(id, _) => kernel.channels.lock(id).map(|channel| (channel.first, channel.pages)),
            Object::Device(index) if matches!(region.source, Source::Device(..)) => {
                check_window(kernel, region, index);
                continue;
            }
            other => panic!("{region:?} hangs on {other:?}"),
        };
        let (first, pages) = frames.expect("what is named exists");
        let Source::Memory(frame, share, _) = region.source else { panic!("{region:?} hangs on {held:?}") };
        let inside = frame.since(first).is_some_and(|at| at + region.pages() <= pages);
        assert!(inside, "{region:?} is not of {held:?}");
        assert!(share != Share::Written || held.rights.allow(Rights::WRITE), "{region:?} by {held:?}");
    }
}

fn check_window<R: RelaxStrategy>(kernel: &Kernel<Fake<R>>, region: &Region, index: usize) {
    let Source::Device(frame, _) = region.source else { panic!("{region:?} is no device's") };
    let first = Page::containing(frame.address());
    let (base, end) = (first.address(), first.offset(region.pages()).address());
    let inside = |window: &Span| base >= window.base && window.end().is_some_and(|of| end <= of);
    assert!(
        kernel.devices.lock().get(index).record.windows.iter().any(inside),
        "{region:?} is not the device's"
    );
}

/// What a CPU writes its records to is memory that somebody holds who controls the machine.
fn check_rings<R: RelaxStrategy>(kernel: &Kernel<Fake<R>>, tree: &Tree) {
    let mut any = false;
    for (number, seat) in kernel.seats.iter().enumerate() {
        let ring = seat.ring.lock();
        let Some(ring) = &*ring else { continue };
        any = true;
        let [machine, memory] = ring.by.map(|place| {
            tree.get(&key(place)).unwrap_or_else(|| panic!("CPU {number}'s ring hangs on nothing"))
        });
        assert!(machine.object == Object::Machine && machine.rights.allow(Rights::CONTROL), "{machine:?}");
        assert!(memory.rights.allow(Rights::MAP.union(Rights::WRITE)), "{memory:?}");
        let Object::Memory(id) = memory.object else { panic!("CPU {number}'s ring is in {memory:?}") };
        let memory = kernel.memories.lock(id).expect("what is named exists");
        assert!(memory.owner.is_some() && memory.first == ring.first, "CPU {number}'s ring");
    }
    assert_eq!(kernel.is_tracing(), any, "whether any CPU is traced");
}

/// What is mapped is what was declared, and allows no more; private frames have one owner.
fn check_mappings<R: RelaxStrategy>(
    kernel: &Kernel<Fake<R>>,
    domain: &Domain<Fake<R>>,
    owned: &mut BTreeSet<Frame>,
) {
    let space = &domain.space;
    for (page, mapping) in space.tables.pages() {
        let region = space.regions.find(page).unwrap_or_else(|| panic!("{page:?} is in no region"));
        check_mapping(region, page, mapping);
        let written = mapping.protection == Protection::ReadWrite;
        assert!(
            !written || !kernel.machine.is_sealed(mapping.frame),
            "{page:?} can be written to: {mapping:?}"
        );
        if mapping.owner == Owner::Page {
            assert!(owned.insert(mapping.frame), "{:?} has two owners", mapping.frame);
        }
    }
    let runs = space.regions.iter().filter_map(|region| match region.source {
        Source::Dma(first) => Some((first, region.pages())),
        _ => None,
    });
    let frames = runs.flat_map(|(first, pages)| (0..pages).map(move |at| first.offset(at)));
    for frame in frames.chain(space.tables.frames()) {
        assert!(owned.insert(frame), "{frame:?} has two owners");
    }
}

fn check_mapping(region: &Region, page: Page, mapping: Mapping) {
    for access in [Access::Read, Access::Write, Access::Execute] {
        let more = access.allowed_by(mapping.protection) && !access.allowed_by(region.protection);
        assert!(!more, "{page:?}: {mapping:?} of {region:?}");
    }
    if mapping.owner == Owner::Page {
        assert!(
            matches!(region.source, Source::Zero | Source::Memory(_, Share::Copied, _)),
            "{page:?}: {region:?}"
        );
        return;
    }
    let frame = match region.source.offset(page.since(region.first)) {
        Source::Memory(frame, ..) | Source::Device(frame, _) | Source::Dma(frame) => frame,
        Source::Zero => panic!("{page:?}: {mapping:?} of {region:?}"),
    };
    assert_eq!(mapping.frame, frame, "{page:?} of {region:?}");
    let written =
        matches!(region.source, Source::Memory(_, Share::Written, _) | Source::Device(..) | Source::Dma(_));
    assert!(written || mapping.protection != Protection::ReadWrite, "{page:?}: {mapping:?} of {region:?}");
}

/// What a domain is charged is what it has, and what those have that it made.
fn check_accounts<R: RelaxStrategy>(kernel: &Kernel<Fake<R>>, id: DomainId, domains: &[DomainId]) {
    let mut taken = Limits::default();
    let mut frames = 0;
    for &child in domains {
        let child = kernel.domains.lock(child).expect("it was listed");
        if child.parent == Some(id) {
            assert!(taken.take(child.limits.of_child(), LIMITLESS));
            frames += child.space.quota;
        }
    }
    let memories = kernel.memories.ids().filter_map(|id| kernel.memories.lock(id));
    let memories = memories.map(|memory| (memory.owner, memory.pages));
    let channels = kernel.channels.ids().filter_map(|id| kernel.channels.lock(id));
    let channels = channels.map(|channel| (Some(channel.owner), channel.pages));
    let objects: Vec<_> = memories.collect::<Vec<_>>().into_iter().chain(channels).collect();
    for (_, pages) in objects.into_iter().filter(|(owner, _)| *owner == Some(id)) {
        taken.objects += 1;
        frames += pages;
    }
    let domain = kernel.domains.lock(id).expect("it was listed");
    // Those of a domain that is being taken apart go one by one.
    let vcpus = domain.vcpus.iter().flatten().count() as u64;
    taken.vcpus += vcpus;
    let space = &domain.space;
    let private = space.tables.pages().filter(|(page, mapping)| {
        let paid = |region: &Region| region.commit == Commit::Now;
        mapping.owner == Owner::Page && !space.regions.find(*page).is_some_and(paid)
    });
    frames += vcpus + space.tables.count() + private.count() as u64;
    // What is paid for when it is declared: contiguous frames, and what may become private pages.
    let paid = space.regions.iter().filter(|region| match region.source {
        Source::Dma(_) => true,
        Source::Zero | Source::Memory(_, Share::Copied, _) => region.commit == Commit::Now,
        Source::Memory(..) | Source::Device(..) => false,
    });
    frames += paid.map(Region::pages).sum::<u64>();
    frames += own_frames(&DomainParameters {
        capabilities_max: domain.capabilities.slots_max() as u64,
        regions_max: space.regions.count_max() as u64,
        ..DomainParameters::default()
    });
    assert_eq!(space.used, frames, "frames of {id:?}");
    // A change in pieces splits one more for a while.
    let piece_pages = PIECE_ENTRIES / Walk::PAGE_ENTRIES;
    let in_pieces = if space.tables.pages().count() > piece_pages { VCPUS_MAX } else { 0 };
    assert!(space.regions.count() <= space.regions.count_max() + in_pieces, "{id:?} has too many regions");
    assert!(space.used <= space.quota, "{id:?} is over its quota");
    assert_eq!(domain.taken, taken, "what {id:?} took");
    assert!(Limits::default().take(taken, domain.limits), "{id:?} is over its limits");
}

const LIMITLESS: Limits = Limits { vcpus: u64::MAX, objects: u64::MAX, domains: u64::MAX };

/// Every frame is free or has one owner.
fn check_frames<R: RelaxStrategy>(kernel: &Kernel<Fake<R>>, mut owned: BTreeSet<Frame>, vcpus: &[VcpuId]) {
    let mut own = |first: Frame, pages: u64| {
        for frame in (0..pages).map(|at| first.offset(at)) {
            assert!(owned.insert(frame), "{frame:?} has two owners");
        }
    };
    for id in kernel.memories.ids() {
        let memory = kernel.memories.lock(id).expect("it was listed");
        if memory.owner.is_some() {
            own(memory.first, memory.pages);
        }
    }
    for id in kernel.channels.ids() {
        let channel = kernel.channels.lock(id).expect("it was listed");
        own(channel.first, channel.pages);
    }
    for &id in vcpus {
        own(kernel.vcpus.lock(id).expect("it was listed").vectors, 1);
    }
    let state = kernel.machine.state();
    let freed = owned.iter().find(|frame| state.is_free(**frame));
    assert_eq!(freed, None, "is free and has an owner");
    drop(state);
    assert_eq!(owned.len() as u64 + kernel.machine.free_count(), kernel.frames, "no frame is lost");
}

/// Every virtual CPU is where it should be, nobody sleeps who was woken, and upcalls go to pages that stay.
fn check_queues<R: RelaxStrategy>(kernel: &Kernel<Fake<R>>, cpus: &[&Cpu], vcpus: &[VcpuId]) {
    let mut entries = BTreeMap::new();
    for (number, cpu) in cpus.iter().enumerate() {
        let queue = kernel.seats[number].queue.lock();
        let running = queue.entries().iter().filter(|entry| entry.run == Run::Running);
        let running: Vec<_> = running.map(|entry| (entry.vcpu, entry.domain)).collect();
        let current: Vec<_> = cpu.current.iter().map(|current| (current.vcpu, current.domain)).collect();
        assert_eq!(running, current, "what runs on CPU {number}");
        for entry in queue.entries() {
            assert!(entries.insert(entry.vcpu, (number, *entry)).is_none(), "{entry:?} is in two queues");
            let told = kernel.seats[number].attention.load(Relaxed);
            assert!(!entry.stop || told, "CPU {number} was not told that {entry:?} is to stop");
            let may = entry.cpus >> number & 1 != 0;
            assert!(may || entry.run == Run::Blocked, "{entry:?} is not to run on CPU {number}");
        }
        let sleeps = kernel.idle.load(Relaxed) >> number & 1 != 0;
        assert_eq!(sleeps, cpu.current.is_none(), "CPU {number} sleeps");
        if sleeps && queue.spare(number).is_some() {
            let kicked = kernel.machine.state().kicked.contains(&number);
            assert!(kicked && kernel.seats[number].attention.load(Relaxed), "CPU {number} was not woken");
        }
    }
    check_waiters(kernel, entries.values());
    for &id in vcpus {
        let vcpu = kernel.vcpus.lock(id).expect("it was listed");
        let entry = entries.remove(&id);
        let (domain, number) = (vcpu.domain, vcpu.number);
        check_sleep(&vcpu, entry);
        let upcall = vcpu.upcall;
        drop(vcpu);
        let domain = kernel.domains.lock(domain).expect("its domain exists");
        assert_eq!(domain.vcpus[number], Some(id));
        if domain.state == DomainState::Alive {
            let mut others: Vec<VcpuId> =
                domain.vcpus.iter().flatten().copied().filter(|other| *other != id).collect();
            let next = |id: &VcpuId| kernel.vcpus.lock(*id)?.next;
            let mut ring: Vec<VcpuId> = core::iter::successors(next(&id), next)
                .take_while(|other| *other != id)
                .take(VCPUS_MAX)
                .collect();
            ring.sort_unstable();
            others.sort_unstable();
            assert_eq!(ring, others, "the ring of {id:?}");
        }
        if domain.state != DomainState::Alive {
            assert!(
                entry.is_none_or(|(_, entry)| entry.stop && entry.run == Run::Running),
                "{entry:?} goes on"
            );
            continue;
        }
        assert!(entry.is_some_and(|(_, entry)| !entry.stop), "{id:?} can run");
        if let Some(upcall) = upcall {
            let page = Page::containing(upcall.page);
            assert_eq!(domain.space.pinned[number], Some(page));
            let mapping = kernel.machine.mapping(&domain.space.tables, page).expect("it is mapped");
            assert_eq!(
                (mapping.frame, mapping.owner),
                (upcall.frame, Owner::Page),
                "{id:?}'s page for upcalls"
            );
        }
    }
    assert!(entries.is_empty(), "in a queue and gone: {entries:?}");
}

/// While one waits, no CPU sleeps that could run it: it was told, or the one that lets it wait looks before it goes on.
fn check_waiters<'a, R: RelaxStrategy>(
    kernel: &Kernel<Fake<R>>,
    entries: impl Iterator<Item = &'a (usize, Entry)>,
) {
    let idle = kernel.idle.load(Relaxed);
    for (home, entry) in entries.filter(|(_, entry)| entry.can_run() && !entry.stop) {
        let asleep = idle & entry.cpus & !(1 << home);
        let looks = |number: &usize| kernel.seats[*number].attention.load(Relaxed);
        let mut can = (0..kernel.seats.len()).filter(|&number| number == *home || asleep >> number & 1 != 0);
        assert!(
            asleep == 0 || can.any(|number| looks(&number)),
            "{entry:?} waits for CPU {home} while others sleep"
        );
    }
}

/// Who sleeps until something was given back, will be woken by that.
fn check_revokers<R: RelaxStrategy>(kernel: &Kernel<Fake<R>>, tree: &Tree, cpus: &[&Cpu]) {
    for number in 0..cpus.len() {
        let blocked: Vec<VcpuId> = {
            let queue = kernel.seats[number].queue.lock();
            let blocked = queue.entries().iter().filter(|entry| entry.run == Run::Blocked && !entry.stop);
            blocked.map(|entry| entry.vcpu).collect()
        };
        for id in blocked {
            let vcpu = kernel.vcpus.lock(id).expect("it is in a queue");
            if matches!(vcpu.waiting, Some(Waiting::Retry { .. })) {
                let awaited = |(at, held): (&(DomainId, u32), &Capability)| {
                    at.0 == vcpu.domain && held.below == Below::Awaited && held.first_child.is_some()
                };
                assert!(tree.iter().any(awaited), "nobody will wake {id:?}");
            }
        }
    }
}

/// Whoever has something that is being revoked was told so, unless that is still being done.
fn check_told<R: RelaxStrategy>(kernel: &Kernel<Fake<R>>, tree: &Tree) {
    let telling: Vec<Place> = {
        let vcpus = kernel.vcpus.ids().filter_map(|id| kernel.vcpus.lock(id)?.telling);
        vcpus.filter_map(|(top, next)| next.map(|_| top)).collect()
    };
    for (at, held) in tree.iter().filter(|(_, held)| held.notice == Notice::None) {
        let above = |held: &Capability| held.parent.map(|at| (at, tree[&key(at)]));
        let mut line = core::iter::successors(above(held), |(_, held)| above(held));
        let untold = line.find(|(at, held)| held.below == Below::Awaited && !telling.contains(at));
        assert!(untold.is_none(), "the holder of {at:?} does not know that {untold:?} is revoked");
    }
}

/// No reach to a device is counted that is not there.
fn check_reach<R: RelaxStrategy>(domain: &Domain<Fake<R>>, device: usize) -> [bool; 2] {
    let held = || domain.capabilities.iter().filter(|(_, _, held)| held.object == Object::Device(device));
    let reach = [Rights::MAP, Rights::CONTROL].map(|right| held().any(|(.., held)| held.rights.allow(right)));
    assert_eq!(domain.capabilities.reach(device), reach, "{:?} reaches device {device}", domain.id);
    reach
}

fn check_sleep(vcpu: &Vcpu, entry: Option<(usize, Entry)>) {
    let Some((queue, entry)) = entry else { return };
    assert_eq!((vcpu.home, vcpu.domain), (queue, entry.domain), "{entry:?}");
    assert!(vcpu.started || entry.run == Run::Blocked, "{entry:?} was not started");
    assert!(vcpu.waiting.is_none() || entry.run != Run::Running, "{entry:?} waits and runs");
    if entry.run == Run::Blocked && vcpu.started {
        assert!(entry.deadline_ns <= vcpu.alarm_ns(), "{entry:?} oversleeps {vcpu:?}");
        assert!(!vcpu.retry_due, "{vcpu:?} was not woken");
        match vcpu.waiting.expect("it sleeps for a reason") {
            Waiting::Events { tick_was_due, .. } => {
                let over = vcpu.pending != 0 || vcpu.tick_due && !tick_was_due;
                assert!(!over, "{vcpu:?} was not woken");
            }
            Waiting::Retry { .. } => (),
        }
    }
}
