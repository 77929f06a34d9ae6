//! Boots the kernel in QEMU with the probe in ring 3, on each machine and with several sizes of memory; the exit status says how it
//! went. The environment names the files: `SELKIS_KERNEL` and `SELKIS_PROBE`.
#![cfg(target_os = "linux")]

use abi::boot::{ModuleHeader, status};
use abi::{PAGE_SIZE, Span};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PAGE: usize = PAGE_SIZE as usize;
/// Far more than any scenario takes, on a machine that is busy with others; a soak does thirty times as much.
fn time_limit() -> Duration {
    Duration::from_secs(if soaks() { 7200 } else { 600 })
}

/// What a scenario that passes stops with, if it has no status of its own (`src/probe.rs`). Not 0: QEMU's debug exit makes
/// 1 of that, which is also how QEMU ends when it fails itself.
const PASSED: u8 = 42;

/// The scenarios of the probe, by number (`src/probe.rs`).
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
enum Scenario {
    Everything = 0,
    FaultMasked = 1,
    FaultWithoutUpcalls = 2,
    RandomCalls = 3,
    StopAtOnce = 4,
    UseAllMemory = 5,
    StackOverflow = 6,
    Domains = 7,
    Kill = 8,
    Hostile = 9,
    CountCpus = 10,
    ChangesHoldEverywhere = 11,
    Trace = 13,
    Share = 14,
    Neighbours = 15,
    Revoked = 16,
    Unconcerned = 17,
    Vectors = 18,
}

#[derive(Clone, Copy, Debug)]
enum Machine {
    MicroVm,
    Q35,
}

const MACHINES: [Machine; 2] = [Machine::MicroVm, Machine::Q35];

fn file(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} must name an ELF file")).into()
}

/// A boot module with the probe in it.
fn module(scenario: Scenario) -> Vec<u8> {
    module_with(scenario, [0, 0])
}

/// The same, with what the scenario wants to know besides: how much, and a seed.
fn module_with(scenario: Scenario, arguments: [u64; 2]) -> Vec<u8> {
    let path = file("SELKIS_PROBE");
    let image = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // Some pages behind the image, to be mapped.
    let length = PAGE + image.len() + 3 * PAGE;
    let header = ModuleHeader {
        magic: ModuleHeader::MAGIC,
        length: length as u64,
        image: Span::new(PAGE_SIZE, image.len() as u64),
    };
    let mut module = header.to_bytes().to_vec();
    module.extend((scenario as u64).to_le_bytes());
    module.extend(arguments.iter().flat_map(|word| word.to_le_bytes()));
    module.resize(PAGE, 0);
    module.extend(image);
    module.resize(length, 0x5a);
    module
}

/// A file that goes away with it.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("selkis-probe-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn qemu(machine: Machine, memory: &str, module: Option<&Path>, line: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-cpu",
        "max",
        "-m",
        memory,
        "-display",
        "none",
        "-nodefaults",
        "-no-reboot",
        "-serial",
        "stdio",
    ]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    match machine {
        Machine::MicroVm => command
            .args(["-M", "microvm,acpi=off", "-global", "virtio-mmio.force-legacy=false"])
            .args(["-device", "virtio-rng-device,max-bytes=64,period=20"]),
        // The firmware drives the disk, as it does any that it might start from.
        Machine::Q35 => command
            .args(["-M", "q35", "-device", "virtio-rng-pci,max-bytes=64,period=20"])
            .args(["-drive", "if=none,id=disk,driver=null-co,read-zeroes=on,size=1M"])
            .args(["-device", "virtio-blk-pci,drive=disk"]),
    };
    command.arg("-kernel").arg(file("SELKIS_KERNEL"));
    if let Some(module) = module {
        command.arg("-initrd").arg(module);
    }
    let exit = if line.contains("exit=") { "" } else { "exit=isa-debug" };
    command.args(["-append", &format!("{exit} {line}")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Runs it to its end, and answers with the status that the machine stopped with.
#[track_caller]
fn status_of(command: Command) -> u8 {
    let code = exit_code_of(command);
    assert!(code & 1 == 1 && code != 1, "QEMU itself failed: {code}");
    (code >> 1) as u8
}

#[track_caller]
fn exit_code_of(command: Command) -> i32 {
    run(command).0
}

/// Runs it to its end: QEMU's exit code, and what came out of the serial port.
#[track_caller]
fn run(mut command: Command) -> (i32, String) {
    let mut child = command.spawn().unwrap_or_else(|error| panic!("qemu-system-x86_64: {error}"));
    let begin = Instant::now();
    let exit = loop {
        match child.try_wait().expect("a child can be waited for") {
            Some(exit) => break Some(exit),
            None if begin.elapsed() > time_limit() => break None,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    if exit.is_none() {
        child.kill().expect("a child can be ended");
    }
    let mut said = String::new();
    let _ = child.stdout.take().expect("a pipe").read_to_string(&mut said);
    println!("{command:?}\n{said}");
    let exit = exit.expect("the machine did not stop in time");
    (exit.code().expect("QEMU exits by itself"), said)
}

#[track_caller]
fn boot(machine: Machine, memory: &str, scenario: Scenario, expected: u8) {
    let module = Temporary::new(&format!("{machine:?}-{memory}-{scenario:?}"), &module(scenario));
    let got = status_of(qemu(machine, memory, Some(&module.0), "selftest"));
    assert_eq!(got, expected, "{machine:?} with {memory}: {scenario:?}");
}

#[test]
fn every_request_and_every_abuse() {
    for machine in MACHINES {
        for memory in ["64", "256", "5G"] {
            boot(machine, memory, Scenario::Everything, PASSED);
        }
    }
}

#[test]
fn a_hundred_thousand_random_calls() {
    for machine in MACHINES {
        for memory in ["64", "5G"] {
            boot(machine, memory, Scenario::RandomCalls, PASSED);
        }
    }
}

#[test]
fn all_memory_can_be_used_and_comes_back() {
    boot(Machine::MicroVm, "64", Scenario::UseAllMemory, PASSED);
    boot(Machine::Q35, "256", Scenario::UseAllMemory, PASSED);
}

#[test]
fn memory_above_4_gib_can_be_used() {
    boot(Machine::MicroVm, "5G", Scenario::UseAllMemory, PASSED);
}

#[test]
fn faults_that_cannot_be_told_end_the_domain() {
    for scenario in [Scenario::FaultMasked, Scenario::FaultWithoutUpcalls, Scenario::StackOverflow] {
        boot(Machine::MicroVm, "64", scenario, status::DOMAIN_ENDED);
    }
}

#[test]
fn the_status_is_the_domains() {
    for machine in MACHINES {
        boot(machine, "64", Scenario::StopAtOnce, 77);
    }
}

/// By both ways to name CPUs: ACPI's table, and the older one that a `microvm` without ACPI has.
#[test]
fn all_cpus_are_started_that_are_wanted() {
    let module = Temporary::new("cpus", &module(Scenario::CountCpus));
    for machine in MACHINES {
        for (cpus, line, expected) in
            [("1", "", 1), ("2", "", 2), ("4", "", 4), ("4", "cpus=3", 3), ("4", "cpus=1", 1)]
        {
            let mut command = qemu(machine, "64", Some(&module.0), &format!("selftest {line}"));
            command.args(["-smp", cpus]);
            assert_eq!(status_of(command), expected, "{machine:?} with {cpus} CPUs, {line}");
        }
    }
}

#[test]
fn domains_live_and_end() {
    for machine in MACHINES {
        for cpus in CPUS {
            // Time goes by the instructions that are executed: shares are measured.
            let extra = ["-icount", "shift=2,sleep=off"];
            boot_with(machine, cpus, "128", Scenario::Domains, [0, 0], &extra);
        }
    }
}

/// Killed at random moments, so often in all.
#[test]
fn domains_are_killed_at_any_moment() {
    let kills = if soaks() { 10_000 } else { 300 };
    for (seed, cpus) in (1..).zip(CPUS) {
        boot_with(Machine::MicroVm, cpus, "128", Scenario::Kill, [kills / CPUS.len() as u64, seed], &[]);
    }
}

#[test]
fn a_hostile_domain_is_alone_with_its_requests() {
    let calls = if soaks() { 1_000_000 } else { 100_000 };
    for (seed, cpus) in (1..).zip(CPUS) {
        boot_with(Machine::MicroVm, cpus, "128", Scenario::Hostile, [calls, seed << 32], &[]);
    }
}

/// How many CPUs the machine has.
const CPUS: [u32; 3] = [1, 2, 4];

fn soaks() -> bool {
    std::env::var_os("SELKIS_SOAK").is_some()
}

#[track_caller]
fn boot_with(
    machine: Machine,
    cpus: u32,
    memory: &str,
    scenario: Scenario,
    arguments: [u64; 2],
    extra: &[&str],
) {
    let name = format!("{machine:?}-{cpus}-{memory}-{scenario:?}");
    let module = Temporary::new(&name, &module_with(scenario, arguments));
    let mut command = qemu(machine, memory, Some(&module.0), "selftest");
    command.args(["-smp", &cpus.to_string()]).args(extra);
    assert_eq!(status_of(command), PASSED, "{machine:?} with {cpus} CPUs: {scenario:?}");
}

#[test]
fn changes_of_an_address_space_hold_on_all_cpus() {
    let module = Temporary::new("changes", &module(Scenario::ChangesHoldEverywhere));
    for machine in MACHINES {
        for cpus in ["1", "2", "4"] {
            let mut command = qemu(machine, "64", Some(&module.0), "selftest");
            command.args(["-smp", cpus]);
            assert_eq!(status_of(command), PASSED, "{machine:?} with {cpus} CPUs");
        }
    }
}

/// Beside one that does its worst, a domain has its share of the instructions that are executed.
#[test]
fn a_tenant_at_its_limit_slows_no_other() {
    const SHIFT: u64 = 2;
    for cpus in [1, 2] {
        let extra = ["-icount", &format!("shift={SHIFT},sleep=off")];
        boot_with(Machine::MicroVm, cpus, "128", Scenario::Share, [1 << SHIFT, 0], &extra);
    }
}

#[test]
fn a_tenant_leaves_other_cpus_alone() {
    boot_with(Machine::MicroVm, 2, "128", Scenario::Neighbours, [0, 0], &[]);
}

#[test]
fn what_is_revoked_is_out_of_use_on_all_cpus() {
    for cpus in CPUS {
        boot_with(Machine::MicroVm, cpus, "128", Scenario::Revoked, [0, 0], &[]);
    }
}

#[test]
fn unmapping_concerns_those_cpus_that_run_the_domain() {
    boot_with(Machine::MicroVm, 4, "128", Scenario::Unconcerned, [0, 0], &[]);
}

#[test]
fn vector_registers_are_each_domains_own() {
    for cpus in CPUS {
        boot_with(Machine::MicroVm, cpus, "128", Scenario::Vectors, [0, 0], &[]);
    }
}

#[test]
fn what_happens_is_traced_for_who_may_know() {
    for cpus in CPUS {
        boot_with(Machine::MicroVm, cpus, "128", Scenario::Trace, [0, 0], &[]);
    }
}

/// What goes wrong is told unasked, and what is found if it is asked for; a level that there is not changes nothing.
#[test]
fn the_log_has_levels() {
    let module = Temporary::new("log", &module(Scenario::FaultMasked));
    for (line, error, warn, info) in [
        ("", true, false, false),
        ("log=error", true, false, false),
        ("log=warn", true, false, false),
        ("log=info", true, false, true),
        ("log=debug", true, false, true),
        ("log=loud", true, true, false),
        ("log=", true, true, false),
    ] {
        let (code, said) = run(qemu(Machine::MicroVm, "64", Some(&module.0), line));
        assert_eq!(code, i32::from(status::DOMAIN_ENDED) << 1 | 1, "{line}");
        let lines: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("kernel: ")).collect();
        let has =
            |level: &str, text: &str| lines.iter().any(|line| line.contains(level) && line.contains(text));
        assert_eq!(has("cpu0 error: ", "the domain ended: exception"), error, "{line}: {said}");
        assert_eq!(has("0.000000 cpu0 warn: ", "names no level"), warn, "{line}: {said}");
        assert_eq!(has("cpu0 info: ", "frames free"), info, "{line}: {said}");
    }
}

/// What the kernel does between domains is what the command line and the CPU say. QEMU's own offers nothing.
#[test]
fn mitigations_can_be_turned_off() {
    let module = Temporary::new("mitigations", &module(Scenario::StopAtOnce));
    for (line, does) in [
        ("log=info", "nothing, the CPU offers nothing that it needs"),
        ("log=info mitigations=on", "nothing, the CPU offers nothing that it needs"),
        ("log=info mitigations=off", "nothing, as the command line says"),
    ] {
        let (_, said) = run(qemu(Machine::MicroVm, "64", Some(&module.0), line));
        let told = said.lines().filter_map(|line| line.split_once("cpu0 info: between domains: "));
        assert_eq!(told.map(|(_, what)| what).collect::<Vec<_>>(), [does], "{line}");
    }
}

/// It would load an address that is not canonical: the domain's fault, and it has no upcall for it.
#[test]
fn a_return_to_ring_3_that_faults_ends_the_domain() {
    let module = Temporary::new("iret", &module(Scenario::StopAtOnce));
    for machine in MACHINES {
        let got = status_of(qemu(machine, "64", Some(&module.0), "selftest=iret"));
        assert_eq!(got, status::DOMAIN_ENDED, "{machine:?}");
    }
}

/// Without QEMU's debug exit there is no status, but an end: ACPI's, or a reset.
#[test]
fn the_machine_ends_without_a_debug_exit() {
    let module = Temporary::new("end", &module(Scenario::StopAtOnce));
    for machine in MACHINES {
        let code = exit_code_of(qemu(machine, "64", Some(&module.0), "exit=none"));
        assert_eq!(code, 0, "{machine:?}");
    }
}

#[test]
fn a_panic_is_told() {
    let module = Temporary::new("panic", &module(Scenario::StopAtOnce));
    for cpus in ["1", "4"] {
        let mut command = qemu(Machine::Q35, "64", Some(&module.0), "selftest=panic");
        command.args(["-smp", cpus]);
        assert_eq!(status_of(command), status::PANIC);
    }
}

#[test]
fn a_missing_or_damaged_module_is_refused() {
    let whole = module(Scenario::StopAtOnce);
    assert_eq!(status_of(qemu(Machine::MicroVm, "64", None, "")), status::START_FAILED, "no module");
    let with = |at: usize, value: u8| {
        let mut module = whole.clone();
        module[at] = value;
        module
    };
    let elf = PAGE;
    let damaged = [
        ("empty page", vec![0; PAGE]),
        ("short", whole[..20].to_vec()),
        ("cut", whole[..whole.len() - 1].to_vec()),
        ("magic", with(0, b'X')),
        ("image place", with(16, 1)),
        ("ELF magic", with(elf, 0)),
        ("ELF type", with(elf + 16, 3)),
        ("ELF machine", with(elf + 18, 3)),
        ("ELF entry", with(elf + 27, 0xff)),
        ("ELF headers", with(elf + 39, 0xff)),
        // The first program header: its flags, offset, address, sizes.
        ("writable code", with(elf + 64 + 4, 7)),
        ("offset", with(elf + 64 + 15, 0xff)),
        ("address", with(elf + 64 + 23, 0xff)),
        ("file size", with(elf + 64 + 38, 0xff)),
        ("memory size", with(elf + 64 + 46, 0xff)),
    ];
    for (name, bytes) in damaged {
        let module = Temporary::new(&format!("damaged-{}", name.replace(' ', "-")), &bytes);
        assert_eq!(
            status_of(qemu(Machine::MicroVm, "64", Some(&module.0), "")),
            status::START_FAILED,
            "{name}"
        );
    }
}

#[test]
fn too_little_memory_is_told() {
    // The module takes nearly all of it.
    for kib in [13_400, 13_850] {
        let mut big = module(Scenario::StopAtOnce);
        let length = kib << 10;
        big.resize(length, 0);
        big[8..16].copy_from_slice(&(length as u64).to_le_bytes());
        let module = Temporary::new(&format!("big-{kib}"), &big);
        let got = status_of(qemu(Machine::MicroVm, "16", Some(&module.0), ""));
        assert_eq!(got, status::START_FAILED, "a module of {kib} KiB in 16 MiB");
    }
}

/// QEMU puts the module at the end of memory, so a long one lies over the end of the kernel, which begins at 2 MiB.
#[test]
fn a_module_over_the_kernel_is_told() {
    let kernel = std::fs::read(file("SELKIS_KERNEL")).expect("it can be read");
    let word = |at: usize| u64::from_le_bytes(kernel[at..at + 8].try_into().expect("8 bytes"));
    // ELF-64: the program headers, and of each the kind (1: loaded), the physical address and the size in memory.
    let headers = (0..usize::from(kernel[56])).map(|index| word(32) as usize + index * 56);
    let loaded = headers.filter(|&at| kernel[at] == 1);
    let kernel_end = loaded.map(|at| word(at + 24) + word(at + 40)).max().expect("something is loaded");
    for pages_over in [1, 4, 12] {
        let length = ((16 << 20) - kernel_end + pages_over * PAGE_SIZE) as usize;
        let mut long = module(Scenario::StopAtOnce);
        long.resize(length, 0);
        long[8..16].copy_from_slice(&(length as u64).to_le_bytes());
        let module = Temporary::new(&format!("over-{pages_over}"), &long);
        let (code, said) = run(qemu(Machine::MicroVm, "16", Some(&module.0), ""));
        assert_eq!(code, i32::from(status::START_FAILED) << 1 | 1, "{pages_over} pages over the kernel");
        assert!(said.contains("has laid the boot module over the kernel"), "{pages_over} pages: {said}");
    }
}

/// From the first instruction of the firmware to the stop of a domain that does nothing else. QEMU writes a line for each.
#[test]
fn starting_takes_few_instructions() {
    const INSTRUCTIONS_MAX: usize = 200_000;
    let module = Temporary::new("count", &module(Scenario::StopAtOnce));
    let log = Temporary::new("count-log", &[]);
    let mut command = qemu(Machine::MicroVm, "256", Some(&module.0), "");
    command.args(["-icount", "shift=0,sleep=off", "-singlestep", "-d", "nochain,exec", "-D"]).arg(&log.0);
    assert_eq!(status_of(command), 77);
    let log = std::fs::read_to_string(&log.0).expect("QEMU writes its log");
    let count = log.lines().filter(|line| line.starts_with("Trace ")).count();
    println!("{count} instructions");
    assert!(count > 10_000, "QEMU counted {count} instructions: it does not write one line for each");
    assert!(count <= INSTRUCTIONS_MAX, "starting took {count} instructions");
}
