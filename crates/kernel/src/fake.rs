//! A machine for tests: frames in a map, tables as sets, a clock that is set by hand.

use crate::device::Device;
use crate::machine::{Cache, Frame, Machine, Mapping, Page};
use abi::boot::BootInfo;
use abi::{Error, PAGE_SIZE, Protection};
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::vec::Vec;

const PAGE: usize = PAGE_SIZE as usize;
/// The first frame that is free; those below are the boot module's.
pub const FIRST_FREE: u64 = 1 << 20;

#[derive(Debug, Default)]
pub struct Fake {
    memory: BTreeMap<Frame, Box<[u8]>>,
    free: BTreeSet<Frame>,
    /// Tables below the root that exist, by level and by the number of the part that they map.
    tables: BTreeMap<(u64, u64), Frame>,
    pages: BTreeMap<Page, (Mapping, Cache)>,
    pub now_ns: u64,
    pub alarm_ns: u64,
    pub connected: HashSet<(usize, u32)>,
    pub masked: HashSet<(usize, u32)>,
    pub configuration: BTreeMap<u8, u32>,
    pub printed: Vec<u8>,
    pub open_ports: usize,
    pub info: Option<BootInfo>,
}

impl Fake {
    /// A machine with as many free frames, and `module` in those from 0 on.
    pub fn new(frames: u64, module: &[u8]) -> Self {
        let mut fake = Self { alarm_ns: u64::MAX, ..Self::default() };
        fake.free = (0..frames).map(|index| Frame::new(FIRST_FREE + index)).collect();
        for (index, page) in module.chunks(PAGE).enumerate() {
            let mut bytes = std::vec![0; PAGE].into_boxed_slice();
            bytes[..page.len()].copy_from_slice(page);
            fake.memory.insert(Frame::new(index as u64), bytes);
        }
        fake
    }

    /// How many tables there are.
    pub fn table_count(&self) -> u64 {
        self.tables.len() as u64
    }

    /// What is mapped.
    pub fn pages(&self) -> impl Iterator<Item = (Page, Mapping)> + '_ {
        self.pages.iter().map(|(page, (mapping, _))| (*page, *mapping))
    }

    fn bytes(&mut self, frame: Frame) -> &mut [u8] {
        assert!(!self.free.contains(&frame), "{frame:?} is used while it is free");
        // Not zeros: nobody may rely on what a fresh frame holds.
        self.memory.entry(frame).or_insert_with(|| std::vec![0xdd; PAGE].into_boxed_slice())
    }

    /// The number of the part of the address space that a table of `level` maps around `page`.
    fn part(page: Page, level: u64) -> (u64, u64) {
        (level, page.address() >> (21 + 9 * level))
    }
}

impl Machine for Fake {
    fn allocate(&mut self) -> Option<Frame> {
        self.free.pop_first()
    }

    fn allocate_run(&mut self, count: u64) -> Option<Frame> {
        let fits = |first: &&Frame| (0..count).all(|at| self.free.contains(&first.offset(at)));
        let first = *self.free.iter().find(fits)?;
        (0..count).for_each(|at| assert!(self.free.remove(&first.offset(at))));
        Some(first)
    }

    fn free_run(&mut self, first: Frame, count: u64) {
        for frame in (0..count).map(|at| first.offset(at)) {
            assert!(frame >= Frame::new(FIRST_FREE), "{frame:?} is not to be freed");
            assert!(self.free.insert(frame), "{frame:?} is freed twice");
            self.memory.remove(&frame);
        }
    }

    fn free_count(&self) -> u64 {
        self.free.len() as u64
    }

    fn zero(&mut self, frame: Frame) {
        self.bytes(frame).fill(0);
    }

    fn copy(&mut self, from: Frame, to: Frame) {
        let bytes = self.bytes(from).to_vec();
        self.bytes(to).copy_from_slice(&bytes);
    }

    fn read(&self, frame: Frame, offset: usize, bytes: &mut [u8]) {
        let page = self.memory.get(&frame).expect("a frame that was written before");
        bytes.copy_from_slice(&page[offset..offset + bytes.len()]);
    }

    fn write(&mut self, frame: Frame, offset: usize, bytes: &[u8]) {
        self.bytes(frame)[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn read_words(&self, frame: Frame, index: usize, words: &mut [u64]) {
        for (at, word) in words.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            self.read(frame, (index + at) * 8, &mut bytes);
            *word = u64::from_le_bytes(bytes);
        }
    }

    fn write_words(&mut self, frame: Frame, index: usize, words: &[u64]) {
        for (at, word) in words.iter().enumerate() {
            self.write(frame, (index + at) * 8, &word.to_le_bytes());
        }
    }

    fn publish(&mut self, frame: Frame, info: &BootInfo) {
        self.bytes(frame);
        self.info = Some(*info);
    }

    fn missing_tables(&self, page: Page) -> u64 {
        (0..3).filter(|&level| !self.tables.contains_key(&Self::part(page, level))).count() as u64
    }

    fn add_table(&mut self, page: Page, frame: Frame) {
        assert!(self.bytes(frame).iter().all(|&byte| byte == 0), "a table begins empty");
        let level = self.missing_tables(page) - 1;
        assert!(self.tables.insert(Self::part(page, level), frame).is_none());
    }

    fn remove_tables(&mut self, first: Page, end: Page) -> u64 {
        assert!(self.next_mapping(first, end).is_none(), "something is mapped there");
        let inside = |&(level, part): &(u64, u64)| {
            let shift = 21 + 9 * level;
            first.address() <= part << shift && (part + 1) << shift <= end.address()
        };
        let gone: Vec<_> = self.tables.keys().copied().filter(inside).collect();
        for part in &gone {
            let frame = self.tables.remove(part).expect("it is there");
            self.free_run(frame, 1);
        }
        gone.len() as u64
    }

    fn map(&mut self, page: Page, mapping: Mapping, cache: Cache) {
        assert_eq!(self.missing_tables(page), 0, "tables come first");
        self.pages.insert(page, (mapping, cache));
    }

    fn mapping(&self, page: Page) -> Option<Mapping> {
        self.pages.get(&page).map(|(mapping, _)| *mapping)
    }

    fn next_mapping(&self, from: Page, end: Page) -> Option<(Page, Mapping)> {
        if from >= end {
            return None;
        }
        self.pages.range(from..end).next().map(|(page, (mapping, _))| (*page, *mapping))
    }

    fn protect(&mut self, page: Page, protection: Protection) {
        self.pages.get_mut(&page).expect("it is mapped").0.protection = protection;
    }

    fn unmap(&mut self, page: Page) {
        assert!(self.pages.remove(&page).is_some(), "it was mapped");
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn set_alarm(&mut self, deadline_ns: u64) {
        self.alarm_ns = deadline_ns;
    }

    fn connect(&mut self, device: &Device, line: u32) -> Result<(), Error> {
        assert!(self.connected.insert((device.number, line)), "connected once");
        Ok(())
    }

    fn mask(&mut self, device: &Device, line: u32) {
        self.masked.insert((device.number, line));
    }

    fn unmask(&mut self, device: &Device, line: u32) {
        self.masked.remove(&(device.number, line));
    }

    fn read_config(&mut self, _: &Device, offset: u8) -> u32 {
        self.configuration.get(&offset).copied().unwrap_or(0)
    }

    fn write_config(&mut self, _: &Device, offset: u8, value: u32) {
        self.configuration.insert(offset, value);
    }

    fn open_ports(&mut self, _: &Device) {
        self.open_ports += 1;
    }

    fn print(&mut self, text: &[u8]) {
        self.printed.extend_from_slice(text);
    }
}
