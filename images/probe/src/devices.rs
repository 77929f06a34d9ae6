//! Devices: the real-time clock's ports, configuration spaces, and an entropy device driven by interrupts.

use crate::memory::{load, store};
use crate::probe::{Probe, check, fail};
use crate::upcalls::{self, EVENTS, attempt};
use abi::boot::{DeviceKind, DeviceRecord};
use abi::{Backing, Commit, Error, Handle, PAGE_SIZE, Protection, Request, Span};
use core::arch::asm;
use core::sync::atomic::Ordering::Relaxed;
use virtio::{DeviceType, DmaMemory, Entropy, Interrupts, PciFunction, Registers, Transport};

const BASE: u64 = 0x4_0000_0000;
const WINDOW_BYTES: u64 = 1 << 24;
const DMA: u64 = 0x5_0000_0000;
const EVENT: u32 = 17;
/// Longer than the device of the tests makes its driver wait: 64 bytes in 20 ms.
const QUIET_NS: u64 = 60_000_000;

/// In the command register (PCI Local Bus 3.0, section 6.2.2).
const BUS_MASTER: u32 = 1 << 2;

/// Everything about the devices that are there.
pub fn run(probe: &Probe) {
    let devices = &probe.info.devices[..probe.info.device_count as usize];
    let mut entropy = 0;
    for device in devices {
        match device.kind {
            DeviceKind::RealTimeClock => real_time_clock(probe, device),
            DeviceKind::Pci => {
                configuration(probe, device);
                let function = Function { probe, device };
                let transport = Transport::pci(&function);
                entropy += draw(probe, device, transport, Interrupts::Vector(0));
            }
            DeviceKind::VirtioMmio => {
                let window = window(probe, device, 0).unwrap_or_else(|| fail(format_args!("no registers")));
                entropy += draw(probe, device, Transport::mmio(window), Interrupts::Line);
            }
            DeviceKind::None => fail(format_args!("a device without a kind")),
        }
        refusals(probe, device);
    }
    // The test gives the machine one.
    check(entropy == 1, "there is an entropy device");
}

extern "C" fn read_second(result: u64) {
    let (second, data): (u8, u8);
    // SAFETY: faults if the ports are closed, which is what one caller wants.
    unsafe {
        asm!("out 0x70, al", "in al, 0x71", inlateout("al") 0u8 => second);
        asm!("in al, 0x71", out("al") data);
        (result as *mut u8).write_volatile(second.max(data));
    }
}

fn real_time_clock(probe: &Probe, device: &DeviceRecord) {
    let mut second = 0xffu8;
    let at = &raw mut second as u64;
    check(attempt(read_second, at).is_some_and(|context| context.vector == 13), "ports are closed at first");
    probe.must(Request::OpenPorts { device: device.handle });
    check(attempt(read_second, at).is_none(), "ports open");
    // SAFETY: written through the address above.
    let second = unsafe { (at as *const u8).read_volatile() };
    check(second & 0xf < 10 && second < 0x60, "the clock has seconds, in BCD");
    probe.refused(Request::ReadConfig { device: device.handle, offset: 0 }, Error::Unsupported);
}

fn configuration(probe: &Probe, record: &DeviceRecord) {
    let device = record.handle;
    let read = |offset| probe.must(Request::ReadConfig { device, offset }) as u32;
    check(read(0) == record.identity && read(8) == record.class, "the record tells the truth");
    // Firmware has used one of them to look for a boot sector; what it left in the rings must not be served any more.
    check(read(4) & BUS_MASTER == 0, "no device reaches memory before its driver lets it");
    for offset in [1, 2, 255, 256, 0xffff_fffc] {
        probe.refused(Request::ReadConfig { device, offset }, Error::Malformed);
        probe.refused(Request::WriteConfig { device, offset, value: 0 }, Error::Malformed);
    }
    for offset in [0, 8, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x34, 0x38] {
        let before = read(offset);
        probe.refused(Request::WriteConfig { device, offset, value: !0 }, Error::NoRight);
        check(read(offset) == before, "what cannot be written does not change");
    }
    let mut at = read(0x34) & 0xfc;
    while at != 0 {
        let header = read(at);
        if header & 0xff == 0x11 {
            for offset in [at, at + 4, at + 8] {
                probe.refused(Request::WriteConfig { device, offset, value: 0 }, Error::NoRight);
            }
        }
        at = header >> 8 & 0xfc;
    }
    probe.must(Request::WriteConfig { device, offset: 0x3c, value: read(0x3c) });
    probe.refused(Request::OpenPorts { device }, Error::Unsupported);
}

fn refusals(probe: &Probe, record: &DeviceRecord) {
    let (device, vcpu) = (record.handle, probe.info.vcpu);
    let index = record.interrupt_count;
    probe.refused(Request::Listen { source: device, index, vcpu, event: 0 }, Error::Malformed);
    probe.refused(Request::Listen { source: device, index: u32::MAX, vcpu, event: 0 }, Error::Malformed);
    probe.refused(Request::Listen { source: device, index: 0, vcpu: device, event: 0 }, Error::WrongKind);
    probe.refused(Request::Listen { source: device, index: 0, vcpu, event: 64 }, Error::Malformed);
    probe.refused(Request::Acknowledge { device, index }, Error::Malformed);
    for window in 0..8 {
        let backing = Backing::Device { device, window };
        let length = record.windows.get(window as usize).map_or(0, |window| window.length);
        let map = |length, protection| Request::Map {
            space: probe.info.space,
            span: Span::new(BASE, length),
            backing,
            protection,
            commit: Commit::OnTouch,
        };
        let wrong = if window < 6 { Error::BadRange } else { Error::Malformed };
        let beyond = length.next_multiple_of(PAGE_SIZE) + 2 * PAGE_SIZE;
        probe.refused(map(beyond, Protection::ReadWrite), wrong);
        let wrong = if length > 0 { Error::Protection } else { wrong };
        probe.refused(map(PAGE_SIZE, Protection::ReadExecute), wrong);
    }
}

/// A window of a device's memory, mapped.
struct Window {
    at: u64,
    length: usize,
}

fn window(probe: &Probe, record: &DeviceRecord, index: u32) -> Option<Window> {
    let place = record.windows[index as usize];
    if place.length == 0 {
        return None;
    }
    let begin = place.base / PAGE_SIZE * PAGE_SIZE;
    let length = (place.base + place.length).next_multiple_of(PAGE_SIZE) - begin;
    check(length <= WINDOW_BYTES, "the window fits");
    let at = BASE + u64::from(index) * WINDOW_BYTES;
    probe.must(Request::Map {
        space: probe.info.space,
        span: Span::new(at, length),
        backing: Backing::Device { device: record.handle, window: index },
        protection: Protection::ReadWrite,
        commit: Commit::OnTouch,
    });
    Some(Window { at: at + place.base - begin, length: place.length as usize })
}

/// Reads or writes a number at an offset.
macro_rules! accesses {
    ($($read:ident $write:ident $number:ty;)*) => {
        $(
            fn $read(&self, offset: usize) -> $number {
                // SAFETY: the drivers stay inside of what is mapped.
                unsafe { ((self.at + offset as u64) as *const $number).read_volatile() }
            }
            fn $write(&self, offset: usize, value: $number) {
                // SAFETY: as above.
                unsafe { ((self.at + offset as u64) as *mut $number).write_volatile(value) }
            }
        )*
    };
}

impl Registers for Window {
    fn length(&self) -> usize {
        self.length
    }
    accesses! { read8 write8 u8; read16 write16 u16; read32 write32 u32; }
}

struct Function<'p> {
    probe: &'p Probe,
    device: &'p DeviceRecord,
}

impl PciFunction for Function<'_> {
    type Window = Window;

    fn read_config(&self, offset: u8) -> u32 {
        let (device, offset) = (self.device.handle, u32::from(offset));
        self.probe.must(Request::ReadConfig { device, offset }) as u32
    }

    fn write_config(&self, offset: u8, value: u32) {
        let (device, offset) = (self.device.handle, u32::from(offset));
        self.probe.must(Request::WriteConfig { device, offset, value });
    }

    fn window(&self, bar: u8) -> Option<Window> {
        window(self.probe, self.device, u32::from(bar))
    }
}

/// Memory for a device.
struct Dma {
    at: u64,
    physical: u64,
    length: usize,
}

impl Dma {
    fn new(probe: &Probe, device: Handle, length: u64) -> Self {
        let physical = probe.must(Request::Map {
            space: probe.info.space,
            span: Span::new(DMA, length),
            backing: Backing::Dma { device },
            protection: Protection::ReadWrite,
            commit: Commit::Now,
        });
        store(DMA, 1);
        check(load(DMA) == 1, "DMA memory can be written");
        store(DMA, 0);
        Self { at: DMA, physical, length: length as usize }
    }
}

impl DmaMemory for Dma {
    fn physical(&self) -> u64 {
        self.physical
    }

    fn length(&self) -> usize {
        self.length
    }

    accesses! { read16 write16 u16; read32 write32 u32; }

    fn write64(&self, offset: usize, value: u64) {
        // SAFETY: inside of what is mapped.
        unsafe { ((self.at + offset as u64) as *mut u64).write_volatile(value) }
    }

    fn copy_out(&self, offset: usize, into: &mut [u8]) {
        for (index, byte) in into.iter_mut().enumerate() {
            // SAFETY: inside of what is mapped.
            *byte = unsafe { ((self.at + (offset + index) as u64) as *const u8).read_volatile() };
        }
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        for (index, &byte) in bytes.iter().enumerate() {
            // SAFETY: inside of what is mapped.
            unsafe { ((self.at + (offset + index) as u64) as *mut u8).write_volatile(byte) }
        }
    }

    fn barrier(&self) {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }
}

/// Draws random bytes, woken by interrupts; 1 if it is an entropy device.
fn draw(
    probe: &Probe,
    record: &DeviceRecord,
    transport: Result<Transport<Window>, virtio::Error>,
    interrupts: Interrupts,
) -> u32 {
    let transport = transport.unwrap_or_else(|error| fail(format_args!("{error:?}")));
    if transport.device_type() != DeviceType::ENTROPY {
        return 0;
    }
    let (device, vcpu) = (record.handle, probe.info.vcpu);
    let index = 0;
    let length = (Entropy::<Window, Dma>::MEMORY_BYTES as u64).next_multiple_of(PAGE_SIZE);
    probe.refused(Request::Acknowledge { device, index }, Error::Malformed);
    probe.must(Request::Listen { source: device, index, vcpu, event: EVENT });
    let events = EVENTS.load(Relaxed);
    let memory = Dma::new(probe, device, length);
    let mut driver =
        Entropy::open(transport, interrupts, memory).unwrap_or_else(|error| fail(format_args!("{error:?}")));
    let mut drawn = [0u8; 512];
    let mut filled = 0;
    while filled < drawn.len() {
        let count = driver.read(&mut drawn[filled..]).unwrap_or_else(|error| fail(format_args!("{error:?}")));
        filled += count;
        if filled < drawn.len() {
            let pending = probe.must(Request::Wait { vcpu, deadline_ns: probe.now() + 5_000_000_000 });
            check(pending == 1 << EVENT, "an interrupt ends the wait");
            check(upcalls::pending() == 0, "what is taken is not shown");
            check(driver.on_interrupt().is_ok(), "the device is well");
            probe.must(Request::Acknowledge { device, index });
        }
    }
    check(drawn.chunks(64).skip(1).all(|part| part != &drawn[..64]), "the bytes differ");
    as_upcall(probe, device, index, &mut driver, events);
    1
}

/// While the program spins, an interrupt comes as an upcall, once, and masked until it is acknowledged.
fn as_upcall(probe: &Probe, device: Handle, index: u32, driver: &mut Entropy<Window, Dma>, before: u64) {
    let vcpu = probe.info.vcpu;
    let mut sink = [0u8; 256];
    // Whatever came while the loop above ran is over.
    while probe.must(Request::Wait { vcpu, deadline_ns: probe.now() + QUIET_NS }) != 0 {
        let _ = driver.on_interrupt();
        probe.must(Request::Acknowledge { device, index });
    }
    let told = EVENTS.load(Relaxed);
    check(told >= before, "events are counted");
    // A read that finds too little asks for an interrupt.
    while driver.read(&mut sink).is_ok_and(|count| count == sink.len()) {}
    let deadline = probe.now() + 5_000_000_000;
    while EVENTS.load(Relaxed) == told {
        check(probe.now() < deadline, "an event comes as an upcall");
    }
    check(upcalls::pending() == 1 << EVENT, "what is pending is shown");
    check(EVENTS.load(Relaxed) == told + 1, "an event is told once");
    check(
        probe.must(Request::Wait { vcpu, deadline_ns: 0 }) == 1 << EVENT,
        "a pending event ends a wait at once",
    );
    check(probe.must(Request::Wait { vcpu, deadline_ns: 0 }) == 0, "and is taken");
    // Not acknowledged: no other comes.
    let _ = driver.on_interrupt();
    // A read that finds too little asks for an interrupt.
    while driver.read(&mut sink).is_ok_and(|count| count == sink.len()) {}
    let begin = probe.now();
    check(
        probe.must(Request::Wait { vcpu, deadline_ns: begin + QUIET_NS }) == 0,
        "it is masked while pending",
    );
    probe.must(Request::Acknowledge { device, index });
    let deadline_ns = probe.now() + 5_000_000_000;
    check(probe.must(Request::Wait { vcpu, deadline_ns }) == 1 << EVENT, "what came meanwhile comes now");
    let _ = driver.on_interrupt();
    probe.must(Request::Acknowledge { device, index });
}
