//! Library OSes of a few instructions, which do what none of ours would.

use std::io::Write;
use std::path::Path;

/// Machine code of a function that takes the boot information and answers with a status.
#[derive(Clone, Debug, Default)]
pub struct Code {
    instructions: Vec<u8>,
    data: Vec<u8>,
}

/// Where the executable lies; its instructions follow the headers, its data lie in the second half of the page.
const BASE: u64 = 0x1000_0000;
const HEADERS: u64 = 64 + 56;
const DATA: u64 = BASE + abi::PAGE_SIZE / 2;

/// A general register by the number that instructions know it by (Intel SDM vol. 2, 3.1.1.1).
#[derive(Clone, Copy)]
#[repr(u8)]
enum Register {
    Rax = 0,
    Rdx = 2,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
}

impl Code {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The address of this text, with a zero behind it.
    pub fn text(&mut self, text: &std::path::Path) -> u64 {
        let address = DATA + self.data.len() as u64;
        self.data.extend_from_slice(text.as_os_str().as_encoded_bytes());
        self.data.push(0);
        address
    }

    /// Answers with this status.
    pub fn answer(self, status: u64) -> Self {
        self.set(Register::Rax, status).add(&[0xc3])
    }

    /// Makes a system call with up to six arguments; its answer is in `rax`.
    pub fn call(mut self, number: libc::c_long, arguments: &[u64]) -> Self {
        use Register::*;
        for (register, value) in [Rdi, Rsi, Rdx, R10, R8, R9].into_iter().zip(arguments) {
            self = self.set(register, *value);
        }
        // syscall
        self.set(Rax, number as u64).add(&[0x0f, 0x05])
    }

    /// Answers with the error of the last system call, 0 if there was none, and 255 if it answered something.
    pub fn answer_error(self) -> Self {
        // neg rax; ret
        self.add(&[0x48, 0xf7, 0xd8, 0xc3])
    }

    /// Runs for ever.
    pub fn spin(self) -> Self {
        // jmp to itself
        self.add(&[0xeb, 0xfe])
    }

    /// Writes to a page after the other, from where the last system call said, `count` of them.
    pub fn touch_pages(self, count: u64) -> Self {
        // 1: mov byte [rax], 1; add rax, 4096; dec rdx; jnz 1b
        let go = [0xc6, 0x00, 0x01, 0x48, 0x05, 0x00, 0x10, 0x00, 0x00, 0x48, 0xff, 0xca, 0x75, 0xf2];
        self.set(Register::Rdx, count).add(&go)
    }

    /// Reads from where the last system call said, `count` times, each time `stride` bytes further.
    pub fn read_every(self, stride: u32, count: u64) -> Self {
        // 1: mov cl, [rax]; add rax, stride; dec rdx; jnz 1b
        let go = self.set(Register::Rdx, count).add(&[0x8a, 0x08, 0x48, 0x05]).add(&stride.to_le_bytes());
        go.add(&[0x48, 0xff, 0xca, 0x75, 0xf3])
    }

    /// Makes a system call as 32-bit programs do.
    pub fn call_32(self, number: u32) -> Self {
        // int 0x80
        self.set(Register::Rax, number.into()).add(&[0xcd, 0x80])
    }

    fn set(self, register: Register, value: u64) -> Self {
        // REX.W, with B for the upper eight registers; mov r64, imm64
        let number = register as u8;
        self.add(&[0x48 | number >> 3, 0xb8 | number & 7]).add(&value.to_le_bytes())
    }

    fn add(mut self, bytes: &[u8]) -> Self {
        self.instructions.extend_from_slice(bytes);
        self
    }

    /// Writes a static executable whose only segment is the whole file, at an address of the library OS's (ELF-64, System V
    /// ABI).
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let instructions = (DATA - BASE - HEADERS) as usize;
        assert!(self.instructions.len() <= instructions && self.data.len() <= instructions);
        let length = DATA - BASE + self.data.len() as u64;
        let mut file = std::fs::File::create(path)?;
        let mut put = |bytes: &[u8]| file.write_all(bytes);
        put(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0")?;
        // Type EXEC, machine x86-64, version 1.
        put(&[2, 0, 62, 0, 1, 0, 0, 0])?;
        for word in [BASE + HEADERS, 64, 0] {
            put(&word.to_le_bytes())?;
        }
        put(&0u32.to_le_bytes())?;
        for half in [64u16, 56, 1, 64, 0, 0] {
            put(&half.to_le_bytes())?;
        }
        // A segment to load, to be read and executed.
        put(&1u32.to_le_bytes())?;
        put(&5u32.to_le_bytes())?;
        for word in [0, BASE, BASE, length, length, abi::PAGE_SIZE] {
            put(&word.to_le_bytes())?;
        }
        put(&self.instructions)?;
        put(&vec![0; instructions - self.instructions.len()])?;
        put(&self.data)
    }
}
