//! Which process has the virtual CPU.
//!
//! All runs on the first stack, in [`run`]: it takes the process that has had least, lets it run until it waits, ends or is preempted,
//! and sleeps when there is none. A process that others wait behind has the virtual CPU for [`SLICE_NS`]; alone it has it until something happens, and
//! there is no tick. Whoever waits costs nothing: it stands in a queue by its deadline, or in none, until [`Processes::wake`].

use crate::current::Turn;
use crate::process::{Ending, Process, Suspension, Wait};
use crate::queue::Queue;
use crate::thread::Outcome;
use crate::{Stop, System, current};
use abi::Request;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// How long a process has the virtual CPU if others want it, in nanoseconds.
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
    /// Time on the virtual CPU, in nanoseconds.
    pub cpu_ns: u64,
    /// How often it was given the virtual CPU.
    pub switches: u64,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It runs, or would if it had the virtual CPU.
    Runs,
    /// It waits for something.
    Waits,
}

/// Whoever has processes on this virtual CPU: brings in what happens outside.
pub trait Platform {
    /// Something may have happened: wakes, stops and starts processes.
    fn look(&mut self);

    /// No process can run. Sleeps until something happens, or until `deadline_ns`; then [`Platform::look`] is called.
    fn sleep(&mut self, deadline_ns: u64);

    /// A process has ended, and what it had is given back; `usage` is what it had used.
    fn ended(&mut self, process: ProcessId, ending: Ending, usage: Usage);

    /// Whether there is nothing more to do: asked when a process has ended, and when none can run.
    fn is_over(&self) -> bool;
}

/// All processes of the virtual CPU.
#[derive(Default)]
pub struct Processes {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Those that can run, by what they have had.
    ready: Queue,
    /// Those that wait until a time, by when that is.
    sleeping: Queue,
    /// What the process that ran last had had, or one before it that had had more.
    least_ns: u64,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    life: Option<Life>,
}

struct Life {
    /// Not here while it runs.
    process: Option<Box<Process>>,
    /// What it waits for, if it does.
    wait: Option<Wait>,
    /// What its wait is answered with.
    answer: u64,
    /// Of CPU time, with what it was given for having waited: its place in the queue.
    had_ns: u64,
    cpu_ns: u64,
    switches: u64,
}

/// A process that is about to run.
struct Next {
    id: ProcessId,
    process: Box<Process>,
    answer: u64,
    turn: Turn,
}

impl Processes {
    /// Sees to it that another process can be added.
    pub(crate) fn make_room(&mut self) -> Result<(), abi::Error> {
        if self.free.is_empty() {
            let number = self.slots.len() as u32;
            let made = self.slots.try_reserve(1).and_then(|()| self.free.try_reserve(self.slots.len() + 1));
            let made = made.and_then(|()| self.ready.try_reserve(number));
            made.and_then(|()| self.sleeping.try_reserve(number)).map_err(|_| abi::Error::NoMemory)?;
        }
        Ok(())
    }

    /// Adds a process, which can run.
    pub(crate) fn add(&mut self, process: Process) -> ProcessId {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        self.ready.reserve(number);
        self.sleeping.reserve(number);
        let slot = &mut self.slots[number as usize];
        slot.life = Some(Life {
            process: Some(Box::new(process)),
            wait: None,
            answer: 0,
            had_ns: self.least_ns,
            cpu_ns: 0,
            switches: 0,
        });
        self.ready.put(number, self.least_ns);
        ProcessId { slot: number, generation: slot.generation }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Ends the wait of a process, if it waits, with this answer.
    pub fn wake(&mut self, system: &System, id: ProcessId, answer: u64) {
        if self.life(id).is_some_and(|life| life.wait.is_some()) {
            self.make_ready(id.slot, answer);
            current::share_from(system, system.now_ns().saturating_add(SLICE_NS));
        }
    }

    /// Makes a process end; the first reason stays.
    pub fn stop(&mut self, system: &System, id: ProcessId, stop: Stop) {
        let Some(life) = self.life(id) else { return };
        match &life.process {
            Some(process) => process.control().want_stop(stop),
            // It is the one that runs.
            None => current::get().into_iter().for_each(|current| current.want_stop(stop)),
        }
        self.wake(system, id, 0);
    }

    /// What a process waits for, if it does.
    pub fn wait_of(&self, id: ProcessId) -> Option<Wait> {
        self.life(id)?.wait
    }

    /// What a process has used and what it does.
    pub fn look_at(&self, system: &System, id: ProcessId) -> Option<(Usage, Activity)> {
        let life = self.life(id)?;
        let control = life.process.as_ref().map(|process| process.control()).or(current::get())?;
        let usage = control.usage(system, life.cpu_ns, life.switches);
        Some((usage, if life.wait.is_some() { Activity::Waits } else { Activity::Runs }))
    }

    fn life(&self, id: ProcessId) -> Option<&Life> {
        let slot = self.slots.get(id.slot as usize)?;
        slot.life.as_ref().filter(|_| slot.generation == id.generation)
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

    fn wake_sleepers(&mut self, now_ns: u64) {
        while let Some((number, _)) = self.sleeping.first().filter(|(_, deadline_ns)| *deadline_ns <= now_ns)
        {
            self.make_ready(number, 0);
        }
    }

    /// When the first of those that wait for a time wants to run.
    fn first_deadline_ns(&self) -> u64 {
        self.sleeping.first().map_or(Request::NEVER, |(_, deadline_ns)| deadline_ns)
    }

    fn next(&mut self, now_ns: u64) -> Option<Next> {
        let (number, had_ns) = self.ready.take_first()?;
        self.least_ns = self.least_ns.max(had_ns);
        let slice_end_ns = if self.ready.is_empty() { Request::NEVER } else { now_ns + SLICE_NS };
        let due_ns = slice_end_ns.min(self.first_deadline_ns());
        let slot = &mut self.slots[number as usize];
        let life = slot.life.as_mut()?;
        life.switches += 1;
        Some(Next {
            id: ProcessId { slot: number, generation: slot.generation },
            process: life.process.take()?,
            answer: life.answer,
            turn: Turn { began_ns: now_ns, cpu_ns: life.cpu_ns, due_ns },
        })
    }

    /// A process has had the virtual CPU for `had_ns` and has not ended.
    fn put_back(&mut self, id: ProcessId, process: Box<Process>, had_ns: u64, why: Suspension) {
        let number = id.slot;
        let Some(life) = &mut self.slots[number as usize].life else { return };
        let must_end = process.control().stop_wanted().is_some();
        life.process = Some(process);
        life.cpu_ns += had_ns;
        life.had_ns += had_ns;
        life.answer = 0;
        match why {
            Suspension::Preempted => self.ready.put(number, life.had_ns),
            Suspension::GaveWay => {
                let first_ns = self.ready.first().map_or(0, |(_, had_ns)| had_ns);
                self.ready.put(number, life.had_ns.max(first_ns));
            }
            // Between its look and now somebody may have wanted it to end.
            Suspension::Waits(_) if must_end => self.ready.put(number, life.had_ns),
            Suspension::Waits(wait) => {
                life.wait = Some(wait);
                if wait.deadline_ns != Request::NEVER {
                    self.sleeping.put(number, wait.deadline_ns);
                }
            }
        }
    }

    /// A process has ended: how often it had run.
    fn remove(&mut self, id: ProcessId) -> u64 {
        let slot = &mut self.slots[id.slot as usize];
        let life = slot.life.take();
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.slot);
        life.map_or(0, |life| life.switches)
    }
}

impl Next {
    fn run(self, system: &'static System, platform: &mut impl Platform) {
        let Self { id, mut process, answer, turn } = self;
        let outcome = process.resume(system, turn, answer);
        let had_ns = system.now_ns().saturating_sub(turn.began_ns);
        match outcome {
            Outcome::Suspended(why) => system.processes().lock().put_back(id, process, had_ns, why),
            Outcome::Ended(ending) => {
                let usage = process.control().usage(system, turn.cpu_ns + had_ns, 0);
                drop(process);
                system.renew_reserve();
                let switches = system.processes().lock().remove(id);
                platform.ended(id, ending, Usage { switches, ..usage });
            }
        }
    }
}

/// Runs processes until the platform says that it is over. Must be called on the first stack.
pub fn run(system: &'static System, platform: &mut impl Platform) {
    platform.look();
    loop {
        if current::take_event() {
            platform.look();
        }
        let (next, deadline_ns) = {
            let mut processes = system.processes().lock();
            let now_ns = system.now_ns();
            processes.wake_sleepers(now_ns);
            (processes.next(now_ns), processes.first_deadline_ns())
        };
        match next {
            Some(next) => next.run(system, platform),
            None if platform.is_over() => return,
            None => {
                platform.sleep(deadline_ns);
                platform.look();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeKernel;
    use crate::process::{self, Limits};
    use alloc::collections::VecDeque;
    use alloc::rc::Rc;
    use alloc::string::String;
    use core::cell::RefCell;

    const LIMITS: Limits = Limits::NONE;

    /// One at a time: a virtual CPU is the whole library OS's.
    static ALONE: spin::Mutex<()> = spin::Mutex::new(());

    /// What has happened, in order.
    type Diary = Rc<RefCell<Vec<(&'static str, u64)>>>;

    /// Nothing happens outside but what was planned: each sleep does the next step.
    struct Scripted {
        kernel: &'static FakeKernel,
        system: &'static System,
        steps: VecDeque<fn(&mut Scripted)>,
        ids: Vec<ProcessId>,
        ended: Vec<ProcessId>,
    }

    impl Scripted {
        fn new() -> Self {
            let kernel = FakeKernel::new(&[], 64 << 20);
            let (steps, ids, ended) = (VecDeque::new(), Vec::new(), Vec::new());
            Self { kernel, system: kernel.system(), steps, ids, ended }
        }

        fn start(&mut self, main: impl FnOnce() + 'static) {
            let main = move || {
                main();
                Ending::NotStarted(String::new())
            };
            let process = Process::new(self.system, None, LIMITS, main).unwrap();
            self.ids.push(self.system.processes().lock().add(process));
        }

        fn run(&mut self) {
            run(self.system, self);
        }
    }

    impl Platform for Scripted {
        fn look(&mut self) {}

        fn sleep(&mut self, deadline_ns: u64) {
            match self.steps.pop_front() {
                Some(step) => step(self),
                None => {
                    assert_ne!(deadline_ns, Request::NEVER, "nobody would ever wake");
                    self.kernel.advance_to(deadline_ns);
                }
            }
        }

        fn ended(&mut self, process: ProcessId, _ending: Ending, usage: Usage) {
            assert!(usage.switches > 0);
            self.ended.push(process);
        }

        fn is_over(&self) -> bool {
            self.ended.len() == self.ids.len()
        }
    }

    fn wait_until(deadline_ns: u64) -> u64 {
        process::wait(Wait { deadline_ns, interest: 0 })
    }

    #[test]
    fn who_gives_way_waits_for_all_others() {
        let _alone = ALONE.lock();
        let mut scripted = Scripted::new();
        let diary = Diary::default();
        for name in ["a", "b", "c"] {
            let diary = diary.clone();
            scripted.start(move || {
                for turn in 0..3 {
                    diary.borrow_mut().push((name, turn));
                    process::give_way();
                }
            });
        }
        scripted.run();
        let expected: Vec<_> = (0..3).flat_map(|turn| ["a", "b", "c"].map(|name| (name, turn))).collect();
        assert_eq!(*diary.borrow(), expected);
        assert_eq!(scripted.system.processes().lock().count(), 0);
        assert_eq!(scripted.kernel.committed_bytes(), 0);
    }

    #[test]
    fn sleepers_wake_in_the_order_of_their_deadlines() {
        let _alone = ALONE.lock();
        let mut scripted = Scripted::new();
        let diary = Diary::default();
        let now_ns = scripted.system.now_ns();
        for (name, after_ns) in [("late", 3_000_000), ("soon", 1_000_000), ("later", 9_000_000)] {
            let (diary, system) = (diary.clone(), scripted.system);
            scripted.start(move || {
                assert_eq!(wait_until(now_ns + after_ns), 0);
                assert!(system.now_ns() >= now_ns + after_ns);
                diary.borrow_mut().push((name, 0));
            });
        }
        scripted.run();
        assert_eq!(
            diary.borrow().iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["soon", "late", "later"]
        );
    }

    #[test]
    fn a_waiting_process_is_woken_once_with_the_answer() {
        let _alone = ALONE.lock();
        let mut scripted = Scripted::new();
        let diary = Diary::default();
        let told = diary.clone();
        scripted.start(move || {
            told.borrow_mut().push(("first", wait_until(Request::NEVER)));
            told.borrow_mut().push(("second", wait_until(Request::NEVER)));
        });
        let wake: fn(&mut Scripted) = |scripted| {
            let id = scripted.ids[0];
            let mut processes = scripted.system.processes().lock();
            assert_eq!(processes.look_at(scripted.system, id).unwrap().1, Activity::Waits);
            processes.wake(scripted.system, id, 7);
            processes.wake(scripted.system, id, 8);
            assert_eq!(processes.look_at(scripted.system, id).unwrap().1, Activity::Runs);
        };
        scripted.steps.extend([wake, wake]);
        scripted.run();
        assert_eq!(*diary.borrow(), [("first", 7), ("second", 7)]);
    }

    #[test]
    fn who_is_stopped_hears_it_wherever_it_waits_and_a_stale_name_stops_nobody() {
        let _alone = ALONE.lock();
        let mut scripted = Scripted::new();
        let main = || {
            assert_eq!(wait_until(Request::NEVER), 0);
            assert_eq!(current::stop_wanted(), Some(Stop::Cancelled));
        };
        scripted.start(main);
        scripted.steps.push_back(|scripted| {
            let mut processes = scripted.system.processes().lock();
            processes.stop(scripted.system, scripted.ids[0], Stop::Cancelled);
            processes.stop(scripted.system, scripted.ids[0], Stop::TimedOut);
        });
        scripted.run();
        // The slot comes again, the name does not.
        scripted.start(|| assert_eq!(current::stop_wanted(), None));
        let [first, second] = scripted.ids[..] else { panic!("two were started") };
        assert_eq!(first.slot, second.slot);
        scripted.system.processes().lock().stop(scripted.system, first, Stop::Cancelled);
        assert!(scripted.system.processes().lock().look_at(scripted.system, first).is_none());
        scripted.run();
        assert_eq!(scripted.ended, scripted.ids);
    }

    #[test]
    fn who_has_waited_goes_before_who_has_had_its_time() {
        let _alone = ALONE.lock();
        let mut scripted = Scripted::new();
        let diary = Diary::default();
        let (busy, waiting, kernel, system) =
            (diary.clone(), diary.clone(), scripted.kernel, scripted.system);
        scripted.start(move || {
            for turn in 0..6 {
                kernel.advance_to(system.now_ns() + SLICE_NS);
                busy.borrow_mut().push(("busy", turn));
                process::yield_turn();
            }
        });
        let start_ns = system.now_ns();
        scripted.start(move || {
            wait_until(start_ns + 3 * SLICE_NS);
            waiting.borrow_mut().push(("waiting", 0));
        });
        scripted.run();
        let place = diary.borrow().iter().position(|(name, _)| *name == "waiting").unwrap();
        assert!((2..=4).contains(&place), "{:?}", diary.borrow());
    }
}
