use crate::Result;

/// The processes that a process has started: its children. It sees no others, and these only it sees.
pub trait Children {
    /// Starts a process. It runs from now on, beside the one that has started it.
    ///
    /// `ENOTCAPABLE` if the program, a directory or a program to be started in turn is not among what this process was given;
    /// `EAGAIN` if there are as many processes as there may be, `ENOMEM` if there is no memory for it, `ENOEXEC` if the program cannot be
    /// run; `EINVAL` if a directory or a program to be started in turn comes twice; `ECANCELED` if the process itself is about to end.
    fn spawn(&mut self, spawn: Spawn<'_>) -> Result<Child>;

    /// Waits until a child has ended, or the monotonic clock has come to `deadline_ns`: which it is and how, once. `None` stands for
    /// any of them: of those that have ended the oldest comes first.
    ///
    /// `ECHILD` if there is no such child, or none at all; `EAGAIN` if the time has come and it lives.
    fn wait(&mut self, which: Option<Child>, deadline_ns: u64) -> Result<(Child, ChildEnd)>;

    /// Has a child end. `ESRCH` if there is no such child; one that has ended already stays as it is.
    fn kill(&mut self, child: Child) -> Result<()>;

    /// Shows all children, the oldest first: also those that have ended, until that was heard.
    fn list(&mut self, show: &mut dyn FnMut(Child, ChildState)) -> Result<()>;
}

/// A child, as its parent knows it: from 1, and never the same again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Child(pub u64);

/// What a process is to begin with. Nothing comes with it that is not here.
#[derive(Clone, Copy, Debug)]
pub struct Spawn<'a> {
    /// Which program, by a name that this process was given.
    pub program: &'a str,
    /// `argv`.
    pub arguments: Strings<'a>,
    /// `environ`.
    pub environment: Strings<'a>,
    /// Of the directories that this process was given, by their names: the child's, in this order.
    pub directories: &'a [&'a str],
    /// Of the programs that this process may start, those that the child may.
    pub start: Strings<'a>,
    /// What it may use.
    pub limits: ChildLimits,
}

/// Limits of a child: each the less of this and of what its program, or its parent, may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildLimits {
    /// Of linear memories and tables.
    pub memory_bytes: Option<u64>,
    /// Of CPU time.
    pub cpu_ns: Option<u64>,
    /// Of time.
    pub timeout_ns: Option<u64>,
    /// Of open descriptors.
    pub descriptors: Option<u32>,
}

/// Strings one after the other, each with a NUL after it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strings<'a>(&'a [u8]);

impl<'a> Strings<'a> {
    /// Of these bytes; `None` if the last has no NUL.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.last().is_none_or(|last| *last == 0).then_some(Self(bytes))
    }

    /// As they lie there.
    pub const fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Each, without its NUL.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        self.0.split_inclusive(|byte| *byte == 0).map(|string| &string[..string.len() - 1])
    }
}

/// How a child has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildEnd {
    /// Why.
    pub cause: ChildCause,
    /// Its exit status if it ended by itself, else the one that stands for the cause. Its low eight bits, as everywhere outside of it.
    pub status: u8,
}

/// Why a child has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ChildCause {
    /// It returned or called `proc_exit`.
    Exited = 0,
    /// It did what WebAssembly forbids.
    Trapped = 1,
    /// Its time, or its CPU time, was over.
    TimedOut = 2,
    /// Its parent, or a user, has ended it.
    Killed = 3,
    /// It wanted more memory than it may have or there is.
    OutOfMemory = 4,
    /// It never began: its memory or its tables would have been too large, say.
    NotStarted = 5,
}

/// Whether a child lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ChildState {
    /// It does.
    Lives = 0,
    /// It has ended, and its parent has not heard how.
    Ended = 1,
}
