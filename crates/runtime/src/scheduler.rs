//! Which process has which virtual CPU.
//!
//! Each virtual CPU has a loop of this on its first stack: it takes the process that has had least, lets it run until it waits, ends or is preempted,
//! and sleeps when there is none. The queue is one for all, so any of them takes up what another has left. A process that others wait behind has its
//! virtual CPU for [`SLICE_NS`]; one that nobody waits behind has it until something happens, and there is no tick. Whoever waits costs nothing: it
//! stands in a queue by its deadline, or in none, until [`Processes::wake`].
//!
//! The first virtual CPU alone, in [`run`], hears of what happens outside and tells how processes ended; the others, in [`serve`], only run them.
//! Whoever leaves a process ready that it does not take itself pokes a virtual CPU that sleeps, or else those that run theirs without an end.

use crate::current::{Control, Turn};
use crate::process::{Ending, Process, Suspension, Wait};
use crate::queue::Queue;
use crate::thread::Outcome;
use crate::{Stop, System, Vcpu, current};
use abi::{Request, VCPUS_MAX};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How long a process has a virtual CPU if others want it, in nanoseconds.
pub const SLICE_NS: u64 = 1_000_000;

/// A process, living or not: its number comes again, but not with the same generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    slot: u32,
    generation: u32,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its linear memories and tables, in bytes.
    pub memory_bytes: u64,
    /// What the library OS holds for it, in bytes.
    pub host_bytes: u64,
    /// How long its tables are together.
    pub table_elements: u64,
    /// Its open descriptors.
    pub descriptors: u64,
    /// How much of its stack was in use where it ended, if that is known, in bytes.
    pub stack_bytes: u64,
    /// Time since it began, in nanoseconds.
    pub time_ns: u64,
    /// Time that virtual CPUs ran it, in nanoseconds.
    pub cpu_ns: u64,
    /// How often it was given one.
    pub switches: u64,
    /// How often that was another than the last time.
    pub migrations: u64,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It runs, or would if it had a virtual CPU.
    Runs,
    /// It waits for something.
    Waits,
}

/// Whoever has processes: brings in what happens outside. The first virtual CPU does all this.
pub trait Platform {
    /// Something may have happened: wakes, stops and starts processes.
    fn look(&mut self);

    /// A process wants something that only the platform can do: see [`System::ask`]. What would take long is left for another call.
    fn serve(&mut self) {}

    /// No process can run. Sleeps until something happens, or until `deadline_ns`; then [`Platform::look`] is called.
    fn sleep(&mut self, deadline_ns: u64);

    /// A process has ended, and what it had is given back; `usage` is what it had used.
    fn ended(&mut self, process: ProcessId, ending: Ending, usage: Usage);

    /// Whether there is nothing more to do: asked when a process has ended, and when none can run.
    fn is_over(&self) -> bool;
}

/// All processes.
#[derive(Default)]
pub struct Processes {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Those that can run, by what they have had.
    ready: Queue,
    /// Those that wait until a time, by when that is.
    sleeping: Queue,
    /// Those that may live until a time, by when that is.
    expiring: Queue,
    /// What the process that ran last had had, or one before it that had had more.
    least_ns: u64,
    /// What each virtual CPU does.
    vcpus: [Occupation; VCPUS_MAX],
    /// Those whose end the first virtual CPU has not told yet.
    ended: VecDeque<Ended>,
    /// The virtual CPUs but the first are to stop.
    is_closed: bool,
}

/// What a virtual CPU does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Occupation {
    /// It looks for something to run, or is not there.
    #[default]
    Looks,
    /// It sleeps, until then at most.
    Sleeps(u64),
    /// It runs the process in that slot.
    Runs(u32),
}

#[derive(Default)]
struct Slot {
    generation: u32,
    life: Option<Life>,
}

struct Life {
    /// Not here while it runs.
    process: Option<Box<Process>>,
    control: Arc<Control>,
    /// What it waits for, if it does.
    wait: Option<Wait>,
    /// What its wait is answered with.
    answer: u64,
    /// Somebody has woken it while it ran.
    was_woken: bool,
    /// Of CPU time, with what it was given for having waited: its place in the queue.
    had_ns: u64,
    usage: Usage,
    /// The most CPU time that somebody has been told of.
    seen_ns: u64,
    /// The number of the virtual CPU that it ran on last.
    vcpu: Option<usize>,
}

/// A process that is about to run.
struct Next {
    id: ProcessId,
    process: Box<Process>,
    answer: u64,
    turn: Turn,
}

impl Processes {
    /// Sees to it that another process can be added, and that to end one takes no memory.
    pub(crate) fn make_room(&mut self) -> Result<(), abi::Error> {
        // Other virtual CPUs may just be about to put some there that are not counted any more.
        self.ended.try_reserve(self.count() + VCPUS_MAX).map_err(|_| abi::Error::NoMemory)?;
        if self.free.is_empty() {
            let number = self.slots.len() as u32;
            let made = self.slots.try_reserve(1).and_then(|()| self.free.try_reserve(self.slots.len() + 1));
            let made = made.and_then(|()| self.ready.try_reserve(number));
            let made = made.and_then(|()| self.sleeping.try_reserve(number));
            made.and_then(|()| self.expiring.try_reserve(number)).map_err(|_| abi::Error::NoMemory)?;
        }
        Ok(())
    }

    /// Adds a process, which can run.
    pub(crate) fn add(&mut self, system: &System, process: Process) -> ProcessId {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        self.ready.reserve(number);
        self.sleeping.reserve(number);
        self.expiring.reserve(number);
        let deadline_ns = process.control().deadline_ns();
        if deadline_ns != Request::NEVER {
            self.expiring.put(number, deadline_ns);
        }
        let slot = &mut self.slots[number as usize];
        slot.life = Some(Life {
            control: Arc::clone(process.control()),
            process: Some(Box::new(process)),
            wait: None,
            answer: 0,
            was_woken: false,
            had_ns: self.least_ns,
            usage: Usage::default(),
            seen_ns: 0,
            vcpu: None,
        });
        let id = ProcessId { slot: number, generation: slot.generation };
        self.ready.put(number, self.least_ns);
        self.offer(system);
        id
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Ends the wait of a process, if it waits, with this answer. If another virtual CPU runs it, it may just be about to wait for this: then
    /// that is a short one.
    pub fn wake(&mut self, system: &System, id: ProcessId, answer: u64) {
        let own = Occupation::Runs(id.slot) == self.vcpus[Vcpu::current().number()];
        let Some(life) = self.life_mut(id) else { return };
        if life.wait.is_some() {
            self.make_ready(id.slot, answer);
            self.offer(system);
        } else if life.process.is_none() && !own {
            life.was_woken = true;
        }
    }

    /// Makes a process end, at its next turn, which is the next there is; the first reason stays.
    pub fn stop(&mut self, system: &System, id: ProcessId, stop: Stop) {
        let Some(life) = self.life(id) else { return };
        life.control.want_stop(stop);
        let runs = |vcpu: &&Vcpu| self.vcpus[vcpu.number()] == Occupation::Runs(id.slot);
        system.vcpus().filter(runs).for_each(|vcpu| vcpu.poke(system));
        self.wake(system, id, 0);
        self.hurry(id.slot);
    }

    /// Who has to end has the next turn there is.
    fn hurry(&mut self, number: u32) {
        if self.ready.take(number) {
            self.ready.put(number, 0);
            if let Some(life) = &mut self.slots[number as usize].life {
                life.had_ns = 0;
            }
        }
    }

    /// Something was done for a process outside of its turns, and took so long: it pays for that.
    pub fn charge(&mut self, id: ProcessId, took_ns: u64) {
        if let Some(life) = self.life_mut(id) {
            life.usage.cpu_ns += took_ns;
            life.had_ns += took_ns;
        }
    }

    /// What a process waits for, if it does.
    pub fn wait_of(&self, id: ProcessId) -> Option<Wait> {
        self.life(id)?.wait
    }

    /// What a process has used and what it does.
    pub fn look_at(&mut self, system: &System, id: ProcessId) -> Option<(Usage, Activity)> {
        let runs = |vcpu: &&Vcpu| self.vcpus[vcpu.number()] == Occupation::Runs(id.slot);
        let vcpu = system.vcpus().find(runs);
        let life = self.life_mut(id)?;
        let mut usage = life.control.usage(system, life.usage);
        if let Some(vcpu) = vcpu {
            // It may run alone there for long. Whose that time was comes out when that virtual CPU settles it: before the next look.
            usage.cpu_ns += life.control.had_ns(system.now_ns());
            vcpu.poke(system);
        }
        life.seen_ns = life.seen_ns.max(usage.cpu_ns);
        usage.cpu_ns = life.seen_ns;
        Some((usage, if life.wait.is_some() { Activity::Waits } else { Activity::Runs }))
    }

    fn life(&self, id: ProcessId) -> Option<&Life> {
        let slot = self.slots.get(id.slot as usize)?;
        slot.life.as_ref().filter(|_| slot.generation == id.generation)
    }

    fn life_mut(&mut self, id: ProcessId) -> Option<&mut Life> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        slot.life.as_mut().filter(|_| slot.generation == id.generation)
    }

    fn make_ready(&mut self, number: u32, answer: u64) {
        self.sleeping.take(number);
        let Some(life) = &mut self.slots[number as usize].life else { return };
        life.wait = None;
        life.answer = answer;
        // Who has waited goes first, but does not save up what it has not had.
        life.had_ns = life.had_ns.max(self.least_ns.saturating_sub(SLICE_NS));
        self.ready.put(number, life.had_ns);
    }

    /// Sees to it that somebody takes what is ready: a virtual CPU that sleeps, or if none does all that run something, soon. One that looks for
    /// something itself begins with the first, and comes here with the rest.
    fn offer(&mut self, system: &System) {
        let own = Vcpu::current().number();
        if !matches!(self.vcpus[own], Occupation::Runs(_)) {
            return;
        }
        let sleeps = |occupation: &Occupation| matches!(occupation, Occupation::Sleeps(_));
        if let Some(number) = self.vcpus.iter().position(sleeps) {
            self.vcpus[number] = Occupation::Looks;
            system.vcpus().skip(number).take(1).for_each(|vcpu| vcpu.poke(system));
            return;
        }
        let due_ns = system.now_ns().saturating_add(SLICE_NS);
        for vcpu in system.vcpus() {
            let runs = matches!(self.vcpus[vcpu.number()], Occupation::Runs(_));
            if !runs || vcpu.seat.due_ns() <= due_ns {
                continue;
            }
            vcpu.seat.set_due_ns(due_ns);
            match vcpu.number() == own {
                true => current::tick_by(system, due_ns),
                false => vcpu.poke(system),
            }
        }
    }

    fn wake_sleepers(&mut self, now_ns: u64) {
        while let Some((number, _)) = self.sleeping.first().filter(|(_, deadline_ns)| *deadline_ns <= now_ns)
        {
            self.make_ready(number, 0);
        }
        while let Some((number, _)) = self.expiring.first().filter(|(_, deadline_ns)| *deadline_ns <= now_ns)
        {
            self.expiring.take(number);
            self.hurry(number);
        }
    }

    /// When the first of those that wait for a time wants to run.
    fn first_deadline_ns(&self) -> u64 {
        self.sleeping.first().map_or(Request::NEVER, |(_, deadline_ns)| deadline_ns)
    }

    /// What this virtual CPU does next: it takes a process, or is noted as asleep.
    fn choose(&mut self, system: &System) -> Choice {
        let own = Vcpu::current();
        let now_ns = system.now_ns();
        self.vcpus[own.number()] = Occupation::Looks;
        self.wake_sleepers(now_ns);
        let next = self.next(own, now_ns);
        let deadline_ns = self.first_deadline_ns();
        let Some(next) = next else {
            self.vcpus[own.number()] = Occupation::Sleeps(deadline_ns);
            return Choice::Sleep(deadline_ns);
        };
        // Somebody wakes for that time anyway, or this one does.
        let is_seen_to = |occupation: &Occupation| matches!(occupation, Occupation::Sleeps(until_ns) if *until_ns <= deadline_ns);
        let mut due_ns = if self.vcpus.iter().any(is_seen_to) { Request::NEVER } else { deadline_ns };
        if own.number() == 0 && system.is_asked() {
            due_ns = due_ns.min(now_ns.saturating_add(SLICE_NS));
        }
        own.seat.set_due_ns(due_ns);
        self.vcpus[own.number()] = Occupation::Runs(next.id.slot);
        if !self.ready.is_empty() {
            self.offer(system);
        }
        Choice::Run(next)
    }

    fn next(&mut self, own: &Vcpu, now_ns: u64) -> Option<Next> {
        let (number, had_ns) = self.ready.take_first()?;
        self.least_ns = self.least_ns.max(had_ns);
        let slot = &mut self.slots[number as usize];
        let life = slot.life.as_mut()?;
        life.usage.switches += 1;
        let before = life.vcpu.replace(own.number());
        life.usage.migrations += u64::from(before.is_some_and(|before| before != own.number()));
        Some(Next {
            id: ProcessId { slot: number, generation: slot.generation },
            process: life.process.take()?,
            answer: life.answer,
            turn: Turn { began_ns: now_ns, cpu_ns: life.usage.cpu_ns },
        })
    }

    /// A process has had `had_ns` of this virtual CPU's time and has not ended.
    fn put_back(&mut self, id: ProcessId, process: Box<Process>, had_ns: u64, why: Suspension) {
        let number = id.slot;
        self.vcpus[Vcpu::current().number()] = Occupation::Looks;
        let Some(life) = &mut self.slots[number as usize].life else { return };
        // Who has to end has the next turn there is, also for what it frees then: others may lack pages that it was given.
        let must_end = life.control.stop_wanted().is_some();
        let must_look = must_end | core::mem::take(&mut life.was_woken);
        life.process = Some(process);
        life.usage.cpu_ns += had_ns;
        life.control.close_turn();
        life.had_ns = if must_end { 0 } else { life.had_ns + had_ns };
        life.answer = 0;
        match why {
            Suspension::Preempted => self.ready.put(number, life.had_ns),
            Suspension::GaveWay if must_end => self.ready.put(number, life.had_ns),
            Suspension::GaveWay => {
                let first_ns = self.ready.first().map_or(0, |(_, had_ns)| had_ns);
                self.ready.put(number, life.had_ns.max(first_ns));
            }
            // Between its look and now something may have come for it.
            Suspension::Waits(_) if must_look => self.ready.put(number, life.had_ns),
            Suspension::Waits(wait) => {
                life.wait = Some(wait);
                if wait.deadline_ns != Request::NEVER {
                    self.sleeping.put(number, wait.deadline_ns);
                }
            }
        }
    }

    /// A process has ended, after a turn of `had_ns`: what it had used.
    fn remove(&mut self, system: &System, id: ProcessId, had_ns: u64) -> Usage {
        self.vcpus[Vcpu::current().number()] = Occupation::Looks;
        self.expiring.take(id.slot);
        let slot = &mut self.slots[id.slot as usize];
        let life = slot.life.take();
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.slot);
        life.map_or_else(Usage::default, |life| {
            let cpu_ns = life.usage.cpu_ns + had_ns;
            life.control.usage(system, Usage { cpu_ns, ..life.usage })
        })
    }
}

/// What a virtual CPU does next.
enum Choice {
    Run(Next),
    /// Nothing, until then at most.
    Sleep(u64),
}

/// A process that has ended.
type Ended = (ProcessId, Ending, Usage);

impl Next {
    /// Runs it until it is suspended, or ends; then this is what is to be told.
    fn run(self, system: &'static System) -> Option<Ended> {
        let Self { id, mut process, answer, turn } = self;
        let outcome = process.resume(system, turn, answer);
        let had_ns = current::had_ns(system, process.control(), turn);
        match outcome {
            Outcome::Suspended(why) => {
                system.processes().lock().put_back(id, process, had_ns, why);
                None
            }
            Outcome::Ended(ending) => {
                drop(process);
                system.renew_reserves();
                Some((id, ending, system.processes().lock().remove(system, id, had_ns)))
            }
        }
    }
}

/// Runs processes until the platform says that it is over. Must be called on the first stack of the first virtual CPU.
pub fn run(system: &'static System, platform: &mut impl Platform) {
    let mut may_have_happened = true;
    loop {
        if system.take_asked() {
            platform.serve();
        }
        if current::take_event() || may_have_happened {
            platform.look();
            // After that: whoever puts one there raises an event then.
            while let Some((id, ending, usage)) = take_ended(system) {
                platform.ended(id, ending, usage);
            }
        }
        let choice = system.processes().lock().choose(system);
        may_have_happened = false;
        match choice {
            Choice::Run(next) => {
                if let Some((id, ending, usage)) = next.run(system) {
                    platform.ended(id, ending, usage);
                }
            }
            Choice::Sleep(_) if platform.is_over() => return,
            // There is nobody to have a turn before.
            Choice::Sleep(_) if system.is_asked() => {}
            Choice::Sleep(deadline_ns) => {
                platform.sleep(deadline_ns);
                current::has_slept();
                may_have_happened = true;
            }
        }
    }
}

fn take_ended(system: &System) -> Option<Ended> {
    system.processes().lock().ended.pop_front()
}

/// Runs processes on another virtual CPU than the first, until [`close`].
pub fn serve(system: &'static System) {
    loop {
        let choice = {
            let mut processes = system.processes().lock();
            if processes.is_closed {
                return;
            }
            processes.choose(system)
        };
        match choice {
            Choice::Run(next) => {
                if let Some(ended) = next.run(system) {
                    system.processes().lock().ended.push_back(ended);
                    system.call_first();
                }
            }
            Choice::Sleep(deadline_ns) => {
                system.wait(deadline_ns);
                current::has_slept();
            }
        }
    }
}

/// Nothing runs any more, and all virtual CPUs but the first stop.
pub fn close(system: &System) {
    system.processes().lock().is_closed = true;
    system.vcpus().skip(1).for_each(|vcpu| vcpu.poke(system));
}

#[cfg(test)]
mod tests;
