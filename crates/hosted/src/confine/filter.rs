//! The system calls of a library OS and its providers, as a seccomp filter: a program of the classic packet filter over
//! `struct seccomp_data` (linux/seccomp.h). Whatever is not listed kills the process with SIGSYS.
//!
//! Linux looks at a filter once for each call that does not depend on arguments, and remembers (since 5.11).

use libc::{sock_filter, sock_fprog};
use std::io;

/// Allowed without a look at its arguments.
const FREE: &[libc::c_long] = &[
    // Descriptors that are open.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_getdents64,
    // Memory, and what the C library does to its heap.
    libc::SYS_munmap,
    libc::SYS_brk,
    // Time, signals, the end.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_timer_settime,
    libc::SYS_timer_delete,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Allowed with the right arguments.
const CHECKED: &[(libc::c_long, &[Check], Otherwise)] = &[
    // Neither shared memory nor a stack counts against the quota (`domain::limits`).
    (
        libc::SYS_mmap,
        &[
            Check::NotBoth(2, WRITE_EXECUTE),
            Check::NotBoth(3, libc::MAP_SHARED as u32),
            Check::NotBoth(3, libc::MAP_GROWSDOWN as u32),
        ],
        Otherwise::Kill,
    ),
    (libc::SYS_mprotect, &[Check::NotBoth(2, WRITE_EXECUTE)], Otherwise::Kill),
    // How the virtual CPUs' threads wait for a lock of the launcher's, and for each other's end.
    (libc::SYS_futex, &[Check::OneOf(1, &FUTEX)], Otherwise::Kill),
    (libc::SYS_madvise, &[Check::OneOf(2, &[libc::MADV_DONTNEED as u32])], Otherwise::Kill),
    // The C library goes without.
    (libc::SYS_mremap, &[Check::OneOf(0, &[])], Otherwise::Fail(libc::ENOSYS)),
    (libc::SYS_fcntl, &[Check::OneOf(1, &FCNTL)], Otherwise::Kill),
    // Is it a terminal? So the C library asks, and so `rustix`.
    (libc::SYS_ioctl, &[Check::OneOf(1, &TERMINAL)], Otherwise::Fail(libc::ENOTTY)),
    // Below directories that are open. `cap-primitives` asks for `/proc`, and does without.
    (libc::SYS_openat2, BELOW, UNKNOWN),
    (libc::SYS_openat, BELOW, UNKNOWN),
    (libc::SYS_newfstatat, BELOW, UNKNOWN),
    (libc::SYS_statx, BELOW, UNKNOWN),
    (libc::SYS_readlinkat, BELOW, UNKNOWN),
    (libc::SYS_mkdirat, BELOW, UNKNOWN),
    (libc::SYS_unlinkat, BELOW, UNKNOWN),
    (libc::SYS_utimensat, BELOW, UNKNOWN),
    (libc::SYS_symlinkat, &[Check::Not(1, CURRENT_DIRECTORY)], UNKNOWN),
    (libc::SYS_renameat, BELOW_BOTH, UNKNOWN),
    (libc::SYS_linkat, BELOW_BOTH, UNKNOWN),
];

const WRITE_EXECUTE: u32 = (libc::PROT_WRITE | libc::PROT_EXEC) as u32;
const FCNTL: [u32; 3] = [libc::F_DUPFD_CLOEXEC as u32, libc::F_GETFL as u32, libc::F_GETFD as u32];
/// As Rust's standard library and the C library call it (futex(2)); the last is how a thread's end is waited for.
const FUTEX: [u32; 5] = {
    const PRIVATE: i32 = libc::FUTEX_PRIVATE_FLAG;
    const REAL_TIME: i32 = libc::FUTEX_CLOCK_REALTIME;
    [
        (libc::FUTEX_WAIT | PRIVATE) as u32,
        (libc::FUTEX_WAKE | PRIVATE) as u32,
        (libc::FUTEX_WAIT_BITSET | PRIVATE) as u32,
        (libc::FUTEX_WAIT_BITSET | PRIVATE | REAL_TIME) as u32,
        (libc::FUTEX_WAIT_BITSET | REAL_TIME) as u32,
    ]
};
const TERMINAL: [u32; 2] = [libc::TCGETS as u32, libc::TIOCGWINSZ as u32];
const CURRENT_DIRECTORY: u32 = libc::AT_FDCWD as u32;
const BELOW: &[Check] = &[Check::Not(0, CURRENT_DIRECTORY)];
const BELOW_BOTH: &[Check] = &[Check::Not(0, CURRENT_DIRECTORY), Check::Not(2, CURRENT_DIRECTORY)];
const UNKNOWN: Otherwise = Otherwise::Fail(libc::EACCES);

/// What an argument has to be. Of each the lower 32 bits are looked at, which is what these calls use.
#[derive(Clone, Copy)]
enum Check {
    /// Not this value.
    Not(u32, u32),
    /// Not all of these bits.
    NotBoth(u32, u32),
    /// One of these values.
    OneOf(u32, &'static [u32]),
}

/// What becomes of a call with other arguments.
#[derive(Clone, Copy)]
enum Otherwise {
    /// The process ends: nothing of ours asks for this.
    Kill,
    /// The call fails: libraries try this and have another way.
    Fail(i32),
}

impl Otherwise {
    fn verdict(self) -> u32 {
        match self {
            Self::Kill => libc::SECCOMP_RET_KILL_PROCESS,
            Self::Fail(errno) => libc::SECCOMP_RET_ERRNO | errno as u32,
        }
    }
}

/// Whether this Linux has filters that kill a process.
pub fn is_available() -> bool {
    let action = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: reads one number from our own stack.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

/// Puts the filter over all threads of the process, which must have given up gaining rights.
pub fn install() -> io::Result<()> {
    let mut program = program(std::process::id());
    let header = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let (operation, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: Linux copies the program, which is alive; nothing is written.
    match unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const header) } {
        0 => Ok(()),
        ..0 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!("the thread {thread} cannot be confined"))),
    }
}

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// `AUDIT_ARCH_X86_64` of linux/audit.h: the calls of 32-bit programs have other numbers.
const X86_64: u32 = 0xc000_003e;

/// The filter for the process of this number. The calls of x32 have bit 30 set and are none of these.
fn program(process: u32) -> Vec<sock_filter> {
    let kill = give(libc::SECCOMP_RET_KILL_PROCESS);
    let mut program = vec![load(ARCHITECTURE), skip_if_equal(X86_64, 1), kill, load(NUMBER)];
    for call in FREE {
        program.extend([skip_unless_equal(*call as u32, 1), give(libc::SECCOMP_RET_ALLOW)]);
    }
    for (call, checks, otherwise) in CHECKED {
        let body = body(checks, *otherwise);
        program.push(skip_unless_equal(*call as u32, body.len() as u8));
        program.extend(body);
    }
    // A signal to itself: how `abort` and the handlers of `signals` do it.
    let itself = [load(ARGUMENTS), skip_unless_equal(process, 1), give(libc::SECCOMP_RET_ALLOW), kill];
    program.push(skip_unless_equal(libc::SYS_tgkill as u32, itself.len() as u8));
    program.extend(itself);
    program.push(kill);
    program
}

fn body(checks: &[Check], otherwise: Otherwise) -> Vec<sock_filter> {
    let mut body = Vec::new();
    let refuse = give(otherwise.verdict());
    for check in checks {
        match *check {
            Check::Not(argument, value) => {
                body.extend([load(ARGUMENTS + 8 * argument), skip_unless_equal(value, 1), refuse]);
            }
            Check::NotBoth(argument, bits) => {
                let those = [load(ARGUMENTS + 8 * argument), and(bits), skip_unless_equal(bits, 1)];
                body.extend(those.into_iter().chain([refuse]));
            }
            Check::OneOf(argument, values) => {
                body.push(load(ARGUMENTS + 8 * argument));
                let left = (1..=values.len() as u8).rev();
                body.extend(values.iter().zip(left).map(|(value, left)| skip_if_equal(*value, left)));
                body.push(refuse);
            }
        }
    }
    body.push(give(libc::SECCOMP_RET_ALLOW));
    body
}

const fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

const fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

const fn and(bits: u32) -> sock_filter {
    instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, bits, 0, 0)
}

const fn skip_if_equal(value: u32, count: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, count, 0)
}

const fn skip_unless_equal(value: u32, count: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, count)
}

const fn give(verdict: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, verdict, 0, 0)
}
