//! A channel between domains: rings of bytes in its memory, its signal as the bell.

use super::{Lost, Wire};
use crate::gate;
use crate::wire::device::copy;
use abi::{Backing, Commit, Error, Handle, PAGE_SIZE, Protection, Request, Sharing, Span};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};
use ring::{Bell, Broken, Memory, Pair, Shape, Side};
use runtime::System;

/// What a starter says is short; what programs write is not.
const SHAPE: Shape = Shape { down: 4 << 10, up: 64 << 10 };

/// What the memory of such a channel takes, in bytes.
pub const MEMORY_BYTES: u64 = (SHAPE.bytes() as u64).next_multiple_of(PAGE_SIZE);

/// Behind the rings: how long the last words are of whoever holds the other end, and the words.
const WORDS: usize = SHAPE.bytes();
/// The longest.
pub const WORDS_BYTES_MAX: usize = 1024;
const _: () = assert!(WORDS.is_multiple_of(4) && WORDS + 4 + WORDS_BYTES_MAX <= MEMORY_BYTES as usize);

/// Where the other side of the channel to who started this domain is mapped; 0 if there is none.
static TO_STARTER: AtomicUsize = AtomicUsize::new(0);

/// Leaves last words for who started this domain, to be read when it has ended: without the heap, without a lock, whatever waits in the rings. Those that
/// are left again take their place.
pub fn leave_last_words(words: &str) {
    let base = TO_STARTER.load(Ordering::Acquire);
    if base != 0 {
        let bytes = &words.as_bytes()[..words.len().min(WORDS_BYTES_MAX)];
        let memory = Shared { base };
        memory.copy_in(WORDS + 4, bytes);
        memory.store(WORDS, bytes.len() as u32);
    }
}

/// One end of a channel. It goes when this does.
pub struct ChannelWire {
    system: &'static System,
    channel: Handle,
    span: Span,
    pair: Pair<Shared>,
}

impl ChannelWire {
    /// Maps the channel's memory and listens to it: what happens raises `event`.
    pub fn open(system: &'static System, channel: Handle, event: u32, side: Side) -> Result<Self, Error> {
        let span = Span::new(system.take_space(MEMORY_BYTES).ok_or(Error::NoMemory)?.base, MEMORY_BYTES);
        let pair = Pair::new(Shared { base: span.base as usize }, SHAPE, side);
        let wire = Self { system, channel, span, pair };
        let backing = Backing::Memory { memory: channel, offset: 0, sharing: Sharing::Shared };
        // What nobody else can take away, and costs no frame.
        system.map(span, backing, Protection::ReadWrite, Commit::OnTouch)?;
        let listen = Request::Listen { source: channel, index: 0, vcpu: gate::vcpu(), event };
        system.kernel().call(listen)?;
        if side == Side::Other {
            TO_STARTER.store(span.base as usize, Ordering::Release);
        }
        Ok(wire)
    }

    /// What the other side has [left](leave_last_words), if it has: any bytes.
    pub fn last_words(&self) -> Vec<u8> {
        let memory = Shared { base: self.span.base as usize };
        let mut words = vec![0; (memory.load(WORDS) as usize).min(WORDS_BYTES_MAX)];
        memory.copy_out(WORDS + 4, &mut words);
        words
    }

    fn ring(&self, bell: Bell) {
        if bell == Bell::Ring {
            // If nobody holds the other end any more, nobody waits there.
            let _ = self.system.kernel().call(Request::Signal { target: self.channel });
        }
    }
}

impl Drop for ChannelWire {
    fn drop(&mut self) {
        // Only of the side that has set it; the other has nothing there.
        let own = self.span.base as usize;
        let _ = TO_STARTER.compare_exchange(own, 0, Ordering::AcqRel, Ordering::Relaxed);
        let _ = self.system.unmap(self.span);
        let _ = self.system.kernel().call(Request::Release { capability: self.channel });
    }
}

impl From<Broken> for Lost {
    fn from(_: Broken) -> Self {
        Self
    }
}

impl Wire for ChannelWire {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Lost> {
        let (count, bell) = self.pair.reader.read(into)?;
        self.ring(bell);
        Ok(count)
    }

    fn write(&mut self, parts: &[&[u8]]) -> Result<usize, Lost> {
        let (count, bell) = self.pair.writer.write(parts)?;
        self.ring(bell);
        Ok(count)
    }

    fn is_idle(&mut self) -> Result<bool, Lost> {
        // It lies in the other side's memory.
        Ok(true)
    }

    fn on_event(&mut self) -> Result<(), Lost> {
        Ok(())
    }
}

/// The channel's memory, mapped here and there.
#[derive(Clone, Copy)]
struct Shared {
    base: usize,
}

impl Shared {
    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= MEMORY_BYTES as usize);
        // SAFETY: inside of the mapping, which is there for as long as the wire that made this, and aligned; nothing else is
        // ever made of it but atomics and `copy`'s accesses.
        unsafe { AtomicU32::from_ptr((self.base + offset) as *mut u32) }
    }

    fn check(&self, offset: usize, bytes: usize) {
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= MEMORY_BYTES as usize));
    }
}

impl Memory for Shared {
    fn load(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }

    fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }

    fn swap(&self, offset: usize, value: u32) -> u32 {
        self.word(offset).swap(value, Ordering::AcqRel)
    }

    fn barrier(&self) {
        fence(Ordering::SeqCst);
    }

    fn copy_out(&self, offset: usize, into: &mut [u8]) {
        self.check(offset, into.len());
        // SAFETY: both ranges are mapped and apart.
        unsafe { copy(into.as_mut_ptr() as usize, self.base + offset, into.len()) };
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: both ranges are mapped and apart.
        unsafe { copy(self.base + offset, bytes.as_ptr() as usize, bytes.len()) };
    }
}
