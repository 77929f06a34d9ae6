//! On the fake kernel: one virtual CPU whose outside is a script, and several, each a thread.

extern crate std;
use super::*;
use crate::fake::FakeKernel;
use crate::process::{self, Limits};
use crate::trap;
use alloc::collections::VecDeque;
use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

const LIMITS: Limits = Limits::NONE;

/// What has happened, in order.
type Diary = Arc<spin::Mutex<Vec<(&'static str, u64)>>>;

/// What each time costs it.
const SERVED_NS: u64 = 3_000_000_000;

/// Nothing happens outside but what was planned: each sleep does the next step.
struct Scripted {
    kernel: &'static FakeKernel,
    system: &'static System,
    steps: VecDeque<fn(&mut Scripted)>,
    ids: Vec<ProcessId>,
    ended: Vec<ProcessId>,
    /// The CPU time that they had had, in the order in which they ended.
    cpu_ns: Vec<u64>,
    /// How often a process wanted something.
    served: u64,
    /// How often that is not all at once.
    left: u64,
}

impl Scripted {
    fn new() -> Self {
        let kernel = FakeKernel::new(&[], 64 << 20);
        let (steps, ids, ended) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { kernel, system: kernel.system(), steps, ids, ended, cpu_ns: Vec::new(), served: 0, left: 0 }
    }

    fn start(&mut self, main: impl FnOnce() + Send + 'static) {
        self.start_with(LIMITS, main);
    }

    fn start_with(&mut self, limits: Limits, main: impl FnOnce() + Send + 'static) {
        let main = move || {
            main();
            Ending::NotStarted(String::new())
        };
        let process = Process::new(self.system, None, limits, main).unwrap();
        self.ids.push(self.system.processes().lock().add(self.system, process));
    }

    fn run(&mut self) {
        run(self.system, self);
    }
}

impl Platform for Scripted {
    fn look(&mut self) {}

    /// Whoever it was, the first gets an answer.
    fn serve(&mut self) {
        if self.left > 0 {
            self.left -= 1;
            self.system.ask();
            return;
        }
        self.served += 1;
        let mut processes = self.system.processes().lock();
        processes.charge(self.ids[0], SERVED_NS);
        processes.wake(self.system, self.ids[0], 9);
    }

    fn sleep(&mut self, deadline_ns: u64) {
        match self.steps.pop_front() {
            Some(step) => step(self),
            None => {
                let alone = self.system.vcpus().count() == 1;
                assert!(!alone || deadline_ns != Request::NEVER, "nobody would ever wake");
                self.system.wait(deadline_ns);
            }
        }
    }

    fn ended(&mut self, process: ProcessId, _ending: Ending, usage: Usage) {
        assert!(usage.switches > 0);
        assert!(usage.cpu_ns >= self.served * SERVED_NS);
        self.ended.push(process);
        self.cpu_ns.push(usage.cpu_ns);
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
    let mut scripted = Scripted::new();
    let diary = Diary::default();
    for name in ["a", "b", "c"] {
        let diary = diary.clone();
        scripted.start(move || {
            for turn in 0..3 {
                diary.lock().push((name, turn));
                process::give_way();
            }
        });
    }
    scripted.run();
    let expected: Vec<_> = (0..3).flat_map(|turn| ["a", "b", "c"].map(|name| (name, turn))).collect();
    assert_eq!(*diary.lock(), expected);
    assert_eq!(scripted.system.processes().lock().count(), 0);
    scripted.system.give_back_pages();
    assert_eq!(scripted.kernel.committed_bytes(), 0);
}

#[test]
fn who_has_to_end_does_not_wait_for_all_others() {
    let mut scripted = Scripted::new();
    let diary = Diary::default();
    let (system, last) = (scripted.system, Arc::new(spin::Mutex::new(None)));
    for name in ["a", "b", "c", "d"] {
        let (diary, last) = (diary.clone(), last.clone());
        scripted.start(move || {
            for turn in 0..2 {
                diary.lock().push((name, turn));
                if turn == 1
                    && let Some(id) = last.lock().take()
                {
                    system.processes().lock().stop(system, id, Stop::Cancelled);
                }
                process::give_way();
            }
        });
    }
    *last.lock() = scripted.ids.last().copied();
    scripted.run();
    let then: Vec<_> = diary.lock().iter().skip(4).copied().collect();
    assert_eq!(then, [("a", 1), ("d", 1), ("b", 1), ("c", 1)]);
}

#[test]
fn whose_time_is_over_does_not_wait_for_all_others() {
    let mut scripted = Scripted::new();
    let diary = Diary::default();
    let kernel = scripted.kernel;
    let over_ns = scripted.system.now_ns() + 1_000_000_000;
    for name in ["a", "b", "c", "d"] {
        let diary = diary.clone();
        let limits = Limits { deadline_ns: if name == "d" { over_ns } else { Request::NEVER }, ..LIMITS };
        scripted.start_with(limits, move || {
            for turn in 0..2 {
                diary.lock().push((name, turn));
                if (name, turn) == ("a", 1) {
                    kernel.advance_to(over_ns);
                }
                process::give_way();
            }
        });
    }
    scripted.run();
    let then: Vec<_> = diary.lock().iter().skip(4).copied().collect();
    assert_eq!(then, [("a", 1), ("d", 1), ("b", 1), ("c", 1)]);
}

#[test]
fn sleepers_wake_in_the_order_of_their_deadlines() {
    let mut scripted = Scripted::new();
    let diary = Diary::default();
    let now_ns = scripted.system.now_ns();
    for (name, after_ns) in [("late", 3_000_000), ("soon", 1_000_000), ("later", 9_000_000)] {
        let (diary, system) = (diary.clone(), scripted.system);
        scripted.start(move || {
            assert_eq!(wait_until(now_ns + after_ns), 0);
            assert!(system.now_ns() >= now_ns + after_ns);
            diary.lock().push((name, 0));
        });
    }
    scripted.run();
    assert_eq!(diary.lock().iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["soon", "late", "later"]);
}

#[test]
fn who_asks_the_platform_is_served_before_it_sleeps() {
    let mut scripted = Scripted::new();
    let diary = Diary::default();
    let (told, system) = (diary.clone(), scripted.system);
    scripted.start(move || {
        for _ in 0..3 {
            system.ask();
            told.lock().push(("answered", wait_until(Request::NEVER)));
        }
    });
    // Nothing else would wake it.
    scripted.run();
    assert_eq!(*diary.lock(), [("answered", 9); 3]);
    assert_eq!(scripted.served, 3);
}

#[test]
fn what_was_not_served_at_once_takes_turns_with_whoever_is_ready() {
    let mut scripted = Scripted::new();
    scripted.left = 5;
    let diary = Diary::default();
    let (asks, busy, system) = (diary.clone(), diary.clone(), scripted.system);
    scripted.start(move || {
        system.ask();
        let answer = wait_until(Request::NEVER);
        asks.lock().push(("answered", answer));
    });
    scripted.start(move || {
        for _ in 0..3 {
            // Nobody else is ready, and no tick would come.
            let has_slice = current::due_ns() <= system.now_ns() + SLICE_NS;
            busy.lock().push(("busy", has_slice.into()));
            process::yield_turn();
        }
    });
    scripted.run();
    assert_eq!(*diary.lock(), [("busy", 1), ("busy", 1), ("busy", 1), ("answered", 9)]);
    assert_eq!((scripted.served, scripted.left), (1, 0));
}

#[test]
fn a_waiting_process_is_woken_once_with_the_answer() {
    let mut scripted = Scripted::new();
    let diary = Diary::default();
    let told = diary.clone();
    scripted.start(move || {
        told.lock().push(("first", wait_until(Request::NEVER)));
        told.lock().push(("second", wait_until(Request::NEVER)));
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
    assert_eq!(*diary.lock(), [("first", 7), ("second", 7)]);
}

#[test]
fn who_is_stopped_hears_it_wherever_it_waits_and_a_stale_name_stops_nobody() {
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
    let mut scripted = Scripted::new();
    let diary = Diary::default();
    let (busy, waiting, kernel, system) = (diary.clone(), diary.clone(), scripted.kernel, scripted.system);
    scripted.start(move || {
        for turn in 0..6 {
            kernel.advance_to(system.now_ns() + SLICE_NS);
            busy.lock().push(("busy", turn));
            process::yield_turn();
        }
    });
    let start_ns = system.now_ns();
    scripted.start(move || {
        wait_until(start_ns + 3 * SLICE_NS);
        waiting.lock().push(("waiting", 0));
    });
    scripted.run();
    let place = diary.lock().iter().position(|(name, _)| *name == "waiting").unwrap();
    assert!((2..=4).contains(&place), "{:?}", diary.lock());
}

/// Whoever makes one is told no while there is still time.
#[test]
fn what_a_process_takes_until_its_end_has_been_told_is_there_before_it_begins() {
    let mut scripted = Scripted::new();
    let capacities = |processes: &Processes| {
        [processes.slots.capacity(), processes.free.capacity(), processes.ended.capacity()]
    };
    for _ in 0..100 {
        let before = {
            let mut processes = scripted.system.processes().lock();
            processes.make_room().unwrap();
            capacities(&processes)
        };
        scripted.start(|| {});
        let processes = scripted.system.processes().lock();
        assert_eq!(capacities(&processes), before);
        assert!(processes.ended.capacity() >= processes.count());
    }
    scripted.run();
}

/// The engine goes on in the program's trampoline after a trap, and there it may be preempted.
#[test]
fn where_a_process_has_trapped_no_other_gets_to_know() {
    let mut scripted = Scripted::new();
    let diary = Diary::default();
    for (name, ip) in [("a", 7), ("b", 9)] {
        let diary = diary.clone();
        scripted.start(move || {
            let frames = &current::get().unwrap().frames;
            frames.put(0, ip);
            frames.put(1, ip + 1);
            frames.end(2);
            process::yield_turn();
            assert_eq!(trap::take_frames(), (Vec::from([ip, ip + 1]), 2));
            frames.end(1);
            diary.lock().push((name, ip));
        });
    }
    scripted.start(|| {
        process::yield_turn();
        process::yield_turn();
        assert_eq!(trap::take_frames(), (Vec::new(), 0), "it has not");
    });
    scripted.run();
    assert_eq!(*diary.lock(), [("a", 7), ("b", 9)]);
}

/// What looking at the clock takes in a test.
const CLOCK_NS: u64 = 1_000;

/// Fails unless the process that ended as the `number`th has had this CPU time.
fn check_had(scripted: &Scripted, number: usize, expected_ns: u64) {
    let had_ns = scripted.cpu_ns[number];
    assert!((expected_ns..expected_ns + CLOCK_NS).contains(&had_ns), "{had_ns} instead of {expected_ns}");
}

#[test]
fn what_others_have_of_a_turn_is_no_cpu_time() {
    let mut scripted = Scripted::new();
    let (kernel, system) = (scripted.kernel, scripted.system);
    scripted.start(move || {
        kernel.take(90 * SLICE_NS);
        kernel.run(SLICE_NS);
        process::yield_turn();
        kernel.run(SLICE_NS);
        kernel.take(7 * SLICE_NS);
        process::yield_turn();
        // As its clock tells it.
        let before_ns = current::cpu_ns(system);
        kernel.take(3 * SLICE_NS);
        kernel.run(SLICE_NS / 20);
        let after_ns = current::cpu_ns(system);
        assert!((SLICE_NS / 20..SLICE_NS / 20 + CLOCK_NS).contains(&(after_ns - before_ns)));
    });
    scripted.run();
    check_had(&scripted, 0, 2 * SLICE_NS + SLICE_NS / 20);
}

#[test]
fn what_others_have_before_a_turn_or_during_sleep_comes_off_no_turn() {
    let mut scripted = Scripted::new();
    let (kernel, system) = (scripted.kernel, scripted.system);
    scripted.start(move || {
        for _ in 0..50 {
            wait_until(system.now_ns() + SLICE_NS / 100);
        }
        kernel.run(2 * SLICE_NS);
        wait_until(system.now_ns() + 1_000 * SLICE_NS);
        kernel.run(2 * SLICE_NS);
    });
    let oversleep: fn(&mut Scripted) = |scripted| scripted.kernel.take(5 * SLICE_NS);
    scripted.steps.extend([oversleep; 20]);
    scripted.run();
    check_had(&scripted, 0, 4 * SLICE_NS);
}

/// It is over by the clock again and again, until it is in truth.
#[test]
fn only_the_time_that_it_ran_ends_a_process() {
    let mut scripted = Scripted::new();
    let (kernel, system) = (scripted.kernel, scripted.system);
    let limits = Limits { cpu_ns_max: 10 * SLICE_NS, ..LIMITS };
    scripted.start_with(limits, move || {
        for round in 1..=10 {
            assert_eq!(
                current::cpu_left_ns(system).map(|left_ns| left_ns.div_ceil(SLICE_NS)),
                Some(11 - round)
            );
            kernel.take(30 * SLICE_NS);
            current::look_at_time(system);
            assert_eq!(current::stop_wanted(), None, "round {round}");
            // The tick is asked for again, for when it will be over now.
            let end_ns = current::get().unwrap().end_ns() - system.now_ns();
            assert_eq!(end_ns.div_ceil(SLICE_NS), 11 - round, "round {round}");
            kernel.run(SLICE_NS);
            if round % 3 == 0 {
                process::yield_turn();
            }
        }
        current::look_at_time(system);
        assert_eq!(current::stop_wanted(), Some(Stop::CpuTime));
    });
    scripted.run();
    check_had(&scripted, 0, 10 * SLICE_NS);
}

/// A kernel's virtual CPUs, each a thread of the test, with the first one's platform.
#[test]
fn several_virtual_cpus_run_all_processes_and_no_end_is_lost() {
    const VCPUS: usize = 3;
    const PROCESSES: u64 = 60;
    let mut scripted = Scripted::new();
    let system = scripted.system;
    let others: Vec<_> = (1..VCPUS).map(|_| system.add_vcpu().unwrap()).collect();
    let ran_on = Arc::new([const { AtomicU64::new(0) }; VCPUS]);
    let turns = Arc::new(AtomicU64::new(0));
    for number in 0..PROCESSES {
        let (ran_on, turns) = (Arc::clone(&ran_on), Arc::clone(&turns));
        scripted.start(move || {
            let all_ran = || ran_on.iter().all(|turns| turns.load(Relaxed) > 0);
            for turn in (0..).take_while(|turn| *turn < 50 || !all_ran()) {
                ran_on[Vcpu::current().number()].fetch_add(1, Relaxed);
                turns.fetch_add(1, Relaxed);
                match (number + turn) % 4 {
                    0 => _ = wait_until(system.now_ns() + 100),
                    1 => process::give_way(),
                    _ => process::yield_turn(),
                }
            }
        });
    }
    let threads: Vec<_> = others
        .into_iter()
        .map(|vcpu| {
            std::thread::spawn(move || {
                crate::vcpu::tests::become_vcpu(vcpu);
                serve(system);
            })
        })
        .collect();
    scripted.run();
    close(system);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    scripted.ended.sort();
    scripted.ids.sort();
    assert_eq!(scripted.ended, scripted.ids);
    assert!(turns.load(Relaxed) >= PROCESSES * 50);
    system.give_back_pages();
    assert_eq!((system.processes().lock().count(), scripted.kernel.committed_bytes()), (0, 0));
}

/// Whoever is woken between its look and its wait looks again: otherwise it would wait for ever.
#[test]
fn who_is_woken_by_another_virtual_cpu_while_it_runs_does_not_miss_it() {
    const ROUNDS: u64 = 20_000;
    let mut scripted = Scripted::new();
    let system = scripted.system;
    let other = system.add_vcpu().unwrap();
    let given = Arc::new(AtomicU64::new(0));
    let taken = Arc::new(AtomicU64::new(0));
    let ids: Arc<spin::Mutex<Vec<ProcessId>>> = Arc::default();
    // Each waits for the other: what it wants to see, what it then says, and whom it wakes.
    let sides = [(Arc::clone(&given), Arc::clone(&taken), 1), (taken, given, 0)];
    for (side, (sees, says, other)) in sides.into_iter().enumerate() {
        let ids = Arc::clone(&ids);
        scripted.start(move || {
            for round in 1..=ROUNDS {
                while side == 0 && round > 1 && sees.load(Relaxed) < round - 1
                    || side == 1 && sees.load(Relaxed) < round
                {
                    wait_until(Request::NEVER);
                }
                says.store(round, Relaxed);
                let whom = ids.lock()[other];
                system.processes().lock().wake(system, whom, 0);
            }
        });
    }
    ids.lock().extend(&scripted.ids);
    let thread = std::thread::spawn(move || {
        crate::vcpu::tests::become_vcpu(other);
        serve(system);
    });
    scripted.run();
    close(system);
    thread.join().unwrap();
    assert_eq!(scripted.ended.len(), 2);
}

/// What is stopped while another virtual CPU runs it ends there.
#[test]
fn who_runs_on_another_virtual_cpu_is_stopped_there() {
    let mut scripted = Scripted::new();
    let system = scripted.system;
    let other = system.add_vcpu().unwrap();
    let runs_on = Arc::new(AtomicU64::new(u64::MAX));
    let seen = Arc::clone(&runs_on);
    scripted.start(move || {
        seen.store(Vcpu::current().number() as u64, Relaxed);
        while current::stop_wanted().is_none() {
            core::hint::spin_loop();
        }
    });
    let id = scripted.ids[0];
    let thread = std::thread::spawn(move || {
        crate::vcpu::tests::become_vcpu(other);
        serve(system);
    });
    while runs_on.load(Relaxed) == u64::MAX {
        std::thread::yield_now();
    }
    assert_eq!(system.processes().lock().look_at(system, id).unwrap().1, Activity::Runs);
    system.processes().lock().stop(system, id, Stop::Cancelled);
    scripted.run();
    close(system);
    thread.join().unwrap();
    assert_eq!((scripted.ended, runs_on.load(Relaxed)), (alloc::vec![id], 1));
}
