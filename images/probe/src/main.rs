//! A program for ring 3 that asks the kernel for everything it serves, and for everything that it must refuse.
//!
//! The word behind the boot module's header says which scenario to run. A check that fails prints its place and
//! stops the machine with status 1; a scenario that passes stops it with its own status. The test beside this runs them.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod abuse;
#[cfg(target_os = "none")]
mod cpus;
#[cfg(target_os = "none")]
mod devices;
#[cfg(target_os = "none")]
mod domains;
#[cfg(target_os = "none")]
mod elsewhere;
#[cfg(target_os = "none")]
mod faults;
#[cfg(target_os = "none")]
mod figures;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod probe;
#[cfg(target_os = "none")]
mod random;
#[cfg(target_os = "none")]
mod roles;
#[cfg(target_os = "none")]
mod tenants;
#[cfg(target_os = "none")]
mod time;
#[cfg(target_os = "none")]
mod trace;
#[cfg(target_os = "none")]
mod upcalls;
#[cfg(target_os = "none")]
mod vectors;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("image-probe: this runs in ring 3 of the kernel; build it for x86_64-unknown-none");
    std::process::exit(2);
}
