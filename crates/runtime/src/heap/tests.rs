use super::*;
use crate::fake::FakeKernel;
use alloc::vec::Vec;

struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

pub(super) fn started(quota_bytes: u64) -> (Heap, &'static FakeKernel) {
    let kernel = FakeKernel::new(&[], quota_bytes);
    let boot = kernel.boot();
    // What another heap left in this thread's lists is not this one's.
    crate::vcpu::tests::renew();
    let heap = Heap::new();
    heap.start(kernel, boot.space, Span::new(boot.window.base, crate::system::HEAP_SPAN_BYTES));
    (heap, kernel)
}

/// A block that knows what is in it.
struct Block {
    address: *mut u8,
    layout: Layout,
    value: u8,
}

impl Block {
    fn fill(&self) {
        // SAFETY: the heap gave it out with this layout.
        unsafe { self.address.write_bytes(self.value, self.layout.size()) };
    }
    fn is_intact(&self, length: usize) -> bool {
        // SAFETY: the same.
        let bytes = unsafe { core::slice::from_raw_parts(self.address, length) };
        bytes.iter().all(|byte| *byte == self.value)
    }
}

#[test]
fn blocks_keep_what_is_in_them() {
    let (heap, kernel) = started(64 << 20);
    let mut random = Numbers(1);
    let mut blocks: Vec<Block> = Vec::new();
    for step in 0..50_000 {
        let sizes = [random.below(64) + 1, random.below(2000) + 1, random.below(100_000) + 1];
        let size = sizes[random.below(20).saturating_sub(17)];
        let layout = Layout::from_size_align(size, 1 << random.below(9)).unwrap();
        match random.below(3) {
            0 if !blocks.is_empty() => {
                let block = blocks.swap_remove(random.below(blocks.len()));
                assert!(block.is_intact(block.layout.size()), "step {step}");
                // SAFETY: it is not used again.
                unsafe { heap.dealloc(block.address, block.layout) };
            }
            1 if !blocks.is_empty() => {
                let index = random.below(blocks.len());
                let block = &mut blocks[index];
                let kept = block.layout.size().min(size);
                // SAFETY: the old address is not used again.
                block.address = unsafe { heap.realloc(block.address, block.layout, size) };
                block.layout = Layout::from_size_align(size, block.layout.align()).unwrap();
                assert!(block.is_intact(kept), "step {step}");
                block.fill();
            }
            _ => {
                // SAFETY: no layout here is empty.
                let address = unsafe { heap.alloc(layout) };
                assert!(!address.is_null() && address.addr().is_multiple_of(layout.align()));
                let block = Block { address, layout, value: step as u8 };
                block.fill();
                blocks.push(block);
                if blocks.len() > 400 {
                    let block = blocks.swap_remove(0);
                    // SAFETY: it is not used again.
                    unsafe { heap.dealloc(block.address, block.layout) };
                }
            }
        }
    }
    assert!(blocks.iter().all(|block| block.is_intact(block.layout.size())));
    let rounded = |block: &Block| list_of(block.layout).map_or(block.layout, |(_, listed)| listed).size();
    assert_eq!(heap.used_bytes(), blocks.iter().map(rounded).sum::<usize>());
    assert!(kernel.committed_bytes() <= 64 << 20);
}

#[test]
fn a_full_heap_says_so_and_goes_on() {
    let quota = 2 << 20;
    let (heap, kernel) = started(quota);
    let layout = Layout::from_size_align(100, 8).unwrap();
    // SAFETY: nothing is used after it was given back.
    unsafe {
        let taken: Vec<*mut u8> =
            core::iter::from_fn(|| Some(heap.alloc(layout)).filter(|block| !block.is_null())).collect();
        let used = taken.len() as u64 * 112;
        assert!(used > quota / 4 * 3, "only {used} bytes of the quota");
        assert!(kernel.committed_bytes() <= quota);
        taken.iter().for_each(|block| heap.dealloc(*block, layout));
        assert!(!heap.alloc(Layout::from_size_align(512 << 10, 8).unwrap()).is_null());
    }
}

#[test]
fn what_waits_in_lists_is_there_for_others_when_nothing_else_is() {
    let (heap, _) = started(1 << 20);
    let small = Layout::from_size_align(LISTED_BYTES_MAX, 8).unwrap();
    let large = Layout::from_size_align(16 << 10, 8).unwrap();
    // SAFETY: nothing is used after it was given back.
    unsafe {
        let taken: Vec<*mut u8> =
            core::iter::from_fn(|| Some(heap.alloc(small)).filter(|block| !block.is_null())).collect();
        assert!(heap.alloc(large).is_null());
        let listed = LIST_LENGTH_MAX as usize;
        taken[..listed].iter().for_each(|block| heap.dealloc(*block, small));
        assert!(!heap.alloc(large).is_null(), "{listed} neighbours are enough for it");
    }
}

#[test]
fn before_the_start_there_is_nothing() {
    // SAFETY: the layout is not empty.
    assert!(unsafe { Heap::new().alloc(Layout::new::<u64>()) }.is_null());
}
