//! Who started a hosted library OS: everything that is not the kernel's is asked of it.

use abi::BootInfo;
use bundle::services::{RawExchange, Services};
use wasi::provider::Providers;
use wasi::remote::{Exchange, Remote, Transport};

/// The launcher's clocks, streams, files and random numbers.
pub type Launcher = Remote<Table>;

/// A host that leaves all but the waiting to the launcher.
pub type LauncherHost<W> = Providers<Launcher, Launcher, Launcher, Launcher, W>;

/// The launcher; `None` if it is of another version than this.
pub fn open(boot: &'static BootInfo) -> Option<Launcher> {
    // SAFETY: hosted, `services` is the address of the launcher's table, which outlives us.
    let services: &'static Services = unsafe { &*(boot.services as usize as *const Services) };
    (services.version == Services::VERSION).then(|| Remote::new(Table(services)))
}

/// A host for a process that waits by `wait`.
pub fn host<W>(launcher: Launcher, wait: W) -> LauncherHost<W> {
    Providers { clock: launcher, entropy: launcher, streams: launcher, files: launcher, wait }
}

/// The launcher's function.
#[derive(Clone, Copy)]
pub struct Table(&'static Services);

impl Transport for Table {
    fn call(&mut self, exchange: Exchange<'_>) -> wasi::Result<usize> {
        let Exchange { request, outgoing, reply, incoming } = exchange;
        let raw = RawExchange {
            request: request.into(),
            outgoing: outgoing.map(Into::into),
            reply: reply.into(),
            incoming: incoming.into(),
        };
        Ok((self.0.call)(&raw))
    }
}
