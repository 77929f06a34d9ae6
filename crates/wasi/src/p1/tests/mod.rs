//! All functions over a fake host: no engine, no clock but the fake's, nothing that waits in earnest.

mod basics;
mod children;
mod files;
mod hostile;
mod poll;
mod streams;

use super::functions::for_each_function;
use super::memory::{u32_at, u64_at};
use super::{Memory, Preopen, Start, State};
use crate::provider::*;
use crate::tree::{Grant, Surroundings, Tree};
use crate::{Errno, Error, Result, Stopped};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};
use bundle::{Access, NodeKind};

/// A core value as a parameter.
trait FromRaw {
    fn from_raw(raw: u64) -> Self;
}

impl FromRaw for u32 {
    fn from_raw(raw: u64) -> Self {
        raw as Self
    }
}

impl FromRaw for u64 {
    fn from_raw(raw: u64) -> Self {
        raw
    }
}

impl FromRaw for i64 {
    fn from_raw(raw: u64) -> Self {
        raw as Self
    }
}

macro_rules! call_functions {
    ($($name:ident($($parameter:ident: $type:ty),*);)*) => {
        /// The functions by name, with the names of their parameters.
        fn functions() -> Vec<(&'static str, &'static [&'static str])> {
            vec![$((stringify!($name), &[$(stringify!($parameter)),*] as &[&str])),*]
        }

        /// Calls a function as the linked one would: through the checkpoint.
        fn call<H: Host>(
            state: &mut State<H>,
            memory: &mut [u8],
            name: &str,
            parameters: &[u64],
        ) -> Result<()> {
            state.enter()?;
            let mut raw = parameters.iter().copied();
            let mut next = || raw.next().expect("as many as the function has");
            match name {
                $(stringify!($name) => {
                    $(let $parameter = <$type>::from_raw(next());)*
                    state.$name(&mut Memory::new(memory), $($parameter),*)
                })*
                _ => panic!("no function {name}"),
            }
        }
    };
}

for_each_function!(call_functions);

/// What the next read of standard input finds.
enum Step {
    Bytes(&'static [u8]),
    /// Nothing, until somebody waits.
    Wait,
}

/// A host whose time passes only when somebody waits, and which writes down what it is asked.
struct Fake {
    now_ns: u64,
    input: VecDeque<Step>,
    written: Vec<(OutputStream, Vec<u8>)>,
    /// What the output streams take before somebody has to wait.
    room: usize,
    /// How much room a wait makes; `None`: the other end is closed.
    room_after_wait: Option<usize>,
    terminal: Terminal,
    tree: Tree<'static>,
    waits: Vec<(StreamSet, Option<u64>)>,
    /// How many checkpoints there are before the process is ended.
    checkpoints: u64,
    gave_way: u32,
    random: u8,
    /// What it may start.
    children: Option<children::FakeChildren>,
}

/// Where the fake's clocks stand at the beginning.
const BEGIN_NS: u64 = 1_000_000;
/// How far the wall clock is ahead of the monotonic one.
const WALL_AHEAD_NS: u64 = 1_700_000_000_000_000_000;
const MEMORY_BYTES: usize = 0x1_0000;
const SURROUNDINGS: Surroundings = Surroundings { wall_ns: || 99, checkpoint: || Ok(()), pause: || {} };
/// The memory that the fake's tree may take.
const TREE_BYTES: u64 = 1 << 20;

impl Fake {
    fn new(tree: Tree<'static>) -> Self {
        Self {
            now_ns: BEGIN_NS,
            input: VecDeque::new(),
            written: Vec::new(),
            room: usize::MAX,
            room_after_wait: Some(usize::MAX),
            terminal: Terminal::No,
            tree,
            waits: Vec::new(),
            checkpoints: u64::MAX,
            gave_way: 0,
            random: 0,
            children: None,
        }
    }
}

impl Host for Fake {
    fn clock(&mut self) -> &mut dyn Clock {
        self
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        self
    }

    fn streams(&mut self) -> &mut dyn Streams {
        self
    }

    fn files(&mut self) -> &mut dyn Files {
        &mut self.tree
    }

    fn wait(&mut self) -> &mut dyn Wait {
        self
    }

    fn children(&mut self) -> Option<&mut dyn Children> {
        self.children.as_mut().map(|children| children as &mut dyn Children)
    }
}

impl Clock for Fake {
    fn monotonic_ns(&mut self) -> Result<u64> {
        Ok(self.now_ns)
    }

    fn wall_ns(&mut self) -> Result<u64> {
        Ok(self.now_ns + WALL_AHEAD_NS)
    }

    fn cpu_ns(&mut self) -> Result<u64> {
        Ok(self.now_ns / 2)
    }

    fn resolution_ns(&mut self, which: ClockKind) -> Result<u64> {
        Ok(1 + which as u64)
    }
}

impl Entropy for Fake {
    fn fill(&mut self, into: &mut [u8]) -> Result<()> {
        self.random += 1;
        into.fill(self.random);
        Ok(())
    }
}

impl Streams for Fake {
    fn read(&mut self, into: &mut [u8]) -> Result<Input> {
        match self.input.front_mut() {
            None => Ok(Input::End),
            Some(Step::Wait) => Ok(Input::NotReady),
            Some(Step::Bytes(bytes)) => {
                let count = bytes.len().min(into.len());
                into[..count].copy_from_slice(&bytes[..count]);
                *bytes = &bytes[count..];
                if bytes.is_empty() {
                    self.input.pop_front();
                }
                Ok(Input::Bytes(count))
            }
        }
    }

    fn write(&mut self, to: OutputStream, bytes: &[u8]) -> Result<Output> {
        let count = bytes.len().min(self.room);
        if count == 0 {
            return if self.room_after_wait.is_some() {
                Ok(Output::NotReady)
            } else {
                Err(Errno::Pipe.into())
            };
        }
        self.room -= count;
        self.written.push((to, bytes[..count].to_vec()));
        Ok(Output::Bytes(count))
    }

    fn terminal(&mut self, _: Stream) -> Result<Terminal> {
        Ok(self.terminal)
    }
}

impl Wait for Fake {
    fn wait(&mut self, streams: StreamSet, deadline_ns: Option<u64>) -> Result<StreamSet, Stopped> {
        self.waits.push((streams, deadline_ns));
        assert!(self.waits.len() < 1000, "this spins");
        let due = deadline_ns.is_some_and(|deadline_ns| deadline_ns <= self.now_ns);
        let mut ready = StreamSet::NONE;
        if streams.has(Stream::Input) {
            match self.input.front() {
                Some(Step::Wait) if due => {}
                Some(Step::Wait) if deadline_ns.is_none() => {
                    self.input.pop_front();
                    ready = ready.union(StreamSet::INPUT);
                }
                Some(Step::Wait) => {}
                _ => ready = ready.union(StreamSet::INPUT),
            }
        }
        for stream in [Stream::Output, Stream::Error].into_iter().filter(|stream| streams.has(*stream)) {
            self.room = self.room.max(self.room_after_wait.unwrap_or(0));
            ready = ready.union(StreamSet::of(stream));
        }
        if ready.is_empty() {
            let deadline_ns = deadline_ns.expect("somebody waits for ever");
            self.now_ns = self.now_ns.max(deadline_ns);
        }
        Ok(ready)
    }

    fn checkpoint(&mut self) -> Result<(), Stopped> {
        self.checkpoints = self.checkpoints.checked_sub(1).ok_or(Stopped)?;
        Ok(())
    }

    fn give_way(&mut self) -> Result<(), Stopped> {
        self.gave_way += 1;
        Ok(())
    }
}

/// A program that calls functions by hand.
struct Program {
    state: State<Fake>,
    memory: Vec<u8>,
    /// Where the next bytes that are put into memory go.
    free: u32,
}

/// What is in the file `old` of the granted directory, and in `r/old` of the one that can only be read.
const OLD: &[u8] = b"old contents";
/// The descriptor of the granted directory.
const ROOT: u64 = 3;
/// The descriptor of the directory that can only be read.
const READ_ONLY: u64 = 4;

impl Program {
    fn new() -> Self {
        let file = |name: &str, checksum| bundle::Node {
            name: String::from(name),
            modified_ns: 7,
            kind: NodeKind::File { offset: 0, length: OLD.len() as u64, checksum },
        };
        let nodes = || vec![file("old", bundle::checksum(OLD)), file("damaged", 1)];
        let grants = vec![
            Grant { access: Access::ReadWrite, copied: nodes().into() },
            Grant { access: Access::ReadOnly, copied: nodes().into() },
        ];
        let mut tree = Tree::new(grants, OLD, TREE_BYTES, SURROUNDINGS).unwrap();
        let directories = [("/", 0), ("read", 1)].map(|(guest, number)| Preopen {
            guest: Box::from(guest),
            handle: tree.open_grant(number).unwrap(),
        });
        let start = Start {
            arguments: vec![b"program".to_vec(), b"".to_vec(), vec![0xff, 0xfe]],
            environment: vec![b"A=b".to_vec()],
            directories: directories.into(),
            descriptors_max: 16,
            on_descriptors: |_| {},
        };
        let state = State::new(Fake::new(tree), start).unwrap();
        Self { state, memory: vec![0; MEMORY_BYTES], free: 0x4000 }
    }

    fn call(&mut self, name: &str, parameters: &[u64]) -> Result<()> {
        call(&mut self.state, &mut self.memory, name, parameters)
    }

    /// Calls a function that must succeed.
    #[track_caller]
    fn ok(&mut self, name: &str, parameters: &[u64]) {
        assert_eq!(self.call(name, parameters), Ok(()), "{name}");
    }

    /// Calls a function that must fail.
    #[track_caller]
    fn fails(&mut self, name: &str, parameters: &[u64], errno: Errno) {
        assert_eq!(self.call(name, parameters), Err(Error::Errno(errno)), "{name}");
    }

    /// Puts bytes into memory and answers where.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.free.next_multiple_of(8);
        self.memory[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        self.free = at + bytes.len() as u32;
        u64::from(at)
    }

    /// Puts a list of buffers into memory: where, and how many.
    fn buffers(&mut self, buffers: &[(u64, u64)]) -> (u64, u64) {
        let words = buffers.iter().flat_map(|(at, length)| [*at as u32, *length as u32]);
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        (self.put(&bytes), buffers.len() as u64)
    }

    fn u32(&self, at: u64) -> u32 {
        u32_at(&self.memory, at as usize)
    }

    fn u64(&self, at: u64) -> u64 {
        u64_at(&self.memory, at as usize)
    }

    fn bytes(&self, at: u64, length: usize) -> &[u8] {
        &self.memory[at as usize..at as usize + length]
    }

    /// Address and length of a path in memory.
    fn path(&mut self, path: &str) -> [u64; 2] {
        [self.put(path.as_bytes()), path.len() as u64]
    }

    fn open(&mut self, directory: u64, path: &str, oflags: u64, rights: u64, fdflags: u64) -> Result<u64> {
        let [at, length] = self.path(path);
        let opened = self.put(&[0; 4]);
        self.call("path_open", &[directory, 1, at, length, oflags, rights, 0, fdflags, opened])?;
        Ok(u64::from(self.u32(opened)))
    }

    fn write(&mut self, fd: u64, bytes: &[u8]) -> Result<usize> {
        let at = self.put(bytes);
        let (list, count) = self.buffers(&[(at, bytes.len() as u64)]);
        let done = self.put(&[0; 4]);
        self.call("fd_write", &[fd, list, count, done])?;
        Ok(self.u32(done) as usize)
    }

    fn read(&mut self, fd: u64, length: usize) -> Result<Vec<u8>> {
        let at = self.put(&vec![0; length]);
        let (list, count) = self.buffers(&[(at, length as u64)]);
        let done = self.put(&[0; 4]);
        self.call("fd_read", &[fd, list, count, done])?;
        let count = self.u32(done) as usize;
        Ok(self.bytes(at, count).to_vec())
    }

    fn fake(&mut self) -> &mut Fake {
        self.state.host()
    }
}

#[test]
fn all_46_functions_are_there() {
    // All of the list, and proc_exit.
    assert_eq!(functions().len() + 1, 46);
}

#[test]
fn every_function_ends_with_the_process() {
    for (name, parameters) in functions() {
        let mut program = Program::new();
        program.fake().checkpoints = 0;
        assert_eq!(program.call(name, &vec![0; parameters.len()]), Err(Error::Stopped), "{name}");
    }
}
