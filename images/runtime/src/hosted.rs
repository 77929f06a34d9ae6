//! Hosted: the launcher provides what is not the kernel's, and Linux does the waiting.

use crate::launcher::{self, Launcher};
use crate::report::{Report, STATUS_FAILED};
use crate::{entry, gate, run};
use abi::{BootInfo, Request};
use runtime::System;
use runtime::process;
use runtime::trap::{self, Stop};
use wasi::Stopped;
use wasi::provider::{Output, OutputStream, Stream, StreamSet, Streams, Wait};

/// Runs the plan, and says on standard error what there is to say.
pub fn main(system: &'static System, boot: &'static BootInfo) -> u8 {
    let Some(mut launcher) = launcher::open(boot) else {
        gate::print("selkis: the launcher and the library OS are of different versions\n");
        return STATUS_FAILED;
    };
    let report = start(system, boot, launcher).unwrap_or_else(|report| report);
    say(&mut launcher, report.message.as_bytes());
    report.status
}

fn start(system: &'static System, boot: &'static BootInfo, launcher: Launcher) -> Result<Report, Report> {
    let bundle = run::bundle(boot)?;
    entry::register_upcalls(system, boot)
        .map_err(|error| Report::not_started("the library OS", format_args!("no upcalls: {error:?}")))?;
    trap::set_poll_cancel(poll_cancel);
    let host = launcher::host(launcher, Suspend);
    Ok(run::run(system, bundle, host, |wait| idle(launcher, wait)))
}

/// Ctrl-C and the like are the only event that a hosted machine has.
fn poll_cancel() -> bool {
    let take = Request::Wait { vcpu: gate::vcpu(), deadline_ns: 0 };
    System::get().is_some_and(|system| system.kernel().call(take).is_ok_and(|events| events != 0))
}

/// Sleeps on behalf of the suspended process: in Linux, which knows the streams.
fn idle(mut launcher: Launcher, wait: process::Wait) -> u64 {
    let streams = run::streams_of(wait.interest);
    // However the wait ends, the process looks why.
    let ready = launcher.wait(streams, Some(wait.deadline_ns)).unwrap_or(StreamSet::NONE);
    run::interest_in(ready)
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

/// The process waits by letting go of the virtual CPU.
struct Suspend;

impl Wait for Suspend {
    fn wait(&mut self, streams: StreamSet, deadline_ns: Option<u64>) -> Result<StreamSet, Stopped> {
        run::suspend_for(streams, deadline_ns, poll_cancel, |_| StreamSet::NONE)
    }

    fn checkpoint(&mut self) -> Result<(), Stopped> {
        if poll_cancel() {
            trap::want_stop(Stop::Cancelled);
        }
        run::not_stopped()
    }

    fn give_way(&mut self) -> Result<(), Stopped> {
        self.checkpoint()
    }
}
