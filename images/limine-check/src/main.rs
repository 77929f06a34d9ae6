//! `limine-check`: verifies everything that a loader hands over, tells on the serial port, and ends QEMU with an exit
//! code. What to expect is in the command line (see [`kernel::expect`]). This one is relocatable.
#![cfg_attr(target_os = "none", no_std, no_main)]
// A kernel: it reads physical memory and control registers.
#![allow(unsafe_code)]

#[cfg(target_os = "none")]
mod kernel;

/// Where the file says that it is to be entered.
#[cfg(target_os = "none")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    core::arch::naked_asm!("jmp {}", sym kernel::entry::enter)
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a kernel: build it with --target x86_64-unknown-none");
    std::process::exit(1);
}
