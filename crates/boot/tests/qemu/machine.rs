//! A machine, its disks, and what it says.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use diskimage::{BootImage, Module, Source};

/// The clock of the machine at power-on, as QEMU and as the kernel are told.
const DATE: (&str, u64) = ("2026-11-22T12:00:00", 1_795_348_800);
/// What limine-check makes of success: `isa-debug-exit` turns n into 2 n + 1.
pub const PASSED: i32 = 67;

/// A directory that goes when the test ends.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("selkis-boot-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a scratch directory");
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file that another build made.
pub fn built(variable: &str) -> PathBuf {
    let path = env::var_os(variable).map(PathBuf::from);
    let path =
        path.unwrap_or_else(|| panic!("set {variable}: see the head of crates/boot/tests/qemu/main.rs"));
    assert!(path.is_file(), "{variable} names no file: {}", path.display());
    path
}

/// Which of the two kernels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    Relocatable,
    Fixed,
}

impl Kernel {
    /// Its file, with another base revision in its tag.
    pub fn bytes(self, base_revision: u64) -> Vec<u8> {
        let path = built("SELKIS_LIMINE_CHECK");
        let path = match self {
            Self::Relocatable => path,
            Self::Fixed => path.with_file_name("limine-check-fixed"),
        };
        let mut file = fs::read(path).expect("the kernel can be read");
        let magic: Vec<u8> = [0xf956_2b2d_5c95_a6c8u64, 0x6a7b_3849_4453_6bdc]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let places: Vec<usize> = (0..file.len() - 24).filter(|at| file[*at..].starts_with(&magic)).collect();
        let [place] = places[..] else { panic!("one base revision tag, not {}", places.len()) };
        file[place + 16..place + 24].copy_from_slice(&base_revision.to_le_bytes());
        file
    }
}

/// An image that boots a checking kernel.
pub fn image(kernel: Kernel, base_revision: u64, expect: &str) -> BootImage {
    BootImage {
        loader: Source::File(built("SELKIS_BOOT")),
        kernel: Source::Bytes(kernel.bytes(base_revision)),
        cmdline: format!("requested={base_revision} date={} {expect}", DATE.1).trim().to_owned(),
        modules: Vec::new(),
        options: Vec::new(),
    }
}

/// Adds a module of `length` bytes, and tells the kernel what to expect.
pub fn add_module(image: &mut BootImage, name: &str, length: usize) {
    let mut state = 0x5e1c_0015 + length as u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect();
    let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
    let sum =
        words.zip(0u32..).fold(length as u64, |sum, (word, at)| sum.wrapping_add(word.rotate_left(at % 64)));
    image.cmdline.push_str(&format!(" module={length}:{sum:#x}:string-of-{name}"));
    let string = format!("string-of-{name}");
    image.modules.push(Module { name: name.to_owned(), source: Source::Bytes(bytes), string });
}

/// Writes an image with its own configuration.
pub fn write(image: &BootImage, path: &Path) {
    let conf = image.conf().expect("a configuration");
    image.write(path, conf).expect("an image");
}

/// What a machine did.
pub struct Outcome {
    pub code: Option<i32>,
    pub said: String,
    pub took: Duration,
}

/// A machine to be started.
pub struct Machine {
    pub memory: &'static str,
    pub extra: Vec<String>,
    /// What is typed when the loader asks for a key.
    pub key: Option<u8>,
}

impl Default for Machine {
    fn default() -> Self {
        Self { memory: "512M", extra: Vec::new(), key: Some(b'x') }
    }
}

impl Machine {
    /// Runs until the machine ends itself, at most for two minutes.
    pub fn run(&self, scratch: &Scratch, disks: &[&Path]) -> Outcome {
        let variables = scratch.path("variables.fd");
        let firmware = Firmware::find();
        fs::copy(&firmware.variables, &variables).expect("a copy of the firmware's variables");
        let mut command = Command::new("timeout");
        command.args(["120", "qemu-system-x86_64", "-cpu", "max", "-M", "q35,smm=off", "-m", self.memory]);
        command.args([
            "-display",
            "none",
            "-serial",
            "stdio",
            "-monitor",
            "none",
            "-no-reboot",
            "-nic",
            "none",
        ]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        command.args(["-rtc", &format!("base={}", DATE.0)]);
        command.arg("-drive").arg(drive("pflash,readonly=on", &firmware.code));
        command.arg("-drive").arg(drive("pflash", &variables));
        for (index, disk) in disks.iter().enumerate() {
            command.arg("-drive").arg(format!("if=none,id=d{index},format=raw,file={}", disk.display()));
            command.args(["-device", &format!("virtio-blk-pci,drive=d{index},bootindex={index}")]);
        }
        command.args(&self.extra);
        converse(command, self.key)
    }
}

/// Starts a command, listens to its output, and types a key when it is asked for one.
fn converse(mut command: Command, key: Option<u8>) -> Outcome {
    let start = std::time::Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`timeout` and `qemu-system-x86_64` can be started");
    let mut input = child.stdin.take().expect("piped");
    let (sender, pieces) = mpsc::channel::<Vec<u8>>();
    let streams: [Box<dyn Read + Send>; 2] =
        [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
    for mut stream in streams {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
    }
    drop(sender);
    let mut said = Vec::new();
    let mut key = key;
    for piece in pieces {
        said.extend(piece);
        // The last word of what the loader says when it has begun to wait.
        let asks = String::from_utf8_lossy(&said).contains("next boot option");
        if asks && let Some(key) = key.take() {
            let _ = input.write_all(&[key]); // the machine may have ended
        }
    }
    let status = child.wait().expect("the child has ended");
    let said = String::from_utf8_lossy(&said).into_owned();
    Outcome { code: status.code(), said, took: start.elapsed() }
}

fn drive(options: &str, file: &Path) -> String {
    format!("if={options},format=raw,file={}", file.display())
}

struct Firmware {
    code: PathBuf,
    variables: PathBuf,
}

impl Firmware {
    fn find() -> Self {
        let directory = env::var_os("SELKIS_OVMF").map_or("/usr/share/OVMF".into(), PathBuf::from);
        let pairs = [("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"), ("OVMF_CODE.fd", "OVMF_VARS.fd")];
        let found = pairs.map(|(code, variables)| Self {
            code: directory.join(code),
            variables: directory.join(variables),
        });
        let found =
            found.into_iter().find(|firmware| firmware.code.is_file() && firmware.variables.is_file());
        found.unwrap_or_else(|| panic!("no OVMF in {}: apt install ovmf", directory.display()))
    }
}

/// Boots one image and expects all checks to pass.
pub fn expect_pass(machine: &Machine, image: &BootImage) -> Outcome {
    let scratch = Scratch::new();
    let disk = scratch.path("disk");
    write(image, &disk);
    let outcome = machine.run(&scratch, &[&disk]);
    assert_eq!(outcome.code, Some(PASSED), "the machine said:\n{}", outcome.said);
    outcome
}
