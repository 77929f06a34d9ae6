//! The platform that the engine asks for: the C functions that it declares in
//! `crates/wasmtime/src/runtime/vm/sys/custom/capi.rs`, on the system.
//!
//! They answer 0, or 1 where the kernel refused; the engine turns that into an error of the operation.

use crate::slots::{self, Regions, SLOT_BYTES_MIN};
use crate::{System, trap};
use abi::{Backing, Commit, Error, PAGE_SIZE, Protection, Span};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// A range of the boot module that can be mapped copy-on-write.
pub struct Image {
    span: Span,
}

impl Regions for &System {
    fn take(&mut self, length: u64) -> Option<Span> {
        self.take_space(length)
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
    i32::from(result.is_err())
}

fn with_system(operation: impl FnOnce(&'static System) -> Result<(), Error>) -> i32 {
    answer(System::get().ok_or(Error::Unsupported).and_then(operation))
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_mmap_new(size: usize, flags: u32, address: &mut *mut u8) -> i32 {
    with_system(|system| {
        let (size, protection) = (size as u64, protection(flags)?);
        let base = if size >= SLOT_BYTES_MIN && protection == Protection::None {
            system.slots().lock().acquire(size, system)?
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

/// The engine's two thread-local pointers. One virtual CPU, and one process that uses the engine at a time.
static TLS: [AtomicPtr<u8>; 2] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 2];

#[unsafe(no_mangle)]
extern "C" fn wasmtime_tls_get(slot: usize) -> *mut u8 {
    TLS[slot].load(Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn wasmtime_tls_set(slot: usize, value: *mut u8) {
    TLS[slot].store(value, Relaxed);
}
