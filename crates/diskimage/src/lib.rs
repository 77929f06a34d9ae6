//! Bootable UEFI disk images: a GPT with one EFI system partition that holds a loader, its configuration, a kernel
//! and modules. The same input gives the same bytes: there are no dates, and all identifiers are made from the contents.

mod boot_image;
mod check;
mod error;
mod geometry;
mod source;
mod window;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use gpt::header::HeaderError;
use gpt::mbr::{MBRError, ProtectiveMBR};
use gpt::partition::Partition;
use gpt::{GptConfig, GptError};
use uuid::Uuid;

pub use boot_image::{BootImage, ConfError, Module};
pub use check::{check_loader, check_output};
pub use error::ImageError;
pub use source::Source;
pub use window::Window;

use geometry::{Geometry, PARTITION_START, SECTOR_BYTES};
use source::Contents;

/// Writes a disk image to `path` that holds `files`: pairs of a path on the EFI system partition (`/EFI/BOOT/BOOTX64.EFI`)
/// and what stands there. Parent directories are made. Large files are streamed, and free space is left as holes of
/// the image file. The image appears under its name when it is whole: until then it is `path` with `.partial` appended.
/// It takes the place of a regular file, and of nothing else (see [`check_output`]).
///
/// # Errors
/// [`ImageError`]; then there is no image, and what was at `path` before is still there.
pub fn write_image(path: &Path, files: &[(&str, Source)]) -> Result<(), ImageError> {
    let inputs: Vec<&Path> = files.iter().filter_map(|(_, source)| source.path()).collect();
    let path = &check_output(path, &inputs)?;
    let contents = Contents::collect(files)?;
    let geometry = Geometry::for_contents(&contents)?;
    let partial = partial_path(path);
    check_output(&partial, &inputs)?;
    let result = write_file(&partial, &contents, &geometry).and_then(|()| {
        fs::rename(&partial, path).map_err(|error| ImageError::write(path, geometry.bytes(), error))
    });
    if result.is_err() {
        let _ = fs::remove_file(&partial); // it may never have been made
    }
    result
}

fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn write_file(path: &Path, contents: &Contents, geometry: &Geometry) -> Result<(), ImageError> {
    let failed = |error| ImageError::write(path, geometry.bytes(), error);
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).map_err(failed)?;
    file.set_len(geometry.bytes()).map_err(failed)?;
    let file = write_device(file, contents, geometry).map_err(|error| match error {
        DeviceError::Device(error) => failed(error),
        DeviceError::Source(error) => error,
    })?;
    file.sync_all().map_err(failed)
}

/// What can go wrong while a device is written.
#[derive(Debug)]
enum DeviceError {
    Device(io::Error),
    Source(ImageError),
}

impl From<io::Error> for DeviceError {
    fn from(error: io::Error) -> Self {
        Self::Device(error)
    }
}

impl From<GptError> for DeviceError {
    fn from(error: GptError) -> Self {
        // The table is one that the crate can make: only the device can fail.
        Self::Device(match error {
            GptError::Io(error) | GptError::Header(HeaderError::Io(error)) => error,
            other => io::Error::other(other),
        })
    }
}

impl From<MBRError> for DeviceError {
    fn from(error: MBRError) -> Self {
        Self::Device(match error {
            MBRError::Io(error) => error,
            other => io::Error::other(other),
        })
    }
}

/// Writes everything to a device of the right size that reads as zero.
fn write_device<D: Read + Write + Seek + std::fmt::Debug>(
    mut device: D,
    contents: &Contents,
    geometry: &Geometry,
) -> Result<D, DeviceError> {
    write_partition_table(&mut device, contents, geometry)?;
    let mut volume = Window::new(device, PARTITION_START, geometry.volume_bytes());
    format(&mut volume, contents, geometry)?;
    {
        let file_system = FileSystem::new(&mut volume, FsOptions::new().time_provider(&NoClock))?;
        for file in contents.files() {
            write_one(&file_system, file)?;
        }
        file_system.unmount()?;
    }
    volume.flush()?;
    Ok(volume.into_inner())
}

fn format<D: Read + Write + Seek>(
    volume: &mut Window<D>,
    contents: &Contents<'_>,
    geometry: &Geometry,
) -> io::Result<()> {
    let options = FormatVolumeOptions::new()
        .fat_type(geometry.fat_type())
        .bytes_per_cluster(geometry.cluster_bytes())
        .volume_id(contents.volume_id())
        .volume_label(*b"SELKIS     ");
    fatfs::format_volume(volume, options)
}

fn write_partition_table<D: Read + Write + Seek + std::fmt::Debug>(
    device: &mut D,
    contents: &Contents,
    geometry: &Geometry,
) -> Result<(), DeviceError> {
    let sectors = geometry.bytes() / SECTOR_BYTES;
    let protective = u32::try_from(sectors - 1).unwrap_or(u32::MAX); // all ones: larger than can be said
    ProtectiveMBR::with_lb_size(protective).overwrite_lba0(device)?;
    let guid = |purpose: &str| Uuid::from_bytes(contents.guid(purpose));
    let config = GptConfig::new().writable(true).change_partition_count(true);
    let mut table = config.create_from_device(device, Some(guid("disk")))?;
    let first = PARTITION_START / SECTOR_BYTES;
    let partition = Partition {
        part_type_guid: gpt::partition_types::EFI,
        part_guid: guid("partition"),
        first_lba: first,
        last_lba: first + geometry.volume_bytes() / SECTOR_BYTES - 1,
        flags: 0,
        name: "EFI system".to_owned(),
    };
    table.update_partitions(BTreeMap::from([(1, partition)]))?;
    table.write()?;
    Ok(())
}

fn write_one<D: Read + Write + Seek>(
    file_system: &FileSystem<D>,
    file: &source::Checked<'_>,
) -> Result<(), DeviceError> {
    let root = file_system.root_dir();
    for (place, _) in file.path.match_indices('/') {
        root.create_dir(&file.path[..place])?;
    }
    let mut target = root.create_file(&file.path)?;
    file.copy_to(&mut |piece| target.write_all(piece).map_err(DeviceError::Device), DeviceError::Source)?;
    target.flush()?;
    Ok(())
}

/// The first date that FAT can express, always.
#[derive(Debug)]
struct NoClock;

impl fatfs::TimeProvider for NoClock {
    fn get_current_date(&self) -> fatfs::Date {
        fatfs::Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> fatfs::DateTime {
        let time = fatfs::Time { hour: 0, min: 0, sec: 0, millis: 0 };
        fatfs::DateTime { date: self.get_current_date(), time }
    }
}

/// Opens a source file, naming it if it cannot be read.
fn open(path: &Path) -> Result<File, ImageError> {
    File::open(path).map_err(|error| ImageError::Source { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests;
