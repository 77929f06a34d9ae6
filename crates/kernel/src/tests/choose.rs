//! Which request a step comes to, by what there is.

use super::action::{Act, fixed, length, span};
use super::hostile::World;
use crate::capability::{Capability, Object};
use crate::kernel::Current;
use crate::machine::Machine;
use abi::upcall::Area;
use abi::{Backing, Commit, Handle, Marks, PAGE_SIZE, Protection, Request, Rights, Sharing, Span};
use std::vec::Vec;

impl World {
    pub fn current(&self, number: usize) -> Option<Current> {
        self.cpus[number].0.current
    }

    /// A handle of whoever runs: one that fits, the newest first; any; or none of its own.
    pub fn handle(&self, number: usize, byte: u8, fits: impl Fn(&Object) -> bool) -> Handle {
        self.handle_held(number, byte, |held| fits(&held.object))
    }

    fn handle_held(&self, number: usize, byte: u8, fits: impl Fn(&Capability) -> bool) -> Handle {
        let Some(current) = self.current(number) else { return Handle::NONE };
        let domain = self.kernel.domains.lock(current.domain).expect("it runs");
        let nth = |fits: &dyn Fn(&Capability) -> bool| {
            let all: Vec<Handle> = domain
                .capabilities
                .iter()
                .filter(|(_, _, held)| fits(held))
                .map(|(_, handle, _)| handle)
                .collect();
            all.iter().rev().nth(usize::from(byte) % all.len().max(1)).copied().unwrap_or(Handle::NONE)
        };
        if byte < 0xe0 {
            return nth(&fits);
        }
        let found = nth(&|_| true);
        match byte {
            0xf8.. => Handle::from_raw(u64::MAX << (byte & 7)),
            0xf4.. => Handle::new(found.index(), found.generation().wrapping_sub(1)),
            0xf0.. => Handle::new(u32::from(byte), 1),
            _ => found,
        }
    }

    /// A domain: mostly the one that asks.
    fn space(&self, number: usize, byte: u8) -> Handle {
        let own = self.current(number).map(|current| Object::Domain(current.domain));
        let mine = byte % 4 != 3;
        self.handle(number, byte, |object| {
            matches!(object, Object::Domain(_)) && (Some(*object) == own) == mine
        })
    }

    /// The regions of a domain that whoever runs has a handle of.
    fn regions(&self, number: usize, space: Handle) -> Vec<Span> {
        let Some(current) = self.current(number) else { return Vec::new() };
        let named = self
            .kernel
            .domains
            .lock(current.domain)
            .and_then(|domain| domain.domain_of(space, Rights::NONE).ok());
        let Some(domain) = self.kernel.domains.lock(named.unwrap_or(current.domain)) else {
            return Vec::new();
        };
        let span = |first: u64, end: u64| Span::new(first, end - first);
        domain.space.regions.iter().map(|region| span(region.first.address(), region.end.address())).collect()
    }

    fn span_in(&self, number: usize, space: Handle, at: u8, size: u8) -> Span {
        span(&self.regions(number, space), at, size)
    }

    /// A place in the memory of whoever runs.
    pub fn address(&self, number: usize, at: u8) -> u64 {
        self.span_in(number, Handle::NONE, at, 0).base
    }

    pub fn own_span(&self, number: usize, at: u8, size: u8) -> Span {
        self.span_in(number, Handle::NONE, at, size)
    }

    fn deadline(&self, byte: u8) -> u64 {
        let now_ns = self.kernel.machine.now_ns();
        match byte >> 6 {
            0 => u64::from(byte),
            1 => now_ns + u64::from(byte & 63) * 100_000,
            2 => now_ns.wrapping_add(u64::MAX >> (byte & 63)),
            _ => Request::NEVER,
        }
    }

    /// Whether this is the first domain's own end, or the machine's.
    pub fn stops(&self, number: usize, request: Request) -> bool {
        let first = self.current(number).filter(|current| Some(current.domain) == self.kernel.first);
        match (request, first) {
            (Request::Stop { .. }, _) => true,
            (Request::End { domain: target, .. }, Some(current)) => {
                let domain = self.kernel.domains.lock(current.domain).expect("it runs");
                domain.domain_of(target, Rights::NONE) == Ok(current.domain)
            }
            _ => false,
        }
    }

    pub fn request(&self, number: usize, act: Act, with: [u8; 6]) -> Option<Request> {
        let [a, b, c, d, e, f] = with;
        let own = || {
            let own = self.current(number).map(|current| Object::Vcpu(current.vcpu));
            self.handle(number, a, |object| Some(*object) == own)
        };
        let device = || self.handle(number, a, |object| matches!(object, Object::Device(_)));
        let index = u32::from(b % 4);
        let space = self.space(number, a);
        Some(match act {
            Act::Map => {
                let commit = if d & 4 == 0 { Commit::OnTouch } else { Commit::Now };
                let (span, backing) = (self.span_in(number, space, b, c), self.backing(number, d, e, f));
                Request::Map { space, span, backing, protection: protection(d), commit }
            }
            Act::Protect => {
                Request::Protect { space, span: self.span_in(number, space, b, c), protection: protection(d) }
            }
            Act::Reset => Request::Reset { space, span: self.span_in(number, space, b, c) },
            Act::Unmap => Request::Unmap { space, span: self.span_in(number, space, b, c) },
            Act::SetUpcall => {
                let (page, stack) = (self.address(number, b), self.address(number, d));
                Request::SetUpcall { vcpu: own(), page, entry: 0x1000, stack }
            }
            Act::Resume => {
                Request::Resume { vcpu: own(), area: if b & 1 == 0 { Area::Tick } else { Area::Fault } }
            }
            Act::SetTimer => Request::SetTimer { vcpu: own(), deadline_ns: self.deadline(b) },
            Act::Wait => Request::Wait { vcpu: own(), deadline_ns: self.deadline(b) },
            Act::Now => Request::Now { vcpu: own() },
            Act::CpuTime => Request::CpuTime { vcpu: own() },
            Act::Listen => {
                let source = match d % 4 {
                    0 => space,
                    1 => self.handle(number, a, |object| matches!(object, Object::Channel(..))),
                    _ => device(),
                };
                let vcpu = self.handle(number, e, |object| matches!(object, Object::Vcpu(_)));
                Request::Listen { source, index, vcpu, event: u32::from(f % 66) }
            }
            Act::Acknowledge => Request::Acknowledge { device: device(), index },
            Act::ReadConfig => Request::ReadConfig { device: device(), offset: u32::from(b) },
            Act::WriteConfig => Request::WriteConfig {
                device: device(),
                offset: u32::from(b) & !3,
                value: u32::from(c) << (d % 25),
            },
            Act::OpenPorts => Request::OpenPorts { device: device() },
            Act::Print => {
                let base = self.address(number, b) + u64::from(c);
                Request::Print { space, text: Span::new(base, u64::from(d) * 5) }
            }
            Act::Stop => {
                let machine = self.handle(number, a, |object| *object == Object::Machine);
                Request::Stop { machine, status: b }
            }
            Act::ReadMarks => Request::ReadMarks {
                space,
                span: self.span_in(number, space, b, c),
                into: self.address(number, e) + u64::from(f),
                marks: if d & 1 == 0 { Marks::Keep } else { Marks::Clear },
            },
            _ => return self.request_of_authority(number, act, with),
        })
    }

    fn backing(&self, number: usize, kind: u8, object: u8, part: u8) -> Backing {
        let device = self.handle(number, object, |object| matches!(object, Object::Device(_)));
        match kind >> 3 & 7 {
            0 => Backing::Image { source: self.address(number, object) },
            1 => Backing::Device { device, window: u32::from(part % 3) },
            2 => Backing::Dma { device },
            3..=5 => {
                let memory = self.handle(number, object, |object| {
                    matches!(object, Object::Memory(_) | Object::Channel(..))
                });
                let sharing = if kind & 0x40 == 0 { Sharing::Shared } else { Sharing::Private };
                Backing::Memory { memory, offset: u64::from(part % 8) * PAGE_SIZE, sharing }
            }
            _ => Backing::Zero,
        }
    }

    fn request_of_authority(&self, number: usize, act: Act, with: [u8; 6]) -> Option<Request> {
        let [a, b, c, d, e, _] = with;
        let own = self.space(number, 0);
        let vcpu = || self.handle(number, a, |object| matches!(object, Object::Vcpu(_)));
        let domain = |byte| self.space(number, byte);
        let channel = || self.handle(number, a, |object| matches!(object, Object::Channel(..)));
        let capability = self.handle(number, a, |_| true);
        let rights = if b & 1 == 0 { Rights::ALL } else { Rights::from_bits(u64::from(c)) };
        Some(match act {
            Act::Derive => Request::Derive { capability, rights },
            // Seldom to itself: it has it.
            Act::Grant => {
                Request::Grant { capability, rights, domain: domain(if d % 4 == 3 { d ^ 3 } else { d | 3 }) }
            }
            Act::Release => Request::Release { capability },
            Act::Revoke => {
                // What has something below it.
                let capability = self.handle_held(number, a, |held| held.first_child.is_some());
                Request::Revoke { capability, deadline_ns: self.deadline(b) }
            }
            Act::NextRevoked => Request::NextRevoked { domain: domain(a) },
            Act::CreateDomain => {
                Request::CreateDomain { parent: own, parameters: self.address(number, b) + u64::from(c) }
            }
            Act::CreateVcpu => Request::CreateVcpu { domain: domain(a) },
            Act::Start => Request::Start {
                vcpu: vcpu(),
                entry: fixed(b),
                stack: self.address(number, c),
                argument: u64::from(d),
            },
            Act::End => Request::End { domain: domain(a), status: u64::from(b) },
            Act::CreateMemory => Request::CreateMemory { domain: domain(a), bytes: length(c) },
            Act::CreateChannel => Request::CreateChannel { domain: domain(a), bytes: length(c) },
            Act::OtherEnd => Request::OtherEnd { channel: channel() },
            Act::CreateEvent => Request::CreateEvent { vcpu: vcpu(), event: u32::from(b % 66) },
            Act::Signal => {
                let rings = |object: &Object| matches!(object, Object::Channel(..) | Object::Event(..));
                Request::Signal { target: self.handle(number, a, rings) }
            }
            Act::Inspect => {
                let shows = |object: &Object| matches!(object, Object::Domain(_) | Object::Machine);
                let into = Span::new(self.address(number, b) + u64::from(e & 0xf8), length(c));
                Request::Inspect { object: self.handle(number, a, shows), index: u64::from(d), into }
            }
            Act::Trace => {
                let machine = self.handle(number, a, |object| *object == Object::Machine);
                let memory = match c {
                    0xc0.. => Handle::NONE,
                    _ => self.handle(number, c, |object| matches!(object, Object::Memory(_))),
                };
                Request::Trace { machine, cpu: u64::from(b & 3), memory }
            }
            _ => return None,
        })
    }
}

fn protection(byte: u8) -> Protection {
    [Protection::ReadWrite, Protection::Read, Protection::ReadExecute, Protection::None]
        [usize::from(byte) & 3]
}
