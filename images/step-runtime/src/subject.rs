//! The program that is tested, ready to be started again and again.

use crate::children::{Family, Key, WithChildren};
use crate::entry;
use crate::launcher::{Launcher, LauncherHost};
use crate::waiting::{ProcessClock, Ready, Suspend};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use runtime::process::{Guest, Limits};
use runtime::{Prepared, ProcessId, Program, System};
use wasi::p1::{DESCRIPTORS_MAX, Start, State};
use wasi::provider::{Providers, StreamSet};
use wasmtime::Linker;

/// What a process of it stands on.
pub type Host = WithChildren<LauncherHost<ProcessClock<Launcher>, Launcher, Suspend<Never>>>;

/// Streams are asked for in no test.
pub struct Never;

impl Ready for Never {
    fn of(&mut self, streams: StreamSet) -> StreamSet {
        streams
    }
}

/// A program that is linked.
pub struct Subject {
    pub system: &'static System,
    launcher: Launcher,
    prepared: Prepared<State<Host>>,
}

impl Subject {
    /// Links `program` with WASI and what else `linker` has.
    pub fn new(
        system: &'static System,
        launcher: Launcher,
        program: &'static Program,
        mut linker: Linker<Guest<State<Host>>>,
    ) -> Result<Self, String> {
        let prepared =
            wasi::p1::add_to_linker(&mut linker, program.module(), |guest: &mut Guest<_>| &mut guest.data)
                .and_then(|_| Prepared::new(program, &linker));
        Ok(Self { system, launcher, prepared: prepared.map_err(|error| format!("{error:#}"))? })
    }

    /// Starts a process of it, whose time is over in `time_ns`, with these arguments and this family.
    pub fn start(
        &self,
        time_ns: u64,
        arguments: Vec<Vec<u8>>,
        family: Option<Key>,
    ) -> Result<ProcessId, String> {
        let launcher = self.launcher;
        let host = Providers {
            clock: ProcessClock(launcher),
            entropy: launcher,
            streams: launcher,
            files: launcher,
            wait: Suspend(Never),
        };
        let start = Start {
            arguments,
            environment: Vec::new(),
            directories: Vec::new(),
            descriptors_max: DESCRIPTORS_MAX,
            on_descriptors: |_| {},
        };
        let host = WithChildren { host, family: family.map(Family) };
        let state = State::new(host, start).map_err(|errno| format!("no state: {errno:?}"))?;
        let deadline_ns = self.system.now_ns().saturating_add(time_ns);
        let limits = Limits { memory_bytes_max: 64 << 20, deadline_ns, ..Limits::NONE };
        self.prepared.start(self.system, state, limits).map_err(|error| format!("not started: {error:?}"))
    }
}

/// What processes have, and give back when they end.
#[derive(Debug, PartialEq, Eq)]
pub struct Accounts {
    heap_bytes: usize,
    free_space_bytes: u64,
    slots: usize,
    processes: usize,
}

impl Accounts {
    /// As they are now.
    pub fn of(system: &System) -> Self {
        Self {
            heap_bytes: entry::HEAP.used_bytes(),
            free_space_bytes: system.free_space_bytes(),
            slots: system.slots().lock().used_count(),
            processes: system.processes().lock().count(),
        }
    }

    /// Fails if they are not any more.
    pub fn compare(&self, system: &System) -> Result<(), String> {
        let now = Self::of(system);
        if now == *self { Ok(()) } else { Err(format!("{self:?} has become {now:?}")) }
    }

    /// The same where several run at once, as it comes: then what is kept for the next differs, within bounds. What each left would add up.
    pub fn compare_nearly(&self, system: &System) -> Result<(), String> {
        const HEAP_BYTES: usize = 64 << 10;
        const SPACE_BYTES: u64 = 64 << 30;
        let now = Self::of(system);
        let is_near = now.heap_bytes <= self.heap_bytes + HEAP_BYTES
            && now.free_space_bytes + SPACE_BYTES >= self.free_space_bytes
            && (now.slots, now.processes) == (self.slots, self.processes);
        if is_near { Ok(()) } else { Err(format!("{self:?} has become {now:?}")) }
    }
}
