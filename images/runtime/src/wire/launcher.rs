//! The launcher's wire.

use super::{Lost, Wire};
use bundle::services::{Services, WireGone};

/// The wire to the root that the launcher holds.
pub struct LauncherWire(pub &'static Services);

impl From<WireGone> for Lost {
    fn from(_: WireGone) -> Self {
        Self
    }
}

impl Wire for LauncherWire {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Lost> {
        Ok(self.0.read_wire(into)?)
    }

    fn write(&mut self, parts: &[&[u8]]) -> Result<usize, Lost> {
        let part = |index: usize| parts.get(index).copied().unwrap_or_default();
        Ok(self.0.write_wire([part(0), part(1)])?)
    }

    fn is_idle(&mut self) -> Result<bool, Lost> {
        // It lies in Linux.
        Ok(true)
    }

    fn on_event(&mut self) -> Result<(), Lost> {
        Ok(())
    }
}
