//! From the entries to the kernel, and what it decides carried out.

use crate::apic::{DEVICE_VECTORS, TIMER_VECTOR};
use crate::cpu::{fault_address, wait_for_interrupt};
use crate::percpu;
use crate::power;
use crate::x86::X86;
use abi::Context;
use kernel::{Fault, Interrupt, Kernel, Next, PAGE_FAULT};

/// Vectors below this are exceptions.
const EXCEPTIONS_END: u64 = 32;
/// Non-maskable interrupt, double fault, machine check: nobody's fault in ring 3.
const MACHINE_TROUBLE: [u8; 3] = [2, 8, 18];
/// One past the addresses that `sysret` may return to: the lower half, less its last page.
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

/// A `syscall` in ring 3.
pub extern "C" fn on_system_call(context: &mut Context) -> Leave {
    let kernel = kernel();
    let next = kernel.system_call(context);
    match finish(kernel, next, context) {
        Next::Return if context.rip < RETURN_END => Leave::Sysret,
        _ => Leave::Iret,
    }
}

/// An exception or interrupt in ring 3.
pub extern "C" fn on_trap(context: &mut Context) {
    let (vector, error) = (context.vector, context.error);
    (context.vector, context.error) = (0, 0);
    let kernel = kernel();
    let next = if vector < EXCEPTIONS_END {
        let vector = vector as u8;
        if MACHINE_TROUBLE.contains(&vector) {
            panic!("exception {vector} (error {error:#x}) in ring 3 at {:#x}", context.rip);
        }
        let address = if vector == PAGE_FAULT { fault_address() } else { 0 };
        kernel.fault(Fault { vector, error, address }, context)
    } else {
        let next = match interrupt_of(kernel, vector as u8) {
            Some(interrupt) => kernel.interrupt(interrupt, context),
            None => Next::Enter,
        };
        acknowledge(kernel, vector as u8);
        next
    };
    finish(kernel, next, context);
}

/// An exception in the kernel, which is the end, or an interrupt while it sleeps.
pub extern "C" fn on_kernel_trap(context: &mut Context) {
    if context.vector < EXCEPTIONS_END {
        crate::panic::on_exception(context);
    }
    // SAFETY: interrupts come in ring 0 only during the sleep, when nobody uses the field.
    unsafe {
        let arrived = &raw mut (*percpu::this()).arrived[(context.vector / 64) as usize];
        arrived.write(arrived.read() | 1 << (context.vector % 64));
    }
}

/// Sleeps until interrupts came, and answers with their vectors as bits.
pub fn sleep() -> [u64; 4] {
    wait_for_interrupt();
    // SAFETY: interrupts are off again, so nothing else touches the field.
    unsafe { core::ptr::replace(&raw mut (*percpu::this()).arrived, [0; 4]) }
}

/// Carries out what the kernel decided, until ring 3 can run.
fn finish(kernel: &mut Kernel<X86>, mut next: Next, context: &mut Context) -> Next {
    loop {
        match next {
            Next::Return | Next::Enter => {
                kernel.machine.flush();
                return next;
            }
            Next::Sleep => {
                let arrived = sleep();
                let came = |vector: &u8| arrived[usize::from(vector / 64)] >> (vector % 64) & 1 != 0;
                // An acknowledgement is for the highest that is in service, so a device's is masked before it only in this order.
                for vector in (0..=u8::MAX).rev().filter(came) {
                    if let Some(interrupt) = interrupt_of(kernel, vector) {
                        kernel.note(interrupt);
                    }
                    acknowledge(kernel, vector);
                }
                next = kernel.awake(context);
            }
            Next::Stop(status) => {
                if kernel.machine.self_test
                    && let Err(wrong) = kernel.machine.check_tables()
                {
                    panic!("the page tables are wrong: {wrong}");
                }
                power::stop(status, || kernel.machine.soft_off())
            }
        }
    }
}

fn interrupt_of(kernel: &mut Kernel<X86>, vector: u8) -> Option<Interrupt> {
    if vector == TIMER_VECTOR {
        kernel.machine.clock.alarm_came();
        return Some(Interrupt::Alarm);
    }
    let (number, line) = kernel.machine.route(vector)?;
    Some(Interrupt::Device { number, line })
}

/// Tells the local APIC that an interrupt was handled. A device's is masked by now, so it does not come at once again.
fn acknowledge(kernel: &Kernel<X86>, vector: u8) {
    if vector == TIMER_VECTOR || DEVICE_VECTORS.contains(&vector) {
        kernel.machine.apic.acknowledge();
    }
}

fn kernel() -> &'static mut Kernel<X86> {
    // SAFETY: 1. `start` set the pointer before ring 3 ran; 2. the entries do not nest and interrupts are off, so this is
    // the only reference that lives.
    unsafe { &mut *(*percpu::this()).kernel }
}
