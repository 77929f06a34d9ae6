//! Hosted: everything that is not the kernel's is asked of the launcher.

use crate::report::Report;
use crate::{entry, gate, run};
use abi::{BootInfo, Request};
use bundle::services::{RawExchange, Services};
use runtime::System;
use runtime::process;
use runtime::trap::{self, Stop};
use wasi::Stopped;
use wasi::provider::{Clock, Entropy, Files, Host, Output, OutputStream, Stream, StreamSet, Streams, Wait};
use wasi::remote::{Exchange, Remote, Transport};

/// Runs the plan, and says on standard error what there is to say.
pub fn main(system: &'static System, boot: &'static BootInfo) -> u8 {
    // SAFETY: hosted, `services` is the address of the launcher's table, which outlives us.
    let services: &'static Services = unsafe { &*(boot.services as usize as *const Services) };
    if services.version != Services::VERSION {
        gate::print("selkis: the launcher and the library OS are of different versions\n");
        return crate::report::STATUS_FAILED;
    }
    let report = match entry::register_upcalls(system, boot) {
        Ok(()) => {
            trap::set_poll_cancel(poll_cancel);
            let remote = || Remote::new(Table { services });
            run::run(
                system,
                boot,
                |_| Ok(LauncherHost { remote: remote() }),
                |wait| idle(&mut remote(), wait),
            )
        }
        Err(error) => Report::not_started("the library OS", format_args!("no upcalls: {error:?}")),
    };
    say(&mut Remote::new(Table { services }), report.message.as_bytes());
    report.status
}

/// Ctrl-C and the like are the only event that a hosted machine has.
fn poll_cancel() -> bool {
    let take = Request::Wait { vcpu: gate::vcpu(), deadline_ns: 0 };
    System::get().is_some_and(|system| system.kernel().call(take).is_ok_and(|events| events != 0))
}

/// Sleeps on behalf of the suspended process: in Linux, which knows the streams.
fn idle(remote: &mut Remote<Table>, wait: process::Wait) -> u64 {
    let streams = run::streams_of(wait.interest);
    // However the wait ends, the process looks why.
    let ready = Wait::wait(remote, streams, Some(wait.deadline_ns)).unwrap_or(StreamSet::NONE);
    run::interest_in(ready)
}

/// Writes a message for a person; if standard error is closed, there is nobody to tell.
fn say(remote: &mut Remote<Table>, mut message: &[u8]) {
    while !message.is_empty() {
        match remote.write(OutputStream::Error, message) {
            Ok(Output::Bytes(count)) => message = &message[count..],
            Ok(Output::NotReady) => {
                if Wait::wait(remote, StreamSet::of(Stream::Error), None).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// The launcher's function.
struct Table {
    services: &'static Services,
}

impl Transport for Table {
    fn call(&mut self, exchange: Exchange<'_>) -> wasi::Result<usize> {
        let Exchange { request, outgoing, reply, incoming } = exchange;
        let raw = RawExchange {
            request: request.into(),
            outgoing: outgoing.map(Into::into),
            reply: reply.into(),
            incoming: incoming.into(),
        };
        Ok((self.services.call)(&raw))
    }
}

struct LauncherHost {
    remote: Remote<Table>,
}

impl Host for LauncherHost {
    fn clock(&mut self) -> &mut dyn Clock {
        &mut self.remote
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        &mut self.remote
    }

    fn streams(&mut self) -> &mut dyn Streams {
        &mut self.remote
    }

    fn files(&mut self) -> &mut dyn Files {
        &mut self.remote
    }

    fn wait(&mut self) -> &mut dyn Wait {
        self
    }
}

impl Wait for LauncherHost {
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
