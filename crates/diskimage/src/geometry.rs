//! How large an image is, and its file system's parameters.

use fatfs::FatType;

use crate::error::ImageError;
use crate::source::Contents;

/// Bytes in a sector: what every disk image is taken to have.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// Where the partition begins: aligned as every partitioning tool does it.
pub(crate) const PARTITION_START: u64 = 1 << 20;
/// Behind the partition: room for the second copy of the table (33 sectors), and whole MiB.
const TAIL_BYTES: u64 = 1 << 20;
/// Free clusters for the user: to edit the configuration, to add a file.
const SPARE_CLUSTERS: u64 = 256;

/// Sizes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    fat: Fat,
    cluster_bytes: u32,
    volume_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fat {
    Sixteen,
    ThirtyTwo,
}

impl Fat {
    /// How many clusters a volume of this type has (Microsoft's FAT specification 1.03, page 14), with some distance
    /// from the limits, as that page advises.
    const fn clusters(self) -> (u64, u64) {
        match self {
            Self::Sixteen => (4085 + 16, 65_524 - 16),
            Self::ThirtyTwo => (65_525 + 16, (1 << 28) - 64),
        }
    }
}

impl Geometry {
    /// The smallest volume that holds the contents. FAT16 with clusters of 4 KiB and more where it can be: firmware
    /// follows a file cluster by cluster, and every firmware reads FAT16 (UEFI 2.10, section 13.3).
    pub fn for_contents(contents: &Contents<'_>) -> Result<Self, ImageError> {
        let sixteen = [4 << 10, 8 << 10, 16 << 10, 32 << 10].map(|bytes| (Fat::Sixteen, bytes));
        let thirty_two = [8 << 10, 16 << 10, 32 << 10].map(|bytes| (Fat::ThirtyTwo, bytes));
        for (fat, cluster_bytes) in sixteen.into_iter().chain(thirty_two) {
            let clusters = clusters_needed(contents, u64::from(cluster_bytes));
            let (least, most) = fat.clusters();
            if clusters <= most {
                return Ok(Self::new(fat, cluster_bytes, clusters.max(least)));
            }
        }
        Err(ImageError::TooLarge { bytes: contents.files().iter().map(|file| file.size).sum() })
    }

    fn new(fat: Fat, cluster_bytes: u32, clusters: u64) -> Self {
        let entry_bytes = match fat {
            Fat::Sixteen => 2,
            Fat::ThirtyTwo => 4,
        };
        // Two tables, the boot sector with its neighbours, and a root directory of 512 entries.
        let overhead = 2 * clusters * entry_bytes + 64 * SECTOR_BYTES + 512 * 32;
        let bytes = clusters * u64::from(cluster_bytes) + overhead;
        Self { fat, cluster_bytes, volume_bytes: bytes.next_multiple_of(u64::from(cluster_bytes)) }
    }

    /// Of the whole image.
    pub fn bytes(&self) -> u64 {
        (PARTITION_START + self.volume_bytes + TAIL_BYTES).next_multiple_of(1 << 20)
    }

    /// Of the partition.
    pub fn volume_bytes(&self) -> u64 {
        self.volume_bytes
    }

    /// Of a cluster.
    pub fn cluster_bytes(&self) -> u32 {
        self.cluster_bytes
    }

    /// The kind of the file system.
    pub fn fat_type(&self) -> FatType {
        match self.fat {
            Fat::Sixteen => FatType::Fat16,
            Fat::ThirtyTwo => FatType::Fat32,
        }
    }
}

/// Clusters of all files and their directories.
fn clusters_needed(contents: &Contents<'_>, cluster_bytes: u64) -> u64 {
    let of_file = |size: u64, path: &str| {
        // A directory for each slash, at most; a long name takes 21 entries of 32 bytes at most.
        size.div_ceil(cluster_bytes) + path.matches('/').count() as u64 + 1
    };
    let files = contents.files().iter();
    files.map(|file| of_file(file.size, &file.path)).sum::<u64>() + SPARE_CLUSTERS
}
