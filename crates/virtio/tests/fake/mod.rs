//! A machine with one virtio device, behind the crate's traits. It checks that the driver keeps the traits' rules
//! (inside, aligned), and it sleeps and wakes as a real device does: asleep, it looks at a queue only once notified.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;

use virtio::{DmaMemory, PciFunction, Registers};

mod device;
mod registers;

pub use device::Queue;

pub const PHYSICAL: u64 = 0x4_0000_0000;
pub const EVENT_INDEX: u64 = 1 << 29;
pub const MULTIPORT: u64 = 1 << 1;
pub const VERSION_1: u64 = 1 << 32;
pub const STATUS_FAILED: u8 = 128;
pub const STATUS_NEEDS_RESET: u8 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    Mmio,
    Pci,
}

/// The device's registers, its memory, and what it does.
pub struct State {
    pub bus: Bus,
    pub kind: u32,
    pub mmio_version: u32,
    pub offered: u64,
    pub accepted: u64,
    pub refuse_features: bool,
    pub confirm_reset: bool,
    pub vectors: u16,
    pub queue_size_max: u16,
    pub status: u8,
    pub isr: u8,
    pub config_vector: u16,
    pub queues: [Queue; 6],
    /// Control messages that the device has for the driver: port, event, value.
    to_say: VecDeque<(u32, u16, u16)>,
    /// The ports that a device of several has.
    pub ports: Vec<u32>,
    /// Port 1 was opened by the driver.
    pub open: bool,
    /// Set by the device, cleared by whoever runs the driver.
    pub interrupt: bool,
    pub interrupts: u64,
    pub notifications: u64,
    pub pci_config: Vec<u8>,
    pub memory: Vec<u8>,
    /// What the driver wrote and the device does not see yet (offset, bytes): an x86 CPU holds stores back while it
    /// goes on to later loads. A barrier and a write to a register let them out, in order.
    held_back: VecDeque<(usize, Vec<u8>)>,
    /// A device that writes whatever it likes at any time: what reads of memory and registers see instead.
    pub noise: Option<Noise>,
    device_select: u32,
    driver_select: u32,
    queue_select: u16,
}

/// Small numbers, big numbers and right numbers, in turns (xorshift).
#[derive(Clone, Debug)]
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn disturb(&mut self, right: u32) -> u32 {
        let value = self.next();
        match value >> 60 {
            0 => value as u32,
            1 => (value & 0x7f) as u32,
            2 => right.wrapping_add((value & 3) as u32),
            _ => right,
        }
    }
}

#[derive(Clone)]
pub struct Machine {
    state: Rc<RefCell<State>>,
    /// Runs at each barrier and after each look of the driver into its memory.
    meanwhile: Rc<RefCell<Meanwhile>>,
}

type Meanwhile = Box<dyn FnMut(&mut State)>;

impl Machine {
    pub fn new(bus: Bus, kind: u32, memory_bytes: usize, offered: u64) -> Self {
        let queue = || Queue { vector: u16::MAX, ..Queue::default() };
        let state = State {
            bus,
            kind,
            mmio_version: 2,
            offered,
            accepted: 0,
            refuse_features: false,
            confirm_reset: true,
            vectors: 2,
            queue_size_max: 128,
            status: 0x0f,
            isr: 0,
            config_vector: u16::MAX,
            queues: std::array::from_fn(|_| queue()),
            to_say: VecDeque::new(),
            ports: vec![0, 1, 7],
            open: false,
            interrupt: false,
            interrupts: 0,
            notifications: 0,
            pci_config: registers::pci_config(kind),
            // What was there before must not matter.
            memory: vec![0xa5; memory_bytes],
            noise: None,
            held_back: VecDeque::new(),
            device_select: 0,
            driver_select: 0,
            queue_select: 0,
        };
        let meanwhile: Meanwhile = Box::new(|_| {});
        Self { state: Rc::new(RefCell::new(state)), meanwhile: Rc::new(RefCell::new(meanwhile)) }
    }

    /// For use between calls of the driver, when all that it did can be seen.
    pub fn state(&self) -> RefMut<'_, State> {
        let mut state = self.state.borrow_mut();
        state.let_out();
        state
    }

    pub fn window(&self) -> Window {
        let length = if self.state().bus == Bus::Mmio { 0x200 } else { 0x4000 };
        Window { machine: self.clone(), length }
    }

    pub fn memory(&self) -> Memory {
        Memory(self.clone())
    }

    /// Notifications by the driver and interrupts by the device, so far.
    pub fn costs(&self) -> (u64, u64) {
        let state = self.state();
        (state.notifications, state.interrupts)
    }

    fn run_meanwhile(&self) {
        (self.meanwhile.borrow_mut())(&mut self.state.borrow_mut());
    }

    /// What the device does while the driver runs.
    pub fn meanwhile(&self, act: impl FnMut(&mut State) + 'static) {
        *self.meanwhile.borrow_mut() = Box::new(act);
    }
}

/// A register window that panics if the driver breaks the rules of [`Registers`].
pub struct Window {
    machine: Machine,
    length: usize,
}

impl Window {
    fn read(&self, offset: usize, width: usize) -> u32 {
        assert!(
            offset.is_multiple_of(width) && offset + width <= self.length,
            "read{} at {offset:#x}",
            width * 8
        );
        let mut state = self.machine.state();
        let value = state.read_register(offset, width);
        match &mut state.noise {
            Some(noise) => noise.disturb(value),
            None => value,
        }
    }

    fn write(&self, offset: usize, width: usize, value: u32) {
        assert!(
            offset.is_multiple_of(width) && offset + width <= self.length,
            "write{} at {offset:#x}",
            width * 8
        );
        self.machine.state().write_register(offset, width, value);
    }
}

impl Registers for Window {
    fn length(&self) -> usize {
        self.length
    }
    fn read8(&self, offset: usize) -> u8 {
        self.read(offset, 1) as u8
    }
    fn read16(&self, offset: usize) -> u16 {
        self.read(offset, 2) as u16
    }
    fn read32(&self, offset: usize) -> u32 {
        self.read(offset, 4)
    }
    fn write8(&self, offset: usize, value: u8) {
        self.write(offset, 1, u32::from(value));
    }
    fn write16(&self, offset: usize, value: u16) {
        self.write(offset, 2, u32::from(value));
    }
    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, 4, value);
    }
}

impl PciFunction for Machine {
    type Window = Window;
    fn read_config(&self, offset: u8) -> u32 {
        assert!(offset.is_multiple_of(4));
        let at = usize::from(offset);
        u32::from_le_bytes(self.state().pci_config[at..at + 4].try_into().unwrap())
    }
    fn write_config(&self, offset: u8, value: u32) {
        assert!(offset == 4, "only the command register is the driver's");
        assert!(value >> 16 == 0, "a 1 would clear a bit of the status");
        self.state().pci_config[4..6].copy_from_slice(&(value as u16).to_le_bytes());
    }
    fn window(&self, bar: u8) -> Option<Window> {
        assert!(bar < 6);
        (bar == 4).then(|| Machine::window(self))
    }
}

/// DMA memory that panics if the driver breaks the rules of [`DmaMemory`].
pub struct Memory(Machine);

impl Memory {
    /// What the driver sees: what it wrote itself, or else what is in memory. Then the device goes on.
    fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        assert!(offset.is_multiple_of(N));
        let state = self.0.state.borrow();
        let own = state.held_back.iter().rev().find(|(at, _)| *at == offset);
        let source = own.map_or(&state.memory[offset..offset + N], |(_, bytes)| bytes);
        let value = source.try_into().unwrap();
        drop(state);
        self.0.run_meanwhile();
        value
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset.is_multiple_of(bytes.len()));
        self.copy_in(offset, bytes);
    }

    fn disturb(&self, value: u32) -> u32 {
        match &mut self.0.state.borrow_mut().noise {
            Some(noise) => noise.disturb(value),
            None => value,
        }
    }
}

impl State {
    fn let_out(&mut self) {
        while let Some((offset, bytes)) = self.held_back.pop_front() {
            self.memory[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
    }
}

impl DmaMemory for Memory {
    fn physical(&self) -> u64 {
        PHYSICAL
    }
    fn length(&self) -> usize {
        self.0.state.borrow().memory.len()
    }
    fn read16(&self, offset: usize) -> u16 {
        let value = u16::from_le_bytes(self.read(offset));
        self.disturb(u32::from(value)) as u16
    }
    fn read32(&self, offset: usize) -> u32 {
        let value = u32::from_le_bytes(self.read(offset));
        self.disturb(value)
    }
    fn write16(&self, offset: usize, value: u16) {
        self.write(offset, &value.to_le_bytes());
    }
    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }
    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, &value.to_le_bytes());
    }
    fn copy_out(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.0.state.borrow().memory[offset..offset + into.len()]);
    }
    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let mut state = self.0.state.borrow_mut();
        assert!(offset + bytes.len() <= state.memory.len());
        state.held_back.push_back((offset, bytes.to_vec()));
    }
    fn barrier(&self) {
        self.0.state.borrow_mut().let_out();
        self.0.run_meanwhile();
    }
}
