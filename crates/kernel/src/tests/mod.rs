//! The kernel on a fake machine.

mod action;
mod audit;
mod authority;
mod choose;
mod found;
mod fuzz;
mod hostile;
mod many;
mod minimal;
mod seeds;
mod single;
mod threads;

use crate::device::{ByteRange, Device};
use abi::boot::{DeviceKind, DeviceRecord, ModuleHeader};
use abi::{PAGE_SIZE, Span};
use std::vec::Vec;

const WINDOW: u64 = 0x1_0000_0000;
const BASE: u64 = 0x3_0000_0000;
const UPCALL_PAGE: u64 = 0x2_0000_0000;
const MODULE_PAGES: u64 = 16;
/// One past the instruction that makes a system call.
const CALL_AT: u64 = 0x1000_1500;

/// An executable with a page of code, and data of which the last part is zeros.
fn executable() -> Vec<u8> {
    let mut file = std::vec![0; 2 * 4096 + 100];
    file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &2u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(24, &0x1000_1000u64.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &2u16.to_le_bytes());
    for (index, (flags, offset, address, file_bytes, memory_bytes)) in
        [(5u32, 0x1000u64, 0x1000_1000u64, 0x1000u64, 0x1000u64), (6, 0x2000, 0x1000_2000, 100, 0x2800)]
            .into_iter()
            .enumerate()
    {
        let at = 64 + index * 56;
        put(at, &1u32.to_le_bytes());
        put(at + 4, &flags.to_le_bytes());
        for (field, value) in
            [(8, offset), (16, address), (24, address), (32, file_bytes), (40, memory_bytes)]
        {
            put(at + field, &value.to_le_bytes());
        }
    }
    put(0x2000, &[7; 100]);
    file
}

fn module() -> Vec<u8> {
    let image = executable();
    let length = MODULE_PAGES * PAGE_SIZE;
    let span = Span::new(PAGE_SIZE, image.len() as u64);
    let mut module = ModuleHeader { magic: ModuleHeader::MAGIC, length, image: span }.to_bytes().to_vec();
    module.resize(4096, 1);
    module.extend(image);
    module.resize(length as usize, 0xee);
    module
}

fn devices() -> Vec<Device> {
    let mut pci = DeviceRecord { kind: DeviceKind::Pci, interrupt_count: 3, ..DeviceRecord::default() };
    pci.windows[1] = Span::new(0xfe00_0000, 0x4000);
    let clock = DeviceRecord { kind: DeviceKind::RealTimeClock, ..DeviceRecord::default() };
    let locked = std::vec![ByteRange { first: 0x40, count: 12 }];
    std::vec![
        Device { number: 4, record: pci, locked },
        Device { number: 9, record: clock, locked: Vec::new() },
    ]
}

/// Frames that the first domain cannot have.
const RESERVE: u64 = 512;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        // xorshift64* (Vigna 2016).
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}
