//! Two threads of Linux on one CPU, each of which wakes the other and waits.

use std::io::{Error, Result};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How often each hands over.
const COUNT: u32 = 100_000;

/// How long one handing over takes, in nanoseconds.
///
/// # Errors
/// If Linux refuses.
pub fn nanoseconds() -> Result<u128> {
    // Whose turn it is: threads that begin now are bound as this one is.
    let (turn, begin) = (AtomicU32::new(0), Barrier::new(2));
    bind()?;
    let hand_over = |own: u32| -> Result<Duration> {
        begin.wait();
        let start = Instant::now();
        for _ in 0..COUNT {
            while turn.load(SeqCst) != own {
                wait(&turn, 1 - own)?;
            }
            turn.store(1 - own, SeqCst);
            wake(&turn)?;
        }
        Ok(start.elapsed())
    };
    let elapsed = std::thread::scope(|scope| {
        let other = scope.spawn(|| hand_over(1));
        let own = hand_over(0);
        other.join().expect("a panic aborts").and(own)
    })?;
    Ok(elapsed.as_nanos() / u128::from(2 * COUNT))
}

/// Binds this thread to the CPU that it runs on.
fn bind() -> Result<()> {
    // SAFETY: all zero is an empty set; the number of a CPU of this machine is a place in it, and the call only reads it.
    let answer = unsafe {
        let mut set = std::mem::zeroed::<libc::cpu_set_t>();
        libc::CPU_SET(libc::sched_getcpu().max(0) as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    if answer == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Sleeps while that is its value.
fn wait(word: &AtomicU32, value: u32) -> Result<()> {
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word lives, and there is no time after which to wake.
    let answer = unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, std::ptr::null::<libc::timespec>())
    };
    if answer == 0 {
        return Ok(());
    }
    match Error::last_os_error() {
        // It has another value, or a signal came: the caller looks again.
        error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(()),
        error => Err(error),
    }
}

fn wake(word: &AtomicU32) -> Result<()> {
    // SAFETY: the word lives, and only its address counts.
    let answer = unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1)
    };
    if answer < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}
