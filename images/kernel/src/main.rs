//! The kernel's executable: the entries of `machine`, laid out by its linker script. On a host there is nothing to run.
#![cfg_attr(target_os = "none", no_std, no_main)]

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
