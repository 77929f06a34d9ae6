//! Free frames for all CPUs: the pool behind a lock, and before it a few frames at hand for each CPU.

use crate::frames::Pool;
use crate::percpu;
use crate::tlb::Relax;
use kernel::Frame;
use spin::mutex::TicketMutex;

/// Frames that a CPU keeps at most, and how many it takes or gives at once.
const CACHE_FRAMES: usize = 64;
const BATCH: usize = CACHE_FRAMES / 2;

/// The machine's free frames, but for those in the caches.
pub static POOL: TicketMutex<Pool<'static>, Relax> = TicketMutex::new(Pool::new());

/// Frames at hand. Its own CPU's, but others empty it when there are no others left; they wait for nobody while they hold
/// a cache, but its owner may wait for the pool.
pub struct Cache(TicketMutex<Stack, Relax>);

struct Stack {
    frames: [u64; CACHE_FRAMES],
    count: usize,
}

impl Cache {
    /// None.
    pub const fn new() -> Self {
        Self(TicketMutex::new(Stack { frames: [0; CACHE_FRAMES], count: 0 }))
    }
}

impl Stack {
    fn pop(&mut self) -> Option<u64> {
        self.count = self.count.checked_sub(1)?;
        Some(self.frames[self.count])
    }

    fn push(&mut self, frame: u64) {
        self.frames[self.count] = frame;
        self.count += 1;
    }

    fn give_back(&mut self, count: usize) {
        let mut pool = POOL.lock();
        (0..count).map_while(|_| self.pop()).for_each(|frame| pool.give(frame, 1));
    }
}

/// One frame, contents undefined.
pub fn allocate() -> Option<Frame> {
    let own = || {
        let mut cache = percpu::this().shared.frames.0.lock();
        if cache.count == 0 {
            cache.count = POOL.lock().take_some(&mut cache.frames[..BATCH]);
        }
        cache.pop()
    };
    let others = || percpu::all().find_map(|(_, cpu)| cpu.frames.0.lock().pop());
    own().or_else(others).map(Frame::new)
}

/// `count` contiguous frames, contents undefined.
pub fn allocate_run(count: u64) -> Option<Frame> {
    if count == 1 {
        return allocate();
    }
    let taken = POOL.lock().take_run(count);
    let again = || {
        percpu::all().for_each(|(_, cpu)| cpu.frames.0.lock().give_back(CACHE_FRAMES));
        POOL.lock().take_run(count)
    };
    taken.or_else(again).map(Frame::new)
}

/// Gives `count` frames back.
pub fn free_run(first: Frame, count: u64) {
    let number = first.address() / abi::PAGE_SIZE;
    if count != 1 {
        return POOL.lock().give(number, count);
    }
    let mut cache = percpu::this().shared.frames.0.lock();
    if cache.count == CACHE_FRAMES {
        cache.give_back(BATCH);
    }
    cache.push(number);
}

/// How many frames are free.
pub fn free_count() -> u64 {
    let at_hand: usize = percpu::all().map(|(_, cpu)| cpu.frames.0.lock().count).sum();
    POOL.lock().free_count() + at_hand as u64
}
