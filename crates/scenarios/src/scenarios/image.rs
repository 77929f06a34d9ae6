//! Disk images: booted by UEFI firmware in QEMU, told by the program's output.

use crate::fetch::fetch;
use crate::runner::{On, Platform, Scenario};
use crate::selkis::{Context, run_command};
use crate::verdict::{Verdict, check, check_eq};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "image-on-a-console", on: On::Only(Platform::Vm), run: on_a_console },
    Scenario { name: "image-on-the-serial-port", on: On::Only(Platform::Vm), run: on_the_serial_port },
    Scenario { name: "image-errors", on: On::Only(Platform::Vm), run: errors },
];

/// Debian's `ovmf` package.
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE.fd";
const FIRMWARE_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS.fd";
/// The firmware alone takes some seconds on an emulated CPU.
const BOOT_TIME: Duration = Duration::from_secs(180);
const STREAMS: &str = "out 1\nerr 1\nout 2\nerr 2\n";

fn on_a_console(context: &Context) -> Verdict {
    let image = context.folder().join("streams.img");
    let make = context.file("streams.wat", crate::guests::text("streams")?)?;
    context
        .command()
        .options(["image".as_ref(), make.as_os_str(), "-o".as_ref(), image.as_os_str()])
        .run()?
        .exits(0)?;
    let console = context.folder().join("console");
    let chardev = format!("file,id=console,path={}", console.display());
    let port = [
        "-device",
        "virtio-serial-pci",
        "-chardev",
        &chardev,
        "-device",
        "virtserialport,nr=1,chardev=console",
    ];
    boot(context, &image, &port)?;
    check_eq("what came over the console", fs::read_to_string(console)?, STREAMS)
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

/// Boots the image until the machine is off, which it must do by itself; what came over the serial port.
fn boot(context: &Context, image: &Path, devices: &[&str]) -> Verdict<String> {
    let variables = context.folder().join("variables.fd");
    fs::copy(FIRMWARE_VARIABLES, &variables)?;
    let serial = context.folder().join("serial");
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-M",
        "q35,smm=off",
        "-cpu",
        "max",
        "-m",
        "512",
        "-display",
        "none",
        "-nodefaults",
        "-no-reboot",
    ]);
    command.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={FIRMWARE}")]);
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
