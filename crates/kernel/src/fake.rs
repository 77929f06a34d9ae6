//! A machine for tests: frames in a map, tables as sets, a clock that is set by hand.

use crate::device::Device;
use crate::log::Level;
use crate::machine::{Cache, Frame, Machine, Mapping, Owner, Page, Shootdowns};
use abi::boot::BootInfo;
use abi::{Error, PAGE_SIZE, Protection};
use core::marker::PhantomData;
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

const PAGE: usize = PAGE_SIZE as usize;
/// The first frame that is free; those below are the boot module's.
pub const FIRST_FREE: u64 = 1 << 20;

/// `R` is what a CPU does that waits for a lock.
#[derive(Debug, Default)]
pub struct Fake<R = Deadlock> {
    state: Mutex<State>,
    cpus: usize,
    relax: PhantomData<fn() -> R>,
}

#[derive(Debug, Default)]
pub struct State {
    memory: BTreeMap<Frame, Box<[u8]>>,
    free: BTreeSet<Frame>,
    /// Frames that a CPU may still reach, though their pages were unmapped, and in which tables they were.
    remembered: HashMap<Frame, Frame>,
    /// The tables that are loaded.
    pub active: Option<Frame>,
    /// Areas whose vector registers some CPU has loaded.
    vectors: HashSet<Frame>,
    pub kicked: Vec<usize>,
    pub now_ns: u64,
    pub alarm_ns: u64,
    pub connected: HashSet<(usize, u32)>,
    pub masked: HashSet<(usize, u32)>,
    pub configuration: BTreeMap<u8, u32>,
    pub printed: Vec<u8>,
    pub info: Option<BootInfo>,
}

#[derive(Debug)]
pub struct Tables {
    root: Frame,
    /// Tables below the root that exist, by level and by the number of the part that they map.
    tables: BTreeMap<(u64, u64), Frame>,
    pages: BTreeMap<Page, (Mapping, Cache)>,
    pub open_ports: usize,
}

/// With one thread that does everything: a lock that is not free never will be.
#[derive(Debug, Default)]
pub struct Deadlock;

impl spin::RelaxStrategy for Deadlock {
    fn relax() {
        panic!("waits for a lock that it holds itself");
    }
}

impl Tables {
    /// How many tables there are below the root.
    pub fn count(&self) -> u64 {
        self.tables.len() as u64
    }

    /// The frames of all tables.
    pub fn frames(&self) -> impl Iterator<Item = Frame> + '_ {
        self.tables.values().copied().chain([self.root])
    }

    /// What is mapped.
    pub fn pages(&self) -> impl Iterator<Item = (Page, Mapping)> + '_ {
        self.pages.iter().map(|(page, (mapping, _))| (*page, *mapping))
    }

    /// The number of the part of the address space that a table of `level` maps around `page`.
    fn part(page: Page, level: u64) -> (u64, u64) {
        (level, page.address() >> (21 + 9 * level))
    }
}

impl<R> Fake<R> {
    /// A machine with as many free frames, and `module` in those from 0 on.
    pub fn new(frames: u64, module: &[u8], cpus: usize) -> Self {
        let mut state = State { alarm_ns: u64::MAX, ..State::default() };
        state.free = (0..frames).map(|index| Frame::new(FIRST_FREE + index)).collect();
        for (index, page) in module.chunks(PAGE).enumerate() {
            let mut bytes = std::vec![0; PAGE].into_boxed_slice();
            bytes[..page.len()].copy_from_slice(page);
            state.memory.insert(Frame::new(index as u64), bytes);
        }
        Self { state: Mutex::new(state), cpus, relax: PhantomData }
    }

    /// Everything, to look at and to set.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether nobody has this frame.
    pub fn is_free(&self, frame: Frame) -> bool {
        self.free.contains(&frame)
    }

    /// Whether some CPU may reach what was unmapped.
    pub fn is_flushed(&self) -> bool {
        self.remembered.is_empty()
    }

    fn bytes(&mut self, frame: Frame) -> &mut [u8] {
        assert!(!self.free.contains(&frame), "{frame:?} is used while it is free");
        // Not zeros: nobody may rely on what a fresh frame holds.
        self.memory.entry(frame).or_insert_with(|| std::vec![0xdd; PAGE].into_boxed_slice())
    }

    fn free_run(&mut self, first: Frame, count: u64) {
        for frame in (0..count).map(|at| first.offset(at)) {
            assert!(frame >= Frame::new(FIRST_FREE), "{frame:?} is not to be freed");
            assert!(!self.remembered.contains_key(&frame), "{frame:?} is freed while a CPU may reach it");
            assert!(self.free.insert(frame), "{frame:?} is freed twice");
            self.memory.remove(&frame);
        }
    }
}

impl<R: spin::RelaxStrategy> Machine for Fake<R> {
    type Relax = R;
    type Space = Tables;

    fn cpu_count(&self) -> usize {
        self.cpus
    }

    fn kick(&self, cpu: usize) {
        self.state().kicked.push(cpu);
    }

    fn shootdowns(&self, _: usize) -> Shootdowns {
        Shootdowns::default()
    }

    fn separate(&self) {}

    fn allocate(&self) -> Option<Frame> {
        self.state().free.pop_first()
    }

    fn allocate_run(&self, count: u64) -> Option<Frame> {
        let mut state = self.state();
        let fits = |first: &&Frame| (0..count).all(|at| state.free.contains(&first.offset(at)));
        let first = *state.free.iter().find(fits)?;
        (0..count).for_each(|at| assert!(state.free.remove(&first.offset(at))));
        Some(first)
    }

    fn free_run(&self, first: Frame, count: u64) {
        self.state().free_run(first, count);
    }

    fn free_count(&self) -> u64 {
        self.state().free.len() as u64
    }

    fn zero(&self, frame: Frame) {
        self.state().bytes(frame).fill(0);
    }

    fn copy(&self, from: Frame, to: Frame) {
        let mut state = self.state();
        let bytes = state.bytes(from).to_vec();
        state.bytes(to).copy_from_slice(&bytes);
    }

    fn read(&self, frame: Frame, offset: usize, bytes: &mut [u8]) {
        let state = self.state();
        let page = state.memory.get(&frame).expect("a frame that was written before");
        bytes.copy_from_slice(&page[offset..offset + bytes.len()]);
    }

    fn write(&self, frame: Frame, offset: usize, bytes: &[u8]) {
        self.state().bytes(frame)[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn read_words(&self, frame: Frame, index: usize, words: &mut [u64]) {
        for (at, word) in words.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            self.read(frame, (index + at) * 8, &mut bytes);
            *word = u64::from_le_bytes(bytes);
        }
    }

    fn write_words(&self, frame: Frame, index: usize, words: &[u64]) {
        for (at, word) in words.iter().enumerate() {
            self.write(frame, (index + at) * 8, &word.to_le_bytes());
        }
    }

    fn publish(&self, frame: Frame, info: &BootInfo) {
        let mut state = self.state();
        state.bytes(frame);
        state.info = Some(*info);
    }

    fn create_space(&self) -> Option<Tables> {
        let root = self.allocate()?;
        Some(Tables { root, tables: BTreeMap::new(), pages: BTreeMap::new(), open_ports: 0 })
    }

    fn destroy_space(&self, space: Tables) {
        assert!(space.pages.is_empty() && space.tables.is_empty(), "an empty space ends");
        let mut state = self.state();
        state.active = state.active.filter(|&root| root != space.root);
        state.free_run(space.root, 1);
    }

    fn activate(&self, space: &mut Tables) {
        self.state().active = Some(space.root);
    }

    fn missing_tables(&self, space: &Tables, page: Page) -> u64 {
        (0..3).filter(|&level| !space.tables.contains_key(&Tables::part(page, level))).count() as u64
    }

    fn add_table(&self, space: &mut Tables, page: Page, frame: Frame) {
        assert!(self.state().bytes(frame).iter().all(|&byte| byte == 0), "a table begins empty");
        let level = self.missing_tables(space, page) - 1;
        assert!(space.tables.insert(Tables::part(page, level), frame).is_none());
    }

    fn remove_tables(&self, space: &mut Tables, first: Page, end: Page) -> u64 {
        assert!(self.next_mapping(space, first, end).is_none(), "something is mapped there");
        let inside = |&(level, part): &(u64, u64)| {
            let shift = 21 + 9 * level;
            first.address() <= part << shift && (part + 1) << shift <= end.address()
        };
        let gone: Vec<_> = space.tables.keys().copied().filter(inside).collect();
        for part in &gone {
            let frame = space.tables.remove(part).expect("it is there");
            self.free_run(frame, 1);
        }
        gone.len() as u64
    }

    fn map(&self, space: &mut Tables, page: Page, mapping: Mapping, cache: Cache) {
        assert_eq!(self.missing_tables(space, page), 0, "tables come first");
        space.pages.insert(page, (mapping, cache));
    }

    fn mapping(&self, space: &Tables, page: Page) -> Option<Mapping> {
        space.pages.get(&page).map(|(mapping, _)| *mapping)
    }

    fn next_mapping(&self, space: &Tables, from: Page, end: Page) -> Option<(Page, Mapping)> {
        if from >= end {
            return None;
        }
        space.pages.range(from..end).next().map(|(page, (mapping, _))| (*page, *mapping))
    }

    fn protect(&self, space: &mut Tables, page: Page, protection: Protection) {
        space.pages.get_mut(&page).expect("it is mapped").0.protection = protection;
    }

    fn unmap(&self, space: &mut Tables, page: Page) {
        let (mapping, _) = space.pages.remove(&page).expect("it was mapped");
        if mapping.owner == Owner::Page {
            self.state().remembered.insert(mapping.frame, space.root);
        }
    }

    fn flush(&self, space: &mut Tables) {
        self.state().remembered.retain(|_, root| *root != space.root);
    }

    fn open_ports(&self, space: &mut Tables, _: &Device) {
        space.open_ports += 1;
    }

    fn close_ports(&self, space: &mut Tables, _: &Device) {
        space.open_ports = 0;
    }

    fn fresh_vectors(&self, area: Frame) {
        self.zero(area);
    }

    fn save_vectors(&self, area: Frame) {
        assert!(self.state().vectors.contains(&area), "saved where they were loaded from");
    }

    fn load_vectors(&self, area: Frame) {
        self.state().vectors.insert(area);
    }

    fn now_ns(&self) -> u64 {
        self.state().now_ns
    }

    fn set_alarm(&self, deadline_ns: u64) {
        self.state().alarm_ns = deadline_ns;
    }

    fn connect(&self, device: &Device, line: u32) -> Result<(), Error> {
        assert!(self.state().connected.insert((device.number, line)), "connected once");
        Ok(())
    }

    fn mask(&self, device: &Device, line: u32) {
        self.state().masked.insert((device.number, line));
    }

    fn unmask(&self, device: &Device, line: u32) {
        self.state().masked.remove(&(device.number, line));
    }

    fn read_config(&self, _: &Device, offset: u8) -> u32 {
        self.state().configuration.get(&offset).copied().unwrap_or(0)
    }

    fn write_config(&self, _: &Device, offset: u8, value: u32) {
        self.state().configuration.insert(offset, value);
    }

    fn print(&self, text: &[u8]) {
        self.state().printed.extend_from_slice(text);
    }

    fn log(&self, level: Level, text: std::fmt::Arguments<'_>) {
        self.print(std::format!("{level}: {text}\n").as_bytes());
    }
}
