//! What a domain has for the processes that others start: the numbers that the root knows them by, and their memory.

use crate::programs::Refused;
use crate::report::printable;
use crate::{children, console};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use core::ops::Range;
use link::{FAILED_CHILDREN_MAX, Process};
use wasi::Errno;
use wasi::provider::{ChildCause, ChildEnd};

/// What the domain has for children: the numbers that the root knows them by, and their memory.
pub struct Nursery {
    quota: bundle::Children,
    /// What those that live may use.
    promised_bytes: u64,
    /// Numbers that were not given yet.
    fresh: Range<u32>,
    /// Numbers that can be given again.
    free: BTreeSet<u32>,
    /// The same of those that had failed, the first that did first. With its number what is known of a process is gone.
    failed: VecDeque<u32>,
    /// Numbers of those that have ended, and how; the root has not heard of it yet.
    leaving: BTreeMap<u32, ChildEnd>,
    /// Programs that cannot be run.
    broken: BTreeSet<u32>,
}

impl Nursery {
    /// For so many.
    pub fn new(quota: bundle::Children) -> Self {
        let fresh = quota.first_number..quota.first_number.saturating_add(quota.numbers());
        Self {
            quota,
            promised_bytes: 0,
            fresh,
            free: BTreeSet::new(),
            failed: VecDeque::new(),
            leaving: BTreeMap::new(),
            broken: BTreeSet::new(),
        }
    }

    /// Whether there is a number to be given: if not, the root has yet to hear of ends.
    pub fn has_number(&self) -> bool {
        !self.free.is_empty() || !self.fresh.is_empty() || !self.failed.is_empty()
    }

    /// Whether there may be another one, which is promised so much memory.
    pub fn check(&self, bytes: u64) -> Result<(), Errno> {
        children::with(|families| families.has_room())?;
        let promised_bytes = self.promised_bytes.saturating_add(bytes);
        if promised_bytes > self.quota.memory_bytes_max { Err(Errno::Nomem) } else { Ok(()) }
    }

    /// Has a program loaded; `ENOEXEC` if it never can be, and then it is not tried again: that would cost others time.
    pub fn load<T>(&mut self, program: u32, load: impl FnOnce() -> Result<T, Refused>) -> Result<T, Errno> {
        if self.broken.contains(&program) {
            return Err(Errno::Noexec);
        }
        load().map_err(|refused| match refused {
            Refused::Never(why) => {
                self.broken.insert(program);
                console::log(&format!("a program cannot be started: {}\n", printable(&why)));
                Errno::Noexec
            }
            Refused::NoMemory(_) => Errno::Nomem,
        })
    }

    /// Gives another one its number, and promises it its memory. A list of all is short if low numbers come again; but where one
    /// has failed, that is to be seen until many others have.
    pub fn admit(&mut self, bytes: u64) -> Result<Process, Errno> {
        let number = self.free.pop_first().or_else(|| self.fresh.next()).or_else(|| self.failed.pop_front());
        let number = number.ok_or(Errno::Again)?;
        self.promised_bytes += bytes;
        Ok(Process(number))
    }

    /// One that was admitted did not begin.
    pub fn refuse(&mut self, Process(number): Process, bytes: u64) {
        self.promised_bytes -= bytes;
        self.free.insert(number);
    }

    /// One has ended. Its number is not given again before [`Self::free`].
    pub fn leave(&mut self, Process(number): Process, bytes: u64, end: ChildEnd) {
        self.promised_bytes -= bytes;
        self.leaving.insert(number, end);
    }

    /// The root has heard of the end of one.
    pub fn free(&mut self, Process(number): Process) {
        match self.leaving.remove(&number) {
            Some(ChildEnd { cause: ChildCause::Killed, .. } | ChildEnd { status: 0, .. }) => {
                self.free.insert(number);
            }
            Some(_) => {
                self.failed.push_back(number);
                // Of those before it the root knows nothing any more.
                if self.failed.len() > FAILED_CHILDREN_MAX {
                    self.free.extend(self.failed.pop_front());
                }
            }
            None => {}
        }
    }
}
