//! Hosted: the launcher provides what is not the kernel's, and Linux does the waiting.

use crate::console::{self, Command, Origin, Talk};
use crate::domain::{self, Outside};
use crate::launcher::{self, Launcher, LauncherHost};
use crate::report::{Report, STATUS_FAILED};
use crate::waiting::{ProcessClock, Ready, Suspend, interest_in, streams_of};
use crate::wire::LauncherWire;
use crate::{entry, gate, programs};
use abi::BootInfo;
use alloc::boxed::Box;
use alloc::string::String;
use bundle::services::Services;
use bundle::{Console as Mode, ProgramPlan, Terminal, Terminals};
use link::{Cause, Process};
use runtime::process::{Made, Wait};
use runtime::{ProcessId, System};
use wasi::provider::{Output, OutputStream, Providers, Stream, StreamSet, Streams, Wait as _};

/// The launcher's event: somebody wants everything to end.
const CANCEL: u64 = 1 << 0;

/// Runs the plan, and says on standard error what there is to say.
pub fn main(system: &'static System, boot: &'static BootInfo) -> u8 {
    let Some(services) = launcher::services(boot) else {
        gate::print("selkis: the launcher and the library OS are of different versions\n");
        return STATUS_FAILED;
    };
    let mut launcher = launcher::open(services);
    start(system, boot, services).unwrap_or_else(|report| {
        say(&mut launcher, report.message().as_bytes());
        report.status
    })
}

fn start(
    system: &'static System,
    boot: &'static BootInfo,
    services: &'static Services,
) -> Result<u8, Report> {
    let bundle = programs::bundle(boot)?;
    entry::register_upcalls(system, boot)
        .map_err(|error| Report::not_started("the library OS", format_args!("no upcalls: {error:?}")))?;
    let launcher = launcher::open(services);
    if bundle.plan.console != Mode::Wire {
        return Ok(domain::run(system, bundle, Alone { launcher, services, cancelled: false }));
    }
    let wire = Box::new(LauncherWire(services));
    console::open(system, Some(wire), Talk::Frames, Terminals::all(Terminal::No));
    let mut root = Rooted { launcher, services };
    let status = domain::run(system, bundle, Rooted { ..root });
    console::drain(|| _ = root.sleep(system, abi::Request::NEVER, None));
    Ok(status)
}

/// One process, whose streams are the launcher's.
struct Alone {
    launcher: Launcher,
    services: &'static Services,
    cancelled: bool,
}

type AloneHost = LauncherHost<ProcessClock<Launcher>, Launcher, Suspend<AskedInSleep>>;

/// The launcher knows which streams are ready, and is asked in [`Alone`]'s sleep.
struct AskedInSleep;

impl Ready for AskedInSleep {
    fn of(&mut self, _streams: StreamSet) -> StreamSet {
        StreamSet::NONE
    }
}

impl Outside for Alone {
    type Host = AloneHost;

    fn host(&mut self, _: Process, _: &ProgramPlan, _: u64) -> Result<AloneHost, String> {
        let launcher = self.launcher;
        let wait = Suspend(AskedInSleep);
        let clock = ProcessClock(launcher);
        Ok(Providers { clock, entropy: launcher, streams: launcher, files: launcher, wait })
    }

    /// Sleeps in Linux, which knows the streams.
    fn sleep(&mut self, _system: &System, deadline_ns: u64, alone: Option<Wait>) -> u64 {
        let streams = alone.map_or(StreamSet::NONE, |wait| streams_of(wait.interest));
        // However the wait ends, the process looks why.
        interest_in(self.launcher.wait(streams, Some(deadline_ns)).unwrap_or(StreamSet::NONE))
    }

    /// Ctrl-C and the like are the only event from outside that a hosted machine has.
    fn look(&mut self, system: &System) {
        self.cancelled |= gate::wait(system, 0) & CANCEL != 0;
    }

    fn command(&mut self) -> Option<Command> {
        core::mem::take(&mut self.cancelled).then_some(Command::Cancel(Process::FIRST))
    }

    fn is_gone(&self) -> bool {
        false
    }

    fn begin(&mut self, _: Process, made: Made, _: &ProgramPlan, _: Origin) -> ProcessId {
        made.start()
    }

    fn ended(&mut self, _: Process, _: Option<link::Usage>, report: &Report) {
        say(&mut self.launcher, report.message().as_bytes());
        // Of a program that has said itself that it failed there is no more to say.
        if let Some(crash) = report.crash.as_ref().filter(|_| report.cause != Cause::Exited) {
            self.services.tell_crash(&[&crash.head.to_bytes()[..], (*crash.body).as_ref()].concat());
        }
    }

    fn written(&self, _process: Process) -> u64 {
        0
    }
}

/// A domain of a system: its root is at the other end of a wire.
struct Rooted {
    launcher: Launcher,
    services: &'static Services,
}

type RootedHost = LauncherHost<ProcessClock<Launcher>, console::Standard, Suspend<console::Ready>>;

impl Outside for Rooted {
    type Host = RootedHost;

    fn host(&mut self, process: Process, _: &ProgramPlan, _: u64) -> Result<RootedHost, String> {
        let launcher = self.launcher;
        Ok(Providers {
            clock: ProcessClock(launcher),
            entropy: launcher,
            streams: console::Standard(process),
            files: launcher,
            wait: Suspend(console::Ready(process)),
        })
    }

    fn sleep(&mut self, _system: &System, deadline_ns: u64, _alone: Option<Wait>) -> u64 {
        let wanted = console::with(|console| console.wants()).unwrap_or(bundle::services::Readiness::READ);
        self.services.wait_for_wire(wanted, deadline_ns);
        console::with(console::Console::on_event);
        0
    }

    fn look(&mut self, system: &System) {
        // Somebody may have told the process itself to end, by a signal.
        if gate::wait(system, 0) & CANCEL != 0 {
            console::with(|console| console.add(Command::Shutdown));
        }
        console::with(console::Console::on_event);
    }
}

/// Writes a message for a person; if standard error is closed, there is nobody to tell.
fn say(launcher: &mut Launcher, mut message: &[u8]) {
    while !message.is_empty() {
        match launcher.write(OutputStream::Error, message) {
            Ok(Output::Bytes(count)) => message = &message[count..],
            Ok(Output::NotReady) => {
                if launcher.wait(StreamSet::of(Stream::Error), None).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}
