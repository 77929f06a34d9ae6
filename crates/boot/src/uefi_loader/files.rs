//! Files of the volume that the loader was started from.

use alloc::borrow::ToOwned;

use boot::config::Placement;
use boot::error::{BootError, Firmware, Purpose, Role};
use boot::response::Origin;
use uefi::boot::{OpenProtocolAttributes, OpenProtocolParams, ScopedProtocol};
use uefi::proto::ProtocolPointer;
use uefi::proto::device_path::{DevicePath, DeviceSubType, DeviceType};
use uefi::proto::loaded_image::LoadedImage;
use uefi::proto::media::file::{Directory, File, FileAttribute, FileInfo, FileMode, RegularFile};
use uefi::{CString16, Handle, Status, boot as services};

use super::memory::Pages;

/// The largest piece that is asked of the firmware at once. Whole runs of a file should be one transfer of the disk;
/// some firmware bounces larger ones.
const CHUNK_BYTES: usize = 16 << 20;

/// A file in memory.
pub struct FileInMemory {
    pages: Pages,
    size: usize,
}

impl FileInMemory {
    /// Its contents.
    pub fn bytes(&self) -> &[u8] {
        &self.pages.bytes()[..self.size]
    }

    /// Where it is: whole pages, zero behind the file's end.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size as u64
    }
}

/// An open volume.
pub struct Volume {
    root: Directory,
    /// Which partition it is.
    pub origin: Origin,
}

impl Volume {
    /// The volume of the running image.
    pub fn of_this_image() -> Result<Self, BootError> {
        let volume = |error: uefi::Error| BootError::Volume(Firmware(error.status().0));
        let image = services::image_handle();
        let mut file_system = services::get_image_file_system(image).map_err(volume)?;
        let root = file_system.open_volume().map_err(volume)?;
        Ok(Self { root, origin: origin().unwrap_or_default() })
    }

    /// The configuration and where it was found.
    pub fn read_config(&mut self) -> Result<(&'static str, FileInMemory), BootError> {
        for path in boot::config_paths() {
            match self.read(Role::Config, path, Placement::Low) {
                Ok(file) => return Ok((path, file)),
                Err(BootError::FileMissing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(BootError::ConfigMissing)
    }

    /// Reads a whole file into memory of its own.
    pub fn read(&mut self, role: Role, path: &str, placement: Placement) -> Result<FileInMemory, BootError> {
        let mut file = self.open(role, path)?;
        let unreadable = |error: uefi::Error| BootError::FileUnreadable {
            role,
            path: path.to_owned(),
            firmware: Firmware(error.status().0),
        };
        let stated =
            file.get_boxed_info::<FileInfo>().map_err(|error| unreadable(error.to_err_without_payload()))?;
        let stated = stated.file_size();
        let mut pages = Pages::new(stated, placement, Purpose::File)?;
        let size = stated as usize; // it fits: the pages do
        let mut read = 0;
        while read < size {
            let piece = (size - read).min(CHUNK_BYTES);
            let buffer = &mut pages.bytes_mut()[read..read + piece];
            match file.read(buffer).map_err(|error| unreadable(error.to_err_without_payload()))? {
                0 => {
                    let path = path.to_owned();
                    return Err(BootError::FileCutShort { role, path, read: read as u64, stated });
                }
                count => read += count,
            }
        }
        pages.bytes_mut()[size..].fill(0);
        Ok(FileInMemory { pages, size })
    }

    fn open(&mut self, role: Role, path: &str) -> Result<RegularFile, BootError> {
        let missing = || BootError::FileMissing { role, path: path.to_owned() };
        // A path that the firmware's character set cannot express names nothing.
        let name = CString16::try_from(path.replace('/', "\\").as_str()).map_err(|_| missing())?;
        match self.root.open(&name, FileMode::Read, FileAttribute::empty()) {
            Ok(handle) => handle.into_regular_file().ok_or_else(missing),
            Err(error) if error.status() == Status::NOT_FOUND => Err(missing()),
            Err(error) => Err(BootError::FileUnreadable {
                role,
                path: path.to_owned(),
                firmware: Firmware(error.status().0),
            }),
        }
    }
}

/// The partition that the running image came from; `None` for other media.
fn origin() -> Option<Origin> {
    let image = look_at::<LoadedImage>(services::image_handle())?;
    let device = look_at::<DevicePath>(image.device()?)?;
    let kind = (DeviceType::MEDIA, DeviceSubType::MEDIA_HARD_DRIVE);
    let node = device.node_iter().find(|node| node.full_type() == kind)?;
    boot::device_path::hard_drive(node.data())
}

/// A protocol that is only read. Opened without claiming it: a claim would make the firmware disconnect drivers.
pub fn look_at<P: ProtocolPointer + ?Sized>(handle: Handle) -> Option<ScopedProtocol<P>> {
    let parameters = OpenProtocolParams { handle, agent: services::image_handle(), controller: None };
    // SAFETY: nothing that the loader does removes the protocol while the result is in use.
    unsafe { services::open_protocol(parameters, OpenProtocolAttributes::GetProtocol) }.ok()
}
