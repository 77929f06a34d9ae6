//! What a measured program is given: the launcher's providers, as in the product.

use crate::gate;
use abi::Request;
use bundle::services::{RawExchange, Services};
use runtime::System;
use wasi::Stopped;
use wasi::provider::{Clock, Entropy, Files, Host, OutputStream, StreamSet, Streams, Wait};
use wasi::remote::{Exchange, Remote, Transport};

/// The launcher's function.
#[derive(Clone, Copy)]
struct Table(&'static Services);

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

/// The launcher, as a program's host.
pub struct Launcher {
    table: Table,
    remote: Remote<Table>,
}

impl Launcher {
    /// The launcher with these services.
    pub fn new(services: &'static Services) -> Self {
        let table = Table(services);
        Self { table, remote: Remote::new(table) }
    }

    /// Another process's host.
    pub fn another(&self) -> Self {
        Self { table: self.table, remote: Remote::new(self.table) }
    }

    /// Tells the one who reads the measurements.
    pub fn say(&mut self, line: &str) -> Result<(), &'static str> {
        match self.remote.write(OutputStream::Error, line.as_bytes()) {
            Ok(_) => Ok(()),
            Err(_) => Err("nobody reads the measurements"),
        }
    }
}

impl Host for Launcher {
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

impl Wait for Launcher {
    fn wait(&mut self, streams: StreamSet, deadline_ns: Option<u64>) -> Result<StreamSet, Stopped> {
        Wait::wait(&mut self.remote, streams, deadline_ns)
    }

    /// Asks for events, as the product does.
    fn checkpoint(&mut self) -> Result<(), Stopped> {
        let take = Request::Wait { vcpu: gate::vcpu(), deadline_ns: 0 };
        let events = System::get().map_or(Ok(0), |system| system.kernel().call(take));
        if events == Ok(0) { Ok(()) } else { Err(Stopped) }
    }

    fn give_way(&mut self) -> Result<(), Stopped> {
        self.checkpoint()
    }
}
