/// A window of device registers, little-endian (virtio 1.2, section 1.4), uncached. Offsets are in bytes.
///
/// The drivers only use offsets that lie inside of [`length`](Registers::length) and are aligned to the access. Each call is
/// exactly one access of that width, none is merged, left out or moved past another (volatile or atomic). There
/// are no 64-bit accesses: the specification has such fields written in two halves (sections 4.1.3.1 and 4.2.2).
pub trait Registers {
    /// Size of the window, in bytes.
    fn length(&self) -> usize;
    /// Reads one byte.
    fn read8(&self, offset: usize) -> u8;
    /// Reads two bytes.
    fn read16(&self, offset: usize) -> u16;
    /// Reads four bytes.
    fn read32(&self, offset: usize) -> u32;
    /// Writes one byte.
    fn write8(&self, offset: usize, value: u8);
    /// Writes two bytes.
    fn write16(&self, offset: usize, value: u16);
    /// Writes four bytes.
    fn write32(&self, offset: usize, value: u32);
}

/// Memory that a device reads and writes at the same time as the driver; physically contiguous, little-endian.
/// Offsets are in bytes.
///
/// The drivers only use ranges that lie inside of [`length`](DmaMemory::length), and aligned offsets for the numbers.
/// Accesses to numbers are single (volatile or atomic); byte ranges may be copied in any way that is sound
/// while a device writes there. The memory must stay the device's own until the device was reset: dropping a
/// driver does not stop its device.
pub trait DmaMemory {
    /// Where a device finds the first byte; aligned to 16 at least (virtio 1.2, section 2.7).
    fn physical(&self) -> u64;
    /// Size, in bytes.
    fn length(&self) -> usize;
    /// Reads a number of two bytes.
    fn read16(&self, offset: usize) -> u16;
    /// Reads a number of four bytes.
    fn read32(&self, offset: usize) -> u32;
    /// Writes a number of two bytes.
    fn write16(&self, offset: usize, value: u16);
    /// Writes a number of four bytes.
    fn write32(&self, offset: usize, value: u32);
    /// Writes a number of eight bytes.
    fn write64(&self, offset: usize, value: u64);
    /// Copies from the memory to `into`. Performance rests on this and on [`copy_in`](DmaMemory::copy_in): copy by words.
    fn copy_out(&self, offset: usize, into: &mut [u8]);
    /// Copies `bytes` to the memory.
    fn copy_in(&self, offset: usize, bytes: &[u8]);
    /// Every access before this is seen by the device before every access after it, stores before loads too
    /// (`fence(SeqCst)` on x86-64 and in WebAssembly with atomics).
    fn barrier(&self);
}

/// One PCI function, its BARs sized and assigned by somebody else.
pub trait PciFunction {
    /// A BAR's registers.
    type Window: Registers;
    /// Reads four bytes of configuration space; `offset` is a multiple of 4. All ones where nothing answers.
    fn read_config(&self, offset: u8) -> u32;
    /// Writes four bytes of configuration space; `offset` is a multiple of 4.
    fn write_config(&self, offset: u8, value: u32);
    /// The memory of BAR `bar`, 0 to 5; `None` if there is none. May be asked for several times.
    fn window(&self, bar: u8) -> Option<Self::Window>;
}
