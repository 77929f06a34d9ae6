use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is to be run, and with what. The library OS does this and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What there is to run, at least one. Who says `Start` names a program by its place here.
    pub programs: Vec<ProgramPlan>,
    /// Where the standard streams go.
    pub console: Console,
    /// What is begun when.
    pub begin: Begin,
    /// On how many virtual CPUs the programs run, 1 to [`crate::VCPUS_MAX`].
    pub vcpus: u32,
    /// Entropy from whoever made the plan, if it is used once only.
    pub seed: Option<Seed>,
    /// What the processes may have together that programs start.
    pub children: Children,
}

/// What the processes of a domain may have together that were started by others of it. Its own processes have theirs beside this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Children {
    /// The first of the numbers that are for them (`link::Process`): those before are its own processes'.
    pub first_number: u32,
    /// How many there may be at a time. One that has ended counts until whoever started it has asked how, or has ended.
    pub processes_max: u32,
    /// What all that live may take, in bytes: each [`Self::process_bytes`] at least.
    pub memory_bytes_max: u64,
}

impl Children {
    /// For who starts none.
    pub const NONE: Self = Self { first_number: 0, processes_max: 0, memory_bytes_max: 0 };

    /// What the library OS needs for a process without being charged to it: stack of its own functions, page tables, what it notes of it.
    pub const PROCESS_BYTES: u64 = 64 << 10;
    /// What is charged to it in any case: its instance, its descriptors.
    const HOST_BYTES_MIN: u64 = 256 << 10;
    /// And in proportion to its memory.
    const HOST_SHARE: u64 = 8;
    /// What the library OS needs for itself. So a domain that is full of processes still has pages.
    pub const LIBRARY_OS_BYTES: u64 = 4 << 20;

    /// What the library OS may hold for one of so much memory; its files, and its functions if they are many, are beside this.
    pub const fn host_bytes(memory_bytes: u64) -> u64 {
        Self::HOST_BYTES_MIN.saturating_add(memory_bytes / Self::HOST_SHARE)
    }

    /// What a process of so much memory and stack may take at least.
    pub const fn process_bytes(memory_bytes: u64, stack_bytes: u64) -> u64 {
        let own_bytes = memory_bytes.saturating_add(stack_bytes);
        own_bytes.saturating_add(Self::host_bytes(memory_bytes)).saturating_add(Self::PROCESS_BYTES)
    }

    /// How many of those numbers there are beyond [`Self::processes_max`] whose end their root has not heard of yet.
    const ON_THE_WAY: u32 = 32;

    /// How many numbers there are for them.
    pub fn numbers(self) -> u32 {
        match self.processes_max {
            0 => 0,
            processes => processes.saturating_add(Self::ON_THE_WAY),
        }
    }
}

impl ProgramPlan {
    /// Of stack, if nobody says otherwise, in bytes: the engine's ordinary size.
    pub const STACK_BYTES: u64 = 512 << 10;
    /// The least and the most stack that it can be given: whole pages of these.
    pub const STACK_RANGE_BYTES: core::ops::RangeInclusive<u64> = 16 << 10..=Self::STACK_BYTES;
    /// Elements of tables, if nobody says otherwise. The engine fills and copies a table without a stop, which for so many takes some milliseconds.
    pub const TABLE_ELEMENTS: u64 = 1 << 20;
    /// Open descriptors, if nobody says otherwise.
    pub const DESCRIPTORS: u32 = 1024;
    /// The most that they can be.
    pub const DESCRIPTORS_MAX: u32 = 65_536;

    /// How long its tables may be together.
    pub fn table_elements(&self) -> u64 {
        self.table_elements_max.unwrap_or(Self::TABLE_ELEMENTS)
    }
}

impl Default for ProgramPlan {
    /// A program without a name, arguments, memory or directories, and otherwise what everybody may use.
    fn default() -> Self {
        Self {
            name: String::new(),
            artifact: 0,
            arguments: Vec::new(),
            environment: Vec::new(),
            memory_bytes_max: 0,
            timeout_ns: None,
            cpu_ns_max: None,
            table_elements_max: None,
            stack_bytes: Self::STACK_BYTES,
            descriptors_max: Self::DESCRIPTORS,
            log_bytes_per_s: None,
            directories: Vec::new(),
            start: Vec::new(),
        }
    }
}

impl Plan {
    /// To run this program alone, at once, on one virtual CPU. Its artifact is the bundle's first.
    pub fn of_one(program: ProgramPlan, console: Console, seed: Option<Seed>) -> Self {
        Self {
            programs: Vec::from([program]),
            console,
            begin: Begin::AtOnce,
            vcpus: 1,
            seed,
            children: Children::NONE,
        }
    }
}

/// A program and what it is run with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramPlan {
    /// What messages call it: the name that the user typed.
    pub name: String,
    /// Which of the bundle's [programs](crate::Kind::Program) it is, from 0: several may be the same one.
    pub artifact: u32,
    /// `argv`, the first being the program's own name. Bytes: Linux arguments need not be UTF-8.
    pub arguments: Vec<Vec<u8>>,
    /// `environ`, each `NAME=value`.
    pub environment: Vec<Vec<u8>>,
    /// The most that the program's linear memories may take together, in bytes.
    pub memory_bytes_max: u64,
    /// How long the program may run; `None`: as long as it likes.
    pub timeout_ns: Option<u64>,
    /// How much CPU time it may use; `None`: as much as it gets.
    pub cpu_ns_max: Option<u64>,
    /// How long its tables may be together, in elements; `None`: [`Self::TABLE_ELEMENTS`]. Their memory is the program's.
    pub table_elements_max: Option<u64>,
    /// The most stack that its WebAssembly code may use, in bytes, whole pages.
    pub stack_bytes: u64,
    /// The most open descriptors, those of its streams and directories among them.
    pub descriptors_max: u32,
    /// How much it may write to its output streams in a second, in bytes; `None`: as much as is taken.
    pub log_bytes_per_s: Option<u64>,
    /// The directories that it is given, in the order of their descriptors (3 and up).
    pub directories: Vec<Directory>,
    /// The programs of the plan that it may start.
    pub start: Vec<Startable>,
}

/// A program that another may start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Startable {
    /// What that one calls it.
    pub name: String,
    /// Its place in the plan.
    pub program: u32,
}

/// What a library OS begins when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Begin {
    /// The first program, as process 0 of the `link` crate, and it is over when that is.
    AtOnce,
    /// Nothing, until it is told to over its [`Console::Framed`] or [`Console::Wire`], and it goes on until it is told to end or
    /// nobody is at the other end.
    WhenTold,
}

/// 32 bytes from a good source. Its `Debug` output does not show them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed(pub [u8; 32]);

impl core::fmt::Debug for Seed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// Where the standard streams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Console {
    /// To the host services (hosted).
    Host,
    /// Over the first virtio console, in the frames of the `link` crate: somebody is there who speaks them, and has
    /// these for the streams' other ends.
    Framed(Terminals),
    /// Hosted, over the launcher's wire, in the frames of the `link` crate.
    Wire,
    /// Over the first virtio console, or the serial port if there is none, as plain bytes: output and error merged.
    Raw,
}

/// At which standard streams a person may sit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminals {
    /// Standard input.
    pub input: Terminal,
    /// Standard output.
    pub output: Terminal,
    /// Standard error.
    pub error: Terminal,
}

impl Terminals {
    /// All three are, or none.
    pub const fn all(terminal: Terminal) -> Self {
        Self { input: terminal, output: terminal, error: terminal }
    }
}

/// Whether a stream is a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Terminal {
    /// It is a file, a pipe, or the like.
    No,
    /// It is.
    Yes,
}

/// One granted directory (a WASI preopen).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// The name that the program knows it by.
    pub guest: String,
    /// What it may do there.
    pub access: Access,
    /// Where its contents are.
    pub source: DirectorySource,
}

/// What a program may do with a granted directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Look only.
    ReadOnly,
    /// Everything.
    ReadWrite,
}

/// Where a granted directory's contents are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectorySource {
    /// The host services have it open under this number: no two of a plan are the same.
    Host(u32),
    /// A copy of it travels in the bundle.
    Copy(Copied),
}

/// What is in a copied directory: there once for all who are granted it, and counted once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    nodes: Arc<Vec<Node>>,
    count: u64,
    text_bytes: u64,
}

impl Copied {
    /// The directory's own entries.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How many nodes there are, those in directories below among them.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// How long their names and the texts of symbolic links are together.
    pub const fn text_bytes(&self) -> u64 {
        self.text_bytes
    }
}

impl From<Vec<Node>> for Copied {
    fn from(nodes: Vec<Node>) -> Self {
        let (mut count, mut text_bytes) = (0, 0);
        let mut left = Vec::from([&nodes[..]]);
        while let Some(nodes) = left.pop() {
            for node in nodes {
                count += 1;
                text_bytes += node.name.len() as u64;
                match &node.kind {
                    NodeKind::File { .. } => {}
                    NodeKind::Directory(nodes) => left.push(nodes),
                    NodeKind::Symlink(text) => text_bytes += text.len() as u64,
                }
            }
        }
        Self { nodes: Arc::new(nodes), count, text_bytes }
    }
}

impl Serialize for Copied {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.nodes.as_slice().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Copied {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}

/// A file, a directory or a symbolic link in a copied tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// One path component.
    pub name: String,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified_ns: u64,
    /// The rest.
    pub kind: NodeKind,
}

/// What a [`Node`] is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// A file; its bytes lie in the bundle's file contents.
    File {
        /// Of the first byte, in the [`crate::Kind::Files`] item.
        offset: u64,
        /// In bytes.
        length: u64,
        /// [`crate::checksum`] of the bytes.
        checksum: u64,
    },
    /// A directory and what is in it.
    Directory(Vec<Node>),
    /// A symbolic link and what it says.
    Symlink(String),
}
