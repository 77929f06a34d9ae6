//! The virtio console and its interrupt.

use super::device::{Dma, Function, Window};
use super::{Lost, Wire};
use crate::gate;
use abi::boot::{DeviceKind, DeviceRecord};
use abi::{BootInfo, Handle, Request};
use alloc::format;
use alloc::string::String;
use runtime::System;
use virtio::{Console, DeviceType, Interrupts, Port, Transport};

/// How long a device with several ports may take to name the one that is used. QEMU does it as soon as it is asked to.
const PORT_WAIT_NS: u64 = 1_000_000_000;

/// The console, which raises `event`.
pub struct VirtioConsole {
    system: &'static System,
    handle: Handle,
    event: u32,
    console: Console<Window, Dma>,
}

impl VirtioConsole {
    /// Opens the first device that is a console with a port; says so if one should be and cannot be used.
    pub fn find(system: &'static System, boot: &BootInfo, event: u32) -> Result<Option<Self>, String> {
        let records = &boot.devices[..(boot.device_count as usize).min(boot.devices.len())];
        for record in records {
            let console = Self::open(system, record, event)?;
            if console.is_some() {
                return Ok(console);
            }
        }
        Ok(None)
    }

    fn open(system: &'static System, record: &DeviceRecord, event: u32) -> Result<Option<Self>, String> {
        let (transport, interrupts) = match record.kind {
            DeviceKind::VirtioMmio => {
                let Some(window) = Window::map(system, record, 0) else { return Ok(None) };
                (Transport::mmio(window), Interrupts::Line)
            }
            DeviceKind::Pci => (Transport::pci(&Function { system, record }), Interrupts::Vector(0)),
            DeviceKind::None | DeviceKind::RealTimeClock => return Ok(None),
        };
        let Ok(transport) = transport else { return Ok(None) };
        if transport.device_type() != DeviceType::CONSOLE {
            return Ok(None);
        }
        let memory = Dma::take(system, record, Console::<Window, Dma>::MEMORY_BYTES)
            .ok_or("there is no memory for its console")?;
        let listen = Request::Listen { source: record.handle, index: 0, vcpu: gate::vcpu(), event };
        system.kernel().call(listen).map_err(|error| format!("no interrupts of its console: {error:?}"))?;
        let opened = Console::open(transport, interrupts, memory)
            .and_then(|console| Self { system, handle: record.handle, event, console }.with_port());
        opened.map_err(|error| format!("its console cannot be used: {error}"))
    }

    /// Waits until the device has named the port that is used, if it has several. In its place port 0 will do.
    fn with_port(mut self) -> Result<Option<Self>, virtio::Error> {
        let deadline_ns = self.system.now_ns().saturating_add(PORT_WAIT_NS);
        while self.console.port() != Port::Open && self.system.now_ns() < deadline_ns {
            if gate::wait(self.system, deadline_ns) & 1 << self.event != 0 {
                self.on_interrupt()?;
            }
        }
        match self.console.port() {
            Port::Open => Ok(Some(self)),
            Port::UnnamedButZero => {
                let console = self.console.reopen_with_port_0()?;
                Ok(Some(Self { console, ..self }))
            }
            Port::Unnamed => Ok(None),
        }
    }

    /// Takes note of an interrupt and lets the next one come.
    fn on_interrupt(&mut self) -> Result<(), virtio::Error> {
        let result = self.console.on_interrupt();
        let acknowledge = Request::Acknowledge { device: self.handle, index: 0 };
        let _ = self.system.kernel().call(acknowledge);
        result
    }
}

impl From<virtio::Error> for Lost {
    fn from(_: virtio::Error) -> Self {
        Self
    }
}

impl Wire for VirtioConsole {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Lost> {
        Ok(self.console.read(into)?)
    }

    fn write(&mut self, parts: &[&[u8]]) -> Result<usize, Lost> {
        Ok(self.console.try_write_parts(parts)?)
    }

    fn is_idle(&mut self) -> Result<bool, Lost> {
        Ok(self.console.tx_idle()?)
    }

    fn on_event(&mut self) -> Result<(), Lost> {
        Ok(self.on_interrupt()?)
    }
}
