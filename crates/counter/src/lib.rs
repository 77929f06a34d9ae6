//! A plugin of QEMU's that counts the instructions which each CPU of the machine executes, for `bench`.
//!
//! ```text
//! -plugin file=selkis-counter.so,report=FILE[,from=ADDRESS]
//! ```
//! Whenever a CPU executes a mark (`marker`), and at the machine's end, it adds a line to the file: `begin`, `end` or `exit`, and how many instructions each
//! CPU has executed. `begin` is also said when the instruction at ADDRESS (hexadecimal) is reached for the first time. A CPU that halts executes nothing;
//! each step of a repeated string instruction counts, and an instruction that faults counts when it is tried.
#![allow(unsafe_code, reason = "QEMU's interface is C's")]

mod qemu;

use marker::Mark;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

const CPUS_MAX: usize = 64;

/// The instructions of a CPU, which alone adds to them; a cache line for each.
#[repr(align(64))]
struct Count(AtomicU64);

static COUNTS: [Count; CPUS_MAX] = [const { Count(AtomicU64::new(0)) }; CPUS_MAX];
static SETTINGS: OnceLock<Settings> = OnceLock::new();
/// The address has been reached.
static HAS_BEGUN: AtomicBool = AtomicBool::new(false);

struct Settings {
    report: File,
    from: Option<u64>,
    cpus: usize,
}

impl Settings {
    fn read(info: &qemu::Info, arguments: &[&CStr]) -> Result<Self, String> {
        let cpus =
            usize::try_from(info.cpus[0]).ok().filter(|cpus| info.is_system && (1..=CPUS_MAX).contains(cpus));
        let cpus = cpus.ok_or_else(|| format!("it counts machines of 1 to {CPUS_MAX} CPUs"))?;
        let (mut report, mut from) = (None, None);
        for argument in arguments {
            let argument = argument.to_str().map_err(|error| error.to_string())?;
            match argument.split_once('=') {
                Some(("report", path)) => {
                    report = Some(File::create(path).map_err(|error| format!("{path}: {error}"))?);
                }
                Some(("from", address)) => {
                    let address = u64::from_str_radix(address.trim_start_matches("0x"), 16);
                    from = Some(address.map_err(|_| format!("{argument}: no address"))?);
                }
                _ => return Err(format!("it does not know {argument}")),
            }
        }
        Ok(Self { report: report.ok_or("it lacks report=FILE")?, from, cpus })
    }

    /// Adds a line to the report.
    fn say(&self, what: &str) {
        let mut line = String::from(what);
        for count in &COUNTS[..self.cpus] {
            let _ = write!(line, " {}", count.0.load(Relaxed));
        }
        line.push('\n');
        // In one piece: several CPUs may say something. Who reads the report sees what is missing.
        let _ = (&self.report).write_all(line.as_bytes());
    }
}

/// QEMU calls this when it has loaded the plugin; 0 if all is well.
///
/// # Safety
/// As QEMU's interface says: `info` is valid, and `arguments` are `count` strings.
// SAFETY: the name that QEMU looks for; it is reserved for this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    plugin: qemu::Id,
    info: *const qemu::Info,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: by the contract. Each is a string that stays for the time of the call.
    let (info, arguments): (_, Vec<&CStr>) =
        unsafe { (&*info, (0..count).map(|index| CStr::from_ptr(*arguments.add(index))).collect()) };
    match Settings::read(info, &arguments) {
        Ok(settings) => _ = SETTINGS.set(settings),
        Err(why) => {
            eprintln!("selkis-counter: {why}");
            return 1;
        }
    }
    // SAFETY: QEMU's own number of this, and functions that are there until it ends.
    unsafe {
        qemu::on_translation(plugin, translate);
        qemu::at_exit(plugin, exit, std::ptr::null_mut());
    }
    0
}

/// Has each instruction of a block counted before it is executed, and marks told.
extern "C" fn translate(_plugin: qemu::Id, block: *mut qemu::Block) {
    let from = SETTINGS.get().and_then(|settings| settings.from);
    // SAFETY: the block and its instructions are valid during this call; their bytes are as long as they say.
    unsafe {
        for index in 0..qemu::instruction_count(block) {
            let instruction = qemu::instruction(block, index);
            let before = |call, data: usize| {
                qemu::before_execution(instruction, call, qemu::NO_REGISTERS, data as *mut c_void);
            };
            if Some(qemu::address(instruction)) == from {
                before(reach, 0);
            }
            before(count, 0);
            let bytes = std::slice::from_raw_parts(qemu::bytes(instruction), qemu::length(instruction));
            if let Some(mark) = Mark::of(bytes) {
                before(tell, mark as usize);
            }
        }
    }
}

extern "C" fn count(cpu: c_uint, _data: *mut c_void) {
    if let Some(Count(count)) = COUNTS.get(cpu as usize) {
        // Nobody else adds to it.
        count.store(count.load(Relaxed) + 1, Relaxed);
    }
}

extern "C" fn reach(_cpu: c_uint, _data: *mut c_void) {
    if !HAS_BEGUN.swap(true, Relaxed) {
        say("begin");
    }
}

extern "C" fn tell(_cpu: c_uint, data: *mut c_void) {
    say(if data as usize == Mark::Begin as usize { "begin" } else { "end" });
}

extern "C" fn exit(_plugin: qemu::Id, _data: *mut c_void) {
    say("exit");
}

fn say(what: &str) {
    if let Some(settings) = SETTINGS.get() {
        settings.say(what);
    }
}
