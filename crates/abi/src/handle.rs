/// A capability, as its holder names it: an index into the domain's table and the generation of that slot.
///
/// A slot's generation goes up when the slot is given back, so that an old handle fails and never reaches the
/// slot's next object. Generation 0 is never used: the zero handle names nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Handle(u64);

impl Handle {
    /// The handle that names nothing.
    pub const NONE: Self = Self(0);

    /// The handle of slot `index` in `generation`.
    pub const fn new(index: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | index as u64)
    }

    /// As it travels in a register.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// As it travels in a register.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The slot in the table.
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    /// The slot's generation that this handle was made in.
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What a capability allows. A set; deriving a capability can only take rights away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Rights(u32);

impl Rights {
    /// No right.
    pub const NONE: Self = Self(0);
    /// To change what the object is or does: map into a space, arm a timer, stop a machine.
    pub const CONTROL: Self = Self(1);
    /// To look at the object's state.
    pub const OBSERVE: Self = Self(2);
    /// To map memory or a device's memory, or to let a device reach memory.
    pub const MAP: Self = Self(4);
    /// To receive the object's interrupts or events.
    pub const LISTEN: Self = Self(8);
    /// To write to memory that others see.
    pub const WRITE: Self = Self(16);
    /// To raise an event, to ring a channel's bell.
    pub const SIGNAL: Self = Self(32);
    /// To give the capability, or others to the domain that it names, to another domain.
    pub const GRANT: Self = Self(64);
    /// To write to the kernel's log.
    pub const PRINT: Self = Self(128);
    /// Every right there is.
    pub const ALL: Self = Self(255);

    /// The set in the low bits of a register; bits that are no right are ignored.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits as u32 & Self::ALL.0)
    }

    /// As it travels in a register.
    pub const fn bits(self) -> u64 {
        self.0 as u64
    }

    /// The rights in either.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The rights in both: how rights are taken away.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `needed` is here.
    pub const fn allow(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }
}
