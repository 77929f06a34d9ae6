//! Quotas hold, and concern nobody else.

use crate::Test;
use crate::code::Code;
use crate::scene::{QUOTAS, domain, run, spinning, start};
use hosted::domain::{Reason, Running, Share};
use libc::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("memory_ends_at_the_page", memory_ends_at_the_page),
    ("memory_that_was_reserved_counts_when_it_can_be_written", memory_that_was_reserved_counts),
    ("all_of_the_quota_can_be_touched", all_of_the_quota_can_be_touched),
    ("descriptors_are_as_many_as_linux_lets_it_have", descriptors_are_as_many_as_can_be),
    ("a_budget_holds", a_budget_holds),
    ("a_domain_that_is_stopped_by_its_budget_ends", a_domain_that_is_stopped_by_its_budget_ends),
    ("weights_divide_a_cpu", weights_divide_a_cpu),
    ("page_tables_count_in_a_group", page_tables_count_in_a_group),
    ("a_group_has_the_quotas_and_goes_with_the_domain", a_group_has_the_quotas),
];

const PAGE: u64 = abi::PAGE_SIZE;
/// What the handlers' stack, the boot module and the C library may take of the smallest quota.
const OVERHEAD: u64 = 1 << 20;
const ANONYMOUS: u64 = (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE) as u64;
const WRITABLE: u64 = (PROT_READ | PROT_WRITE) as u64;
/// What answers a call that gives an address, or another number.
const ADDRESS: u8 = u8::MAX;

fn map(code: Code, length: u64, access: u64) -> Code {
    code.call(SYS_mmap, &[0, length, access, ANONYMOUS, u64::MAX, 0])
}

/// The error of mapping so much.
fn answer(length: u64) -> u8 {
    let (end, _) = run(&domain(&map(Code::new(), length, WRITABLE).answer_error()));
    assert_eq!(end.reason, Reason::Exited);
    end.status
}

fn memory_ends_at_the_page() {
    let quota = QUOTAS.memory_bytes;
    let (mut fits, mut too_much) = (quota - OVERHEAD, quota + PAGE);
    assert_eq!(answer(fits), ADDRESS);
    assert_eq!(answer(too_much), ENOMEM as u8);
    while too_much - fits > PAGE {
        let middle = (fits + too_much) / 2 / PAGE * PAGE;
        match answer(middle) {
            ADDRESS => fits = middle,
            error => {
                assert_eq!(error, ENOMEM as u8);
                too_much = middle;
            }
        }
    }
    println!("figure: of a quota of {quota} bytes {fits} can be one mapping");
    // The same every time.
    assert_eq!((answer(fits), answer(too_much)), (ADDRESS, ENOMEM as u8));
}

fn memory_that_was_reserved_counts() {
    // At a place of our own, above which nothing lies.
    const AT: u64 = 0x2000_0000_0000;
    let quota = QUOTAS.memory_bytes;
    let fixed = ANONYMOUS | MAP_FIXED as u64;
    let reserve = || Code::new().call(SYS_mmap, &[AT, 64 << 30, PROT_NONE as u64, fixed, u64::MAX, 0]);
    for (length, status) in [(quota - OVERHEAD, 0), (quota + PAGE, ENOMEM as u8)] {
        let code = reserve().call(SYS_mprotect, &[AT, length, WRITABLE]).answer_error();
        assert_eq!(run(&domain(&code)).0.status, status, "{length}");
    }
    // What cannot be written any more is free again.
    let half = quota / 2 + PAGE;
    let code = reserve()
        .call(SYS_mprotect, &[AT, half, WRITABLE])
        .call(SYS_mprotect, &[AT, half, PROT_NONE as u64])
        .call(SYS_mprotect, &[AT + quota, half, WRITABLE]);
    assert_eq!(run(&domain(&code.answer_error())).0.status, 0);
}

fn all_of_the_quota_can_be_touched() {
    let length = QUOTAS.memory_bytes - OVERHEAD;
    let code = map(Code::new(), length, WRITABLE).touch_pages(length / PAGE).spin();
    let running = start(&domain(&code));
    let bystander = start(&domain(&Code::new().spin()));
    let deadline = Instant::now() + Duration::from_secs(20);
    while running.usage().memory_bytes < length {
        assert!(Instant::now() < deadline, "{:?}", running.usage());
        std::thread::yield_now();
    }
    // With what the launcher has for itself.
    assert!(running.usage().memory_bytes < QUOTAS.memory_bytes + (8 << 20), "{:?}", running.usage());
    assert!(bystander.usage().memory_bytes < 8 << 20);
}

/// One of its processes takes none of another's.
fn descriptors_are_as_many_as_can_be() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20);
    // As a shell has it; this process keeps it.
    setrlimit(Resource::Nofile, Rlimit { current: Some(most.min(1024)), ..limit }).unwrap();
    for (at_least, error) in [(most - 1, ADDRESS), (most, EINVAL as u8)] {
        let code = Code::new().call(SYS_fcntl, &[0, F_DUPFD_CLOEXEC as u64, at_least]).answer_error();
        assert_eq!(run(&domain(&code)).0.status, error, "{at_least} of {most}");
    }
}

fn a_budget_holds() {
    const BUDGET_PERMILLE: u32 = 200;
    let running = spinning(|domain| domain.quotas.cpu_budget_permille = Some(BUDGET_PERMILLE));
    let (begin, before_ns) = (Instant::now(), running.usage().cpu_ns);
    std::thread::sleep(Duration::from_secs(2));
    let used_ns = running.usage().cpu_ns - before_ns;
    let share = used_ns as f64 / begin.elapsed().as_nanos() as f64;
    println!("figure: a domain with a fifth of a CPU got {share:.3}");
    // At the most a period's worth more, and the time that Linux takes to stop it.
    assert!((0.02..0.25).contains(&share), "{share}");
}

fn a_domain_that_is_stopped_by_its_budget_ends() {
    for _ in 0..10 {
        let mut running = spinning(|domain| domain.quotas.cpu_budget_permille = Some(10));
        while running.usage().cpu_ns < 2_000_000 {
            std::thread::yield_now();
        }
        running.kill().unwrap();
        let begin = Instant::now();
        assert_eq!(running.wait().unwrap().reason, Reason::Signal(SIGKILL));
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}

fn weights_divide_a_cpu() {
    // On one CPU, where they compete.
    let all = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap());
    sched_setaffinity(None, &one).unwrap();
    let weigh = |weight| spinning(|domain| domain.quotas.cpu_share = Share { weight, heaviest: 800 });
    let (heavy, light) = (weigh(800), weigh(100));
    sched_setaffinity(None, &all).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let wait_for = |running: &Running, cpu_ns| {
        while running.usage().cpu_ns < cpu_ns {
            assert!(Instant::now() < deadline, "{:?}", running.usage());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let (heavy_before, light_before) = (heavy.usage().cpu_ns, light.usage().cpu_ns);
    wait_for(&heavy, heavy_before + 1_000_000_000);
    let more = |running: &Running, before| (running.usage().cpu_ns - before) as f64;
    let ratio = more(&heavy, heavy_before) / more(&light, light_before);
    println!("figure: weights 8 to 1 gave {ratio:.1} to 1");
    assert!((4.0..16.0).contains(&ratio), "{ratio}");
}

fn a_group_has_the_quotas() {
    let mut running = spinning(|domain| {
        domain.quotas.cpu_share = Share { weight: 300, heaviest: 300 };
        domain.quotas.cpu_budget_permille = Some(250);
    });
    let Some(group) = group(running.id()) else {
        println!("not tested: this process cannot make control groups");
        return;
    };
    let value = |file: &str| fs::read_to_string(group.join(file)).unwrap().trim().to_owned();
    assert_eq!((value("cpu.weight").as_str(), value("cpu.max").as_str()), ("300", "25000 100000"));
    let memory_max: u64 = value("memory.max").parse().unwrap();
    assert!((QUOTAS.memory_bytes..QUOTAS.memory_bytes + (32 << 20)).contains(&memory_max));
    assert_eq!(value("cgroup.procs"), running.id().to_string());
    running.kill().unwrap();
    assert_eq!(running.wait().unwrap().reason, Reason::Signal(SIGKILL));
    assert!(!group.exists());
}

fn page_tables_count_in_a_group() {
    // A page table for each of them, which is memory, too, and none that the domain has asked for.
    const TABLES: u64 = 32 << 10;
    const TABLE_REACHES: u64 = 2 << 20;
    if group(spinning(|_| {}).id()).is_none() {
        println!("not tested: this process cannot make control groups");
        return;
    }
    let code = map(Code::new(), TABLES * TABLE_REACHES, PROT_READ as u64);
    let (end, _) = run(&domain(&code.read_every(TABLE_REACHES as u32, TABLES).answer(0)));
    assert_eq!((end.status, end.reason), (128 + SIGKILL as u8, Reason::Memory));
}

/// The control group that was made for a domain.
fn group(process: u32) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    group.contains("/domain-").then(|| Path::new("/sys/fs/cgroup").join(group))
}
