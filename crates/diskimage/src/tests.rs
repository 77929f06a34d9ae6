use super::*;
use std::io::{Cursor, SeekFrom};

fn bytes(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|index| (index as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed).collect()
}

fn sample() -> Vec<(&'static str, Source)> {
    vec![
        ("/EFI/BOOT/BOOTX64.EFI", Source::Bytes(bytes(1, 50_000))),
        ("/limine.conf", Source::Bytes(b"timeout: 0\n".to_vec())),
        ("/boot/a longer name than 8.3.module", Source::Bytes(bytes(2, 3_000_000))),
        ("/boot/empty", Source::Bytes(Vec::new())),
    ]
}

/// A directory that goes when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("selkis-diskimage-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn image_of(files: &[(&str, Source)]) -> Vec<u8> {
    let scratch = Scratch::new(&format!("image-{:?}", std::thread::current().id()));
    let path = scratch.0.join("image");
    write_image(&path, files).unwrap();
    fs::read(path).unwrap()
}

/// Reads every file back through the partition table.
fn read_back(image: Vec<u8>) -> Vec<(String, Vec<u8>)> {
    let mut device = Cursor::new(image);
    let table = GptConfig::new().only_valid_headers(true).open_from_device(&mut device).unwrap();
    let partition = table.partitions()[&1].clone();
    assert_eq!(partition.part_type_guid, gpt::partition_types::EFI);
    let (start, length) = (partition.first_lba * 512, (partition.last_lba + 1 - partition.first_lba) * 512);
    drop(table);
    let file_system = FileSystem::new(Window::new(device, start, length), FsOptions::new()).unwrap();
    let mut files = Vec::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        let root = file_system.root_dir();
        let listed = if directory.is_empty() { root } else { root.open_dir(&directory).unwrap() };
        for entry in listed.iter().map(Result::unwrap) {
            let path = format!("{directory}/{}", entry.file_name());
            match entry.is_dir() {
                _ if entry.file_name().starts_with('.') => {}
                true => directories.push(path),
                false => {
                    let mut contents = Vec::new();
                    entry.to_file().read_to_end(&mut contents).unwrap();
                    files.push((path, contents));
                }
            }
        }
    }
    files.sort();
    files
}

fn expected(files: &[(&str, Source)]) -> Vec<(String, Vec<u8>)> {
    let contents = |source: &Source| match source {
        Source::Bytes(bytes) => bytes.clone(),
        Source::File(path) => fs::read(path).unwrap(),
    };
    let mut all: Vec<_> = files.iter().map(|(path, source)| ((*path).to_owned(), contents(source))).collect();
    all.sort();
    all
}

#[test]
fn files_are_read_back() {
    assert_eq!(read_back(image_of(&sample())), expected(&sample()));
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let (one, two) = (image_of(&sample()), image_of(&sample()));
    assert!(one == two);
    let mut other = sample();
    other[1].1 = Source::Bytes(b"timeout: 1\n".to_vec());
    let other = image_of(&other);
    let disk_guid = |image: &[u8]| image[512 + 56..512 + 72].to_vec();
    assert_ne!(disk_guid(&one), disk_guid(&other), "images with other contents can stand side by side");
}

#[test]
fn a_file_from_disk_is_the_same_as_its_bytes() {
    let scratch = Scratch::new("from-disk");
    let path = scratch.0.join("kernel");
    fs::write(&path, bytes(9, 2_500_000)).unwrap();
    let from_file = image_of(&[("/kernel", Source::File(path))]);
    assert!(from_file == image_of(&[("/kernel", Source::Bytes(bytes(9, 2_500_000)))]));
}

#[test]
fn volumes_of_every_size_have_room_for_their_contents() {
    let scratch = Scratch::new("limits");
    let source = Source::Bytes(Vec::new());
    // Around each size at which another kind of volume is chosen; the volume's file is sparse.
    for mib in [0u64, 1, 254, 255, 256, 257, 510, 512, 1023, 1025, 2046, 2050, 3000, 4095] {
        let size = mib << 20;
        let contents = Contents::of_size(size, &source);
        let geometry = Geometry::for_contents(&contents).unwrap();
        let device = tempfile(&scratch, geometry.bytes());
        let mut volume = Window::new(device, PARTITION_START, geometry.volume_bytes());
        format(&mut volume, &contents, &geometry).unwrap();
        let file_system = FileSystem::new(volume, FsOptions::new()).unwrap();
        assert_eq!(file_system.fat_type(), geometry.fat_type(), "{mib} MiB");
        assert_eq!(file_system.cluster_size(), geometry.cluster_bytes());
        let stats = file_system.stats().unwrap();
        let free = u64::from(stats.free_clusters()) * u64::from(stats.cluster_size());
        assert!(free >= size + (64 << 10), "{mib} MiB: {free} bytes are free");
        assert!(free <= size + size / 8 + (20 << 20), "{mib} MiB: {free} bytes are free");
    }
    let too_large = Contents::of_size(16 << 40, &source);
    assert!(matches!(Geometry::for_contents(&too_large), Err(ImageError::TooLarge { .. })));
}

fn tempfile(scratch: &Scratch, length: u64) -> File {
    let path = scratch.0.join("device");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(length).unwrap();
    file
}

#[test]
fn bad_input_is_named() {
    let one = |path: &'static str| [(path, Source::Bytes(Vec::new()))];
    let scratch = Scratch::new("bad");
    let image = scratch.0.join("image");
    for path in ["", "kernel", "/", "/a//b", "/a/../b", "/a:b", "/a.", "/ä", "/a\\b"] {
        assert!(matches!(write_image(&image, &one(path)), Err(ImageError::BadPath(_))), "{path}");
    }
    let twice = [("/a", Source::Bytes(Vec::new())), ("/A", Source::Bytes(Vec::new()))];
    assert!(matches!(write_image(&image, &twice), Err(ImageError::Duplicate(_))));
    let missing = [("/a", Source::File(scratch.0.join("no such file")))];
    let error = write_image(&image, &missing).unwrap_err();
    assert!(error.to_string().contains("no such file"), "{error}");
    let nowhere = scratch.0.join("no such directory").join("image");
    assert!(matches!(write_image(&nowhere, &one("/a")), Err(ImageError::Write { .. })));
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0, "nothing is left behind");
}

/// A device on which so many bytes can be written and no more.
#[derive(Debug)]
struct Full {
    device: Cursor<Vec<u8>>,
    left: usize,
}

impl Read for Full {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.device.read(buffer)
    }
}

impl Seek for Full {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.device.seek(to)
    }
}

impl Write for Full {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(buffer.len()).ok_or(io::ErrorKind::StorageFull)?;
        self.device.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_told_wherever_it_happens() {
    let files = sample();
    let contents = Contents::collect(&files).unwrap();
    let geometry = Geometry::for_contents(&contents).unwrap();
    for left in [0, 100, 10_000, 100_000, 1_000_000, 3_000_000] {
        let device = Full { device: Cursor::new(vec![0; geometry.bytes() as usize]), left };
        let Err(DeviceError::Device(error)) = write_device(device, &contents, &geometry) else {
            panic!("{left} bytes are too few");
        };
        let error = ImageError::write(Path::new("/somewhere/image"), geometry.bytes(), error);
        assert!(matches!(error, ImageError::DiskFull { .. }), "{left}: {error:?}");
        assert!(error.to_string().contains("/somewhere/image"));
    }
}

#[test]
fn a_configuration_for_all_loaders() {
    let image = BootImage {
        loader: Source::Bytes(Vec::new()),
        kernel: Source::Bytes(Vec::new()),
        cmdline: "a=b c".to_owned(),
        modules: vec![Module {
            name: "bundle".to_owned(),
            source: Source::Bytes(Vec::new()),
            string: String::new(),
        }],
        options: vec![("selkis_test_slide".to_owned(), "4096".to_owned())],
    };
    let conf = image.conf().unwrap();
    for line in [
        "timeout: 0",
        "/Selkis",
        "    protocol: limine",
        "    path: boot():/boot/kernel.elf",
        "    kernel_path: boot():/boot/kernel.elf",
        "    cmdline: a=b c",
        "    module_path: boot():/boot/bundle",
        "    selkis_test_slide: 4096",
    ] {
        assert!(conf.lines().any(|other| other == line), "{line} in {conf}");
    }
    for cmdline in ["a\nb", " a", "${A}", &"x".repeat(4096)] {
        let image = BootImage { cmdline: cmdline.to_owned(), ..image.clone() };
        assert_eq!(image.conf().unwrap_err().option, "cmdline");
    }
}

#[test]
fn only_a_file_that_is_no_input_is_replaced() {
    let scratch = Scratch::new("outputs");
    let place = |name: &str| scratch.0.join(name);
    let (socket, file, link, input) = (place("socket"), place("file"), place("link"), place("input"));
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::write(&file, "old").unwrap();
    fs::write(&input, "old").unwrap();
    std::os::unix::fs::symlink("file", &link).unwrap();
    std::os::unix::fs::symlink("nothing", place("dangling")).unwrap();
    let files = [("/a", Source::File(input.clone()))];
    for (name, kind) in [("socket", "a socket"), (".", "a directory"), ("dangling", "to nothing")] {
        let error = write_image(&place(name), &files).unwrap_err();
        assert!(matches!(error, ImageError::NotAFile { .. }), "{error:?}");
        assert!(error.to_string().contains(kind), "{error}");
    }
    let over_input = write_image(&input, &files);
    assert!(matches!(over_input, Err(ImageError::IsInput { .. })), "{over_input:?}");
    assert_eq!(fs::read(&input).unwrap(), b"old");
    fs::create_dir(place("other.partial")).unwrap();
    let partial = write_image(&place("other"), &files);
    assert!(matches!(partial, Err(ImageError::NotAFile { .. })), "{partial:?}");
    // A link to a file stays one.
    write_image(&link, &files).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(fs::metadata(&file).unwrap().len() > 1 << 20);
}

#[test]
fn only_efi_applications_are_loaders() {
    let scratch = Scratch::new("loaders");
    let path = scratch.0.join("loader");
    let mut loader = vec![0; 256];
    loader[..2].copy_from_slice(b"MZ");
    loader[0x3c] = 0x80;
    loader[0x80..0x86].copy_from_slice(b"PE\0\0\x64\x86");
    loader[0x98..0x9a].copy_from_slice(&[0x0b, 0x02]);
    loader[0xdc] = 10;
    fs::write(&path, &loader).unwrap();
    check_loader(&path).unwrap();
    for at in [0, 0x3c, 0x3f, 0x80, 0x84, 0x98, 0xdc] {
        let mut other = loader.clone();
        other[at] ^= 0x55;
        fs::write(&path, other).unwrap();
        assert!(matches!(check_loader(&path), Err(ImageError::NotALoader(_))), "{at:#x}");
    }
    for length in [0, 1, 63, 64, 0xdd] {
        fs::write(&path, &loader[..length]).unwrap();
        assert!(matches!(check_loader(&path), Err(ImageError::NotALoader(_))), "{length}");
    }
    assert!(matches!(check_loader(&scratch.0), Err(ImageError::NotALoader(_))));
}
