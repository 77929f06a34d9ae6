//! Measurements of processes, hosted: by the library OS's own scheduler, with what every program's process has.

use crate::allowance::Allowance;
use crate::launcher::{Launcher, LauncherHost};
use crate::programs::Programs;
use crate::waiting::{ProcessClock, Ready, Suspend};
use crate::{entry, family, gate};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use bundle::Bundle;
use runtime::{Ending, Platform, ProcessId, Stop, System, Usage, scheduler};
use wasi::Exit;
use wasi::provider::{Clock, OutputStream, Providers, StreamSet, Streams};

/// How long a process that never ends may run before it is made to, in nanoseconds: it is in its loop by then.
const RUNAWAY_NS: u64 = 3_000_000;

/// What is measured.
#[derive(Clone, Copy)]
pub enum What {
    /// The same work by two processes at once, and by one after the other.
    Shared { count: u64 },
    /// From one of two processes to the other, which both give way all the time.
    Switches { count: u64 },
    /// From when the time of a process is over until it has ended and nothing of it is left.
    Runaways { count: u64 },
    /// The start of a process, its `_start`, and its end.
    Processes { count: u64 },
    /// The same by a program, which waits for the end.
    Children { count: u64 },
}

/// Measures processes of the bundle's first program.
pub fn run(
    system: &'static System,
    launcher: Launcher,
    mut bundle: Bundle<'static>,
    what: What,
) -> Result<(), String> {
    if let What::Runaways { .. } = what {
        bundle.plan.programs[0].timeout_ns = Some(RUNAWAY_NS);
    }
    if let What::Children { count } = what {
        let nanoseconds = family::run(system, launcher, bundle, count)?;
        return say(launcher, &format!("nanoseconds {nanoseconds}\n"));
    }
    let programs = Programs::new(system, bundle).map_err(|error| error.to_string())?;
    let mut processes =
        Processes { system, launcher, programs, expected: Expected::Exit, run: Run::default() };
    // The first loads the program, and touches what stays.
    match what {
        What::Shared { count } => {
            processes.run(1, 1)?;
            (0..count).try_for_each(|_| processes.shared())
        }
        What::Switches { count } => {
            processes.run(1, 1)?;
            (0..count).try_for_each(|_| processes.switches())
        }
        What::Runaways { count } => {
            processes.expected = Expected::Timeout;
            processes.run(1, 1)?;
            (0..count).try_for_each(|_| processes.runaway())
        }
        What::Processes { count } => {
            processes.run(1, 1)?;
            let begin_ns = system.now_ns();
            processes.run(1, count)?;
            let elapsed_ns = system.now_ns() - begin_ns;
            processes.say(&format!("nanoseconds {}\n", elapsed_ns / count))
        }
        What::Children { .. } => Ok(()),
    }
}

/// The host of each process: as hosted programs have it, without input.
pub type Host = LauncherHost<ProcessClock<Launcher>, Launcher, Suspend<NoInput>>;

/// Such a host.
pub fn host(launcher: Launcher) -> Host {
    let (clock, wait) = (ProcessClock(launcher), Suspend(NoInput));
    Providers { clock, entropy: launcher, streams: launcher, files: launcher, wait }
}

/// Nothing that is measured waits for a stream.
pub struct NoInput;

impl Ready for NoInput {
    fn of(&mut self, _streams: StreamSet) -> StreamSet {
        StreamSet::NONE
    }
}

/// How the processes are to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// By themselves, successfully.
    Exit,
    /// By their time.
    Timeout,
}

/// The processes, one run of them after the other.
struct Processes {
    system: &'static System,
    launcher: Launcher,
    programs: Programs<Host>,
    expected: Expected,
    run: Run,
}

/// Some processes at once, and after each another, until there were enough.
#[derive(Default)]
struct Run {
    alive: u64,
    /// Those that are yet to be started.
    left: u64,
    /// How often they were given the virtual CPU, all together.
    switches: u64,
    /// When the last ended, on the kernel's clock.
    ended_ns: u64,
    failed: Option<String>,
}

impl Processes {
    /// Runs `count` processes, `at_once` of them at a time.
    fn run(&mut self, at_once: u64, count: u64) -> Result<(), String> {
        self.run = Run { left: count, ..Run::default() };
        for _ in 0..at_once.min(count) {
            self.start()?;
        }
        scheduler::run(self.system, self);
        self.run.failed.take().map_or(Ok(()), Err)
    }

    fn start(&mut self) -> Result<(), String> {
        let host = host(self.launcher);
        let plan = self.programs.plan(0).map(Arc::clone).ok_or("there is no program")?;
        self.programs.make(&plan, host, Allowance::own(&plan, 0)).map_err(|error| error.to_string())?.start();
        self.run.left -= 1;
        self.run.alive += 1;
        Ok(())
    }

    /// CPU time of Linux's process: what others on its machine take is not in it, the signals that preempt are.
    fn cpu_ns(&mut self) -> Result<u64, String> {
        self.launcher.cpu_ns().map_err(|errno| format!("no CPU time: {errno:?}"))
    }

    fn shared(&mut self) -> Result<(), String> {
        let begin_ns = self.cpu_ns()?;
        self.run(2, 2)?;
        let middle_ns = self.cpu_ns()?;
        let switches = self.run.switches;
        self.run(1, 2)?;
        let end_ns = self.cpu_ns()?;
        // A slice is a millisecond, and Linux may be late; but who is not preempted at all is given the virtual CPU once.
        if switches <= 2 {
            return Err(String::from("processes that run at once are not preempted"));
        }
        self.say(&format!("shared {}\nalone {}\n", middle_ns - begin_ns, end_ns - middle_ns))
    }

    fn switches(&mut self) -> Result<(), String> {
        let begin_ns = self.system.now_ns();
        self.run(2, 2)?;
        let elapsed_ns = self.run.ended_ns - begin_ns;
        let switches = self.run.switches;
        self.say(&format!("nanoseconds {}\n", elapsed_ns / switches.max(1)))
    }

    fn runaway(&mut self) -> Result<(), String> {
        // Before it is started: what that takes is in the figure, and is microseconds.
        let deadline_ns = self.system.now_ns() + RUNAWAY_NS;
        self.run(1, 1)?;
        let elapsed_ns = self.run.ended_ns.saturating_sub(deadline_ns);
        self.say(&format!("nanoseconds {elapsed_ns}\n"))
    }

    fn say(&mut self, line: &str) -> Result<(), String> {
        say(self.launcher, line)
    }
}

fn say(mut launcher: Launcher, line: &str) -> Result<(), String> {
    let said = launcher.write(OutputStream::Error, line.as_bytes());
    said.map(|_| ()).map_err(|_| String::from("nobody reads the measurements"))
}

impl Platform for Processes {
    /// Nothing from outside is waited for.
    fn look(&mut self) {}

    fn sleep(&mut self, deadline_ns: u64) {
        gate::wait(self.system, deadline_ns);
    }

    fn ended(&mut self, _process: ProcessId, ending: Ending, usage: Usage) {
        entry::HEAP.renew_reserve();
        self.run.ended_ns = self.system.now_ns();
        self.run.alive -= 1;
        self.run.switches += usage.switches;
        let exited = match &ending {
            Ending::Returned(Ok(())) => true,
            Ending::Returned(Err(error)) => error.downcast_ref::<Exit>().is_some_and(|exit| exit.0 == 0),
            _ => false,
        };
        let is_expected = match self.expected {
            Expected::Exit => exited,
            Expected::Timeout => matches!(ending, Ending::Stopped(Stop::TimedOut, _)),
        };
        let outcome = match is_expected {
            true if self.run.left > 0 => self.start(),
            true => Ok(()),
            false => Err(format!("a process did not end as it should: {ending:?}")),
        };
        if let Err(why) = outcome {
            self.run.left = 0;
            self.run.failed = Some(why);
        }
    }

    fn is_over(&self) -> bool {
        self.run.alive == 0
    }
}
