//! Everything that the protocol allows, checked from the kernel's side.

use std::time::Duration;

use super::machine::{Kernel, Machine, PASSED, Scratch, add_module, expect_pass, image};

fn option(image: &mut diskimage::BootImage, name: &str, value: &str) {
    image.options.push((name.to_owned(), value.to_owned()));
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_relocatable_kernel() {
    expect_pass(&Machine::default(), &image(Kernel::Relocatable, 6, ""));
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_fixed_kernel_with_an_entry_point_of_its_own() {
    expect_pass(&Machine::default(), &image(Kernel::Fixed, 6, ""));
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn modules_of_all_sizes() {
    let mut image = image(Kernel::Relocatable, 6, "");
    for (name, length) in [("empty", 0), ("page", 4096), ("odd", 1_234_567), ("large", 20 << 20)] {
        add_module(&mut image, name, length);
    }
    expect_pass(&Machine::default(), &image);
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn every_base_revision() {
    for revision in 0..=6 {
        let mut image = image(Kernel::Relocatable, revision, &format!("followed={revision}"));
        add_module(&mut image, "module", 5000);
        expect_pass(&Machine::default(), &image);
    }
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn every_older_loader() {
    for known in 0..=5 {
        let mut image = image(Kernel::Relocatable, 6, &format!("followed={known} loader_max={known}"));
        option(&mut image, "selkis_test_base_revision_max", &known.to_string());
        expect_pass(&Machine::default(), &image);
    }
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn several_processors() {
    for (revision, count) in [(6, "2"), (6, "5"), (3, "4"), (0, "2")] {
        let expect = format!("followed={revision} processors={count}");
        let machine = Machine { extra: vec!["-smp".to_owned(), count.to_owned()], ..Machine::default() };
        expect_pass(&machine, &image(Kernel::Relocatable, revision, &expect));
    }
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_slid_kernel() {
    let mut image = image(Kernel::Relocatable, 6, "slide=0x4321000");
    option(&mut image, "selkis_test_slide", "0x4321000");
    expect_pass(&Machine::default(), &image);
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn another_direct_map() {
    for base in ["0xffff912340000000", "0xffffc00000000000", "0xffffff0000000000"] {
        let mut image = image(Kernel::Relocatable, 6, &format!("hhdm={base}"));
        option(&mut image, "selkis_test_hhdm_base", base);
        expect_pass(&Machine::default(), &image);
    }
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn every_kind_of_memory_map() {
    for kind in ["reversed", "fragmented", "overlapping"] {
        let mut image = image(Kernel::Relocatable, 6, &format!("map_{kind}"));
        option(&mut image, "selkis_test_memory_map", kind);
        expect_pass(&Machine::default(), &image);
    }
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn kernel_and_modules_above_4_gib() {
    let mut image = image(Kernel::Relocatable, 6, "modules_above_4g kernel_above_4g");
    add_module(&mut image, "one", 3 << 20);
    add_module(&mut image, "two", 100);
    option(&mut image, "selkis_test_modules", "above_4g");
    option(&mut image, "selkis_test_kernel", "above_4g");
    let machine = Machine { memory: "5G", ..Machine::default() };
    expect_pass(&machine, &image);
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn all_at_once() {
    let expect =
        "followed=4 loader_max=4 hhdm=0xffffa00000000000 slide=0x200000 map_fragmented modules_above_4g";
    let mut image = image(Kernel::Relocatable, 6, expect);
    add_module(&mut image, "module", 1 << 20);
    for (name, value) in [
        ("base_revision_max", "4"),
        ("hhdm_base", "0xffffa00000000000"),
        ("slide", "0x200000"),
        ("memory_map", "fragmented"),
        ("modules", "above_4g"),
    ] {
        option(&mut image, &format!("selkis_test_{name}"), value);
    }
    expect_pass(&Machine { memory: "6G", ..Machine::default() }, &image);
}

/// Prints where the time goes; with `-icount shift=0,sleep=off` the time-stamp counter would count instructions.
#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn seventy_megabytes() {
    let mut image = image(Kernel::Relocatable, 6, "");
    option(&mut image, "verbose", "yes");
    add_module(&mut image, "large", 70_000_000);
    let outcome = expect_pass(&Machine::default(), &image);
    println!("{:?} in all\n{}", outcome.took, outcome.said);
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn little_memory() {
    expect_pass(&Machine { memory: "128M", ..Machine::default() }, &image(Kernel::Relocatable, 6, ""));
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn an_iommu_that_is_there() {
    let extra = ["-device", "intel-iommu"].map(str::to_owned).to_vec();
    expect_pass(&Machine { extra, ..Machine::default() }, &image(Kernel::Relocatable, 6, ""));
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_timeout_that_passes() {
    let scratch = Scratch::new();
    let disk = scratch.path("disk");
    let image = image(Kernel::Relocatable, 6, "");
    let conf = image.conf().expect("a configuration").replace("timeout: 0", "timeout: 3");
    image.write(&disk, conf).expect("an image");
    let outcome = Machine::default().run(&scratch, &[&disk]);
    assert_eq!(outcome.code, Some(PASSED), "{}", outcome.said);
    assert!(outcome.said.contains("Selkis starts in 3 s"), "{}", outcome.said);
    assert!(outcome.took > Duration::from_secs(3), "{:?}", outcome.took);
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_machine_with_a_firmware_generator() {
    let extra = ["-device", "virtio-rng-pci"].map(str::to_owned).to_vec();
    expect_pass(&Machine { extra, ..Machine::default() }, &image(Kernel::Relocatable, 6, ""));
}

#[test]
#[ignore = "needs OVMF and other builds: see main.rs"]
fn a_machine_without_random_numbers() {
    let extra = ["-cpu", "max,-rdrand,-rdseed"].map(str::to_owned).to_vec();
    expect_pass(&Machine { extra, ..Machine::default() }, &image(Kernel::Relocatable, 6, "no_entropy"));
}
