//! The kernel and the address space, for everything in the library OS.

use crate::current;
use crate::reserve::Reserve;
use crate::scheduler::Processes;
use crate::slots::Slots;
use crate::space::Space;
use crate::stack::IdleStacks;
use crate::vcpu::{self, Vcpu};
use abi::boot::ClockParameters;
use abi::{
    Backing, BootInfo, Commit, Error, Handle, Kernel, PAGE_SIZE, Protection, Request, Span, VCPUS_MAX,
};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Release},
};
use spin::{Mutex, Once};

/// Address space at the start of the window that the heap may grow into.
pub const HEAP_SPAN_BYTES: u64 = 64 << 30;

static SYSTEM: Once<System> = Once::new();

/// What the library OS runs on: set up once, at the start.
pub struct System {
    kernel: &'static (dyn Kernel + Sync),
    space_handle: Handle,
    module: Span,
    clock: ClockParameters,
    /// Through [`System::with_space`].
    space: Mutex<Space>,
    /// What the kernel did not unmap.
    refused_unmaps: Mutex<Vec<Span>>,
    slots: Mutex<Slots>,
    idle_stacks: Mutex<IdleStacks>,
    /// The virtual CPUs that are in [`System::give_back_pages`], as bits.
    giving_back: AtomicU32,
    processes: Mutex<Processes>,
    /// The virtual CPUs, by their numbers.
    vcpus: [Once<&'static Vcpu>; VCPUS_MAX],
    /// One for each virtual CPU, by their numbers.
    reserves: [Reserve; VCPUS_MAX],
    /// A process wants something of the platform.
    asked: AtomicBool,
}

impl System {
    /// Sets the library OS up on `kernel`, as `boot` describes it. The heap has its part of the window already.
    pub fn install(kernel: &'static (dyn Kernel + Sync), boot: &BootInfo) -> &'static System {
        SYSTEM.call_once(|| System::new(kernel, boot))
    }

    pub(crate) fn new(kernel: &'static (dyn Kernel + Sync), boot: &BootInfo) -> System {
        let window =
            Span::new(boot.window.base + HEAP_SPAN_BYTES, boot.window.length.saturating_sub(HEAP_SPAN_BYTES));
        let first = Vcpu::current();
        first.set_handle(boot.vcpu);
        let vcpus = [const { Once::new() }; VCPUS_MAX];
        vcpus[0].call_once(|| first);
        System {
            vcpus,
            kernel,
            space_handle: boot.space,
            module: boot.module,
            clock: boot.clock,
            space: Mutex::new(Space::new(window)),
            refused_unmaps: Mutex::new(Vec::new()),
            slots: Mutex::new(Slots::default()),
            idle_stacks: Mutex::new(IdleStacks::default()),
            giving_back: AtomicU32::new(0),
            processes: Mutex::new(Processes::default()),
            reserves: [const { Reserve::new() }; VCPUS_MAX],
            asked: AtomicBool::new(false),
        }
    }

    /// The system, if it is set up.
    pub fn get() -> Option<&'static System> {
        SYSTEM.get()
    }

    /// The kernel.
    pub fn kernel(&self) -> &'static (dyn Kernel + Sync) {
        self.kernel
    }

    /// The virtual CPUs, by their numbers.
    pub(crate) fn vcpus(&self) -> impl Iterator<Item = &'static Vcpu> {
        self.vcpus.iter().map_while(|vcpu| vcpu.get().copied())
    }

    /// Makes a virtual CPU, which does not run yet. For the first one to call.
    ///
    /// # Errors
    /// If there are [`VCPUS_MAX`], or as many as the domain may have.
    pub fn add_vcpu(&self) -> Result<&'static Vcpu, Error> {
        let number = self.vcpus().count();
        let place = self.vcpus.get(number).ok_or(Error::TableFull)?;
        let vcpu = Box::leak(Box::new(Vcpu::new(number)));
        let handle = self.kernel.call(Request::CreateVcpu { domain: self.space_handle })?;
        vcpu.set_handle(Handle::from_raw(handle));
        if self.reserves[0].is_there() {
            self.reserves[number].hold(self)?;
        }
        for vcpu in self.vcpus().take(1).filter(|_| number == 1).chain([&*vcpu]) {
            let create = Request::CreateEvent { vcpu: vcpu.handle(), event: vcpu::WAKE_EVENT };
            vcpu.set_event(Handle::from_raw(self.kernel.call(create)?));
        }
        Ok(place.call_once(|| vcpu))
    }

    /// Has the first virtual CPU look at what happened, if another runs this.
    pub fn call_first(&self) {
        if Vcpu::current().number() != 0 {
            self.vcpus().take(1).for_each(|first| first.poke(self));
        }
    }

    /// Has [`crate::Platform::serve`] called: for a process that has left word of what it wants, and waits next; or for the platform itself, if it
    /// has not served all. Then whoever is ready has a turn before.
    pub fn ask(&self) {
        self.asked.store(true, Release);
        self.call_first();
    }

    /// Whether somebody has asked since the last time.
    pub(crate) fn take_asked(&self) -> bool {
        self.asked.swap(false, Acquire)
    }

    /// Whether somebody has.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Acquire)
    }

    /// The virtual CPU that runs this.
    pub fn vcpu(&self) -> Handle {
        Vcpu::current().handle()
    }

    /// The boot module, whose pages can be mapped as images.
    pub fn module(&self) -> Span {
        self.module
    }

    /// The linear-memory slots.
    pub fn slots(&self) -> &Mutex<Slots> {
        &self.slots
    }

    pub(crate) fn idle_stacks(&self) -> &Mutex<IdleStacks> {
        &self.idle_stacks
    }

    /// Gives back the pages that are only kept so that the next instances and processes begin sooner. Whether there were any. An upcall may do
    /// this: what somebody looks at just now is left.
    pub(crate) fn give_back_pages(&self) -> bool {
        let own = 1 << Vcpu::current().number();
        let others = self.giving_back.fetch_or(own, Acquire);
        if others & own != 0 {
            return false;
        }
        let of_slots = self.slots.try_lock().is_some_and(|mut slots| slots.give_back_pages(self));
        let of_stacks = self.idle_stacks.try_lock().is_some_and(|mut stacks| stacks.give_back_pages(self));
        self.giving_back.fetch_and(!own, Release);
        // What another virtual CPU is giving back just now is there in a moment.
        of_slots | of_stacks | (others != 0)
    }

    /// The processes. Whoever has them does not suspend itself.
    pub fn processes(&self) -> &Mutex<Processes> {
        &self.processes
    }

    /// Does something with the free address space. The list of it is for all, and whoever has it must not be taken out of the engine where that
    /// becomes longer ([`crate::trap::leave_engine`]): the lock would stay.
    fn with_space<T>(&self, operation: impl FnOnce(&mut Space) -> T) -> T {
        current::uncharged(|| operation(&mut self.space.lock()))
    }

    /// Takes address space and declares a region there.
    pub fn map_new(&self, length: u64, protection: Protection, commit: Commit) -> Result<Span, Error> {
        let span = self.take_space(length.next_multiple_of(PAGE_SIZE)).ok_or(Error::NoMemory)?;
        self.map(span, Backing::Zero, protection, commit).inspect_err(|_| self.give_back_space(span))?;
        Ok(span)
    }

    /// How much address space nobody uses: stacks that wait for another owner count as free.
    pub fn free_space_bytes(&self) -> u64 {
        self.with_space(|space| space.free_bytes()) + self.idle_stacks.lock().space_bytes()
    }

    /// Takes address space in which nothing is mapped yet.
    pub fn take_space(&self, length: u64) -> Option<Span> {
        self.with_space(|space| space.take(length))
    }

    /// The same, at a multiple of its length, a power of two.
    pub(crate) fn take_aligned_space(&self, length: u64) -> Option<Span> {
        self.with_space(|space| space.take_aligned(length, length))
    }

    /// Gives address space back in which nothing is mapped.
    pub(crate) fn give_back_space(&self, span: Span) {
        self.with_space(|space| space.give_back(span));
    }

    /// Ends a region of [`System::map_new`]. If the kernel refuses that, it is tried again when it has agreed to another: until then the
    /// address space is nobody's.
    pub fn unmap(&self, span: Span) -> Result<(), Error> {
        let end = |span| self.kernel.call(Request::Unmap { space: self.space_handle, span });
        let mut refused = self.refused_unmaps.lock();
        if let Err(error) = end(span) {
            if current::uncharged(|| refused.try_reserve(1)).is_ok() {
                refused.push(span);
            }
            return Err(error);
        }
        self.give_back_space(span);
        while let Some(again) = refused.last().copied().filter(|again| end(*again).is_ok()) {
            refused.pop();
            self.give_back_space(again);
        }
        Ok(())
    }

    /// Declares a region at a place that is ours already. Answers with the physical address for device memory.
    pub fn map(
        &self,
        span: Span,
        backing: Backing,
        protection: Protection,
        commit: Commit,
    ) -> Result<u64, Error> {
        let request = Request::Map { space: self.space_handle, span, backing, protection, commit };
        match self.kernel.call(request) {
            Err(Error::NoMemory) if self.give_back_pages() => self.kernel.call(request),
            answer => answer,
        }
    }

    /// Changes access.
    pub fn protect(&self, span: Span, protection: Protection) -> Result<(), Error> {
        self.kernel.call(Request::Protect { space: self.space_handle, span, protection }).map(drop)
    }

    /// Gives private pages back.
    pub fn reset(&self, span: Span) -> Result<(), Error> {
        self.kernel.call(Request::Reset { space: self.space_handle, span }).map(drop)
    }

    /// Takes a reserve from the quota for each virtual CPU, those that are yet to come as well, for a platform where pages can run out.
    ///
    /// # Errors
    /// If there is no memory for one.
    pub fn hold_reserves(&self) -> Result<(), Error> {
        self.reserves[..self.vcpus().count()].iter().try_for_each(|reserve| reserve.hold(self))
    }

    /// Those that there are.
    fn reserves(&self) -> impl Iterator<Item = &Reserve> {
        self.reserves.iter().take_while(|reserve| reserve.is_there())
    }

    /// Takes again what was given up of them, as far as there is memory.
    pub(crate) fn renew_reserves(&self) {
        self.reserves().for_each(|reserve| reserve.renew(self));
    }

    /// Whether nothing is short: the reserves are held, or can be taken again, or this platform has none.
    pub fn has_reserves(&self) -> bool {
        self.renew_reserves();
        self.reserves().all(Reserve::is_whole)
    }

    /// Gives a page of this virtual CPU's reserve up, in an upcall. Whether there was one.
    pub(crate) fn spend_reserve(&self) -> bool {
        self.reserves[Vcpu::current().number()].spend(self)
    }

    /// Gives up a page whose address space stays ours. Whether the kernel has it.
    pub(crate) fn unmap_page(&self, span: Span) -> bool {
        self.kernel.call(Request::Unmap { space: self.space_handle, span }).is_ok()
    }

    /// Sleeps until an event comes, or until `deadline_ns`. Events are taken, and not told.
    pub fn wait(&self, deadline_ns: u64) {
        let _ = self.kernel.call(Request::Wait { vcpu: self.vcpu(), deadline_ns });
    }

    /// Asks for a tick upcall at `deadline_ns`.
    pub fn set_timer(&self, deadline_ns: u64) {
        // The only refusals are for handles, and ours is the kernel's own.
        let _ = self.kernel.call(Request::SetTimer { vcpu: self.vcpu(), deadline_ns });
    }

    /// How long this virtual CPU has run, in nanoseconds: a clock that stands while others have the CPU. To look at it is a request.
    pub fn cpu_time_ns(&self) -> u64 {
        // The only refusals are for handles, and ours is the kernel's own.
        self.kernel.call(Request::CpuTime { vcpu: self.vcpu() }).unwrap_or(0)
    }

    /// The kernel's clock, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        if self.clock.multiplier != 0 {
            return self.clock.nanoseconds(crate::thread::counter());
        }
        self.kernel.call(Request::Now { vcpu: self.vcpu() }).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::current::{Control, Turn};
    use crate::fake::{FakeKernel, longest_charged};
    use crate::process::Limits;

    #[test]
    fn what_is_refused_takes_no_address_space() {
        let kernel = FakeKernel::new(&[], 1 << 20);
        let system = kernel.system();
        let before = system.map_new(PAGE_SIZE, Protection::ReadWrite, Commit::OnTouch).unwrap();
        system.unmap(before).unwrap();
        assert_eq!(system.map_new(2 << 20, Protection::ReadWrite, Commit::Now), Err(Error::NoMemory));
        let after = system.map_new(PAGE_SIZE, Protection::ReadWrite, Commit::OnTouch).unwrap();
        assert_eq!(after, before);
        system.unmap(after).unwrap();
        assert_eq!(kernel.mapped_bytes(), 0);
    }

    #[test]
    fn what_could_not_be_unmapped_is_unmapped_later() {
        let kernel = FakeKernel::new(&[], 1 << 20);
        let system = kernel.system();
        let free_bytes = system.free_space_bytes();
        let new = || system.map_new(PAGE_SIZE, Protection::ReadWrite, Commit::OnTouch).unwrap();
        let spans = [new(), new(), new()];
        kernel.refuse_unmaps(true);
        assert_eq!(spans.map(|span| system.unmap(span)), [Err(Error::TableFull); 3]);
        let another = new();
        assert!(!spans.contains(&another), "who had it may still be seen there");
        kernel.refuse_unmaps(false);
        system.unmap(another).unwrap();
        assert_eq!((kernel.mapped_bytes(), system.free_space_bytes()), (0, free_bytes));
    }

    #[test]
    fn the_list_of_free_address_space_is_charged_to_nobody() {
        const STRETCHES: usize = 3000;
        let system = FakeKernel::new(&[], 1 << 20).system();
        let control = Control::new(None, Span::new(0, PAGE_SIZE), Limits::NONE, 0);
        let pages: Vec<Span> = (0..2 * STRETCHES).map(|_| system.take_space(PAGE_SIZE).unwrap()).collect();
        let give_back = || pages.iter().step_by(2).for_each(|page| system.give_back_space(*page));
        let turn = Turn { began_ns: 0, cpu_ns: 0 };
        assert_eq!(longest_charged(|| current::run(system, &control, turn, give_back)), 0);
    }

    #[test]
    fn a_reserve_is_given_up_page_by_page() {
        let kernel = FakeKernel::new(&[], 1 << 20);
        let system = kernel.system();
        system.renew_reserves();
        assert!(!system.spend_reserve(), "none is held yet");
        assert!(system.has_reserves(), "nor is any needed");
        system.hold_reserves().unwrap();
        assert_eq!(kernel.committed_bytes(), Reserve::BYTES);
        assert!(system.spend_reserve() && system.spend_reserve());
        assert_eq!(kernel.committed_bytes(), Reserve::BYTES - 2 * PAGE_SIZE);
        let rest = system
            .map_new((1 << 20) - Reserve::BYTES + PAGE_SIZE, Protection::ReadWrite, Commit::Now)
            .unwrap();
        assert!(!system.has_reserves());
        assert_eq!(kernel.committed_bytes(), 1 << 20, "what there is is taken");
        for left in (0..Reserve::BYTES / PAGE_SIZE - 1).rev() {
            assert!(system.spend_reserve());
            assert_eq!(kernel.committed_bytes(), rest.length + left * PAGE_SIZE);
        }
        assert!(!system.spend_reserve(), "there is no more");
        system.unmap(rest).unwrap();
        assert!(system.has_reserves());
        // Each virtual CPU has its own.
        system.add_vcpu().unwrap();
        assert_eq!(kernel.committed_bytes(), 2 * Reserve::BYTES);
        let poor = FakeKernel::new(&[], Reserve::BYTES - PAGE_SIZE);
        assert_eq!(poor.system().hold_reserves(), Err(Error::NoMemory));
    }

    #[test]
    fn the_clock_and_the_timer_are_the_kernels() {
        let system = FakeKernel::new(&[], 0).system();
        let first = system.now_ns();
        system.set_timer(first + 1000);
        assert!(system.now_ns() > first);
    }
}
