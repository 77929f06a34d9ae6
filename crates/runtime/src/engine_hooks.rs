//! The platform that the engine asks for: the C functions that it declares in
//! `crates/wasmtime/src/runtime/vm/sys/custom/capi.rs`, on the system.
//!
//! They answer 0, or the code of the kernel's refusal; the engine turns that into an error of the operation.

use crate::slots::{self, Regions, SLOT_BYTES_MIN};
use crate::{System, current, trap};
use abi::{Backing, Commit, Error, PAGE_SIZE, Protection, Span};
use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// A range of the boot module that can be mapped copy-on-write.
pub struct Image {
    span: Span,
}

impl Regions for &System {
    fn take(&mut self, length: u64) -> Option<Span> {
        self.take_space(length)
    }

    fn give_back(&mut self, span: Span) {
        self.give_back_space(span);
    }

    fn release(&mut self, span: Span) -> Result<(), Error> {
        self.unmap(span)
    }

    fn map(&mut self, span: Span, backing: Backing, protection: Protection) -> Result<(), Error> {
        System::map(self, span, backing, protection, Commit::OnTouch).map(drop)
    }

    fn protect(&mut self, span: Span, protection: Protection) -> Result<(), Error> {
        System::protect(self, span, protection)
    }

    fn reset(&mut self, span: Span) -> Result<(), Error> {
        System::reset(self, span)
    }

    fn commit(&mut self, span: Span) -> Result<(), Error> {
        System::map(self, span, Backing::Zero, Protection::ReadWrite, Commit::Now).map(drop)
    }

    fn write_back(&mut self, span: Span, image: Option<slots::Image>) {
        let all = span.base..span.base + span.length;
        let (source, image) = image.map_or((0, all.end..all.end), |image| {
            let start = image.span.base.clamp(all.start, all.end);
            let end = (image.span.base + image.span.length).clamp(start, all.end);
            (image.source + (start - image.span.base), start..end)
        });
        let pointer = |address: u64| address as usize as *mut u8;
        // SAFETY: the span is a slot's that nobody uses any more, committed read-write; the image is in the boot module,
        // which is mapped for ever.
        unsafe {
            pointer(all.start).write_bytes(0, (image.start - all.start) as usize);
            pointer(image.start)
                .copy_from_nonoverlapping(pointer(source), (image.end - image.start) as usize);
            pointer(image.end).write_bytes(0, (all.end - image.end) as usize);
        }
    }
}

type TrapHandler = extern "C" fn(ip: usize, fp: usize, has_address: bool, address: usize);

fn protection(flags: u32) -> Result<Protection, Error> {
    // WASMTIME_PROT_READ, _WRITE, _EXEC: bits 0, 1, 2.
    match flags {
        0 => Ok(Protection::None),
        1 => Ok(Protection::Read),
        3 => Ok(Protection::ReadWrite),
        5 => Ok(Protection::ReadExecute),
        _ => Err(Error::Protection),
    }
}

fn answer(result: Result<(), Error>) -> i32 {
    result.map_or_else(|error| error.code() as i32, |()| 0)
}

fn with_system(operation: impl FnOnce(&'static System) -> Result<(), Error>) -> i32 {
    answer(System::get().ok_or(Error::Unsupported).and_then(operation))
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_mmap_new(size: usize, flags: u32, address: &mut *mut u8) -> i32 {
    with_system(|system| {
        let (size, protection) = (size as u64, protection(flags)?);
        let base = if size >= SLOT_BYTES_MIN && protection == Protection::None {
            match current::next_memory() {
                Some(owner) => system.slots().lock().acquire_for(owner, size, system)?,
                None => system.slots().lock().acquire(size, system)?,
            }
        } else {
            system.map_new(size, protection, Commit::OnTouch)?.base
        };
        *address = base as usize as *mut u8;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_mmap_remap(address: *mut u8, size: usize, flags: u32) -> i32 {
    with_system(|system| {
        let (span, protection) = (Span::new(address as u64, size as u64), protection(flags)?);
        let mut slots = system.slots().lock();
        if slots.contain(span.base) {
            return slots.clear(span, protection, system);
        }
        drop(slots);
        system.map(span, Backing::Zero, protection, Commit::OnTouch).map(drop)
    })
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_munmap(address: *mut u8, size: usize) -> i32 {
    with_system(|system| {
        let span = Span::new(address as u64, (size as u64).next_multiple_of(PAGE_SIZE));
        let mut slots = system.slots().lock();
        if slots.contain(span.base) {
            return slots.release(span.base, system);
        }
        drop(slots);
        system.unmap(span)
    })
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_mprotect(address: *mut u8, size: usize, flags: u32) -> i32 {
    with_system(|system| {
        if size == 0 {
            return Ok(());
        }
        let (span, protection) = (Span::new(address as u64, size as u64), protection(flags)?);
        let mut slots = system.slots().lock();
        if slots.contain(span.base) {
            return slots.protect(span, protection, system);
        }
        drop(slots);
        system.protect(span, protection)
    })
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_page_size() -> usize {
    PAGE_SIZE as usize
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_memory_image_new(bytes: *const u8, length: usize, image: &mut *mut Image) -> i32 {
    let span = Span::new(bytes as u64, length as u64);
    // Only the boot module stays for ever; of anything else the engine keeps a copy in its own way.
    let lasting = System::get().is_some_and(|system| system.module().contains(span));
    *image = if lasting { Box::into_raw(Box::new(Image { span })) } else { core::ptr::null_mut() };
    0
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_memory_image_map_at(image: *mut Image, address: *mut u8, length: usize) -> i32 {
    // SAFETY: the engine passes what `wasmtime_memory_image_new` stored and has not freed it yet.
    let source = unsafe { (*image).span.base };
    let span = Span::new(address as u64, length as u64);
    with_system(|system| {
        let mut slots = system.slots().lock();
        if slots.contain(span.base) {
            return slots.map_image(source, span, system);
        }
        drop(slots);
        system.map(span, Backing::Image { source }, Protection::ReadWrite, Commit::OnTouch).map(drop)
    })
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_memory_image_free(image: *mut Image) {
    // SAFETY: the engine frees an image once, and it came from `Box::into_raw`.
    drop(unsafe { Box::from_raw(image) });
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_init_traps(handler: TrapHandler) -> i32 {
    trap::set_engine_handler(handler);
    0
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_tls_get(slot: usize) -> *mut u8 {
    current::engine_pointer(slot).load(Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_tls_set(slot: usize, value: *mut u8) {
    current::engine_pointer(slot).store(value, Relaxed);
}

/// The engine's locks: a word each, zero when it is made. Who waits for one spins: they are held for moments, and never across a suspension.
///
/// # Safety
/// `lock` is a word of the engine's that is used as a lock alone, for as long as the answer is used.
unsafe fn word<'a>(lock: *mut usize) -> &'a AtomicUsize {
    // SAFETY: as the caller says.
    unsafe { AtomicUsize::from_ptr(lock) }
}

/// A word that somebody holds alone; if a lock has readers, the word is their number.
const HELD: usize = usize::MAX;

#[unsafe(no_mangle)]
extern "C" fn wasmtime_sync_lock_acquire(lock: *mut usize) {
    wasmtime_sync_rwlock_write(lock);
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_sync_lock_release(lock: *mut usize) {
    wasmtime_sync_rwlock_write_release(lock);
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_sync_lock_free(_lock: *mut usize) {}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_sync_rwlock_read(lock: *mut usize) {
    // SAFETY: the engine passes one of its locks, which lives as long as the call.
    let lock = unsafe { word(lock) };
    loop {
        let readers = lock.load(Relaxed);
        if readers != HELD && lock.compare_exchange_weak(readers, readers + 1, Acquire, Relaxed).is_ok() {
            return;
        }
        core::hint::spin_loop();
    }
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_sync_rwlock_read_release(lock: *mut usize) {
    // SAFETY: the same.
    unsafe { word(lock) }.fetch_sub(1, Release);
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_sync_rwlock_write(lock: *mut usize) {
    // SAFETY: the same.
    let lock = unsafe { word(lock) };
    while lock.compare_exchange_weak(0, HELD, Acquire, Relaxed).is_err() {
        core::hint::spin_loop();
    }
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_sync_rwlock_write_release(lock: *mut usize) {
    // SAFETY: the same.
    unsafe { word(lock) }.store(0, Release);
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_sync_rwlock_free(_lock: *mut usize) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeKernel, pointer};

    const RESERVATION: usize = 4 << 30;
    const WASM_PAGE: usize = 64 << 10;
    const READ_WRITE: u32 = 3;

    fn byte(address: usize) -> u8 {
        // SAFETY: the fake's window is all memory.
        unsafe { pointer(address as u64).read() }
    }

    /// An instance's memory as the engine makes it, with an image of one page at its second page.
    fn memory(image: *mut Image) -> *mut u8 {
        let mut base = core::ptr::null_mut();
        assert_eq!(wasmtime_mmap_new(RESERVATION, 0, &mut base), 0);
        assert_eq!(wasmtime_mprotect(base, WASM_PAGE, READ_WRITE), 0);
        let second = base.wrapping_add(wasmtime_page_size());
        assert_eq!(wasmtime_memory_image_map_at(image, second, wasmtime_page_size()), 0);
        base
    }

    /// One test: the hooks are C functions on the process's one system.
    #[test]
    fn instances_come_and_go_on_a_kernel() {
        let page = wasmtime_page_size();
        let kernel = FakeKernel::new(&[7; 8192], 16 << 20);
        let system = System::install(kernel, &kernel.boot());
        let module = pointer(kernel.module().base);

        let mut image = core::ptr::null_mut();
        assert_eq!(wasmtime_memory_image_new([1u8, 2].as_ptr(), 2, &mut image), 0);
        assert!(image.is_null(), "only the boot module lasts");
        assert_eq!(wasmtime_memory_image_new(module, page, &mut image), 0);
        assert!(!image.is_null());

        let mut changes = alloc::vec::Vec::new();
        for round in 0..6 {
            let before = kernel.changes();
            system.slots().lock().begin(1);
            let base = memory(image);
            let address = base.addr();
            let found =
                [0, page - 1, page, 2 * page - 1, 2 * page, WASM_PAGE - 1].map(|at| byte(address + at));
            assert_eq!(found, [0, 0, 7, 7, 0, 0], "round {round}");
            assert_eq!(kernel.protection((address + WASM_PAGE) as u64), Some(Protection::None));
            assert_eq!(
                wasmtime_mprotect(base.wrapping_add(WASM_PAGE), WASM_PAGE * (round % 2), READ_WRITE),
                0
            );
            // SAFETY: this much is accessible.
            unsafe { base.write_bytes(0xee, WASM_PAGE * (1 + round % 2)) };
            assert_eq!(wasmtime_munmap(base, RESERVATION), 0);
            changes.push(kernel.changes() - before);
        }
        assert_eq!([changes[2], changes[4]], [0, 0], "an instance that does not grow needs no kernel");

        // Short mappings come and go with the kernel.
        let mapped = kernel.mapped_bytes();
        let mut short = core::ptr::null_mut();
        assert_eq!(wasmtime_mmap_new(3 * page, READ_WRITE, &mut short), 0);
        // SAFETY: it was just mapped.
        unsafe { short.write_bytes(0xee, 3 * page) };
        assert_eq!(wasmtime_mmap_remap(short, 3 * page, 1), 0);
        assert_eq!((byte(short.addr()), kernel.protection(short as u64)), (0, Some(Protection::Read)));
        assert_eq!(wasmtime_munmap(short, 3 * page), 0);
        assert_eq!(kernel.mapped_bytes(), mapped);

        // What the kernel refuses, and what there is no access for, is told.
        let code = |error: Error| error.code() as i32;
        assert_eq!(wasmtime_mprotect(short, page, READ_WRITE), code(Error::NotMapped));
        assert_eq!(
            wasmtime_mmap_new(page, 7, &mut short),
            code(Error::Protection),
            "writable and executable"
        );
        assert_eq!(wasmtime_mmap_new(1 << 45, READ_WRITE, &mut short), code(Error::NoMemory));
        wasmtime_memory_image_free(image);
    }
}
