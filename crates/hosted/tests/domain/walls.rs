//! What a confined domain can no longer do.

use crate::Test;
use crate::code::Code;
use crate::scene::{domain, run, spinning};
use bundle::Access;
use hosted::confine::{self, Missing};
use hosted::domain::{Confinement, Reason};
use hosted::files::Grant;
use libc::*;
use rustix::io::{FdFlags, fcntl_setfd};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("calls_that_are_not_needed_kill", calls_that_are_not_needed_kill),
    ("calls_with_wrong_arguments_kill_or_fail", calls_with_wrong_arguments_kill_or_fail),
    ("calls_of_other_kinds_of_programs_kill", calls_of_other_kinds_of_programs_kill),
    ("files_that_were_not_granted_do_not_open", files_that_were_not_granted_do_not_open),
    ("what_is_granted_to_be_read_is_not_changed", what_is_granted_to_be_read_is_not_changed),
    ("what_is_granted_can_be_changed", what_is_granted_can_be_changed),
    ("without_confinement_nothing_is_refused", without_confinement_nothing_is_refused),
    ("rights_and_descriptors_are_gone", rights_and_descriptors_are_gone),
    ("confinement_costs_little", confinement_costs_little),
];

/// What a library OS needs, in Linux's order. Said once more, so that a change of the filter is a change of this.
const NEEDED: &[c_long] = &[
    SYS_read,
    SYS_write,
    SYS_close,
    SYS_fstat,
    SYS_poll,
    SYS_lseek,
    SYS_mmap,
    SYS_mprotect,
    SYS_munmap,
    SYS_brk,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_ioctl,
    SYS_pread64,
    SYS_pwrite64,
    SYS_readv,
    SYS_writev,
    SYS_sched_yield,
    SYS_mremap,
    SYS_madvise,
    SYS_getpid,
    SYS_exit,
    SYS_fcntl,
    SYS_fsync,
    SYS_fdatasync,
    SYS_ftruncate,
    SYS_sigaltstack,
    SYS_gettid,
    SYS_getdents64,
    SYS_restart_syscall,
    SYS_timer_settime,
    SYS_timer_delete,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_exit_group,
    SYS_tgkill,
    SYS_openat,
    SYS_mkdirat,
    SYS_newfstatat,
    SYS_unlinkat,
    SYS_renameat,
    SYS_linkat,
    SYS_symlinkat,
    SYS_readlinkat,
    SYS_ppoll,
    SYS_utimensat,
    SYS_fallocate,
    SYS_preadv2,
    SYS_pwritev2,
    SYS_getrandom,
    SYS_statx,
    SYS_openat2,
];

/// Beyond the newest system call of today's Linux.
const CALLS: c_long = 512;
/// `uretprobe` and `uprobe`, which Linux lets past all filters, and answers with a fault outside of its own trampolines.
const PROBES: [c_long; 2] = [335, 336];

fn has(missing: Missing) -> bool {
    let lacks = confine::missing().contains(&missing);
    if lacks {
        println!("not tested: {missing}");
    }
    !lacks
}

fn calls_that_are_not_needed_kill() {
    if !has(Missing::Seccomp) {
        return;
    }
    let needless = (0..CALLS).filter(|call| !NEEDED.contains(call) && !PROBES.contains(call));
    for call in needless {
        let (end, _) = run(&domain(&Code::new().call(call, &[0; 6]).answer_error()));
        assert_eq!((end.status, end.reason), (128 + SIGSYS as u8, Reason::ForbiddenCall), "call {call}");
    }
}

fn calls_with_wrong_arguments_kill_or_fail() {
    if !has(Missing::Seccomp) {
        return;
    }
    let wx = (PROT_READ | PROT_WRITE | PROT_EXEC) as u64;
    let private = (MAP_PRIVATE | MAP_ANONYMOUS) as u64;
    let here = AT_FDCWD as u32 as u64;
    let text = 0x1000_0000;
    for (call, arguments) in [
        (SYS_mmap, &[0, 4096, wx, private, u64::MAX, 0][..]),
        (SYS_mmap, &[0, 4096, 3, (MAP_SHARED | MAP_ANONYMOUS) as u64, u64::MAX, 0]),
        (SYS_mmap, &[0, 4096, 3, private | MAP_GROWSDOWN as u64, u64::MAX, 0]),
        (SYS_mprotect, &[text, 4096, wx]),
        (SYS_madvise, &[text, 4096, MADV_HWPOISON as u64]),
        (SYS_fcntl, &[0, F_SETOWN as u64, 1]),
        (SYS_fcntl, &[0, F_SETFL as u64, 0]),
        (SYS_tgkill, &[1, 1, 0]),
    ] {
        let (end, _) = run(&domain(&Code::new().call(call, arguments).answer_error()));
        assert_eq!(end.reason, Reason::ForbiddenCall, "call {call} {arguments:x?}");
    }
    for (call, arguments, errno) in [
        (SYS_ioctl, &[0, TIOCSTI, text][..], ENOTTY),
        (SYS_mremap, &[text, 4096, 8192, MREMAP_MAYMOVE as u64], ENOSYS),
        (SYS_openat, &[here, text, 0], EACCES),
        (SYS_openat2, &[here, text, text, 24], EACCES),
        (SYS_newfstatat, &[here, text, text, 0], EACCES),
        (SYS_unlinkat, &[here, text, 0], EACCES),
        (SYS_renameat, &[0, text, here, text], EACCES),
        (SYS_linkat, &[0, text, here, text, 0], EACCES),
        (SYS_symlinkat, &[text, here, text], EACCES),
    ] {
        let (end, _) = run(&domain(&Code::new().call(call, arguments).answer_error()));
        assert_eq!((end.status, end.reason), (errno as u8, Reason::Exited), "call {call} {arguments:x?}");
    }
}

fn calls_of_other_kinds_of_programs_kill() {
    if !has(Missing::Seccomp) {
        return;
    }
    const X32: c_long = 0x4000_0000;
    let (end, _) = run(&domain(&Code::new().call(X32 | SYS_getpid, &[]).answer_error()));
    assert_eq!(end.reason, Reason::ForbiddenCall, "x32");
    // getpid(2) of 32-bit programs. Where Linux runs none, the instruction is a fault.
    const GETPID: u32 = 20;
    let (end, _) = run(&domain(&Code::new().call_32(GETPID).answer_error()));
    assert!(end.reason == Reason::ForbiddenCall || end.status == 125, "{end:?}");
}

/// A directory with a file `file` and a directory `d` in it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "text").unwrap();
    fs::create_dir(folder.path().join("d")).unwrap();
    folder
}

/// What a domain that has `grants` is answered when it opens `path`, which is absolute: 0 if it may.
fn open(grants: Vec<Grant>, path: &Path, flags: c_int) -> u8 {
    act(grants, SYS_openat, |code| vec![0, code.text(path), flags as u64, 0o600])
}

/// The error of a system call in a confined domain; 0 if it succeeded.
fn act(grants: Vec<Grant>, call: c_long, arguments: impl FnOnce(&mut Code) -> Vec<u64>) -> u8 {
    let mut code = Code::new();
    let arguments = arguments(&mut code);
    let mut domain = domain(&code.call(call, &arguments).answer_error());
    domain.grants = grants;
    let (end, errors) = run(&domain);
    assert_eq!(end.reason, Reason::Exited, "{errors}");
    // A descriptor is an answer, too.
    if end.status == u8::MAX { 0 } else { end.status }
}

fn grant(path: &Path, access: Access) -> Vec<Grant> {
    vec![Grant::open(path, access).unwrap()]
}

fn files_that_were_not_granted_do_not_open() {
    if !has(Missing::Landlock) {
        return;
    }
    let (granted, other) = (folder(), folder());
    let refused = EACCES as u8;
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let open = |path: PathBuf, flags| open(grant(granted.path(), access), &path, flags);
        assert_eq!(open(granted.path().join("file"), O_RDONLY), 0);
        assert_eq!(open(granted.path().join("d"), O_RDONLY | O_DIRECTORY), 0);
        assert_eq!(open(other.path().join("file"), O_RDONLY), refused);
        assert_eq!(open(other.path().join("file"), O_WRONLY), refused);
        assert_eq!(open(other.path().join("new"), O_WRONLY | O_CREAT), refused);
        assert_eq!(open(granted.path().join("../new"), O_WRONLY | O_CREAT), refused);
        for path in ["/", "/etc/passwd", "/proc/self/maps", "/proc/self/mem", "/dev/null", "/sys/kernel"] {
            assert_eq!(open(path.into(), O_RDONLY), refused, "{path}");
        }
    }
    assert_eq!(open(Vec::new(), &granted.path().join("file"), O_RDONLY), refused);
    assert!(!other.path().join("new").exists());
}

fn what_is_granted_to_be_read_is_not_changed() {
    if !has(Missing::Landlock) {
        return;
    }
    let granted = folder();
    let grants = || grant(granted.path(), Access::ReadOnly);
    let (file, directory, new) =
        (granted.path().join("file"), granted.path().join("d"), granted.path().join("new"));
    let refused = EACCES as u8;
    assert_eq!(open(grants(), &file, O_WRONLY), refused);
    if has(Missing::Truncate) {
        assert_eq!(open(grants(), &file, O_RDONLY | O_TRUNC), refused);
    }
    assert_eq!(open(grants(), &new, O_WRONLY | O_CREAT), refused);
    assert_eq!(act(grants(), SYS_unlinkat, |code| vec![0, code.text(&file), 0]), refused);
    assert_eq!(
        act(grants(), SYS_unlinkat, |code| vec![0, code.text(&directory), AT_REMOVEDIR as u64]),
        refused
    );
    assert_eq!(act(grants(), SYS_mkdirat, |code| vec![0, code.text(&new), 0o700]), refused);
    assert_eq!(act(grants(), SYS_symlinkat, |code| vec![code.text(&file), 0, code.text(&new)]), refused);
    assert_eq!(act(grants(), SYS_renameat, |code| vec![0, code.text(&file), 0, code.text(&new)]), refused);
    assert_eq!(fs::read(&file).unwrap(), b"text");
    assert_eq!(fs::read_dir(granted.path()).unwrap().count(), 2);
}

fn what_is_granted_can_be_changed() {
    let granted = folder();
    let grants = || grant(granted.path(), Access::ReadWrite);
    let (file, below, new) =
        (granted.path().join("file"), granted.path().join("d/moved"), granted.path().join("new"));
    assert_eq!(open(grants(), &file, O_RDWR | O_TRUNC), 0);
    assert_eq!(fs::read(&file).unwrap(), b"");
    // From one directory to another.
    assert_eq!(act(grants(), SYS_renameat, |code| vec![0, code.text(&file), 0, code.text(&below)]), 0);
    assert_eq!(act(grants(), SYS_linkat, |code| vec![0, code.text(&below), 0, code.text(&file), 0]), 0);
    assert_eq!(act(grants(), SYS_unlinkat, |code| vec![0, code.text(&below), 0]), 0);
    assert_eq!(act(grants(), SYS_mkdirat, |code| vec![0, code.text(&new), 0o700]), 0);
    assert_eq!(act(grants(), SYS_unlinkat, |code| vec![0, code.text(&new), AT_REMOVEDIR as u64]), 0);
    assert_eq!(act(grants(), SYS_symlinkat, |code| vec![code.text(&file), 0, code.text(&new)]), 0);
    assert_eq!(fs::read_link(&new).unwrap(), file);
}

fn without_confinement_nothing_is_refused() {
    let folder = folder();
    let mut code = Code::new();
    let path = code.text(&folder.path().join("file"));
    for code in [
        code.clone().call(SYS_open, &[path, 0]).answer_error(),
        code.clone().call(SYS_openat, &[0, path, 0]).answer_error(),
        code.call(SYS_socketpair, &[AF_UNIX as u64, SOCK_STREAM as u64, 0, 0]).answer_error(),
    ] {
        let mut domain = domain(&code);
        domain.confinement = Confinement::Unconfined;
        let (end, _) = run(&domain);
        assert_eq!(end.reason, Reason::Exited);
        assert_ne!(end.status, EACCES as u8);
    }
}

fn rights_and_descriptors_are_gone() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    let leaked = File::open(secret.path()).unwrap();
    fcntl_setfd(&leaked, FdFlags::empty()).unwrap();
    let running = spinning(|_| {});
    let status = |key: &'static str| status_line(running.id(), key);
    if has(Missing::Seccomp) {
        assert_eq!(status("Seccomp"), "2");
    }
    assert_eq!(status("NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(set).trim_start_matches('0'), "", "{set}");
    }
    // Of a confined process the descriptors are hidden, from all but root.
    let running = spinning(|domain| domain.confinement = Confinement::Unconfined);
    let mut open = descriptors(running.id());
    assert_eq!(open.remove(&0).as_deref(), Some("/dev/null"));
    assert!(open.remove(&1).unwrap().starts_with("pipe:"));
    assert!(open.remove(&2).unwrap().starts_with("pipe:"));
    // The program, the trap helper, the descriptor of events, the wire to the root: nothing else.
    let rest: Vec<&str> = open.values().map(String::as_str).collect();
    assert_eq!(rest.len(), 4, "{rest:?}");
    assert_eq!(rest.iter().filter(|name| name.contains("eventfd")).count(), 1, "{rest:?}");
    assert_eq!(rest.iter().filter(|name| name.starts_with("socket:")).count(), 1, "{rest:?}");
    assert!(!rest.iter().any(|name| Path::new(name) == secret.path()), "{rest:?}");
}

fn confinement_costs_little() {
    const RUNS: usize = 100;
    let folder = folder();
    let mut domain = domain(&Code::new().answer(0));
    domain.grants = grant(folder.path(), Access::ReadWrite);
    let mut time = |confinement| {
        domain.confinement = confinement;
        let begin = Instant::now();
        assert_eq!(run(&domain).0.status, 0);
        begin.elapsed()
    };
    // In turns, so that whatever else this machine does slows both.
    let turns = (0..RUNS).map(|_| (time(Confinement::Unconfined), time(Confinement::Confined)));
    let (mut without, mut with): (Vec<Duration>, Vec<Duration>) = turns.unzip();
    without.sort();
    with.sort();
    let (without, with) = (without[RUNS / 2], with[RUNS / 2]);
    println!(
        "figure: start to end of a domain: {with:?} confined, {without:?} unconfined (median of {RUNS})"
    );
    // Far more than was ever seen: it must not become something that anyone would want to leave out.
    assert!(with < without * 3 / 2 + Duration::from_millis(5));
}

/// What a process has open.
fn descriptors(process: u32) -> BTreeMap<u32, String> {
    let entries = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let open = entries.map(|entry| {
        let entry = entry.unwrap();
        let number = entry.file_name().to_str().unwrap().parse().unwrap();
        (number, fs::read_link(entry.path()).unwrap().display().to_string())
    });
    open.collect()
}

/// A line of a process's `/proc/PID/status`.
fn status_line(process: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key}")).trim().to_owned()
}
