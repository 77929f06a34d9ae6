//! Random requests of several domains beside a simple model of who holds what; and of several CPUs at once.

use super::{RESERVE, Random, devices, module};
use crate::capability::Object;
use crate::fake::{Deadlock, Fake};
use crate::kernel::{Cpu, Current, Effect, Kernel, Next};
use crate::machine::{Access, Machine, Page};
use crate::memory::{Refusal, Touch};
use crate::start::{BootModule, start};
use crate::table::DomainId;
use abi::boot::ClockParameters;
use abi::{
    Backing, Commit, Context, DomainParameters, Error, Handle, PAGE_SIZE, Protection, Request, Rights,
    Sharing, Span,
};
use std::collections::BTreeMap;
use std::vec::Vec;

const SCRATCH: u64 = super::BASE;
const MAPPINGS: u64 = super::BASE + (1 << 30);

/// A capability of the model.
#[derive(Clone, Debug, PartialEq)]
struct Node {
    /// Which domain of the model.
    holder: usize,
    handle: Handle,
    object: Thing,
    rights: Rights,
    /// Which node of the model.
    parent: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Thing {
    Domain(usize),
    Memory(usize),
    End(usize, u8),
    Other,
}

/// A domain of the model, and how to play it.
struct Player {
    cpu: Cpu,
    id: DomainId,
    parent: usize,
    /// Which node each of its pages hangs on.
    mapped: BTreeMap<u64, usize>,
}

struct Model {
    kernel: Kernel<Fake>,
    players: BTreeMap<usize, Player>,
    nodes: BTreeMap<usize, Node>,
    next: usize,
}

impl Model {
    fn new() -> Self {
        let module = module();
        let fake = Fake::<Deadlock>::new(20_000 + RESERVE, &module, 1);
        let given = BootModule { address: 0, bytes: &module };
        let kernel = start(fake, Some(given), devices(), ClockParameters::default()).expect("it starts");
        let mut cpu = Cpu::new(0);
        assert_eq!(kernel.awake(&mut cpu, &mut Context::default()), Next::Enter);
        let id = kernel.first.expect("there is one");
        let info = kernel.machine.state().info.expect("it was published");
        let root = Player { cpu, id, parent: 0, mapped: BTreeMap::new() };
        let mut model =
            Self { kernel, players: BTreeMap::from([(0, root)]), nodes: BTreeMap::new(), next: 1 };
        model.add(Node {
            holder: 0,
            handle: info.space,
            object: Thing::Domain(0),
            rights: Rights::ALL,
            parent: None,
        });
        for handle in
            [info.vcpu, info.machine, info.module_memory, info.devices[0].handle, info.devices[1].handle]
        {
            model.add(Node { holder: 0, handle, object: Thing::Other, rights: Rights::ALL, parent: None });
        }
        model
    }

    fn add(&mut self, node: Node) -> usize {
        self.next += 1;
        self.nodes.insert(self.next, node);
        self.next
    }

    fn call(&self, player: usize, request: Request) -> Result<u64, Error> {
        loop {
            match self.kernel.serve(&self.players[&player].cpu, request) {
                Ok(Effect::Answer(value)) => return Ok(value),
                Ok(_) => panic!("{request:?} sleeps"),
                Err(Refusal::Error(error)) => return Err(error),
                Err(Refusal::Again(_)) => (),
            }
        }
    }

    /// Takes a node, with all below it, out of the model.
    fn take(&mut self, node: usize) {
        let below: Vec<usize> =
            self.nodes.iter().filter(|(_, other)| other.parent == Some(node)).map(|(id, _)| *id).collect();
        below.into_iter().for_each(|id| self.take(id));
        self.forget(node);
    }

    /// Takes one node out; those below it go to the one above.
    fn forget(&mut self, node: usize) {
        let Some(gone) = self.nodes.remove(&node) else { return };
        for other in self.nodes.values_mut().filter(|other| other.parent == Some(node)) {
            other.parent = gone.parent;
        }
        for player in self.players.values_mut() {
            player.mapped.retain(|_, by| *by != node);
        }
    }

    /// A domain is gone, with those below it.
    fn end(&mut self, player: usize) {
        let below: Vec<usize> = self
            .players
            .iter()
            .filter(|(id, other)| **id != player && other.parent == player)
            .map(|(id, _)| *id)
            .collect();
        below.into_iter().for_each(|id| self.end(id));
        let held: Vec<usize> =
            self.nodes.iter().filter(|(_, node)| node.holder == player).map(|(id, _)| *id).collect();
        for id in held {
            match self.nodes.get(&id).map(|node| node.parent) {
                Some(None) => self.take(id),
                Some(Some(_)) => self.forget(id),
                None => (),
            }
        }
        let origin =
            self.nodes.iter().find(|(_, node)| node.object == Thing::Domain(player) && node.parent.is_none());
        if let Some(origin) = origin.map(|(id, _)| *id) {
            self.take(origin);
        }
        self.players.remove(&player);
    }

    /// Compares.
    fn check(&self) {
        for (id, node) in &self.nodes {
            let domain = self.kernel.domains.lock(self.players[&node.holder].id).expect("it lives");
            let (_, held) = domain
                .capabilities
                .find(node.handle, Rights::NONE)
                .unwrap_or_else(|error| panic!("node {id} {node:?}: {error:?}"));
            assert_eq!(held.rights, node.rights, "node {id}");
            let kind = match held.object {
                Object::Domain(found) => {
                    let Thing::Domain(player) = node.object else { panic!("node {id} is {node:?}") };
                    assert_eq!(found, self.players[&player].id);
                    continue;
                }
                Object::Memory(_) => matches!(node.object, Thing::Memory(_) | Thing::Other),
                Object::Channel(_, side) => {
                    matches!(node.object, Thing::End(_, found) if found as usize == side.index())
                }
                _ => node.object == Thing::Other,
            };
            assert!(kind, "node {id} is {node:?}, not {:?}", held.object);
        }
        for (number, player) in &self.players {
            let domain = self.kernel.domains.lock(player.id).expect("it lives");
            let held = self.nodes.values().filter(|node| node.holder == *number).count();
            assert_eq!(domain.capabilities.count(), held, "domain {number}");
            for page in 0..16 {
                let at = Page::containing(MAPPINGS + page * PAGE_SIZE);
                let mapped = domain.space.regions.find(at).is_some();
                assert_eq!(mapped, player.mapped.contains_key(&page), "page {page} of domain {number}");
            }
        }
        assert_eq!(self.kernel.domains.ids().count(), self.players.len());
        let objects = |is: fn(Thing) -> bool| {
            self.nodes.values().filter(|node| node.parent.is_none() && is(node.object)).count()
        };
        // The boot module's is one more.
        assert_eq!(
            self.kernel.memories.ids().count(),
            objects(|thing| matches!(thing, Thing::Memory(_))) + 1
        );
        assert_eq!(self.kernel.channels.ids().count(), objects(|thing| matches!(thing, Thing::End(..))));
    }

    fn step(&mut self, random: &mut Random) {
        let players: Vec<usize> = self.players.keys().copied().collect();
        let player = players[random.below(players.len() as u64) as usize];
        let own: Vec<usize> =
            self.nodes.iter().filter(|(_, node)| node.holder == player).map(|(id, _)| *id).collect();
        let Some(&node) = own.get(random.below(own.len().max(1) as u64) as usize) else { return };
        let Node { handle, object, rights, parent, .. } = self.nodes[&node].clone();
        let wanted = Rights::from_bits(random.below(256) | random.below(256));
        let space = own
            .iter()
            .find(|id| self.nodes[id].object == Thing::Domain(player))
            .map_or(Handle::NONE, |id| self.nodes[id].handle);
        let controls = own
            .iter()
            .any(|id| self.nodes[id].handle == space && self.nodes[id].rights.allow(Rights::CONTROL));
        let fits = |error: Error| assert!(matches!(error, Error::TableFull | Error::NoMemory), "{error:?}");
        match random.below(12) {
            0 | 1 => match self.call(player, Request::Derive { capability: handle, rights: wanted }) {
                Ok(new) => {
                    let rights = rights.intersection(wanted);
                    self.add(Node {
                        holder: player,
                        handle: Handle::from_raw(new),
                        object,
                        rights,
                        parent: Some(node),
                    });
                }
                Err(error) => fits(error),
            },
            2..=4 => {
                let &to = own.get(random.below(own.len() as u64) as usize).expect("one at least");
                let to = self.nodes[&to].clone();
                let request = Request::Grant { capability: handle, rights: wanted, domain: to.handle };
                let answer = self.call(player, request);
                let Thing::Domain(holder) = to.object else {
                    assert!(matches!(answer, Err(Error::WrongKind | Error::NoRight)), "{answer:?}");
                    return;
                };
                if !rights.allow(Rights::GRANT) || !to.rights.allow(Rights::GRANT) {
                    assert_eq!(answer, Err(Error::NoRight));
                    return;
                }
                match answer {
                    Ok(new) => {
                        let rights = rights.intersection(wanted);
                        self.add(Node {
                            holder,
                            handle: Handle::from_raw(new),
                            object,
                            rights,
                            parent: Some(node),
                        });
                    }
                    Err(error) => fits(error),
                }
            }
            5 => {
                let lasting = parent.is_none() && matches!(object, Thing::Domain(_) | Thing::Other);
                let answer = self.call(player, Request::Release { capability: handle });
                assert_eq!(answer, if lasting { Err(Error::Busy) } else { Ok(0) }, "{object:?}");
                match (lasting, parent) {
                    (true, _) => (),
                    (false, None) => self.take(node),
                    (false, Some(_)) => self.forget(node),
                }
            }
            6 => {
                assert_eq!(self.call(player, Request::Revoke { capability: handle, deadline_ns: 0 }), Ok(0));
                let below: Vec<usize> = self
                    .nodes
                    .iter()
                    .filter(|(_, other)| other.parent == Some(node))
                    .map(|(id, _)| *id)
                    .collect();
                below.into_iter().for_each(|id| self.take(id));
            }
            7 => {
                let request =
                    Request::CreateMemory { domain: space, bytes: PAGE_SIZE * (1 + random.below(3)) };
                match self.call(player, request) {
                    Ok(new) => {
                        let object = Thing::Memory(self.next);
                        self.add(Node {
                            holder: player,
                            handle: Handle::from_raw(new),
                            object,
                            rights: Rights::ALL,
                            parent: None,
                        });
                    }
                    Err(Error::StaleHandle | Error::NoRight) if !controls => (),
                    Err(error) => fits(error),
                }
            }
            8 => match self
                .call(player, Request::CreateChannel { domain: space, bytes: PAGE_SIZE * random.below(2) })
            {
                Ok(new) => {
                    let object = Thing::End(self.next, 0);
                    self.add(Node {
                        holder: player,
                        handle: Handle::from_raw(new),
                        object,
                        rights: Rights::ALL,
                        parent: None,
                    });
                }
                Err(Error::StaleHandle | Error::NoRight) if !controls => (),
                Err(error) => fits(error),
            },
            9 => match (self.call(player, Request::OtherEnd { channel: handle }), object) {
                (Ok(new), Thing::End(channel, side)) => {
                    let object = Thing::End(channel, 1 - side);
                    self.add(Node {
                        holder: player,
                        handle: Handle::from_raw(new),
                        object,
                        rights: Rights::ALL,
                        parent: Some(node),
                    });
                }
                (Err(Error::NoRight), _) if !rights.allow(Rights::CONTROL) => (),
                (Err(Error::WrongKind), Thing::Domain(_) | Thing::Memory(_) | Thing::Other) => (),
                (Err(error), _) => fits(error),
                (Ok(_), _) => panic!("{object:?} has no other end"),
            },
            10 => {
                let page = random.below(16);
                let span = Span::new(MAPPINGS + page * PAGE_SIZE, PAGE_SIZE);
                let sharing = if random.below(2) == 0 { Sharing::Shared } else { Sharing::Private };
                let backing = Backing::Memory { memory: handle, offset: 0, sharing };
                let request = Request::Map {
                    space,
                    span,
                    backing,
                    protection: Protection::Read,
                    commit: Commit::OnTouch,
                };
                let answer = self.call(player, request);
                if answer.is_ok() {
                    assert!(rights.allow(Rights::MAP) && controls);
                    self.players.get_mut(&player).expect("it plays").mapped.insert(page, node);
                    let id = self.players[&player].id;
                    let mut domain = self.kernel.domains.lock(id).expect("it lives");
                    let touch =
                        domain.space.touch(&self.kernel.machine, Page::containing(span.base), Access::Read);
                    assert!(matches!(touch, Touch::Resolved(_) | Touch::OutOfMemory));
                }
            }
            _ if random.below(2) == 0 && self.players.len() < 8 => self.create(player, space, random),
            _ => {
                let Thing::Domain(target) = object else { return };
                if !rights.allow(Rights::CONTROL) || target == player || self.is_above(target, player) {
                    return;
                }
                assert_eq!(self.call(player, Request::End { domain: handle, status: 0 }), Ok(0));
                self.end(target);
            }
        }
    }

    fn is_above(&self, above: usize, mut player: usize) -> bool {
        while player != 0 {
            player = self.players[&player].parent;
            if player == above {
                return true;
            }
        }
        above == 0
    }

    /// A domain makes another, and lets it control itself.
    fn create(&mut self, player: usize, space: Handle, random: &mut Random) {
        let span = Span::new(SCRATCH, PAGE_SIZE);
        let (backing, protection) = (Backing::Zero, Protection::ReadWrite);
        if self
            .call(player, Request::Map { space, span, backing, protection, commit: Commit::OnTouch })
            .is_err()
        {
            return;
        }
        let id = self.players[&player].id;
        {
            let mut domain = self.kernel.domains.lock(id).expect("it lives");
            let touch = domain.space.touch(&self.kernel.machine, Page::containing(SCRATCH), Access::Write);
            let Touch::Resolved(mapping) = touch else { return };
            let parameters = DomainParameters {
                name: DomainParameters::name_of("child"),
                memory_bytes: (100 + random.below(600)) * PAGE_SIZE,
                capabilities_max: 8 + random.below(30),
                regions_max: 20,
                vcpus_max: 1,
                objects_max: random.below(8),
                domains_max: random.below(4),
                share: 100,
                budget_ns: 0,
                cpus: 0,
            };
            self.kernel.machine.write_words(mapping.frame, 0, &parameters.to_words());
        }
        let Ok(handle) = self.call(player, Request::CreateDomain { parent: space, parameters: SCRATCH })
        else {
            return;
        };
        let handle = Handle::from_raw(handle);
        let number = self.next + 1;
        self.next = number;
        let origin = self.add(Node {
            holder: player,
            handle,
            object: Thing::Domain(number),
            rights: Rights::ALL,
            parent: None,
        });
        let found = self.kernel.domains.lock(id).expect("it lives").domain_of(handle, Rights::NONE);
        let child = found.expect("just made");
        let vcpu = self.players[&player].cpu.current.expect("it plays").vcpu;
        let mut cpu = Cpu::new(0);
        cpu.current = Some(Current { vcpu, domain: child });
        self.players.insert(number, Player { cpu, id: child, parent: player, mapped: BTreeMap::new() });
        let own =
            self.call(player, Request::Grant { capability: handle, rights: Rights::ALL, domain: handle });
        let own = Handle::from_raw(own.expect("its table is empty"));
        self.add(Node {
            holder: number,
            handle: own,
            object: Thing::Domain(number),
            rights: Rights::ALL,
            parent: Some(origin),
        });
    }
}

#[test]
fn authority_is_as_the_model_says() {
    let seeds = if std::env::var_os("SELKIS_SOAK").is_some() { 2_000 } else { 40 };
    for seed in 1..=seeds {
        let mut model = Model::new();
        let mut random = Random(seed);
        let before = model.kernel.machine.free_count();
        for _ in 0..1500 {
            model.step(&mut random);
            model.check();
        }
        let children: Vec<usize> = model
            .players
            .iter()
            .filter(|(id, player)| **id != 0 && player.parent == 0)
            .map(|(id, _)| *id)
            .collect();
        for child in children {
            let node = model
                .nodes
                .values()
                .find(|node| node.object == Thing::Domain(child) && node.parent.is_none());
            let handle = node.expect("its parent holds it").handle;
            assert_eq!(model.call(0, Request::End { domain: handle, status: 0 }), Ok(0));
            model.end(child);
        }
        model.check();
        let origins: Vec<_> = model
            .nodes
            .iter()
            .filter(|(_, node)| {
                node.parent.is_none() && matches!(node.object, Thing::Memory(_) | Thing::End(..))
            })
            .map(|(id, node)| (*id, node.handle))
            .collect();
        for (id, handle) in origins {
            assert_eq!(model.call(0, Request::Release { capability: handle }), Ok(0));
            model.take(id);
        }
        let id = model.players[&0].id;
        let mut root = model.kernel.domains.lock(id).expect("it lives");
        root.space
            .unmap(&model.kernel.machine, Page::containing(SCRATCH), Page::containing(MAPPINGS + (1 << 20)))
            .expect("a few pages");
        drop(root);
        assert_eq!(model.kernel.machine.free_count(), before, "seed {seed}: every frame is back");
    }
}
