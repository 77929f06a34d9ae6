//! Whether the virtual machine monitors of rust-vmm (Firecracker, Cloud Hypervisor) would start the kernel: their own
//! loader reads the file.
#![cfg(target_os = "linux")]

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use std::fs::File;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// `XEN_ELFNOTE_PHYS32_ENTRY` is where the machine starts; the linker script puts the kernel at 2 MiB.
const LOAD_ADDRESS: u64 = 0x20_0000;
const LOADABLE_BYTES_MAX: u64 = 300 << 10;

fn kernel() -> File {
    let path = std::env::var_os("SELKIS_KERNEL").expect("SELKIS_KERNEL must name the kernel's ELF file");
    File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn rust_vmm_loads_the_kernel_by_pvh() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 64 << 20)]).expect("guest memory");
    let loaded = Elf::load(&memory, None, &mut kernel(), Some(GuestAddress(1 << 20)))
        .expect("the loader takes the file");
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        panic!("no PVH entry: {:?}", loaded.pvh_boot_cap);
    };
    assert!(entry.0 >= LOAD_ADDRESS && entry.0 < loaded.kernel_end, "the entry {entry:?} lies in the kernel");
    // `cld; cli`, which is how the entry begins.
    assert_eq!(memory.read_obj::<u16>(entry).expect("readable"), u16::from_le_bytes([0xfc, 0xfa]));
    assert!(
        loaded.kernel_end - LOAD_ADDRESS <= LOADABLE_BYTES_MAX,
        "the kernel takes {} bytes",
        loaded.kernel_end - LOAD_ADDRESS
    );
}
