//! What the kernel needs of a machine.

use crate::device::Device;
use crate::log::Level;
use abi::boot::BootInfo;
use abi::{Error, Marks, PAGE_SIZE, Protection};
use core::fmt;

/// A page of physical memory, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(u64);

impl Frame {
    /// The frame at physical address `number * PAGE_SIZE`.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The frame that `address` lies in.
    pub const fn containing(address: u64) -> Self {
        Self(address / PAGE_SIZE)
    }

    /// Its physical address.
    pub const fn address(self) -> u64 {
        self.0 * PAGE_SIZE
    }

    /// The frame `count` further on.
    pub const fn offset(self, count: u64) -> Self {
        Self(self.0 + count)
    }

    /// How many frames it lies behind `first`; `None` if it lies before it.
    pub const fn since(self, first: Self) -> Option<u64> {
        self.0.checked_sub(first.0)
    }
}

/// A page of a domain's address space, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Page(u64);

impl Page {
    /// The page that `address` lies in.
    pub const fn containing(address: u64) -> Self {
        Self(address / PAGE_SIZE)
    }

    /// Its first address.
    pub const fn address(self) -> u64 {
        self.0 * PAGE_SIZE
    }

    /// The page `count` further on.
    pub const fn offset(self, count: u64) -> Self {
        Self(self.0 + count)
    }

    /// How many pages it lies behind `first`, which must not be behind it.
    pub const fn since(self, first: Self) -> u64 {
        self.0 - first.0
    }

    /// The first page at or before this one whose number is a multiple of `pages`.
    pub const fn align_down(self, pages: u64) -> Self {
        Self(self.0 - self.0 % pages)
    }
}

/// One entry of a page table, as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// What is mapped.
    pub frame: Frame,
    /// What the domain may do with it; with [`Protection::None`] the frame is kept and no access is possible.
    pub protection: Protection,
    /// Whose frame it is.
    pub owner: Owner,
}

/// Who takes a frame back when its page is unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The page: a private frame, freed with it.
    Page,
    /// Something else: the boot module, a device, a DMA region.
    Elsewhere,
}

/// What a walk through page tables comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A page where something is mapped, and what is noted of it: [`abi::mark::ACCESSED`] and [`abi::mark::DIRTY`].
    Page(Page, Mapping, u8),
    /// A table that lies wholly in the walk's hole, all that it mapped having been passed.
    Table(Frame),
}

/// What becomes of what a walk came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It stays.
    Keep,
    /// The domain may do this with the page from now on.
    Protect(Protection),
    /// It is mapped no more: a page, or a table with all that it maps. CPUs may remember it until [`Machine::flush`].
    Unmap,
}

/// A walk through the pages `at..end`, in order of address.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Where it is: at `end` when it is over.
    pub at: Page,
    /// One past its last page.
    pub end: Page,
    /// Where nothing is to be mapped afterwards: tables that lie in there can go.
    pub hole: (Page, Page),
    /// What becomes of the marks of the pages, before they are visited.
    pub marks: Marks,
    /// How many entries of tables it may still look at; one that maps a page counts as [`Walk::PAGE_ENTRIES`].
    pub entries: usize,
}

impl Walk {
    /// What it takes to look at the entry of a page and change it, in entries that are empty.
    pub const PAGE_ENTRIES: usize = 4;

    /// A walk that takes no table away.
    pub const fn new((at, end): (Page, Page), entries: usize) -> Self {
        Self { at, end, hole: (at, at), marks: Marks::Keep, entries }
    }

    /// Whether it has come to its end.
    pub fn is_over(&self) -> bool {
        self.at >= self.end
    }
}

/// How a page is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Memory: write-back.
    Normal,
    /// A device's registers: uncached, in order.
    Device,
}

/// What an instruction tried to do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read it.
    Read,
    /// To write to it.
    Write,
    /// To run it.
    Execute,
}

impl Access {
    /// Whether `protection` lets this happen.
    pub const fn allowed_by(self, protection: Protection) -> bool {
        match self {
            Self::Read => !matches!(protection, Protection::None),
            Self::Write => matches!(protection, Protection::ReadWrite),
            Self::Execute => matches!(protection, Protection::ReadExecute),
        }
    }
}

/// How often a CPU had to do with others' translations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shootdowns {
    /// It asked others to forget some.
    pub asked: u64,
    /// It was asked by another.
    pub served: u64,
}

/// The hardware under the kernel: frames, page tables, CPUs, the clock, the devices.
///
/// All CPUs use it at once, so it takes `&self`; what is said of "this CPU" is said of the one that calls. Page-table operations
/// cannot fail: the kernel first adds the tables that a mapping needs, out of frames that it has charged for. What changed
/// in tables that some CPU may remember is in force everywhere after [`Machine::flush`], and not before.
pub trait Machine: Sync + Sized {
    /// How a CPU waits for a lock: it must do meanwhile what other CPUs ask of it ([`Machine::flush`]), or two could wait for each other.
    type Relax: spin::RelaxStrategy;
    /// The page tables of one domain.
    type Space: Send + fmt::Debug;

    /// How many CPUs there are, 1 to 64. Their numbers go from 0.
    fn cpu_count(&self) -> usize;
    /// Makes another CPU enter the kernel ([`crate::Interrupt::Kick`]), soon.
    fn kick(&self, cpu: usize);
    /// What was forgotten on CPUs' requests.
    fn shootdowns(&self, cpu: usize) -> Shootdowns;
    /// Keeps what one domain leaves behind in this CPU (predictors, buffers) from the next one, as far as the CPU can and the user wants it.
    fn separate(&self);

    /// Takes a free frame, its contents undefined.
    fn allocate(&self) -> Option<Frame>;
    /// Takes `count` free frames that lie side by side, contents undefined.
    fn allocate_run(&self, count: u64) -> Option<Frame>;
    /// Gives `count` frames back, from `first`.
    fn free_run(&self, first: Frame, count: u64);
    /// How many frames are free.
    fn free_count(&self) -> u64;
    /// Fills a frame with zeros.
    fn zero(&self, frame: Frame);
    /// Copies a whole frame.
    fn copy(&self, from: Frame, to: Frame);
    /// Reads bytes of one frame; `offset + bytes.len()` is at most a page.
    fn read(&self, frame: Frame, offset: usize, bytes: &mut [u8]);
    /// Writes bytes of one frame; `offset + bytes.len()` is at most a page.
    fn write(&self, frame: Frame, offset: usize, bytes: &[u8]);
    /// Reads the 8-byte words of one frame from word `index` on.
    fn read_words(&self, frame: Frame, index: usize, words: &mut [u64]);
    /// Writes the 8-byte words of one frame from word `index` on.
    fn write_words(&self, frame: Frame, index: usize, words: &[u64]);
    /// Lays a [`BootInfo`] at the beginning of a frame.
    fn publish(&self, frame: Frame, info: &BootInfo);

    /// Tables in which nothing is mapped, out of one frame; `None` if there is none.
    fn create_space(&self) -> Option<Self::Space>;
    /// Ends tables in which nothing is mapped and none is left but the first; no CPU uses them afterwards.
    fn destroy_space(&self, space: Self::Space);
    /// This CPU uses these tables from now on.
    fn activate(&self, space: &mut Self::Space);
    /// How many tables have to be added before `page` can be mapped.
    fn missing_tables(&self, space: &Self::Space, page: Page) -> u64;
    /// Adds the next missing table on the way to `page`: `frame`, which is all zeros.
    fn add_table(&self, space: &mut Self::Space, page: Page, frame: Frame);
    /// Maps a page without marks, replacing what was mapped there. No table may be missing.
    fn map(&self, space: &mut Self::Space, page: Page, mapping: Mapping, cache: Cache);
    /// Maps those of `count` pages, which have one last table, where nothing is mapped: `first` as `mapping` says, the others to the frames that follow.
    fn map_absent(&self, space: &mut Self::Space, first: Page, mapping: Mapping, count: u64);
    /// What is mapped at `page`.
    fn mapping(&self, space: &Self::Space, page: Page) -> Option<Mapping>;
    /// Goes on with a walk, and does with all that it finds what `visit` says; at `None` it stops before that. It also stops when it
    /// has looked at as many entries as it may.
    fn walk(&self, space: &mut Self::Space, walk: &mut Walk, visit: &mut dyn FnMut(Found) -> Option<Change>);
    /// Notes that a mapped page is written to, as CPUs do.
    fn mark_written(&self, space: &mut Self::Space, page: Page);
    /// Changes what the domain may do with a mapped page; its marks stay.
    fn protect(&self, space: &mut Self::Space, page: Page, protection: Protection);
    /// Every CPU that may remember something of these tables forgets what was changed or ended since the last call; returns when
    /// they have.
    fn flush(&self, space: &mut Self::Space);
    /// Whether a frame of a device's memory is one that domains may only read: an MSI-X table, which says what is interrupted.
    fn is_sealed(&self, frame: Frame) -> bool;
    /// Opens a device's I/O ports to the domain of these tables.
    fn open_ports(&self, space: &mut Self::Space, device: &Device);
    /// Closes them again, if it has any.
    fn close_ports(&self, space: &mut Self::Space, device: &Device);

    /// Lays the initial state of the vector registers in a frame.
    fn fresh_vectors(&self, area: Frame);
    /// Saves this CPU's vector registers in a frame.
    fn save_vectors(&self, area: Frame);
    /// Loads all of this CPU's vector registers from a frame.
    fn load_vectors(&self, area: Frame);

    /// Nanoseconds since the machine started, the same on all CPUs.
    fn now_ns(&self) -> u64;
    /// Asks for an alarm interrupt of this CPU at `deadline_ns`, or soon after if that has passed; an early one is allowed.
    /// Each CPU has one alarm; `u64::MAX` turns it off.
    fn set_alarm(&self, deadline_ns: u64);
    /// Routes interrupt `line` of `device` to this CPU, and lets it come.
    fn connect(&self, device: &Device, line: u32) -> Result<(), Error>;
    /// Holds a connected interrupt back; what arrives meanwhile comes after [`Machine::unmask`].
    fn mask(&self, device: &Device, line: u32);
    /// Lets a connected interrupt come.
    fn unmask(&self, device: &Device, line: u32);
    /// Reads a PCI function's configuration space at a multiple of 4 below 256.
    fn read_config(&self, device: &Device, offset: u8) -> u32;
    /// Writes a PCI function's configuration space at a multiple of 4 below 256.
    fn write_config(&self, device: &Device, offset: u8, value: u32);
    /// Writes where the kernel's log goes, as it is.
    fn print(&self, text: &[u8]);
    /// Adds a line to the kernel's log, if its level is wanted.
    fn log(&self, level: Level, text: fmt::Arguments<'_>);
}
