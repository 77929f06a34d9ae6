//! Checks that the command line can ask for: what all page tables map, and the names of functions.

use crate::paging::{self, DIRECT, bits};
use crate::percpu;
use crate::symbols;
use crate::tlb::{self, Relax};
use abi::PAGE_SIZE;
use alloc::vec::Vec;
use core::fmt;
use spin::mutex::TicketMutex;

/// The roots of all spaces.
#[derive(Default)]
pub struct SelfTest(TicketMutex<Vec<u64>, Relax>);

/// A mapping that must not be.
#[derive(Clone, Copy, Debug)]
pub struct WrongMapping {
    /// Where.
    address: u64,
    /// What holds for it ([`bits`]).
    flags: u64,
    /// Which rule it breaks.
    rule: &'static str,
}

impl fmt::Display for WrongMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:#x} (flags {:#x}): {}", self.address, self.flags, self.rule)
    }
}

impl SelfTest {
    /// There is another space.
    pub fn add(&self, root: u64) {
        self.0.lock().push(root);
    }

    /// A space has ended.
    pub fn remove(&self, root: u64) {
        self.0.lock().retain(|other| *other != root);
    }

    /// Walks the kernel's tables, every space's, and those that this CPU runs. Answers how many pages there are.
    pub fn check_tables(&self) -> Result<usize, WrongMapping> {
        let spaces = self.0.lock();
        let running = percpu::this().shared.mailbox.active();
        if running != 0 && !spaces.contains(&tlb::loaded_root()) {
            return Err(WrongMapping { address: tlb::loaded_root(), flags: 0, rule: "a root of no space" });
        }
        let roots = spaces.iter().copied().chain([tlb::kernel_root()]);
        roots.map(check).sum()
    }
}

/// Nothing writable is executable, ring 3 reaches nothing of the upper half and the kernel maps nothing for itself in the lower,
/// only the image's code is executable for the kernel and it is not writable by any address.
fn check(root: u64) -> Result<usize, WrongMapping> {
    let image = symbols::image();
    let (mut count, mut wrong) = (0, None);
    paging::visit(root, &mut |address, length, flags| {
        let (writable, user) = (flags & bits::WRITE != 0, flags & bits::USER != 0);
        let executable = flags & bits::NO_EXECUTE == 0;
        let upper = address >= DIRECT;
        let code = image.text.contains(&address);
        let constant = image.rodata.contains(&address);
        let rules = [
            (writable && executable, "writable and executable"),
            (upper && user, "the kernel's half is open to ring 3"),
            (!upper && !user, "the kernel has a page in the domain's half"),
            (upper && executable && !code, "executable, and not the kernel's code"),
            (writable && (code || constant), "the kernel's code or constants are writable"),
            ((code || constant) && length != PAGE_SIZE, "the kernel's image in a large page"),
        ];
        count += 1;
        for (broken, rule) in rules {
            if broken {
                wrong = Some(WrongMapping { address, flags, rule });
            }
        }
    });
    match wrong {
        Some(wrong) => Err(wrong),
        None => Ok(count),
    }
}

/// The table of names gives each function its own.
pub fn check_names(function: u64, name: &str) -> bool {
    symbols::name_of(function).is_some_and(|found| found == (name, 0))
}
