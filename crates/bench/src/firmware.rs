//! How many instructions the firmware takes before a kernel's first: they are neither side's. QEMU's debugger stops the
//! machine there and tells the count.

use crate::Failure;
use crate::artifacts::Workshop;
use crate::emulated;
use crate::machine::Machine;
use object::Endianness;
use object::elf::{FileHeader64, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// Xen's `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u32 = 18;
/// How long QEMU may take to come to the kernel.
const PATIENCE: Duration = Duration::from_secs(60);

/// The address that a PVH kernel's note says to enter.
///
/// # Errors
/// If the file has no such note.
pub fn pvh_entry(kernel: &Path) -> Result<u64, Failure> {
    let bytes = std::fs::read(kernel).map_err(|error| format!("{}: {error}", kernel.display()))?;
    let header = FileHeader64::<Endianness>::parse(&*bytes)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, &*bytes)?;
    for segment in segments.iter().filter(|segment| segment.p_type(endian) == PT_NOTE) {
        let mut notes = segment.notes(endian, &*bytes)?.ok_or("a note segment without notes")?;
        while let Some(note) = notes.next()? {
            if note.name() == b"Xen" && note.n_type(endian) == PHYS32_ENTRY {
                let address = note.desc().get(..4).ok_or("the PVH note is too short")?;
                return Ok(u64::from(u32::from_le_bytes(address.try_into()?)));
            }
        }
    }
    Err(format!("{} has no PVH note", kernel.display()).into())
}

/// Instructions from reset to `machine`'s entry.
///
/// # Errors
/// If the machine does not come there.
pub fn instructions(workshop: &Workshop<'_>, machine: &Machine) -> Result<u64, Failure> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(PATIENCE))?;
    let mut command = emulated::recording(machine, &workshop.path("record"), &workshop.path("output"));
    command.args(["-S", "-gdb", "chardev:debugger", "-chardev", "socket,id=debugger,fd=0"]);
    // Its standard input, so that the descriptor passes.
    command.stdin(OwnedFd::from(theirs));
    command.stderr(Stdio::null());
    let mut qemu = command.spawn()?;
    // With the command goes our copy of its end: then QEMU's end is an end of file here.
    drop(command);
    let count = Debugger(ours).instructions_at(machine.entry);
    // It waits for the debugger, and its work is done.
    qemu.kill()?;
    qemu.wait()?;
    count
}

/// QEMU's side of gdb's remote protocol (gdb's manual, appendix E).
struct Debugger(UnixStream);

impl Debugger {
    fn instructions_at(&mut self, address: u64) -> Result<u64, Failure> {
        // What stops the machine at reset is answered first.
        self.ask("?")?;
        self.ask(&format!("Z1,{address:x},1"))?;
        let stop = self.ask("c")?;
        if !stop.starts_with('T') && !stop.starts_with('S') {
            return Err(format!("the machine did not stop at {address:#x}: {stop}").into());
        }
        let command: String = b"info replay\n".iter().map(|byte| format!("{byte:02x}")).collect();
        let mut answer = self.ask(&format!("qRcmd,{command}"))?;
        let mut text = String::new();
        // The monitor's words come in hexadecimal packets, each after an O; OK is the last.
        while answer != "OK" {
            text.push_str(&decode(answer.strip_prefix('O').ok_or("the monitor does not answer")?)?);
            answer = self.packet()?;
        }
        let count = text.rsplit('=').next().map(str::trim).and_then(|number| number.parse().ok());
        count.ok_or_else(|| format!("the monitor tells no count: {text}").into())
    }

    fn ask(&mut self, request: &str) -> Result<String, Failure> {
        let sum = request.bytes().fold(0u8, u8::wrapping_add);
        write!(self.0, "${request}#{sum:02x}")?;
        self.packet()
    }

    /// The next packet's contents, acknowledged.
    fn packet(&mut self) -> Result<String, Failure> {
        let mut contents = String::new();
        while self.byte()? != b'$' {}
        loop {
            match self.byte()? {
                b'#' => break,
                byte => contents.push(char::from(byte)),
            }
        }
        // The checksum: nothing is lost on a socket.
        self.byte()?;
        self.byte()?;
        self.0.write_all(b"+")?;
        Ok(contents)
    }

    fn byte(&mut self) -> Result<u8, Failure> {
        let mut byte = [0];
        self.0.read_exact(&mut byte).map_err(|error| format!("QEMU's debugger: {error}"))?;
        Ok(byte[0])
    }
}

fn decode(hexadecimal: &str) -> Result<String, Failure> {
    let bytes: Result<Vec<u8>, _> = (0..hexadecimal.len() / 2)
        .map(|index| u8::from_str_radix(hexadecimal.get(index * 2..index * 2 + 2).unwrap_or(""), 16))
        .collect();
    Ok(String::from_utf8(bytes?)?)
}
