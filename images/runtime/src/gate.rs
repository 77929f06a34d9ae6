//! The kernel, by system call or by the launcher's function.

use abi::boot::Gate;
use abi::{BootInfo, Error, Handle, Kernel, Registers, Request};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use runtime::Vcpu;
use spin::Once;

enum Door {
    SystemCall,
    Function(Gate),
}

static DOOR: Once<Door> = Once::new();

/// The address space's and the machine's handles, for the few places that cannot be handed them.
static SPACE: AtomicU64 = AtomicU64::new(0);
static MACHINE: AtomicU64 = AtomicU64::new(0);

/// The way to the kernel that `boot` describes.
pub fn open(boot: &'static BootInfo) -> &'static (dyn Kernel + Sync) {
    SPACE.store(boot.space.raw(), Relaxed);
    MACHINE.store(boot.machine.raw(), Relaxed);
    DOOR.call_once(|| match boot.gate {
        0 => Door::SystemCall,
        // SAFETY: `BootInfo::gate` is the address of a `Gate` when it is not 0; the version was checked.
        address => Door::Function(unsafe { core::mem::transmute::<u64, Gate>(address) }),
    })
}

/// Whether the kernel is below, and not a process of Linux.
pub fn is_bare() -> bool {
    matches!(DOOR.get(), Some(Door::SystemCall))
}

/// The virtual CPU that runs this.
pub fn vcpu() -> Handle {
    Vcpu::current().handle()
}

/// Last words, if the kernel can be reached.
pub fn print(text: &str) {
    print_bytes(text.as_bytes());
}

/// The same for bytes that need not be text.
pub fn print_bytes(bytes: &[u8]) {
    let Some(door) = DOOR.get() else { return };
    for piece in bytes.chunks(Request::PRINT_BYTES_MAX as usize) {
        let text = abi::Span::new(piece.as_ptr() as u64, piece.len() as u64);
        let _ = door.call(Request::Print { space: Handle::from_raw(SPACE.load(Relaxed)), text });
    }
}

/// Sleeps until an event or `deadline_ns` has come: the events, which are taken.
pub fn wait(system: &runtime::System, deadline_ns: u64) -> u64 {
    system.kernel().call(Request::Wait { vcpu: vcpu(), deadline_ns }).unwrap_or(0)
}

/// Ends the machine or the hosted process; or this domain alone, if the machine is not its to stop.
pub fn stop(status: u8) -> ! {
    let (space, machine) = (Handle::from_raw(SPACE.load(Relaxed)), Handle::from_raw(MACHINE.load(Relaxed)));
    if let Some(door) = DOOR.get() {
        let end = match (door, machine) {
            (Door::SystemCall, Handle::NONE) => Request::End { domain: space, status: status.into() },
            (_, machine) => Request::Stop { machine, status },
        };
        let _ = door.call(end);
    }
    // SAFETY: an undefined instruction: the kernel ends the domain, Linux the process.
    unsafe { asm!("ud2", options(noreturn)) }
}

impl Kernel for Door {
    fn call(&self, request: Request) -> Result<u64, Error> {
        let registers = request.encode();
        let (code, value) = match self {
            Self::SystemCall => system_call(&registers),
            Self::Function(gate) => {
                let mut value = 0;
                (gate(&registers, &mut value), value)
            }
        };
        match code {
            0 => Ok(value),
            _ => Err(Error::from_code(code).unwrap_or(Error::Malformed)),
        }
    }
}

fn system_call(registers: &Registers) -> (u64, u64) {
    let [a, b, c, d, e, f] = registers.arguments;
    let (code, value);
    // SAFETY: the registers are those of the kernel's convention (`abi::Registers`); what a request does to memory is
    // declared by regions that only their owners touch.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") registers.number => code,
            in("rdi") a, in("rsi") b, inlateout("rdx") c => value, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    (code, value)
}
