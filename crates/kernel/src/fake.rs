//! A machine for tests: frames in a map, tables as sets, a clock that is set by hand.

use crate::device::Device;
use crate::log::Level;
use crate::machine::{Access, Cache, Change, Found, Frame, Machine, Mapping, Page, Shootdowns, Walk};
use abi::boot::{BootInfo, DeviceKind};
use abi::{Error, Marks, PAGE_SIZE, Protection, mark};
use core::marker::PhantomData;
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

const PAGE: usize = PAGE_SIZE as usize;
/// The first frame that is free; those below are the boot module's.
pub const FIRST_FREE: u64 = 1 << 20;
/// A frame of the first device's memory that domains may only read.
const SEALED: Frame = Frame::containing(0xfe00_1000);

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
    /// How many frames from 0 on are memory, too.
    module_frames: u64,
    free: BTreeSet<Frame>,
    /// Tables, and frames that a CPU may still reach by them, or reach in a way that is not allowed any more.
    remembered: BTreeSet<(Frame, Frame)>,
    /// The tables that are loaded.
    pub active: Option<Frame>,
    /// Areas whose vector registers some CPU has loaded.
    loaded: BTreeSet<Frame>,
    /// The one that was loaded last.
    pub vectors: Option<Frame>,
    /// So many more can be taken, and then, once, there is none.
    pub frames_until_none: Option<u64>,
    pub kicked: Vec<usize>,
    pub now_ns: u64,
    pub alarm_ns: u64,
    pub connected: BTreeSet<(usize, u32)>,
    pub masked: BTreeSet<(usize, u32)>,
    pub configuration: BTreeMap<u8, u32>,
    pub printed: Vec<u8>,
    pub info: Option<BootInfo>,
    /// Who waits here sees a virtual CPU half made, once, and what follows waits for it a second time.
    pub meanwhile: Option<Arc<Barrier>>,
}

#[derive(Debug)]
pub struct Tables {
    root: Frame,
    /// Tables below the root that exist, by level and by the number of the part that they map.
    tables: BTreeMap<(u64, u64), Frame>,
    /// With what is noted of each.
    pages: BTreeMap<Page, (Mapping, Cache, u8)>,
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
    /// What a CPU does that accesses a page, which is mapped.
    pub fn note(&mut self, page: Page, access: Access) {
        let marks = if access == Access::Write { mark::ACCESSED | mark::DIRTY } else { mark::ACCESSED };
        self.pages.get_mut(&page).expect("it is mapped").2 |= marks;
    }

    /// How many tables there are below the root.
    pub fn count(&self) -> u64 {
        self.tables.len() as u64
    }

    /// Names them.
    pub fn root(&self) -> Frame {
        self.root
    }

    /// The frames of all tables.
    pub fn frames(&self) -> impl Iterator<Item = Frame> + '_ {
        self.tables.values().copied().chain([self.root])
    }

    /// What is mapped.
    pub fn pages(&self) -> impl Iterator<Item = (Page, Mapping)> + '_ {
        self.pages.iter().map(|(page, (mapping, ..))| (*page, *mapping))
    }

    /// The first table that a walk has to take away before it goes on to `next`.
    fn table_to_leave(&self, walk: &Walk, next: Page) -> Option<(u64, u64)> {
        let ends = |&(level, part): &(u64, u64)| {
            let at = |part: u64| Page::containing(part << (21 + 9 * level));
            (at(part), at(part + 1))
        };
        let leaves = |part: &(u64, u64)| {
            let (first, end) = ends(part);
            let inside = walk.hole.0 <= first && end <= walk.hole.1;
            inside && first < walk.end && walk.at <= end && end.min(walk.end) <= next
        };
        // Those of lower levels before those above.
        self.tables.keys().copied().filter(leaves).min_by_key(|part| (ends(part).1, part.0))
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
            state.module_frames = index as u64 + 1;
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

    fn has_frames(&mut self) -> bool {
        let left = self.frames_until_none;
        self.frames_until_none = left.and_then(|left| left.checked_sub(1));
        left != Some(0)
    }

    fn bytes(&mut self, frame: Frame) -> &mut [u8] {
        assert!(
            frame < Frame::new(self.module_frames) || frame >= Frame::new(FIRST_FREE),
            "{frame:?} is no memory"
        );
        assert!(!self.free.contains(&frame), "{frame:?} is used while it is free");
        // Not zeros: nobody may rely on what a fresh frame holds.
        self.memory.entry(frame).or_insert_with(|| std::vec![0xdd; PAGE].into_boxed_slice())
    }

    fn free_run(&mut self, first: Frame, count: u64) {
        for frame in (0..count).map(|at| first.offset(at)) {
            assert!(frame >= Frame::new(FIRST_FREE), "{frame:?} is not to be freed");
            let reached = self.remembered.iter().any(|(_, remembered)| *remembered == frame);
            assert!(!reached, "{frame:?} is freed while a CPU may reach it");
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
        let mut state = self.state();
        state.has_frames().then(|| state.free.pop_first())?
    }

    fn allocate_run(&self, count: u64) -> Option<Frame> {
        let mut state = self.state();
        if !state.has_frames() {
            return None;
        }
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

    fn map(&self, space: &mut Tables, page: Page, mapping: Mapping, cache: Cache) {
        assert_eq!(self.missing_tables(space, page), 0, "tables come first");
        let before = space.pages.insert(page, (mapping, cache, 0));
        if let Some((before, ..)) = before.filter(|(before, ..)| before.frame != mapping.frame) {
            self.state().remembered.insert((space.root, before.frame));
        }
    }

    fn map_absent(&self, space: &mut Tables, first: Page, mapping: Mapping, count: u64) {
        for number in 0..count {
            let page = first.offset(number);
            assert_eq!(self.missing_tables(space, page), 0, "the last table is there");
            let mapping = Mapping { frame: mapping.frame.offset(number), ..mapping };
            space.pages.entry(page).or_insert((mapping, Cache::Normal, 0));
        }
    }

    fn mapping(&self, space: &Tables, page: Page) -> Option<Mapping> {
        space.pages.get(&page).map(|(mapping, ..)| *mapping)
    }

    fn walk(&self, space: &mut Tables, walk: &mut Walk, visit: &mut dyn FnMut(Found) -> Option<Change>) {
        if walk.entries == 0 {
            return;
        }
        loop {
            let next = space.pages.range(walk.at..walk.end).next();
            let next = next.map(|(page, (mapping, _, marks))| (*page, *mapping, *marks));
            if let Some(part) = space.table_to_leave(walk, next.map_or(walk.end, |(page, ..)| page)) {
                let frame = space.tables[&part];
                let Some(change) = visit(Found::Table(frame)) else {
                    // The pages before it are passed, but the walk is not over.
                    walk.at = walk.at.min(Page::containing(walk.end.address() - 1));
                    return;
                };
                assert_eq!(change, Change::Unmap, "a table goes");
                space.tables.remove(&part);
                self.state().remembered.insert((space.root, frame));
                continue;
            }
            let Some((page, mapping, marks)) = next else {
                walk.at = walk.end;
                return;
            };
            walk.at = page;
            if walk.entries == 0 {
                return;
            }
            if walk.marks == Marks::Clear && marks != 0 {
                space.pages.get_mut(&page).expect("it is mapped").2 = 0;
                self.state().remembered.insert((space.root, mapping.frame));
            }
            match visit(Found::Page(page, mapping, marks)) {
                None => return,
                Some(Change::Keep) => (),
                Some(Change::Protect(protection)) => self.protect(space, page, protection),
                Some(Change::Unmap) => {
                    space.pages.remove(&page);
                    self.state().remembered.insert((space.root, mapping.frame));
                }
            }
            walk.at = page.offset(1);
            walk.entries = walk.entries.saturating_sub(Walk::PAGE_ENTRIES);
        }
    }

    fn mark_written(&self, space: &mut Tables, page: Page) {
        space.note(page, Access::Write);
    }

    fn protect(&self, space: &mut Tables, page: Page, protection: Protection) {
        let (mapping, ..) = space.pages.get_mut(&page).expect("it is mapped");
        let less = |access: Access| access.allowed_by(mapping.protection) && !access.allowed_by(protection);
        if [Access::Read, Access::Write, Access::Execute].into_iter().any(less) {
            self.state().remembered.insert((space.root, mapping.frame));
        }
        mapping.protection = protection;
    }

    fn flush(&self, space: &mut Tables) {
        self.state().remembered.retain(|(root, _)| *root != space.root);
    }

    fn is_sealed(&self, frame: Frame) -> bool {
        frame == SEALED
    }

    fn open_ports(&self, space: &mut Tables, _: &Device) {
        space.open_ports += 1;
    }

    fn close_ports(&self, space: &mut Tables, device: &Device) {
        if device.record.kind == DeviceKind::RealTimeClock {
            space.open_ports = 0;
        }
    }

    fn fresh_vectors(&self, area: Frame) {
        self.zero(area);
        let meanwhile = self.state().meanwhile.take();
        if let Some(barrier) = meanwhile {
            (0..2).for_each(|_| _ = barrier.wait());
        }
    }

    fn save_vectors(&self, area: Frame) {
        assert!(self.state().loaded.contains(&area), "saved where they were loaded from");
    }

    fn load_vectors(&self, area: Frame) {
        let mut state = self.state();
        state.loaded.insert(area);
        state.vectors = Some(area);
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

    fn write_config(&self, device: &Device, offset: u8, value: u32) {
        let locked = device.locked.iter().any(|range| {
            (offset..offset + 4).any(|at| (range.first..range.first + range.count).contains(&at))
        });
        assert!(!locked, "{offset:#x} of {device:?} is not for the domain");
        self.state().configuration.insert(offset, value);
    }

    fn print(&self, text: &[u8]) {
        self.state().printed.extend_from_slice(text);
    }

    fn log(&self, level: Level, text: std::fmt::Arguments<'_>) {
        self.print(std::format!("{level}: {text}\n").as_bytes());
    }
}
