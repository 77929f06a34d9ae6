//! The kernel's executable: the entries of `machine`, laid out by its linker script. On a host there is nothing to run.
#![cfg_attr(target_os = "none", no_std, no_main)]

/// Where functions begin, and their names: see the build script.
#[cfg(target_os = "none")]
#[used]
#[unsafe(link_section = ".symbols")]
static SYMBOLS: [u8; include_bytes!(concat!(env!("OUT_DIR"), "/symbols")).len()] =
    *include_bytes!(concat!(env!("OUT_DIR"), "/symbols"));

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    machine::on_panic(info)
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("image-kernel: built for this host there is no kernel; build it for x86_64-unknown-none");
    std::process::exit(2);
}
