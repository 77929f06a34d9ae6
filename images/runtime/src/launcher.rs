//! Who started a hosted library OS: everything that is not the kernel's is asked of it.

use abi::BootInfo;
use bundle::services::{RawExchange, Services};
use wasi::provider::Providers;
use wasi::remote::{Exchange, Remote, Transport};

/// The launcher's clocks, streams, files and random numbers.
pub type Launcher = Remote<Table>;

/// A host that leaves random numbers and files to the launcher.
pub type LauncherHost<C, S, W> = Providers<C, Launcher, S, Launcher, W>;

/// The launcher's table; `None` if it is of another version than this.
pub fn services(boot: &'static BootInfo) -> Option<&'static Services> {
    // SAFETY: hosted, `services` is the address of the launcher's table, which outlives us.
    let services: &'static Services = unsafe { &*(boot.services as usize as *const Services) };
    (services.version == Services::VERSION).then_some(services)
}

/// The launcher.
pub fn open(services: &'static Services) -> Launcher {
    Remote::new(Table(services))
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
