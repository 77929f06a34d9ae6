//! An initramfs: a cpio archive in the `newc` format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

/// What a node of the archive is.
#[derive(Clone, Copy, Debug)]
pub enum Node<'a> {
    /// A directory.
    Directory,
    /// A file that can be executed, and what it holds.
    File(&'a [u8]),
    /// A character device, by its numbers.
    Device(u32, u32),
}

/// Kinds and permissions, as in `stat.h`.
const DIRECTORY_MODE: u32 = 0o040_755;
const FILE_MODE: u32 = 0o100_755;
const DEVICE_MODE: u32 = 0o020_600;

/// The archive of these nodes, not compressed: unpacking it is a copy.
pub fn archive(nodes: &[(&str, Node<'_>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (number, (name, node)) in nodes.iter().enumerate() {
        append(&mut archive, number as u32 + 1, name, *node);
    }
    append(&mut archive, 0, "TRAILER!!!", Node::File(&[]));
    archive
}

fn append(archive: &mut Vec<u8>, inode: u32, name: &str, node: Node<'_>) {
    let (mode, contents, device): (_, &[u8], _) = match node {
        Node::Directory => (DIRECTORY_MODE, &[], (0, 0)),
        Node::File(contents) => (FILE_MODE, contents, (0, 0)),
        Node::Device(major, minor) => (DEVICE_MODE, &[], (major, minor)),
    };
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let fields =
        [inode, mode, 0, 0, 1, 0, contents.len() as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
    archive.extend_from_slice(b"070701");
    fields.iter().for_each(|field| archive.extend_from_slice(format!("{field:08X}").as_bytes()));
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(contents);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_header_name_contents_each_padded() {
        let bytes = archive(&[("init", Node::File(b"abcde"))]);
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[6 + 6 * 8..6 + 7 * 8], b"00000005");
        // The header has 110 bytes; with the name and its NUL 115, padded to 116.
        assert_eq!(&bytes[110..121], b"init\0\0abcde");
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }
}
