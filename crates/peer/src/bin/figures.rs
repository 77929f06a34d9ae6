//! `selkis-peer-figures`: what Linux's operations cost, as its init on the emulated machine: the peer of `images/probe/src/figures.rs`.
//!
//! Prints `in ring 3`, how many CPUs there are, and makes a mark (`marker`); then, unless it is started with the word `boot`, lines
//! `figure NAME VALUE`, in counts of the time-stamp counter: guest instructions, as long as no CPU halts. It calls Linux as directly as can be: no library is measured that need not be used.
#![allow(unsafe_code)]

use libc::{c_int, c_long, c_void};
use std::io::{Error, Write};
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

type Result<T> = std::result::Result<T, Error>;

const COUNT: u64 = 1000;
/// Rounds before those that count.
const WARM_UP: u64 = 10;
const PAGE_BYTES: usize = 4096;
/// How many processes wait while the memory of one is measured: what is free is not exact to the page.
const PROCESSES: u64 = 256;

static SIGNALS: AtomicU64 = AtomicU64::new(0);

fn main() {
    println!("in ring 3, CPUs: {}", std::thread::available_parallelism().map_or(0, NonZero::get));
    marker::end();
    let result = if std::env::args().any(|word| word == "boot") { Ok(()) } else { figures() };
    let status = match result {
        Ok(()) => 0,
        Err(error) => {
            println!("selkis-peer-figures: {error}");
            1
        }
    };
    let error = peer::switch_off(status);
    println!("selkis-peer-figures: the machine does not end: {error}");
}

fn figures() -> Result<()> {
    tell("call", each(|| checked(raw_getpid()).map(drop))?)?;
    tell("signal", signal()?)?;
    tell("touch", touch()?)?;
    tell("round-trip", round_trip()?)?;
    tell("process", each(process)?)?;
    tell("memory", memory()?)
}

fn tell(name: &str, value: u64) -> Result<()> {
    writeln!(std::io::stdout(), "figure {name} {value}")
}

/// What one of many costs.
fn each(mut operation: impl FnMut() -> Result<()>) -> Result<u64> {
    for _ in 0..WARM_UP {
        operation()?;
    }
    let begin = counter();
    for _ in 0..COUNT {
        operation()?;
    }
    Ok((counter() - begin) / COUNT)
}

fn counter() -> u64 {
    // SAFETY: reads the counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

fn checked(answer: c_long) -> Result<c_long> {
    if answer < 0 { Err(Error::last_os_error()) } else { Ok(answer) }
}

fn raw_getpid() -> c_long {
    // SAFETY: changes nothing.
    unsafe { libc::syscall(libc::SYS_getpid) }
}

extern "C" fn on_signal(_: c_int) {
    SIGNALS.fetch_add(1, Relaxed);
}

/// A system call that makes a signal due, its handler, and the return from it.
fn signal() -> Result<u64> {
    // SAFETY: the handler only counts.
    unsafe {
        if libc::signal(libc::SIGUSR1, on_signal as *const () as usize) == libc::SIG_ERR {
            return Err(Error::last_os_error());
        }
    }
    let own = raw_getpid();
    // SAFETY: the handler is there.
    let cost = each(|| checked(unsafe { libc::syscall(libc::SYS_kill, own, libc::SIGUSR1) }).map(drop))?;
    if SIGNALS.load(Relaxed) != WARM_UP + COUNT {
        return Err(Error::other("there is not one signal for each"));
    }
    Ok(cost)
}

/// First touches of anonymous pages of 4 KiB, as ours are.
fn touch() -> Result<u64> {
    let bytes = (WARM_UP + COUNT) as usize * PAGE_BYTES;
    let (access, how) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: asks for new memory.
    let pages = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, how, -1, 0) };
    if pages == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    // SAFETY: the same memory. A kernel without large pages refuses, and has none.
    unsafe { libc::madvise(pages, bytes, libc::MADV_NOHUGEPAGE) };
    let mut page = pages.cast::<u64>();
    each(|| {
        // SAFETY: each page is mapped, and nobody else's.
        unsafe {
            page.write_volatile(1);
            page = page.byte_add(PAGE_BYTES);
        }
        Ok(())
    })
}

/// A word through a pipe to a process that sends it back through another: four system calls and two switches.
fn round_trip() -> Result<u64> {
    let ([from_us, to_child], [from_child, to_us]) = (pipe()?, pipe()?);
    let child = fork(|| while read(from_us) && write(to_us) {})?;
    let cost = each(|| match write(to_child) && read(from_child) {
        true => Ok(()),
        false => Err(Error::last_os_error()),
    })?;
    // SAFETY: a process of ours.
    checked(unsafe { libc::kill(child, libc::SIGKILL) }.into())?;
    wait_for(child)?;
    Ok(cost)
}

fn pipe() -> Result<[c_int; 2]> {
    let mut ends = [0; 2];
    // SAFETY: there is room for both.
    checked(unsafe { libc::pipe(ends.as_mut_ptr()) }.into())?;
    Ok(ends)
}

fn read(from: c_int) -> bool {
    let mut word = 0u64;
    // SAFETY: there is room for the word.
    unsafe { libc::read(from, (&raw mut word).cast::<c_void>(), 8) == 8 }
}

fn write(to: c_int) -> bool {
    let word = 1u64;
    // SAFETY: reads the word.
    unsafe { libc::write(to, (&raw const word).cast::<c_void>(), 8) == 8 }
}

/// A process that does this and ends.
fn fork(work: impl FnOnce()) -> Result<c_int> {
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            work();
            // SAFETY: ends the child, and nothing of its parent's with it.
            unsafe { libc::_exit(42) }
        }
        child => checked(child.into()).map(|child| child as c_int),
    }
}

fn wait_for(child: c_int) -> Result<c_int> {
    let mut status = 0;
    // SAFETY: there is room for the status.
    checked(unsafe { libc::waitpid(child, &raw mut status, 0) }.into())?;
    Ok(status)
}

/// A process that ends at once.
fn process() -> Result<()> {
    let status = wait_for(fork(|| {})?)?;
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 42 {
        Ok(())
    } else {
        Err(Error::other("a process did not end as it should"))
    }
}

/// What the machine has less, in bytes, for each process that waits for a word of a pipe.
fn memory() -> Result<u64> {
    let ([from_us, _to_children], [from_child, to_us]) = (pipe()?, pipe()?);
    let before = free_bytes()?;
    let mut children = Vec::new();
    for _ in 0..PROCESSES {
        children.push(fork(|| _ = write(to_us) && read(from_us))?);
        if !read(from_child) {
            return Err(Error::last_os_error());
        }
    }
    let taken = before.saturating_sub(free_bytes()?);
    for child in children {
        // SAFETY: a process of ours.
        checked(unsafe { libc::kill(child, libc::SIGKILL) }.into())?;
        wait_for(child)?;
    }
    Ok(taken / PROCESSES)
}

fn free_bytes() -> Result<u64> {
    // SAFETY: all zero is a value of it, and there is room for it.
    let info = unsafe {
        let mut info = std::mem::zeroed::<libc::sysinfo>();
        checked(libc::sysinfo(&raw mut info).into())?;
        info
    };
    Ok(info.freeram * u64::from(info.mem_unit))
}
