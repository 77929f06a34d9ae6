//! The instruction with which a measured program says where it is: a NOP, in any ring, on any system and on any CPU; QEMU's plugin
//! `counter` sees that it was executed. No dependencies: measured programs of all kinds have it.
#![no_std]
#![allow(unsafe_code, reason = "one instruction that does nothing")]

use core::arch::asm;

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mark {
    /// What is measured begins.
    Begin = 1,
    /// It has ended.
    End = 2,
}

/// A NOP with an operand in memory, `[rax + displacement]`, which it does not touch (Intel SDM volume 2, NOP).
const OPCODE: [u8; 3] = [0x0f, 0x1f, 0x80];
/// Three bytes of the displacement, after the mark: no compiler pads code with such an operand.
const MAGIC: [u8; 3] = *b"SLK";

impl Mark {
    /// The mark that an instruction makes, if it is one.
    pub fn of(instruction: &[u8]) -> Option<Self> {
        let [a, b, c, mark, magic @ ..] = instruction else { return None };
        let is_marker = [*a, *b, *c] == OPCODE && *magic == MAGIC;
        [Self::Begin, Self::End].into_iter().find(|known| is_marker && *known as u8 == *mark)
    }
}

/// Says that what is measured begins.
#[inline(always)]
pub fn begin() {
    mark::<{ Mark::Begin as u8 }>();
}

/// Says that it has ended.
#[inline(always)]
pub fn end() {
    mark::<{ Mark::End as u8 }>();
}

#[inline(always)]
fn mark<const MARK: u8>() {
    // SAFETY: an instruction that does nothing. To the compiler it may be reading and writing, so that it stays in its place.
    unsafe {
        asm!(
            ".byte {a}, {b}, {c}, {mark}, {x}, {y}, {z}",
            a = const OPCODE[0], b = const OPCODE[1], c = const OPCODE[2], mark = const MARK,
            x = const MAGIC[0], y = const MAGIC[1], z = const MAGIC[2],
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_known_by_its_whole_instruction() {
        let instruction = |mark| [0x0f, 0x1f, 0x80, mark, b'S', b'L', b'K'];
        assert_eq!(Mark::of(&instruction(1)), Some(Mark::Begin));
        assert_eq!(Mark::of(&instruction(2)), Some(Mark::End));
        assert_eq!(Mark::of(&instruction(3)), None);
        for place in 0..7 {
            let mut other = instruction(1);
            other[place] ^= 0x80;
            assert_eq!(Mark::of(&other), None, "{place}");
            assert_eq!(Mark::of(&instruction(1)[..place]), None, "{place}");
        }
    }

    #[test]
    fn a_mark_does_nothing() {
        begin();
        end();
    }
}
