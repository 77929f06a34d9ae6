use crate::transport::{DeviceType, Interrupts, Transport};
use crate::{DmaMemory, Error, Registers};

/// A device with its memory, and whether it still can be used: what every driver here is built on.
#[derive(Debug)]
pub(crate) struct Device<R, M> {
    pub transport: Transport<R>,
    pub memory: M,
    pub interrupts: Interrupts,
    pub features: u64,
    failed: Option<Error>,
}

impl<R: Registers, M: DmaMemory> Device<R, M> {
    /// Resets the device and agrees on features, its own among them. Queues come next, then [`Transport::go`].
    pub fn open(
        transport: Transport<R>,
        (kind, own_features): (DeviceType, u64),
        interrupts: Interrupts,
        memory: M,
        memory_bytes: usize,
    ) -> Result<Self, Error> {
        let reachable = memory.physical().checked_add(memory.length() as u64).is_some();
        if !reachable || memory.length() < memory_bytes || !memory.physical().is_multiple_of(16) {
            return Err(Error::BadMemory);
        }
        let negotiated = transport.negotiate(kind, own_features, interrupts);
        if !matches!(negotiated, Ok(_) | Err(Error::WrongDevice(_))) {
            transport.give_up();
        }
        Ok(Self { features: negotiated?, transport, memory, interrupts, failed: None })
    }

    /// Passes `result` on. After an error the device is told, and stays failed.
    pub fn judge<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let (Err(error), None) = (&result, self.failed) {
            self.failed = Some(*error);
            self.transport.give_up();
        }
        result
    }

    /// The error that the device failed with, if it did.
    pub fn usable(&self) -> Result<(), Error> {
        self.failed.map_or(Ok(()), Err)
    }

    pub fn on_interrupt(&mut self) -> Result<(), Error> {
        self.usable()?;
        let result = self.transport.on_interrupt(self.interrupts);
        self.judge(result)
    }
}
