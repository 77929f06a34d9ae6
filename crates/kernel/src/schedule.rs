//! Who runs: one queue for each CPU.
//!
//! Of the virtual CPUs that can run, the one that has had the least time for its weight does, for a slice if others want to as
//! well. One that has used its budget up waits until that is renewed. A queue is a list that is looked through: a CPU has few virtual CPUs.
//!
//! Virtual times of all queues can be compared: a CPU takes one that waits elsewhere and is further behind than its own, so that shares
//! hold across CPUs.

use crate::table::{DomainId, VcpuId};
use abi::{DomainParameters, Error};
use alloc::vec::Vec;

/// The time that never comes.
pub(crate) const NEVER: u64 = abi::Request::NEVER;
/// How long one runs while others want to.
const SLICE_NS: u64 = 4_000_000;
/// One that wakes takes the CPU from another that is ahead of it by at least this, at weight 100.
const LEAD_NS: u64 = 1_000_000;
/// How long one runs at least before one that leads takes the CPU from it: what switching costs must stay small beside what it gets.
const RUN_MIN_NS: u64 = 200_000;
/// How far behind the others one may be that has slept: it does not get back what it did not use.
const CREDIT_NS: u64 = SLICE_NS;
/// How often a CPU looks at the other queues, if somebody waits there.
const LOOK_NS: u64 = 3 * SLICE_NS;
/// How far apart queues may be, in time of the one that is behind: what it could not use in time is not given back.
const APART_NS: u64 = 10 * SLICE_NS;
/// Virtual time goes by this much for each nanosecond at weight 1. The number that holds it lasts for five years of that.
const SCALE: u64 = DomainParameters::SHARE_DEFAULT;
/// The fewest entries that a queue has room for.
const ROOM_MIN: usize = 32;

/// What a queue knows of a virtual CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub vcpu: VcpuId,
    pub domain: DomainId,
    pub run: Run,
    /// When it wants to be woken or ticked.
    pub deadline_ns: u64,
    /// Its part of its domain's share.
    pub weight: u64,
    /// That share, if the domain has several virtual CPUs: those that want to run have it.
    pub divided: Option<u64>,
    /// The time that it has had, divided by its weight.
    virtual_ns: u64,
    pub budget: Option<Budget>,
    /// The CPUs that it may run on.
    pub cpus: u64,
    /// It is to leave the queue as soon as it does not run.
    pub stop: bool,
    /// How far the queue was when it woke, if it has not run since.
    woke_ns: u64,
    pub run_ns: u64,
    pub switches: u64,
}

/// Whether a virtual CPU wants to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    Blocked,
    Ready,
    Running,
}

/// The time that one may have in each period.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    each_ns: u64,
    left_ns: u64,
    /// What it ran beyond that, before the CPU looked: it goes off what comes.
    owed_ns: u64,
    renewed_ns: u64,
}

impl Budget {
    /// A budget of `each_ns` in each period, whole at `now_ns`.
    pub const fn new(each_ns: u64, now_ns: u64) -> Self {
        Self { each_ns, left_ns: each_ns, owed_ns: 0, renewed_ns: now_ns }
    }

    fn next_ns(&self) -> u64 {
        self.renewed_ns + DomainParameters::PERIOD_NS
    }

    fn renew(&mut self, now_ns: u64) {
        if now_ns >= self.next_ns() {
            let periods = (now_ns - self.renewed_ns) / DomainParameters::PERIOD_NS;
            let more_ns = self.each_ns.saturating_mul(periods);
            self.left_ns = more_ns.saturating_sub(self.owed_ns).min(self.each_ns);
            self.owed_ns = self.owed_ns.saturating_sub(more_ns);
            self.renewed_ns = now_ns;
        }
    }

    fn spend(&mut self, ran_ns: u64) {
        self.owed_ns += ran_ns.saturating_sub(self.left_ns);
        self.left_ns = self.left_ns.saturating_sub(ran_ns);
    }
}

impl Entry {
    /// One that does not run yet.
    pub const fn new(vcpu: VcpuId, domain: DomainId, weight: u64, budget: Option<Budget>, cpus: u64) -> Self {
        Self {
            divided: None,
            vcpu,
            domain,
            run: Run::Blocked,
            deadline_ns: NEVER,
            weight,
            virtual_ns: 0,
            budget,
            cpus,
            stop: false,
            woke_ns: 0,
            run_ns: 0,
            switches: 0,
        }
    }

    /// Virtual time in which it runs for `ns`.
    fn virtual_of(&self, ns: u64) -> u64 {
        ns * SCALE / self.weight
    }

    /// The time that it has had, divided by its weight.
    pub const fn virtual_ns(&self) -> u64 {
        self.virtual_ns
    }

    /// Whether it should rather run than `best`, which waits in another queue or runs there.
    pub fn is_behind(&self, best: &Self) -> bool {
        self.virtual_ns + self.virtual_of(SLICE_NS) < best.virtual_ns
    }

    pub fn can_run(&self) -> bool {
        self.run == Run::Ready && self.budget.is_none_or(|budget| budget.left_ns > 0)
    }

    fn is_throttled(&self) -> bool {
        self.run != Run::Blocked && self.budget.is_some_and(|budget| budget.left_ns == 0)
    }

    /// Whether it is, and others of its domain may have what it lacks.
    fn lacks(&self) -> bool {
        self.is_throttled() && self.divided.is_some() && !self.stop
    }
}

/// One CPU's queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: Vec<Entry>,
    /// How far the virtual time of one that ran has come: never goes back.
    virtual_ns: u64,
    /// Since when the one that runs has not been charged.
    since_ns: u64,
    /// When the one that runs got the CPU.
    picked_ns: u64,
    /// One that leads it has become ready since.
    is_challenged: bool,
    /// When time was last looked at, one lacked a budget which others of its domain may have.
    pub is_short: bool,
    /// When the CPU last looked at the other queues.
    looked_ns: u64,
    pub counters: Counters,
}

/// What has happened on a CPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub run_ns: u64,
    pub switches: u64,
    pub domain_switches: u64,
    pub interrupts: u64,
}

impl Queue {
    /// A queue with some room; `None` if there is no memory for it.
    pub fn new() -> Option<Self> {
        let mut queue = Self::default();
        queue.entries.try_reserve_exact(ROOM_MIN).ok()?;
        Some(queue)
    }

    /// Adds one that is new.
    pub fn add(&mut self, entry: Entry) -> Result<(), Error> {
        self.put(Entry { virtual_ns: self.virtual_ns, ..entry })
    }

    /// Adds one from another queue, which stays as far behind as it is, within bounds.
    pub fn take(&mut self, entry: Entry) -> Result<(), Error> {
        let here_ns = self.best().map_or(self.virtual_ns, |best| best.virtual_ns);
        let least_ns = here_ns.saturating_sub(entry.virtual_of(APART_NS));
        self.put(Entry { virtual_ns: entry.virtual_ns.max(least_ns), ..entry })
    }

    fn put(&mut self, entry: Entry) -> Result<(), Error> {
        if self.entries.len() == self.entries.capacity() {
            let room = self.entries.len();
            self.entries.try_reserve_exact(room).map_err(|_| Error::NoMemory)?;
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Takes one out, if it does not run.
    pub fn remove(&mut self, vcpu: VcpuId) -> Option<Entry> {
        let at = self.entries.iter().position(|entry| entry.vcpu == vcpu && entry.run != Run::Running)?;
        Some(self.entries.swap_remove(at))
    }

    /// Its entry.
    pub fn get(&mut self, vcpu: VcpuId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.vcpu == vcpu)
    }

    /// How long it has run until now.
    pub fn run_ns(&self, vcpu: VcpuId, now_ns: u64) -> Option<(u64, u64)> {
        let entry = self.entries.iter().find(|entry| entry.vcpu == vcpu)?;
        let running = if entry.run == Run::Running { now_ns.saturating_sub(self.since_ns) } else { 0 };
        Some((entry.run_ns + running, entry.switches))
    }

    /// What has happened until now.
    pub fn counters_at(&self, now_ns: u64) -> Counters {
        let running_ns = self.running().map_or(0, |_| now_ns.saturating_sub(self.since_ns));
        Counters { run_ns: self.counters.run_ns + running_ns, ..self.counters }
    }

    /// How many run or want to.
    pub fn ready_count(&self) -> usize {
        self.entries.iter().filter(|entry| entry.run != Run::Blocked).count()
    }

    /// Whether it runs or wants to, and its virtual time.
    pub fn standing(&mut self, vcpu: VcpuId) -> Option<(Run, u64)> {
        self.get(vcpu).map(|entry| (entry.run, entry.virtual_ns))
    }

    /// One that begins to run has another weight. If it slept it goes on where others of its domain have stopped meanwhile, but no further
    /// than the queue was when it woke.
    pub fn weigh(&mut self, vcpu: VcpuId, weight: u64, furthest_ns: u64) {
        if let Some(entry) = self.get(vcpu) {
            entry.weight = weight;
            let most_ns = core::mem::take(&mut entry.woke_ns);
            entry.virtual_ns = entry.virtual_ns.max(furthest_ns.min(most_ns));
        }
    }

    /// The first from `from` on that lacks what others of its domain may have, and where it is.
    pub fn lacks(&self, from: usize) -> Option<(usize, VcpuId)> {
        let at = from + self.entries.get(from..)?.iter().position(Entry::lacks)?;
        Some((at, self.entries.get(at)?.vcpu))
    }

    /// Takes what is left of the budget of one that does not want to run.
    pub fn lend(&mut self, vcpu: VcpuId, now_ns: u64) -> u64 {
        let entry = self.get(vcpu).filter(|entry| entry.run == Run::Blocked);
        let Some(budget) = entry.and_then(|entry| entry.budget.as_mut()) else { return 0 };
        budget.renew(now_ns);
        core::mem::take(&mut budget.left_ns)
    }

    /// Adds to a budget what others lent, until it is renewed.
    pub fn borrow(&mut self, vcpu: VcpuId, lent_ns: u64) {
        let running_ns = self.running().map(|running| running.virtual_ns);
        let Some(entry) = self.get(vcpu) else { return };
        if let Some(budget) = &mut entry.budget {
            budget.left_ns += lent_ns;
        }
        let leads = entry.can_run() && running_ns.is_some_and(|ns| leads(entry, ns));
        self.is_challenged |= leads;
    }

    /// Those that wait for their turn.
    pub fn waiting(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.can_run())
    }

    /// How heavy the CPU is laden: what waits for it, and how many it has.
    pub fn load(&self) -> (u64, usize) {
        (self.waiting().map(|entry| entry.weight).sum(), self.entries.len())
    }

    /// The one that is the furthest behind of those that run or can.
    pub fn best(&self) -> Option<&Entry> {
        let runs = |entry: &&Entry| entry.run == Run::Running || entry.can_run();
        self.entries.iter().filter(runs).min_by_key(|entry| entry.virtual_ns)
    }

    /// Notes that the CPU looks at the other queues now. One that waits there may be so far ahead of all here that these did not lack
    /// the CPU: they are brought near.
    pub fn look(&mut self, other: Option<&Entry>, now_ns: u64) {
        self.looked_ns = now_ns;
        let (Some(best), Some(other)) = (self.best(), other) else { return };
        let apart_ns = best.virtual_of(APART_NS).max(other.virtual_of(APART_NS));
        let more_ns = other.virtual_ns.saturating_sub(best.virtual_ns).saturating_sub(apart_ns);
        self.virtual_ns += more_ns;
        self.entries.iter_mut().for_each(|entry| entry.virtual_ns += more_ns);
    }

    /// When the CPU has to look at the other queues, if somebody waits there.
    pub fn look_ns(&self) -> u64 {
        self.looked_ns + LOOK_NS
    }

    /// Makes one ready that slept. Answers whether the CPU has to look: it should have it now, or from when its budget is renewed.
    pub fn wake(&mut self, vcpu: VcpuId, now_ns: u64) -> bool {
        self.charge(now_ns);
        let floor = self.virtual_ns.saturating_sub(CREDIT_NS * SCALE / DomainParameters::SHARE_DEFAULT);
        let woke_ns = self.virtual_ns;
        let Some(entry) = self.get(vcpu).filter(|entry| entry.run == Run::Blocked) else { return false };
        entry.run = Run::Ready;
        entry.virtual_ns = entry.virtual_ns.max(floor);
        entry.woke_ns = woke_ns;
        let woken = *entry;
        let has_it =
            woken.can_run() && self.running().is_none_or(|running| leads(&woken, running.virtual_ns));
        self.is_challenged |= has_it;
        woken.is_throttled() || has_it
    }

    /// Wakes those whose time has come, renews budgets, and answers whether another should run than the one that does.
    pub fn advance(&mut self, now_ns: u64) -> bool {
        self.charge(now_ns);
        let floor = self.virtual_ns.saturating_sub(CREDIT_NS * SCALE / DomainParameters::SHARE_DEFAULT);
        let running_ns = self.running().map(|running| running.virtual_ns);
        let mut is_challenged = self.is_challenged;
        self.is_short = false;
        for entry in &mut self.entries {
            let could_run = entry.can_run();
            let was_throttled = entry.is_throttled();
            if let Some(budget) = &mut entry.budget {
                budget.renew(now_ns);
            }
            if was_throttled {
                entry.virtual_ns = entry.virtual_ns.max(floor);
            }
            if entry.run == Run::Blocked && entry.deadline_ns <= now_ns {
                entry.run = Run::Ready;
                entry.virtual_ns = entry.virtual_ns.max(floor);
                entry.woke_ns = self.virtual_ns;
            }
            self.is_short |= entry.lacks();
            is_challenged |= !could_run && entry.can_run() && running_ns.is_some_and(|ns| leads(entry, ns));
        }
        self.is_challenged = is_challenged;
        let ran_ns = now_ns.saturating_sub(self.picked_ns);
        let switch = self.must_switch(ran_ns);
        if !switch && ran_ns >= RUN_MIN_NS {
            self.is_challenged = false;
        }
        if !switch && ran_ns >= SLICE_NS {
            self.picked_ns = now_ns;
        }
        switch
    }

    /// Whether the one that runs has to make room.
    fn must_switch(&self, ran_ns: u64) -> bool {
        let Some(running) = self.running() else { return true };
        let challenged = |entry: &Entry| {
            entry.can_run()
                && (self.is_challenged && ran_ns >= RUN_MIN_NS && leads(entry, running.virtual_ns)
                    || ran_ns >= SLICE_NS && entry.virtual_ns <= running.virtual_ns)
        };
        running.stop || running.is_throttled() || self.entries.iter().any(challenged)
    }

    /// The one that runs does no more, and wants to (`Ready`) or not. Whether it stays in the queue: not if it was told to stop.
    pub fn put_back(&mut self, run: Run, now_ns: u64) {
        self.charge(now_ns);
        let Some(at) = self.entries.iter().position(|entry| entry.run == Run::Running) else { return };
        self.entries[at].run = run;
        if self.entries[at].stop {
            self.entries.swap_remove(at);
        }
    }

    /// The one that runs next: it is marked so.
    pub fn pick(&mut self, now_ns: u64) -> Option<Entry> {
        let candidates = self.entries.iter_mut().filter(|entry| entry.can_run());
        let entry = candidates.min_by_key(|entry| entry.virtual_ns)?;
        entry.run = Run::Running;
        entry.switches += 1;
        self.virtual_ns = self.virtual_ns.max(entry.virtual_ns);
        (self.since_ns, self.picked_ns, self.is_challenged) = (now_ns, now_ns, false);
        self.counters.switches += 1;
        Some(*entry)
    }

    /// One that waits here and may run on `cpu`, for that one to take.
    pub fn spare(&self, cpu: usize) -> Option<Entry> {
        let fits = |entry: &&Entry| !entry.stop && entry.cpus >> cpu & 1 != 0;
        self.waiting().filter(fits).min_by_key(|entry| entry.virtual_ns).copied()
    }

    /// When the CPU has to look again, and the CPUs that those which wait may run on, as bits.
    pub fn alarm(&self) -> (u64, u64) {
        let mut cpus = 0;
        let mut alarm_ns = NEVER;
        for entry in &self.entries {
            match entry.run {
                Run::Ready if entry.can_run() => cpus |= entry.cpus,
                Run::Ready => (),
                Run::Blocked | Run::Running => alarm_ns = alarm_ns.min(entry.deadline_ns),
            }
            if let Some(budget) = entry.budget {
                if entry.run == Run::Running {
                    alarm_ns = alarm_ns.min(self.since_ns.saturating_add(budget.left_ns));
                } else if entry.is_throttled() {
                    alarm_ns = alarm_ns.min(budget.next_ns());
                }
            }
        }
        let slice_ns = if self.is_challenged { RUN_MIN_NS } else { SLICE_NS };
        (if cpus == 0 { alarm_ns } else { alarm_ns.min(self.picked_ns + slice_ns) }, cpus)
    }

    #[cfg(test)]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn running(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.run == Run::Running)
    }

    /// Charges the one that runs for its time.
    fn charge(&mut self, now_ns: u64) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.run == Run::Running) else { return };
        let ran_ns = now_ns.saturating_sub(self.since_ns);
        self.since_ns = now_ns;
        entry.run_ns += ran_ns;
        entry.virtual_ns += ran_ns.saturating_mul(SCALE) / entry.weight;
        self.virtual_ns = self.virtual_ns.max(entry.virtual_ns);
        if let Some(budget) = &mut entry.budget {
            budget.spend(ran_ns);
        }
        self.counters.run_ns += ran_ns;
    }
}

/// Whether one is so far behind the one that runs that it takes the CPU from it.
const fn leads(entry: &Entry, running_ns: u64) -> bool {
    entry.virtual_ns + LEAD_NS * SCALE / DomainParameters::SHARE_DEFAULT < running_ns
}
