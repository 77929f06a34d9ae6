//! A stream of bytes in each direction: to the outside over a virtio console, to who started this domain over a channel or, hosted, over the
//! launcher's wire.

mod channel;
pub mod device;
mod launcher;
mod virtio_console;

pub use channel::{ChannelWire, MEMORY_BYTES, leave_last_words};
pub use launcher::LauncherWire;
pub use virtio_console::VirtioConsole;

/// The other side or the device does not keep to the rules: nothing more comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// Such a stream. Something has happened to it when its event was raised; who then reads less than fits, or writes less than was to be
/// written, hears of more by the next.
pub trait Wire {
    /// Copies what has come into `into`, and says how much that was.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Lost>;

    /// Sends as much of `parts`, one after the other, as there is room for, and says how much.
    fn write(&mut self, parts: &[&[u8]]) -> Result<usize, Lost>;

    /// Whether what was written needs us no more.
    fn is_idle(&mut self) -> Result<bool, Lost>;

    /// Takes note of its event.
    fn on_event(&mut self) -> Result<(), Lost>;
}
