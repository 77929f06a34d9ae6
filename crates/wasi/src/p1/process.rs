//! Arguments, environment, time, chance, and what a process says about itself.

use super::types::clock;
use super::{Memory, PIECE_BYTES, State};
use crate::provider::{ClockKind, Host};
use crate::{Errno, Result};
use alloc::vec::Vec;

impl<H: Host> State<H> {
    pub(super) fn args_get(&mut self, memory: &mut Memory<'_>, argv: u32, argv_buf: u32) -> Result<()> {
        Ok(put_strings(memory, &self.arguments, argv, argv_buf)?)
    }

    pub(super) fn args_sizes_get(&mut self, memory: &mut Memory<'_>, count: u32, bytes: u32) -> Result<()> {
        Ok(put_sizes(memory, &self.arguments, count, bytes)?)
    }

    pub(super) fn environ_get(
        &mut self,
        memory: &mut Memory<'_>,
        environ: u32,
        environ_buf: u32,
    ) -> Result<()> {
        Ok(put_strings(memory, &self.environment, environ, environ_buf)?)
    }

    pub(super) fn environ_sizes_get(
        &mut self,
        memory: &mut Memory<'_>,
        count: u32,
        bytes: u32,
    ) -> Result<()> {
        Ok(put_sizes(memory, &self.environment, count, bytes)?)
    }

    pub(super) fn clock_res_get(
        &mut self,
        memory: &mut Memory<'_>,
        clock: u32,
        resolution: u32,
    ) -> Result<()> {
        let resolution = memory.place(resolution, 8)?;
        let ns = self.host.clock().resolution_ns(clock_kind(clock)?)?;
        memory.put(resolution, ns.to_le_bytes());
        Ok(())
    }

    pub(super) fn clock_time_get(
        &mut self,
        memory: &mut Memory<'_>,
        clock: u32,
        _precision: u64,
        time: u32,
    ) -> Result<()> {
        let time = memory.place(time, 8)?;
        let now = self.now(clock_kind(clock)?)?;
        memory.put(time, now.to_le_bytes());
        Ok(())
    }

    /// The time on a clock, in nanoseconds.
    pub(super) fn now(&mut self, clock: ClockKind) -> Result<u64> {
        let clocks = self.host.clock();
        match clock {
            ClockKind::Wall => clocks.wall_ns(),
            ClockKind::Monotonic => clocks.monotonic_ns(),
            ClockKind::Cpu => clocks.cpu_ns(),
        }
    }

    pub(super) fn random_get(&mut self, memory: &mut Memory<'_>, buffer: u32, length: u32) -> Result<()> {
        for piece in memory.bytes_mut(buffer, length)?.chunks_mut(PIECE_BYTES) {
            self.host.wait().checkpoint()?;
            self.host.entropy().fill(piece)?;
        }
        Ok(())
    }

    /// Signals do not exist: `ENOTSUP`. A program ends itself with `proc_exit`.
    pub(super) fn proc_raise(&mut self, _: &mut Memory<'_>, _signal: u32) -> Result<()> {
        Err(Errno::Notsup.into())
    }

    pub(super) fn sched_yield(&mut self, _: &mut Memory<'_>) -> Result<()> {
        Ok(self.host.wait().give_way()?)
    }
}

/// Which clock a program means; the only thread's CPU time is the process's.
pub(super) fn clock_kind(clock: u32) -> Result<ClockKind, Errno> {
    match clock {
        clock::REALTIME => Ok(ClockKind::Wall),
        clock::MONOTONIC => Ok(ClockKind::Monotonic),
        clock::PROCESS_CPU | clock::THREAD_CPU => Ok(ClockKind::Cpu),
        _ => Err(Errno::Inval),
    }
}

/// Writes an array of pointers at `array`, and what they point to, each with a NUL, at `buffer`.
fn put_strings(memory: &mut Memory<'_>, strings: &[Vec<u8>], array: u32, buffer: u32) -> Result<(), Errno> {
    let count = u32::try_from(strings.len()).map_err(|_| Errno::Overflow)?;
    memory.check_list(array, count, 4, 4)?;
    let mut at = buffer;
    for (index, string) in (0..count).zip(strings) {
        let place = memory.place(array + index * 4, 4)?;
        memory.put(place, at.to_le_bytes());
        let length = u32::try_from(string.len()).map_err(|_| Errno::Overflow)?;
        memory.bytes_mut(at, length)?.copy_from_slice(string);
        let end = at.checked_add(length).ok_or(Errno::Fault)?;
        memory.bytes_mut(end, 1)?.fill(0);
        at = end.checked_add(1).ok_or(Errno::Fault)?;
    }
    Ok(())
}

fn put_sizes(memory: &mut Memory<'_>, strings: &[Vec<u8>], count: u32, bytes: u32) -> Result<(), Errno> {
    let (count, bytes) = (memory.place(count, 4)?, memory.place(bytes, 4)?);
    let total: usize = strings.iter().map(|string| string.len() + 1).sum();
    let total = u32::try_from(total).map_err(|_| Errno::Overflow)?;
    let number = u32::try_from(strings.len()).map_err(|_| Errno::Overflow)?;
    memory.put(count, number.to_le_bytes());
    memory.put(bytes, total.to_le_bytes());
    Ok(())
}
