//! What is allocated is charged to the process that runs, or to what is being loaded.

use super::tests::started;
use super::*;
use crate::current::{self, Control, Turn};
use crate::fake::FakeKernel;
use crate::process::Limits;
use alloc::vec::Vec;

const KIB: usize = 1 << 10;
/// More than what can always be had.
const LARGE: usize = SMALL_BYTES + 1;

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 16).unwrap()
}

/// A block, or that there is none.
fn take(heap: &Heap, bytes: usize) -> Option<*mut u8> {
    // SAFETY: no test asks for nothing.
    Some(unsafe { heap.alloc(layout(bytes)) }).filter(|block| !block.is_null())
}

fn give(heap: &Heap, block: *mut u8, bytes: usize) {
    // SAFETY: `take` gave it for so many bytes, and it is not used again.
    unsafe { heap.dealloc(block, layout(bytes)) };
}

/// Lets a process run that may have so much of the library OS.
fn as_process<T>(host_bytes_max: u64, operation: impl FnOnce(&Control) -> T) -> T {
    let system = FakeKernel::new(&[], 1 << 20).system();
    let limits = Limits { host_bytes_max, ..Limits::NONE };
    let control = Control::new(None, Span::new(0, PAGE_SIZE), limits, 0);
    current::run(system, &control, Turn { began_ns: 0, cpu_ns: 0 }, || operation(&control))
}

#[test]
fn a_process_is_refused_what_is_large_and_ends_after_what_is_small() {
    let (heap, _) = started(64 << 20);
    as_process(1 << 20, |control| {
        let most = take(&heap, 1 << 20).expect("all that it may have");
        assert_eq!((control.host_bytes(), control.stop_wanted()), (1 << 20, None));
        assert_eq!(take(&heap, LARGE), None);
        assert_eq!((control.host_bytes(), control.stop_wanted()), (1 << 20, None), "as if it had not asked");
        let small = take(&heap, SMALL_BYTES).expect("who asks for little cannot be told no");
        assert_eq!(control.stop_wanted(), Some(Stop::HostMemory));
        let taken: Vec<*mut u8> = core::iter::from_fn(|| take(&heap, SMALL_BYTES)).take(1000).collect();
        let beyond = (taken.len() + 1) * SMALL_BYTES;
        assert_eq!(beyond as i64, BEYOND_BYTES_MAX, "so far and no further");
        taken.into_iter().for_each(|block| give(&heap, block, SMALL_BYTES));
        give(&heap, small, SMALL_BYTES);
        give(&heap, most, 1 << 20);
        assert_eq!(control.host_bytes(), 0);
    });
    assert_eq!(heap.used_bytes(), 0);
}

#[test]
fn a_block_that_grows_or_shrinks_is_charged_for_what_it_is() {
    let (heap, _) = started(64 << 20);
    as_process(256 << 10, |control| {
        let mut bytes = 8;
        let mut block = take(&heap, bytes).expect("there is room");
        for wanted in [8, 12, 100, 40, 5000, 30_000, 200_000, 60, 17, 250_000] {
            // SAFETY: the block is of so many bytes, and the old address is not used again.
            let grown = unsafe { heap.realloc(block, layout(bytes), wanted) };
            assert!(!grown.is_null());
            (block, bytes) = (grown, wanted);
            assert_eq!(control.host_bytes(), bytes as i64, "{wanted}");
        }
        // SAFETY: the same; who is refused keeps what he has.
        assert!(unsafe { heap.realloc(block, layout(bytes), 280 * KIB) }.is_null());
        assert_eq!((control.host_bytes(), control.stop_wanted()), (bytes as i64, None));
        give(&heap, block, bytes);
        assert_eq!(control.host_bytes(), 0);
    });
}

#[test]
fn the_last_refusal_is_known_where_it_was_of_much_and_in_the_engine() {
    let (heap, _) = started(64 << 20);
    as_process(100 << 10, |control| {
        let block = take(&heap, 90 * KIB).expect("there is room");
        // SAFETY: the block is of so many bytes; who is refused keeps what he has.
        let longer = |bytes| unsafe { heap.realloc(block, layout(90 * KIB), bytes) };
        let known = NonNull::new(block).map(|block| (block, layout(90 * KIB)));
        assert!(longer(200 * KIB).is_null());
        assert_eq!(control.stop_wanted(), None, "it may be told");
        assert_eq!((current::take_refusal(), current::take_refusal()), (Some(known), None));
        assert_eq!(control.stop_wanted(), Some(Stop::HostMemory));
        assert_eq!(take(&heap, LARGE), None);
        assert_eq!(current::take_refusal(), Some(None), "nothing was to become longer");
        assert!(longer(200 * KIB).is_null());
        let beyond: Vec<*mut u8> = core::iter::from_fn(|| take(&heap, SMALL_BYTES)).collect();
        assert_eq!(current::take_refusal(), None, "the last one was small");
        current::enter_host_function();
        assert!(longer(200 * KIB).is_null());
        assert_eq!(current::take_refusal(), None);
        beyond.into_iter().for_each(|block| give(&heap, block, SMALL_BYTES));
        give(&heap, block, 90 * KIB);
    });
}

#[test]
fn what_is_for_all_is_charged_to_nobody() {
    let (heap, _) = started(64 << 20);
    as_process(64 << 10, |control| {
        let block = current::uncharged(|| take(&heap, 1 << 20)).expect("it is not the process's");
        assert_eq!(control.host_bytes(), 0);
        current::uncharged(|| give(&heap, block, 1 << 20));
        assert_eq!((control.host_bytes(), control.stop_wanted()), (0, None));
    });
}

#[test]
fn a_full_machine_ends_the_process_that_asks_and_grants_it_what_it_needs_for_that() {
    let (heap, _) = started(4 << 20);
    let all: Vec<*mut u8> = as_process(1 << 30, |control| {
        let all = core::iter::from_fn(|| take(&heap, LARGE)).collect();
        assert_eq!(control.stop_wanted(), None, "who can be told no is");
        all
    });
    as_process(1 << 30, |control| {
        let taken: Vec<*mut u8> = core::iter::from_fn(|| take(&heap, SMALL_BYTES)).collect();
        assert_eq!(control.stop_wanted(), Some(Stop::OutOfMemory));
        let reserve = taken.len() * SMALL_BYTES;
        assert!(reserve > RESERVE_BYTES / 4 * 3, "only {reserve} bytes of the reserve");
        taken.into_iter().for_each(|block| give(&heap, block, SMALL_BYTES));
    });
    all.into_iter().for_each(|block| give(&heap, block, LARGE));
    heap.renew_reserve();
    assert_eq!(heap.used_bytes(), 0);
}

#[test]
fn what_is_loaded_has_an_allowance_of_its_own() {
    let (heap, _) = started(64 << 20);
    let before = take(&heap, 1 << 20).expect("nothing is bounded yet");
    let (block, was_refused) = current::load(128 << 10, || {
        assert_eq!(take(&heap, 200 << 10), None);
        take(&heap, 100 << 10)
    });
    assert!(was_refused);
    give(&heap, before, 1 << 20);
    give(&heap, block.expect("it is allowed"), 100 << 10);
    let (block, was_refused) = current::load(128 << 10, || take(&heap, 128 << 10));
    assert!(!was_refused);
    give(&heap, block.expect("it is allowed"), 128 << 10);
    let unbounded = take(&heap, 1 << 20).expect("nothing is bounded any more");
    give(&heap, unbounded, 1 << 20);
}
