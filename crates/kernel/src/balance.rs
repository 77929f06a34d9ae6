//! How virtual CPUs go from one CPU's queue to another's, so that each has its share of all CPUs that it may run on; and how those of a domain
//! have its budget together.

use crate::kernel::{Cpu, Kernel, first_of};
use crate::machine::Machine;
use crate::schedule::{Entry, Queue, Run};
use crate::table::VcpuId;
use crate::trace::Event;
use abi::trace::Kind;
use core::sync::atomic::Ordering::SeqCst;

impl<M: Machine> Kernel<M> {
    /// Whether another should run here than the one that does, from this queue or another.
    pub(crate) fn must_switch(&self, cpu: &Cpu, now_ns: u64) -> bool {
        let queue = &self.seats[cpu.number].queue;
        let (look, is_short) = {
            let mut queue = queue.lock();
            if queue.advance(now_ns) {
                return true;
            }
            (now_ns >= queue.look_ns(), queue.is_short)
        };
        if is_short {
            self.lend_all(cpu.number, now_ns);
            if queue.lock().advance(now_ns) {
                return true;
            }
        }
        look && self.is_waited_elsewhere(cpu.number) && self.better(cpu.number, now_ns).is_some()
    }

    pub(crate) fn is_waited_elsewhere(&self, here: usize) -> bool {
        self.waited.load(SeqCst) & !(1 << here) != 0
    }

    /// Takes one that waits for another CPU and should rather run here than those that can.
    pub(crate) fn steal(&self, cpu: &Cpu, now_ns: u64) {
        let here = cpu.number;
        let Some((from, Entry { vcpu: id, .. })) = self.better(here, now_ns) else { return };
        let Some(mut vcpu) = self.vcpus.lock(id).filter(|vcpu| vcpu.home == from) else { return };
        let taken = {
            let mut queue = self.seats[from].queue.lock();
            if queue.spare(here).is_none_or(|spare| spare.vcpu != id) {
                return;
            }
            queue.remove(id)
        };
        let Some(taken) = taken else { return };
        if self.seats[here].queue.lock().take(taken).is_err() {
            // There is room: it was there a moment ago.
            let _ = self.seats[from].queue.lock().take(taken);
            return;
        }
        vcpu.home = here;
        self.trace(cpu, |_| Event::of_vcpu(Kind::Steal, (vcpu.domain, id), from as u32, 0));
    }

    /// One that begins to run, of a domain with several, has its share together with those of them that want to run, and goes on where the
    /// furthest of the others has stopped.
    pub(crate) fn weigh(&self, here: usize, id: VcpuId, share: u64) {
        let (mut count, mut furthest_ns) = (1, 0);
        self.each_sibling(id, &mut |queue, other| match queue.standing(other) {
            Some((Run::Blocked, virtual_ns)) => furthest_ns = furthest_ns.max(virtual_ns),
            Some(_) => count += 1,
            None => (),
        });
        self.seats[here].queue.lock().weigh(id, (share / count).max(1), furthest_ns);
    }

    /// Those here that have used up their part of their domain's budget have what is left of the parts of those that do not want to run.
    pub(crate) fn lend_all(&self, here: usize, now_ns: u64) {
        let mut from = 0;
        loop {
            let lacks = self.seats[here].queue.lock().lacks(from);
            let Some((at, id)) = lacks else { return };
            let mut lent_ns = 0;
            self.each_sibling(id, &mut |queue, other| lent_ns += queue.lend(other, now_ns));
            self.seats[here].queue.lock().borrow(id, lent_ns);
            from = at + 1;
        }
    }

    /// Shows the other virtual CPUs of one's domain, and the queues that they are in. Without the domain's lock, which another CPU may hold
    /// for long.
    fn each_sibling(&self, id: VcpuId, see: &mut dyn FnMut(&mut Queue, VcpuId)) {
        let mut next = self.vcpus.lock(id).and_then(|vcpu| vcpu.next);
        while let Some(other) = next.filter(|other| *other != id) {
            let Some(vcpu) = self.vcpus.lock(other) else { return };
            see(&mut self.seats[vcpu.home].queue.lock(), other);
            next = vcpu.next;
        }
    }

    /// One that waits for another CPU and should rather run here than those that do or can.
    fn better(&self, here: usize, now_ns: u64) -> Option<(usize, Entry)> {
        let spare = self.spare(here);
        let mut queue = self.seats[here].queue.lock();
        queue.look(spare.as_ref().map(|(_, entry)| entry), now_ns);
        spare.filter(|(_, entry)| queue.best().is_none_or(|best| entry.is_behind(best)))
    }

    /// The one that is the furthest behind of those that wait for other CPUs and may run here.
    pub(crate) fn spare(&self, here: usize) -> Option<(usize, Entry)> {
        let others = self.seats.iter().enumerate().filter(|&(number, _)| number != here);
        // A queue that is in use is being looked after.
        let spares = others.filter_map(|(number, seat)| Some((number, seat.queue.try_lock()?.spare(here)?)));
        spares.min_by_key(|(_, entry)| entry.virtual_ns())
    }

    /// Shows other CPUs whether one waits here that they could take, and tells those that do not look.
    pub(crate) fn show_waited(&self, here: usize, is_waited: bool) {
        let bit = 1 << here;
        let was_waited = self.waited.load(SeqCst) & bit != 0;
        if was_waited && !is_waited {
            self.waited.fetch_and(!bit, SeqCst);
        }
        if is_waited && !was_waited {
            self.waited.fetch_or(bit, SeqCst);
            self.attend(here, self.blind.fetch_and(bit, SeqCst) & !bit);
        }
        // Who falls asleep after this sees that one waits.
        if is_waited && self.idle.load(SeqCst) != 0 {
            self.ask(here, here);
        }
    }

    /// Asks CPUs that sleep to take those that wait at `home`, or that one to look if they may not.
    pub(crate) fn ask(&self, here: usize, home: usize) {
        let others = !(1 << here);
        let idle = self.idle.load(SeqCst) & others;
        let ask = |asked, entry: &Entry| asked | first_of(idle & entry.cpus, home);
        let asked = self.seats[home].queue.lock().waiting().fold(0, ask);
        self.attend(here, asked & others);
    }
}
