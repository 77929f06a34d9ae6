//! `poll_oneoff`: waiting for several things at once.
//!
//! The subscriptions stay where they are, in the program's memory, and are read twice: to find out what to
//! wait for, and to tell what has happened. So the host needs no memory for them, however many there are.

use super::memory::{u32_at, u64_at};
use super::process::clock_kind;
use super::table::Descriptor;
use super::types::{CLOCK_ABSOLUTE, event};
use super::{Memory, State};
use crate::provider::{ClockKind, Handle, Host, Stream, StreamSet};
use crate::{Errno, Result};

const SUBSCRIPTION_BYTES: u32 = 48;
const EVENT_BYTES: u32 = 32;
/// How many subscriptions are looked at before the process can be ended again.
const BATCH: u32 = 1024;

/// A subscription, understood.
enum Awaited {
    /// The monotonic clock comes to this time.
    Time(u64),
    /// The stream can be read, or written.
    Stream(Stream),
    /// Files are always ready; how much is there to read is looked up.
    FileRead {
        handle: Handle,
        position: u64,
    },
    FileWrite,
    /// It makes no sense: this is told at once.
    Nothing(Errno),
}

/// The moment of the call, on both clocks: durations and wall times are turned into monotonic times by it.
#[derive(Clone, Copy)]
struct Begin {
    monotonic_ns: u64,
    wall_ns: u64,
}

/// What all subscriptions together wait for.
struct Interest {
    streams: StreamSet,
    deadline_ns: Option<u64>,
}

impl<H: Host> State<H> {
    pub(super) fn poll_oneoff(
        &mut self,
        memory: &mut Memory<'_>,
        subscriptions: u32,
        events: u32,
        count: u32,
        happened: u32,
    ) -> Result<()> {
        let happened = memory.place(happened, 4)?;
        memory.check_list(subscriptions, count, SUBSCRIPTION_BYTES, 8)?;
        memory.check_list(events, count, EVENT_BYTES, 8)?;
        if count == 0 {
            return Err(Errno::Inval.into());
        }
        let begin =
            Begin { monotonic_ns: self.now(ClockKind::Monotonic)?, wall_ns: self.now(ClockKind::Wall)? };
        let interest = self.interest(memory, subscriptions, count, begin)?;
        loop {
            let ready = self.host.wait().wait(interest.streams, interest.deadline_ns)?;
            let now_ns = self.now(ClockKind::Monotonic)?;
            let number = self.report(memory, (subscriptions, events, count), begin, ready, now_ns)?;
            if number > 0 {
                memory.put(happened, number.to_le_bytes());
                return Ok(());
            }
        }
    }

    fn interest(
        &mut self,
        memory: &Memory<'_>,
        subscriptions: u32,
        count: u32,
        begin: Begin,
    ) -> Result<Interest> {
        let mut interest = Interest { streams: StreamSet::NONE, deadline_ns: None };
        for index in 0..count {
            let record = self.subscription(memory, subscriptions, index)?;
            let until = match self.awaited(record, begin) {
                Awaited::Stream(stream) => {
                    interest.streams = interest.streams.union(StreamSet::of(stream));
                    continue;
                }
                Awaited::Time(ns) => ns,
                Awaited::FileRead { .. } | Awaited::FileWrite | Awaited::Nothing(_) => 0,
            };
            interest.deadline_ns = Some(interest.deadline_ns.map_or(until, |earliest| earliest.min(until)));
        }
        Ok(interest)
    }

    /// Writes the events that have happened, and answers how many.
    fn report(
        &mut self,
        memory: &mut Memory<'_>,
        (subscriptions, events, count): (u32, u32, u32),
        begin: Begin,
        ready: StreamSet,
        now_ns: u64,
    ) -> Result<u32> {
        let mut number = 0;
        for index in 0..count {
            let record = *self.subscription(memory, subscriptions, index)?;
            let (error, bytes, flags) = match self.awaited(&record, begin) {
                Awaited::Time(ns) if ns <= now_ns => (0, 0, 0),
                Awaited::Stream(stream) if ready.has(stream) => (0, 1, 0),
                Awaited::Time(_) | Awaited::Stream(_) => continue,
                Awaited::FileRead { handle, position } => {
                    match self.host.files().stat(handle)?.size.saturating_sub(position) {
                        0 => (0, 0, event::HANGUP),
                        left => (0, left, 0),
                    }
                }
                Awaited::FileWrite => (0, 1, 0),
                Awaited::Nothing(errno) => (errno.code(), 0, 0),
            };
            let mut answer = [0; EVENT_BYTES as usize];
            answer[..8].copy_from_slice(&record[..8]);
            answer[8..10].copy_from_slice(&error.to_le_bytes());
            answer[10] = record[8];
            answer[16..24].copy_from_slice(&bytes.to_le_bytes());
            answer[24..26].copy_from_slice(&flags.to_le_bytes());
            let place = memory.place(events + number * EVENT_BYTES, 8)?;
            memory.put(place, answer);
            number += 1;
        }
        Ok(number)
    }

    fn subscription<'m>(
        &mut self,
        memory: &'m Memory<'_>,
        subscriptions: u32,
        index: u32,
    ) -> Result<&'m [u8; SUBSCRIPTION_BYTES as usize]> {
        if index.is_multiple_of(BATCH) {
            self.host.wait().checkpoint()?;
        }
        Ok(memory.record(subscriptions + index * SUBSCRIPTION_BYTES, 8)?)
    }

    fn awaited(&self, record: &[u8; SUBSCRIPTION_BYTES as usize], begin: Begin) -> Awaited {
        let result = match record[8] {
            event::CLOCK => time(record, begin).map(Awaited::Time),
            event::FD_READ => self.awaited_read(u32_at(record, 16)),
            event::FD_WRITE => self.awaited_write(u32_at(record, 16)),
            _ => Err(Errno::Inval),
        };
        result.unwrap_or_else(Awaited::Nothing)
    }

    fn awaited_read(&self, fd: u32) -> Result<Awaited, Errno> {
        match self.table.get(fd)? {
            Descriptor::Stream { stream: Stream::Input, .. } => Ok(Awaited::Stream(Stream::Input)),
            Descriptor::File(file) => Ok(Awaited::FileRead { handle: file.handle, position: file.position }),
            Descriptor::Stream { .. } | Descriptor::Directory { .. } => Err(Errno::Badf),
        }
    }

    fn awaited_write(&self, fd: u32) -> Result<Awaited, Errno> {
        match self.table.get(fd)? {
            Descriptor::Stream { stream: Stream::Input, .. } | Descriptor::Directory { .. } => {
                Err(Errno::Badf)
            }
            Descriptor::Stream { stream, .. } => Ok(Awaited::Stream(*stream)),
            Descriptor::File(_) => Ok(Awaited::FileWrite),
        }
    }
}

/// When a clock subscription happens, on the monotonic clock. Nobody can wait for CPU time that is not used
/// while waiting: `ENOTSUP`.
fn time(record: &[u8; SUBSCRIPTION_BYTES as usize], begin: Begin) -> Result<u64, Errno> {
    let timeout_ns = u64_at(record, 24);
    let wait_ns = match (clock_kind(u32_at(record, 16))?, u16::from_le_bytes([record[40], record[41]])) {
        (ClockKind::Cpu, _) => return Err(Errno::Notsup),
        (_, 0) => timeout_ns,
        (ClockKind::Monotonic, CLOCK_ABSOLUTE) => return Ok(timeout_ns),
        (ClockKind::Wall, CLOCK_ABSOLUTE) => timeout_ns.saturating_sub(begin.wall_ns),
        _ => return Err(Errno::Inval),
    };
    Ok(begin.monotonic_ns.saturating_add(wait_ns))
}
