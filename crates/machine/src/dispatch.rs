//! From the entries to the kernel, and what it decides carried out.

use crate::apic::{DEVICE_VECTORS, KICK_VECTOR, SHOOTDOWN_VECTOR, TIMER_VECTOR};
use crate::cpu::{fault_address, wait_for_interrupt};
use crate::panic;
use crate::percpu;
use crate::power;
use crate::tlb;
use crate::trap;
use crate::x86::X86;
use abi::Context;
use kernel::{Fault, Interrupt, Kernel, Next, PAGE_FAULT};

/// Vectors below this are exceptions.
const EXCEPTIONS_END: u64 = 32;
const NMI: u8 = 2;
/// Double fault, machine check: nobody's fault in ring 3.
const MACHINE_TROUBLE: [u8; 2] = [8, 18];
/// One past the addresses that `sysret` may return to: the lower half, less its last page. It would fault in ring 0 with ring 3's
/// stack for one that is not canonical (SDM volume 2, SYSRET).
const RETURN_END: u64 = (1 << 47) - 4096;

/// How the entry of system calls goes back.
#[repr(u8)]
#[derive(Clone, Copy)]
pub enum Leave {
    /// By `iret`: any context.
    Iret = 0,
    /// By `sysret`, which keeps all registers but two.
    Sysret = 1,
}

/// A CPU begins to run what the kernel gives it.
pub fn begin() -> ! {
    begin_with(|_| ())
}

/// The same, of what is given to it changed first.
pub fn begin_with(change: impl FnOnce(&mut Context)) -> ! {
    let mut context = Context::default();
    let (kernel, cpu) = entered();
    let next = kernel.awake(cpu, &mut context);
    finish(kernel, cpu, next, &mut context);
    change(&mut context);
    // SAFETY: the context is a local of this function, which does not return; `gs` is the kernel's since `Cpu::install`.
    unsafe { trap::enter_ring_3(&raw mut context) }
}

/// A `syscall` in ring 3.
pub extern "C" fn on_system_call(context: &mut Context) -> Leave {
    let (kernel, cpu) = entered();
    let next = kernel.system_call(cpu, context);
    match finish(kernel, cpu, next, context) {
        Next::Return if context.rip < RETURN_END => Leave::Sysret,
        _ => Leave::Iret,
    }
}

/// An exception or interrupt in ring 3.
pub extern "C" fn on_trap(context: &mut Context) {
    let (vector, error) = (context.vector, context.error);
    (context.vector, context.error) = (0, 0);
    let (kernel, cpu) = entered();
    let next = if vector < EXCEPTIONS_END {
        let vector = vector as u8;
        if vector == NMI {
            return panic::on_nmi();
        }
        if MACHINE_TROUBLE.contains(&vector) {
            panic!("exception {vector} (error {error:#x}) in ring 3 at {:#x}", context.rip);
        }
        let address = if vector == PAGE_FAULT { fault_address() } else { 0 };
        kernel.fault(cpu, Fault { vector, error, address }, context)
    } else {
        let vector = vector as u8;
        let next = match interrupt_of(kernel, vector) {
            Some(interrupt) => kernel.interrupt(cpu, interrupt, context),
            None => Next::Enter,
        };
        acknowledge(vector);
        next
    };
    finish(kernel, cpu, next, context);
}

/// An exception in the kernel, which is the end, or an interrupt while it sleeps.
pub extern "C" fn on_kernel_trap(context: &mut Context) {
    if context.vector < EXCEPTIONS_END {
        panic::on_exception(context);
    }
    if context.vector == u64::from(SHOOTDOWN_VECTOR) {
        tlb::serve();
        return acknowledge(SHOOTDOWN_VECTOR);
    }
    // Interrupts come in ring 0 only during the sleep, when nobody uses the field.
    let cpu = percpu::this();
    let mut arrived = cpu.arrived.get();
    arrived[(context.vector / 64) as usize] |= 1 << (context.vector % 64);
    cpu.arrived.set(arrived);
}

/// In ring 0 an exception that has a stack of its own.
pub extern "C" fn on_own_stack_trap(context: &mut Context) {
    if context.vector == u64::from(NMI) {
        return panic::on_nmi();
    }
    panic::on_exception(context)
}

/// Sleeps until interrupts came, and answers with their vectors as bits.
pub fn sleep() -> [u64; 4] {
    loop {
        wait_for_interrupt();
        let arrived = percpu::this().arrived.replace([0; 4]);
        if arrived != [0; 4] {
            return arrived;
        }
    }
}

/// Acknowledges what came while there was no kernel.
pub fn forget_arrived() {
    let arrived = percpu::this().arrived.replace([0; 4]);
    if has_come(&arrived, KICK_VECTOR) {
        acknowledge(KICK_VECTOR);
    }
}

fn has_come(arrived: &[u64; 4], vector: u8) -> bool {
    arrived[usize::from(vector / 64)] >> (vector % 64) & 1 != 0
}

/// Carries out what the kernel decided, until ring 3 can run.
fn finish(kernel: &Kernel<X86>, cpu: &mut kernel::Cpu, mut next: Next, context: &mut Context) -> Next {
    loop {
        match next {
            Next::Return | Next::Enter => return next,
            Next::Sleep => {
                let arrived = sleep();
                // An acknowledgement is for the highest that is in service, so a device's is masked before it only in this order.
                for vector in (0..=u8::MAX).rev().filter(|&vector| has_come(&arrived, vector)) {
                    if let Some(interrupt) = interrupt_of(kernel, vector) {
                        kernel.note(cpu, interrupt);
                    }
                    acknowledge(vector);
                }
                next = kernel.awake(cpu, context);
            }
            Next::Stop(status) => {
                panic::stop_others();
                if let Some(test) = &kernel.machine.self_test
                    && let Err(wrong) = test.check_tables()
                {
                    panic!("the page tables are wrong: {wrong}");
                }
                power::stop(status, || kernel.machine.soft_off())
            }
        }
    }
}

fn interrupt_of(kernel: &Kernel<X86>, vector: u8) -> Option<Interrupt> {
    match vector {
        TIMER_VECTOR => {
            // The timer is off now.
            percpu::this().alarm_ns.set(u64::MAX);
            Some(Interrupt::Alarm)
        }
        KICK_VECTOR => Some(Interrupt::Kick),
        SHOOTDOWN_VECTOR => {
            tlb::serve();
            None
        }
        _ => {
            let (number, line) = kernel.machine.route(vector)?;
            Some(Interrupt::Device { number, line })
        }
    }
}

/// Tells the local APIC that an interrupt was handled. A device's is masked by now, so it does not come at once again.
fn acknowledge(vector: u8) {
    if matches!(vector, TIMER_VECTOR | KICK_VECTOR | SHOOTDOWN_VECTOR) || DEVICE_VECTORS.contains(&vector) {
        percpu::this().apic.get().acknowledge();
    }
}

/// The kernel, and its state of this CPU.
fn entered() -> (&'static Kernel<X86>, &'static mut kernel::Cpu) {
    let cpu = percpu::this();
    // SAFETY: 1. the kernel lives for ever, and the pointer was set before this CPU enters it; 2. the entries do not nest, interrupts are off,
    // so one reference lives.
    unsafe { (&*cpu.kernel.get(), &mut *cpu.kernel_cpu.get()) }
}
