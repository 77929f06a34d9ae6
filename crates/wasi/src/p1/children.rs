//! `selkis_process`: a program starts others, waits for them, ends them.
//!
//! A core module's interface in the manner of preview 1, beside which it is linked: what it imports from the module `selkis_process`. All
//! functions answer an errno of preview 1, 0 for success, and all can always be imported; who was not given any program to start
//! hears `ENOTCAPABLE`. In C:
//!
//! ```c
//! #define SELKIS(name) __attribute__((import_module("selkis_process"), import_name(#name)))
//!
//! struct selkis_spawn {               // 72 bytes, aligned to 8
//!     const char *program;            // the name that the manifest has for it, among those in this program's `start`
//!     uint32_t    program_length;     // in bytes
//!     const char *arguments;          // argv: strings one after the other, each with a NUL after it
//!     uint32_t    arguments_length;   // in bytes, with the NULs
//!     const char *environment;        // environ, in the same way: NAME=value
//!     uint32_t    environment_length;
//!     const uint32_t *directories;    // descriptors of own granted directories (preopens): the child's, from 3 on
//!     uint32_t    directory_count;
//!     const char *start;              // of the names in own `start` those that the child may start, each with a NUL
//!     uint32_t    start_length;
//!     uint64_t    memory;             // limits, each 0 or less than the manifest has for the program: memory and tables in bytes;
//!                                     // in a machine it may write as much to files, and all that it may take is promised to it
//!     uint64_t    cpu_time;           // nanoseconds; no more than this program has left
//!     uint64_t    timeout;            // nanoseconds; the child ends with this program in any case
//!     uint32_t    descriptors;        // that may be open
//!     uint32_t    reserved;           // 0
//! };
//! struct selkis_ended {               // 16 bytes, aligned to 8
//!     uint64_t child;
//!     uint32_t cause;                 // 0 exited, 1 trapped, 2 time over, 3 killed, 4 out of memory, 5 never began
//!     uint32_t status;                // 0 to 255; for other causes than 0 what `selkis run` would exit with
//! };
//! struct selkis_child {               // 16 bytes, aligned to 8
//!     uint64_t child;
//!     uint32_t state;                 // 0 lives, 1 has ended and was not waited for
//!     uint32_t reserved;              // 0
//! };
//!
//! // Starts a process; `*child` is its name, for this process alone: from 1 on, never the same again.
//! // ENOTCAPABLE: a program or a directory that this process was not given. EBADF: no open descriptor.
//! // EAGAIN: the domain has its `processes`. ENOMEM: its memory is promised or used. ENOEXEC: the program cannot be run.
//! // E2BIG: strings of more than 64 KiB, or more than 1024. EINVAL, EILSEQ, EFAULT: a bad record,
//! // or EINVAL: the same directory, or name in `start`, twice. ECANCELED: this process is about to end.
//! int selkis_spawn(const struct selkis_spawn *spawn, uint64_t *child)  SELKIS(spawn);
//! // Waits until that child has ended (0: any), at most so many nanoseconds (0: not at all, UINT64_MAX: for ever); told once.
//! // ECHILD: there is none. EAGAIN: the time is over.
//! int selkis_wait(uint64_t child, uint64_t timeout, struct selkis_ended *ended)  SELKIS(wait);
//! // Has a child end, whatever it does; its end is still to be waited for. ESRCH: there is no such child.
//! int selkis_kill(uint64_t child)  SELKIS(kill);
//! // Writes at most `room` of the children, the oldest first, and how many there are in all.
//! int selkis_list(struct selkis_child *children, uint32_t room, uint32_t *count)  SELKIS(list);
//! ```
//!
//! A child has standard output and error of its own, which go where those of all programs go, and no standard input. It is ended when its
//! parent ends. One that has ended counts among the domain's processes until its parent has waited for it, or has ended too.

use super::memory::{u32_at, u64_at};
use super::table::Descriptor;
use super::{Memory, State};
use crate::provider::{Child, ChildEnd, ChildLimits, ChildState, Children, Host, Spawn, Strings};
use crate::{Errno, Result};
use alloc::vec::Vec;

/// Hands the list to `$use_list!`: as that of preview 1.
macro_rules! for_each_process_function {
    ($use_list:ident) => {
        $use_list! {
            spawn(spawn: u32, child: u32);
            wait(child: u64, timeout: u64, ended: u32);
            kill(child: u64);
            list(children: u32, room: u32, count: u32);
        }
    };
}
pub(super) use for_each_process_function;

const SPAWN_BYTES: usize = 72;
const CHILD_BYTES: u32 = 16;
/// The most bytes of a child's strings together, and the most strings: the library OS copies them.
const STRING_BYTES_MAX: usize = 64 << 10;
const STRINGS_MAX: usize = 1024;
/// The longest name of a program.
const NAME_BYTES_MAX: u32 = 256;
/// The most directories: more than anybody was granted is a mistake.
const DIRECTORIES_MAX: u32 = 256;

impl<H: Host> State<H> {
    pub(super) fn spawn(&mut self, memory: &mut Memory<'_>, spawn: u32, child: u32) -> Result<()> {
        let place = memory.place(child, 8)?;
        let record: &[u8; SPAWN_BYTES] = memory.record(spawn, 8)?;
        let word = |index: usize| u32_at(record, 4 * index);
        if word(17) != 0 {
            return Err(Errno::Inval.into());
        }
        let strings = |index| Strings::new(memory.bytes(word(index), word(index + 1))?).ok_or(Errno::Inval);
        if word(1) > NAME_BYTES_MAX || word(7) > DIRECTORIES_MAX {
            return Err(Errno::Toobig.into());
        }
        let program = str::from_utf8(memory.bytes(word(0), word(1))?).map_err(|_| Errno::Ilseq)?;
        let (arguments, environment, start) = (strings(2)?, strings(4)?, strings(8)?);
        check_length([arguments, environment, start])?;
        let directories = directories(&self.table, memory, word(6), word(7))?;
        let limit = |at| Some(u64_at(record, at)).filter(|limit| *limit != 0);
        let limits = ChildLimits {
            memory_bytes: limit(40),
            cpu_ns: limit(48),
            timeout_ns: limit(56),
            descriptors: Some(word(16)).filter(|limit| *limit != 0),
        };
        let spawn = Spawn { program, arguments, environment, directories: &directories, start, limits };
        let children = self.host.children().ok_or(Errno::Notcapable)?;
        let Child(number) = children.spawn(spawn)?;
        memory.put(place, number.to_le_bytes());
        Ok(())
    }

    pub(super) fn wait(
        &mut self,
        memory: &mut Memory<'_>,
        child: u64,
        timeout: u64,
        ended: u32,
    ) -> Result<()> {
        let place = memory.place(ended, 8)?;
        let deadline_ns = match timeout {
            // None is waited for: so the clock is not asked.
            0 | u64::MAX => timeout,
            _ => self.host.clock().monotonic_ns()?.saturating_add(timeout),
        };
        let which = Some(Child(child)).filter(|_| child != 0);
        let (Child(number), ChildEnd { cause, status }) = self.children()?.wait(which, deadline_ns)?;
        let mut record = [0; 16];
        record[..8].copy_from_slice(&number.to_le_bytes());
        record[8..12].copy_from_slice(&(cause as u32).to_le_bytes());
        record[12..].copy_from_slice(&u32::from(status).to_le_bytes());
        memory.put(place, record);
        Ok(())
    }

    pub(super) fn kill(&mut self, _: &mut Memory<'_>, child: u64) -> Result<()> {
        self.children()?.kill(Child(child))
    }

    pub(super) fn list(
        &mut self,
        memory: &mut Memory<'_>,
        children: u32,
        room: u32,
        count: u32,
    ) -> Result<()> {
        let place = memory.place(count, 4)?;
        memory.check_list(children, room, CHILD_BYTES, 8)?;
        let mut shown = 0u32;
        self.children()?.list(&mut |Child(number), state: ChildState| {
            if shown < room
                && let Ok(place) = memory.place(children + shown * CHILD_BYTES, 8)
            {
                let mut record = [0; CHILD_BYTES as usize];
                record[..8].copy_from_slice(&number.to_le_bytes());
                record[8..12].copy_from_slice(&(state as u32).to_le_bytes());
                memory.put(place, record);
            }
            shown += 1;
        })?;
        memory.put(place, shown.to_le_bytes());
        Ok(())
    }

    fn children(&mut self) -> Result<&mut dyn Children, Errno> {
        self.host.children().ok_or(Errno::Notcapable)
    }
}

fn check_length(all: [Strings<'_>; 3]) -> Result<(), Errno> {
    let bytes: usize = all.iter().map(|strings| strings.bytes().len()).sum();
    // So the walk that counts them is short.
    if bytes > STRING_BYTES_MAX
        || all.iter().map(|strings| strings.iter().count()).sum::<usize>() > STRINGS_MAX
    {
        return Err(Errno::Toobig);
    }
    Ok(())
}

/// The names of granted directories, by their descriptors, of which there is a list at `at`.
fn directories<'t>(
    table: &'t super::table::Table,
    memory: &Memory<'_>,
    at: u32,
    count: u32,
) -> Result<Vec<&'t str>, Errno> {
    memory.check_list(at, count, 4, 4)?;
    let mut names = Vec::new();
    names.try_reserve_exact(count as usize).map_err(|_| Errno::Nomem)?;
    for index in 0..count {
        let fd = u32::from_le_bytes(*memory.record(at + index * 4, 4)?);
        match table.get(fd)? {
            Descriptor::Directory { grant: Some(name), .. } => names.push(&**name),
            _ => return Err(Errno::Notcapable),
        }
    }
    Ok(names)
}
