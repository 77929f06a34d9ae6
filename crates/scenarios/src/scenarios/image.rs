//! Disk images: booted by UEFI firmware in QEMU, told by the program's output.

use crate::fetch::fetch;
use crate::runner::{On, Platform, Scenario};
use crate::selkis::{Context, run_command};
use crate::verdict::{Failed, Verdict, check, check_eq};
use diskimage::Window;
use std::env;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "image-on-a-console", on: On::Only(Platform::Vm), run: on_a_console },
    Scenario { name: "image-on-port-0", on: On::Only(Platform::Vm), run: on_port_0 },
    Scenario { name: "image-on-the-serial-port", on: On::Only(Platform::Vm), run: on_the_serial_port },
    Scenario { name: "image-by-other-loaders", on: On::Only(Platform::Vm), run: by_other_loaders },
    Scenario { name: "image-errors", on: On::Only(Platform::Vm), run: errors },
    Scenario { name: "image-over-what-is-no-file", on: On::Only(Platform::Vm), run: over_what_is_no_file },
];

/// The firmware alone takes some seconds on an emulated CPU.
const BOOT_TIME: Duration = Duration::from_secs(180);
const SECTOR_BYTES: u64 = 512;
const PORT_1: &str = "virtserialport,nr=1";
const STREAMS: &str = "out 1\nerr 1\nout 2\nerr 2\n";

/// What the protocol leaves to a loader, which ours does otherwise when it is told so (`boot::config`). The last has its
/// kernel and module above 4 GiB.
const OTHER_LOADERS: [&[(&str, &str)]; 4] = [
    &[("hhdm_base", "0xffff912340000000"), ("memory_map", "reversed")],
    &[("base_revision_max", "2"), ("memory_map", "fragmented")],
    &[("base_revision_max", "3"), ("hhdm_base", "0xffffff0000000000"), ("memory_map", "overlapping")],
    &[("modules", "above_4g"), ("kernel", "above_4g")],
];

fn on_a_console(context: &Context) -> Verdict {
    let image = image_of_streams(context)?;
    let output = boot_with_console(context, &image, PORT_1)?;
    check_eq("what came over the console", output, STREAMS)
}

/// What a device of several ports has in place of port 1 is used: port 0, or if it has none at all the serial port.
fn on_port_0(context: &Context) -> Verdict {
    let image = image_of_streams(context)?;
    let output = boot_with_console(context, &image, "virtconsole,nr=0")?;
    check_eq("what came over port 0", output, STREAMS)?;
    let serial = boot(context, &image, &["-device", "virtio-serial-pci"])?;
    check(serial.ends_with(STREAMS), || format!("the serial port:\n{serial}"))
}

/// The kernel itself, under each of [`OTHER_LOADERS`].
fn by_other_loaders(context: &Context) -> Verdict {
    for options in OTHER_LOADERS {
        let image = image_of_streams(context)?;
        configure(&image, options)?;
        let output = boot_with_console(context, &image, PORT_1)
            .map_err(|failed| Failed(format!("{options:?}: {}", failed.0)))?;
        check_eq(&format!("what came over the console by {options:?}"), output, STREAMS)?;
    }
    Ok(())
}

/// Adds options for tests to the configuration in an image.
fn configure(image: &Path, options: &[(&str, &str)]) -> Verdict {
    let mut disk = fs::OpenOptions::new().read(true).write(true).open(image)?;
    // Where the first partition begins and ends, in sectors: UEFI 2.10, section 5.3.3.
    let mut sectors = [0; 16];
    disk.read_exact_at(&mut sectors, 2 * SECTOR_BYTES + 32)?;
    let [first, last] = [0, 8].map(|at| u64::from_le_bytes(*sectors[at..].first_chunk().expect("16 bytes")));
    let volume = Window::new(&mut disk, first * SECTOR_BYTES, (last + 1 - first) * SECTOR_BYTES);
    let volume = fatfs::FileSystem::new(volume, fatfs::FsOptions::new())?;
    let mut configuration = volume.root_dir().open_file("limine.conf")?;
    configuration.seek(SeekFrom::End(0))?;
    for (name, value) in options {
        writeln!(configuration, "    selkis_test_{name}: {value}")?;
    }
    Ok(())
}

fn image_of_streams(context: &Context) -> Verdict<PathBuf> {
    let image = context.folder().join("streams.img");
    let program = context.file("streams.wat", crate::guests::text("streams")?)?;
    let words = ["image".as_ref(), program.as_os_str(), "-o".as_ref(), image.as_os_str()];
    context.command().options(words).run()?.exits(0)?;
    Ok(image)
}

/// What came over a virtio console that has this port.
fn boot_with_console(context: &Context, image: &Path, port: &str) -> Verdict<String> {
    let console = context.folder().join("console");
    let chardev = format!("file,id=console,path={}", console.display());
    let devices =
        ["-device", "virtio-serial-pci", "-chardev", &chardev, "-device", &format!("{port},chardev=console")];
    boot(context, image, &devices)?;
    Ok(fs::read_to_string(console)?)
}

/// QuickJS and a script that it was given travel in the image.
fn on_the_serial_port(context: &Context) -> Verdict {
    let scripts = context.folder().join("scripts");
    fs::create_dir(&scripts)?;
    fs::write(scripts.join("answer.js"), "console.log('the answer is', 6 * 7);\n")?;
    let image = context.folder().join("quickjs.img");
    let program = fetch("quickjs.wasm")?;
    let words = ["image".as_ref(), "-o".as_ref(), image.as_os_str(), program.as_os_str()];
    let make =
        context.command().options(words).grant(&scripts, "::/scripts:ro").arguments(["/scripts/answer.js"]);
    make.patience(3).run()?.exits(0)?.writes("")?;
    let serial = boot(context, &image, &[])?;
    let lines = serial.lines().filter(|line| line.trim_end() == "the answer is 42").count();
    check(lines == 1, || format!("the answer came {lines} times over the serial port:\n{serial}"))
}

fn errors(context: &Context) -> Verdict {
    let program = context.file("exit.wat", crate::guests::text("exit")?)?;
    let image = |output: &str, more: [&str; 2]| {
        context
            .command()
            .options(["image".as_ref(), program.as_os_str()])
            .options(["-o", output])
            .options(more)
            .run()
    };
    let nowhere = image("/nonexistent/x.img", ["--memory", "1MiB"])?;
    nowhere.exits(125)?.says(&["/nonexistent/x.img"])?;
    let path = context.folder().join("x.img");
    let no_loader = image(&path.to_string_lossy(), ["--loader", "/nonexistent/BOOTX64.EFI"])?;
    no_loader.exits(125)?.says(&["/nonexistent/BOOTX64.EFI"])?;
    check(!path.exists(), || "half an image was left behind".into())
}

/// Nothing is destroyed: a device (as root, who could), a pipe, the program itself.
fn over_what_is_no_file(context: &Context) -> Verdict {
    let program = context.file("exit.wat", crate::guests::text("exit")?)?;
    let image = |output: &Path, more: &[&str]| {
        let words = ["image".as_ref(), program.as_os_str(), "-o".as_ref(), output.as_os_str()];
        context.command().options(words).options(more).run()
    };
    let pipe = context.folder().join("pipe");
    let mut nodes = vec![(pipe, ["p", "", ""], "a named pipe")];
    if rustix::process::geteuid().is_root() {
        // What /dev/null is, elsewhere.
        nodes.push((context.folder().join("device"), ["c", "1", "3"], "a device"));
    }
    for (node, kind, name) in nodes {
        let numbers = kind.iter().filter(|word| !word.is_empty());
        run_command(Command::new("mknod").arg(&node).args(numbers), Duration::from_secs(10))?.exits(0)?;
        let before = fs::symlink_metadata(&node)?;
        image(&node, &[])?.exits(125)?.says(&[name, "make the file"])?;
        let after = fs::symlink_metadata(&node)?;
        check_eq("the node", (after.ino(), after.file_type()), (before.ino(), before.file_type()))?;
    }
    image(&program, &[])?.exits(125)?.says(&["which it is made from"])?;
    check_eq("the program", fs::read_to_string(&program)?.as_str(), crate::guests::text("exit")?)?;
    image(Path::new("-"), &[])?.exits(2)?.says(&["standard output"])?;
    let path = context.folder().join("x.img");
    image(&path, &["--loader", "/etc/passwd"])?.exits(125)?.says(&["/etc/passwd", "no UEFI loader"])?;
    check(!path.exists(), || "half an image was left behind".into())
}

/// Boots the image until the machine is off, which it must do by itself; what came over the serial port.
fn boot(context: &Context, image: &Path, devices: &[&str]) -> Verdict<String> {
    let variables = context.folder().join("variables.fd");
    let firmware = env::var_os("SELKIS_OVMF").map_or("/usr/share/OVMF".into(), PathBuf::from);
    fs::copy(firmware.join("OVMF_VARS.fd"), &variables)?;
    let code = firmware.join("OVMF_CODE.fd");
    let serial = context.folder().join("serial");
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-M",
        "q35,smm=off",
        "-cpu",
        "max",
        "-m",
        "5G", // some of it above 4 GiB
        "-display",
        "none",
        "-nodefaults",
        "-no-reboot",
    ]);
    command.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={}", code.display())]);
    command.args(["-drive", &format!("if=pflash,format=raw,file={}", variables.display())]);
    command.args(["-drive", &format!("if=none,id=disk,format=raw,readonly=on,file={}", image.display())]);
    command.args(["-device", "virtio-blk-pci,drive=disk,bootindex=0"]);
    command.args(["-serial", &format!("file:{}", serial.display())]).args(devices);
    let output = run_command(&mut command, BOOT_TIME);
    let serial = String::from_utf8_lossy(&fs::read(serial)?).replace('\r', "");
    output.and_then(|output| output.exits(0).map(|_| ())).map_err(|failed| {
        let mut failed = failed;
        failed.0.push_str(&format!("\nserial port:\n{serial}"));
        failed
    })?;
    Ok(serial)
}
