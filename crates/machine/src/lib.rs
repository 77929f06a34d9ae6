//! The kernel on x86-64: everything under [`kernel::Machine`], and the ways into the kernel.
//!
//! What it does: two boot protocols with one image (PVH and Limine); up to 64 CPUs; page tables of its own for each domain with W^X,
//! no-execute, and guard pages under every stack; SMEP, SMAP and UMIP where the CPU has them; process-context identifiers, and
//! shootdowns between CPUs; system calls, exceptions and interrupts; the local APICs, IOAPICs, MSI-X; a clock whose rate is told by CPUID or
//! measured; virtio devices on PCI and virtio-mmio; barriers between domains for CPUs that leak; power-off; a panic that says why, where, and
//! who called.
//!
//! What it does not: 5-level paging; an IOMMU, so that a domain with a device can reach all memory through it; mitigations for CPUs
//! that leak from ring 0 to ring 3 (Meltdown and its kin): it maps the kernel while ring 3 runs, and says so.
//!
//! The order of things at the start is that of `start`. Options on the kernel's command line: `log=LEVEL` (say what matters as
//! much as an `error`, `warn`, `info`, `debug`; else `warn`), `exit=isa-debug` (QEMU's device is there to stop with a status), `cpus=N` (use no more), `mitigations=off` (nothing between
//! domains), `selftest` (walk all page tables before ring 3 starts and before the machine stops, check the table of names),
//! `selftest=panic` (panic), `selftest=iret` (enter ring 3 at an address that faults), and the `virtio_mmio.device=` that QEMU and
//! Firecracker add.
#![no_std]
#![cfg(target_os = "none")]

extern crate alloc;

mod acpi;
mod apic;
mod boot;
mod clock;
mod counters;
mod cpu;
mod descriptors;
mod devices;
mod dispatch;
mod entry;
mod features;
mod frames;
mod heap;
mod limine;
mod log;
mod madt;
mod mapper;
mod memory;
mod mitigations;
mod paging;
mod panic;
mod pci;
mod percpu;
mod power;
mod ranges;
mod registers;
mod selftest;
mod separate;
#[doc(hidden)]
pub mod serial;
mod slots;
mod smp;
mod space;
mod start;
mod symbols;
mod tlb;
mod trampoline;
mod trap;
mod tsc;
mod vectors;
mod x86;

pub use panic::on_panic;

#[global_allocator]
static HEAP: heap::Heap = heap::Heap::new();
