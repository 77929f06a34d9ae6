//! `limine-check-fixed`: the same checks in an executable at a fixed address that asks to be entered elsewhere than
//! its file says.
#![cfg_attr(target_os = "none", no_std, no_main)]
// A kernel: it reads physical memory and control registers.
#![allow(unsafe_code)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
mod wrong_entry {
    use crate::kernel::{entry, machine, protocol};

    type EntryPoint = unsafe extern "C" fn() -> !;

    #[used]
    #[unsafe(link_section = ".requests")]
    static ENTRY_POINT: protocol::Request<EntryPoint> =
        protocol::Request::new([0x13d8_6c03_5a1c_d3e1, 0x2b0c_aa89_d8f3_026a], 0, entry::enter);

    /// Where the file says that it is to be entered, which the request overrules.
    #[unsafe(no_mangle)]
    extern "C" fn _start() -> ! {
        machine::fail(format_args!("entered where the file says, in spite of the request"))
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a kernel: build it with --target x86_64-unknown-none");
    std::process::exit(1);
}
