//! How a process waits, on either platform: by letting go of the virtual CPU.

use abi::Request;
use runtime::{System, current, process};
use wasi::Stopped;
use wasi::provider::{Clock, ClockKind, Stream, StreamSet, Wait};

/// What a process waits for, as the number that passes through the scheduler.
pub fn interest_in(streams: StreamSet) -> u64 {
    [Stream::Input, Stream::Output, Stream::Error]
        .into_iter()
        .filter(|stream| streams.has(*stream))
        .fold(0, |bits, stream| bits | 1 << stream as u8)
}

/// The inverse of [`interest_in`].
pub fn streams_of(interest: u64) -> StreamSet {
    [Stream::Input, Stream::Output, Stream::Error]
        .into_iter()
        .filter(|stream| interest & 1 << *stream as u8 != 0)
        .fold(StreamSet::NONE, |set, stream| set.union(StreamSet::of(stream)))
}

/// Who can say which streams are ready.
pub trait Ready {
    /// Those of `streams` that are now.
    fn of(&mut self, streams: StreamSet) -> StreamSet;

    /// When they may be without anything happening but time.
    fn again_ns(&mut self) -> u64 {
        Request::NEVER
    }
}

/// Waits until some of the streams are ready, or whoever wakes the process says so.
pub struct Suspend<R>(pub R);

impl<R: Ready> Wait for Suspend<R> {
    fn wait(&mut self, streams: StreamSet, deadline_ns: Option<u64>) -> Result<StreamSet, Stopped> {
        let deadline_ns = deadline_ns.unwrap_or(Request::NEVER);
        let system = System::get().ok_or(Stopped)?;
        loop {
            current::look_at_time(system);
            not_stopped()?;
            let ready = self.0.of(streams);
            if !ready.is_empty() {
                return Ok(ready);
            }
            let until = deadline_ns.min(current::deadline_ns()).min(self.0.again_ns());
            let answer = process::wait(process::Wait { deadline_ns: until, interest: interest_in(streams) });
            current::look_at_time(system);
            not_stopped()?;
            let ready = streams_of(answer);
            if !ready.is_empty() || system.now_ns() >= deadline_ns {
                return Ok(ready);
            }
        }
    }

    fn checkpoint(&mut self) -> Result<(), Stopped> {
        current::enter_host_function();
        not_stopped()
    }

    fn leave(&mut self) -> Result<(), Stopped> {
        if current::leave_host_function() {
            process::yield_turn();
        }
        not_stopped()
    }

    fn give_way(&mut self) -> Result<(), Stopped> {
        process::give_way();
        not_stopped()
    }
}

/// Fails if the process has to end.
pub fn not_stopped() -> Result<(), Stopped> {
    match current::stop_wanted() {
        Some(_) => Err(Stopped),
        None => Ok(()),
    }
}

/// Lets others have the virtual CPU if they are to, in the middle of what takes long; also where no process runs, and nobody is.
pub fn pause() {
    if current::is_running() && current::is_switch_wanted() {
        process::yield_turn();
    }
}

/// A clock whose CPU time is the process's own.
pub struct ProcessClock<C>(pub C);

impl<C: Clock> Clock for ProcessClock<C> {
    fn monotonic_ns(&mut self) -> wasi::Result<u64> {
        self.0.monotonic_ns()
    }

    fn wall_ns(&mut self) -> wasi::Result<u64> {
        self.0.wall_ns()
    }

    fn cpu_ns(&mut self) -> wasi::Result<u64> {
        Ok(System::get().map_or(0, current::cpu_ns))
    }

    fn resolution_ns(&mut self, which: ClockKind) -> wasi::Result<u64> {
        self.0.resolution_ns(which)
    }
}
