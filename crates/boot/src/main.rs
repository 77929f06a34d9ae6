//! `selkis-boot.efi`: the firmware underneath the loader's logic. Reads `limine.conf`, the kernel and its modules
//! from the volume that it was started from, and hands over as the Limine boot protocol says.
#![cfg_attr(target_os = "uefi", no_std, no_main)]
// Firmware calls, physical memory, control registers: this is one of the places where unsafe code may be.
#![allow(unsafe_code)]

#[cfg(target_os = "uefi")]
extern crate alloc;

#[cfg(target_os = "uefi")]
mod uefi_loader;

#[cfg(not(target_os = "uefi"))]
fn main() {
    eprintln!("the loader is a UEFI application: build it with --target x86_64-unknown-uefi");
    std::process::exit(1);
}
