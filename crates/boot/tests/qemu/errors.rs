//! What the loader refuses, and that it leaves the firmware in a state to go on.

use std::fs;
use std::path::Path;
use std::time::Duration;

use diskimage::{BootImage, Source, write_image};

use super::machine::{Kernel, Machine, Outcome, PASSED, Scratch, add_module, built, image, write};

/// Starts a machine whose first disk is made by `spoil` and whose second disk boots.
fn refused(machine: &Machine, spoil: impl FnOnce(&Path)) -> Outcome {
    let scratch = Scratch::new();
    let (first, second) = (scratch.path("first"), scratch.path("second"));
    spoil(&first);
    write(&image(Kernel::Fixed, 6, ""), &second);
    let outcome = machine.run(&scratch, &[&first, &second]);
    assert_eq!(outcome.code, Some(PASSED), "the firmware did not go on:\n{}", outcome.said);
    outcome
}

/// The loader must say all of `words` in its message.
fn expect_message(words: &[&str], spoil: impl FnOnce(&Path)) {
    let said = refused(&Machine::default(), spoil).said;
    // The firmware's console breaks lines where its screen ends.
    let plain: String = said.chars().filter(|c| !c.is_control()).collect();
    for word in words {
        assert!(plain.contains(word), "no {word:?} in:\n{said}");
    }
}

fn with_conf(conf: &str) -> impl FnOnce(&Path) {
    let conf = conf.to_owned();
    move |disk| image(Kernel::Relocatable, 6, "").write(disk, conf).expect("an image")
}

fn with_kernel(kernel: Vec<u8>) -> impl FnOnce(&Path) {
    let image = BootImage { kernel: Source::Bytes(kernel), ..image(Kernel::Relocatable, 6, "") };
    move |disk| write(&image, disk)
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn no_configuration() {
    expect_message(&["cannot start", "no limine.conf", "/boot/limine.conf"], |disk| {
        let loader = Source::File(built("SELKIS_BOOT"));
        write_image(disk, &[("/EFI/BOOT/BOOTX64.EFI", loader)]).expect("an image");
    });
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_configuration_cut_short() {
    expect_message(
        &["/limine.conf", "no \"path: boot():/"],
        with_conf("timeout: 0\n/Selkis\nprotocol: limine\n"),
    );
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_configuration_for_another_protocol() {
    let conf = "timeout: 0\n/Linux\nprotocol: linux\npath: boot():/vmlinuz\n";
    expect_message(&["/limine.conf: line 3", "protocol \"linux\""], with_conf(conf));
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_kernel_that_is_not_there() {
    let conf = "timeout: 0\n/Selkis\nprotocol: limine\npath: boot():/no/such/kernel\n";
    expect_message(&["kernel /no/such/kernel is not on"], with_conf(conf));
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_kernel_cut_short() {
    let mut kernel = Kernel::Relocatable.bytes(6);
    let length = 0x9000; // in the middle of its segments
    kernel.truncate(length);
    expect_message(&["kernel /boot/kernel.elf: cut short", &length.to_string()], with_kernel(kernel));
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_kernel_that_is_no_elf_file() {
    expect_message(&["/boot/kernel.elf: not an ELF file"], with_kernel(vec![0x90; 10_000]));
    expect_message(&["/boot/kernel.elf: not an ELF file"], with_kernel(Vec::new()));
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_base_revision_of_the_future() {
    expect_message(&["base revision 7", "0 to 6"], with_kernel(Kernel::Relocatable.bytes(7)));
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_module_that_is_not_there() {
    let conf = "timeout: 0\n/Selkis\nprotocol: limine\npath: boot():/boot/kernel.elf\nmodule_path: boot():/boot/gone\n";
    expect_message(&["module /boot/gone is not on"], with_conf(conf));
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_module_cut_short() {
    expect_message(&["module /boot/module"], |disk| {
        let mut image = image(Kernel::Relocatable, 6, "");
        add_module(&mut image, "module", 1 << 20);
        write(&image, disk);
        cut_last_chain(disk, 10);
    });
}

/// Ends the chain of the file that was written last (of a FAT16 volume) so many clusters too early.
fn cut_last_chain(disk: &Path, clusters: usize) {
    const VOLUME: usize = 1 << 20;
    let mut bytes = fs::read(disk).expect("the image");
    // Microsoft's FAT specification 1.03, page 9: fields of the boot sector.
    let half = |bytes: &[u8], at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let (sector, reserved) = (half(&bytes, VOLUME + 11), half(&bytes, VOLUME + 14));
    let (tables, table_bytes) = (usize::from(bytes[VOLUME + 16]), half(&bytes, VOLUME + 22) * sector);
    for table in 0..tables {
        let start = VOLUME + reserved * sector + table * table_bytes;
        // The last cluster that another leads to: the table's unused tail is marked, but leads nowhere.
        let last = (3..table_bytes / 2).rfind(|entry| half(&bytes, start + 2 * entry - 2) == *entry);
        let at = start + 2 * (last.expect("a file of several clusters") - clusters);
        bytes[at..at + 2].copy_from_slice(&[0xff, 0xff]);
    }
    fs::write(disk, bytes).expect("the image");
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_module_that_does_not_fit() {
    let machine = Machine { memory: "128M", ..Machine::default() };
    let outcome = refused(&machine, |disk| {
        let mut image = image(Kernel::Relocatable, 6, "");
        add_module(&mut image, "module", 150 << 20);
        write(&image, disk);
    });
    assert!(outcome.said.contains("out of memory"), "{}", outcome.said);
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn variants_that_are_impossible() {
    for (option, value, message) in [
        ("selkis_test_hhdm_base", "0xffff800000001000", "must be in the higher half"),
        ("selkis_test_slide", "0x80000000", "cannot be slid"),
        ("selkis_test_modules", "above_4g", "out of memory"),
        ("selkis_test_memory_map", "upside_down", "is no value for selkis_test_memory_map"),
    ] {
        expect_message(&[message], |disk| {
            let mut image = image(Kernel::Relocatable, 6, "");
            add_module(&mut image, "module", 5000);
            image.options.push((option.to_owned(), value.to_owned()));
            write(&image, disk);
        });
    }
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn nobody_presses_a_key() {
    let machine = Machine { key: None, ..Machine::default() };
    let outcome = refused(&machine, with_conf("timeout: 0\n"));
    assert!(outcome.took > Duration::from_secs(10), "the message stays for ten seconds: {:?}", outcome.took);
    assert!(outcome.said.contains("no entry"), "{}", outcome.said);
}
