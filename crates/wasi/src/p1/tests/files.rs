use super::*;

const CREATE: u64 = 1;
const DIRECTORY: u64 = 2;
const EXCLUSIVE: u64 = 4;
const TRUNCATE: u64 = 8;
const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 6;
const APPEND: u64 = 1;

#[test]
fn what_is_written_is_read_at_the_position() {
    let mut program = Program::new();
    let file = program.open(ROOT, "new", CREATE, READ | WRITE, 0).unwrap();
    assert_eq!(program.write(file, b"hello world"), Ok(11));
    program.ok("fd_tell", &[file, 8]);
    assert_eq!(program.u64(8), 11);
    program.ok("fd_seek", &[file, (-5i64) as u64, 1, 8]);
    assert_eq!((program.u64(8), program.read(file, 100).unwrap()), (6, b"world".to_vec()));
    program.ok("fd_seek", &[file, (-11i64) as u64, 2, 8]);
    assert_eq!(program.read(file, 5).unwrap(), b"hello");
    program.ok("fd_seek", &[file, 20, 0, 8]);
    assert_eq!(program.read(file, 5).unwrap(), b"", "beyond the end");
    assert_eq!(program.write(file, b"!"), Ok(1));
    program.ok("fd_seek", &[file, 9, 0, 8]);
    assert_eq!(program.read(file, 100).unwrap(), b"ld\0\0\0\0\0\0\0\0\0!");
    for (offset, whence) in [(-1i64, 0), (-22, 1), (-22, 2), (i64::MAX, 1), (i64::MIN, 2), (0, 3)] {
        program.fails("fd_seek", &[file, offset as u64, whence, 8], Errno::Inval);
    }
    program.ok("fd_tell", &[file, 8]);
    assert_eq!(program.u64(8), 21, "a seek that fails moves nothing");
    program.fails("fd_seek", &[file, 0, 0, MEMORY_BYTES as u64], Errno::Fault);
}

#[test]
fn several_buffers_are_filled_in_their_order() {
    let mut program = Program::new();
    let file = program.open(ROOT, "old", 0, READ, 0).unwrap();
    let (list, count) = program.buffers(&[(100, 2), (110, 0), (120, 4), (130, 100)]);
    program.ok("fd_read", &[file, list, count, 8]);
    assert_eq!(program.u32(8) as usize, OLD.len());
    assert_eq!([program.bytes(100, 3), program.bytes(120, 5)], [&b"ol\0"[..], b"d co\0"]);
    assert_eq!(program.bytes(130, 7), b"ntents\0");
}

#[test]
fn offsets_do_not_move_the_position() {
    let mut program = Program::new();
    let file = program.open(ROOT, "old", 0, READ | WRITE, 0).unwrap();
    let (list, count) = program.buffers(&[(100, 3)]);
    program.ok("fd_pread", &[file, list, count, 4, 8]);
    assert_eq!((program.u32(8), program.bytes(100, 3)), (3, &b"con"[..]));
    program.ok("fd_pwrite", &[file, list, count, 0, 8]);
    assert_eq!(program.read(file, 100).unwrap(), b"con contents");
    for offset in [1 << 63, u64::MAX] {
        program.fails("fd_pread", &[file, list, count, offset, 8], Errno::Inval);
        program.fails("fd_pwrite", &[file, list, count, offset, 8], Errno::Inval);
    }
    for offset in [i64::MAX as u64, i64::MAX as u64 - 2] {
        program.fails("fd_pread", &[file, list, count, offset, 8], Errno::Inval);
        program.fails("fd_pwrite", &[file, list, count, offset, 8], Errno::Inval);
    }
}

#[test]
fn appended_bytes_go_to_the_end() {
    let mut program = Program::new();
    let file = program.open(ROOT, "old", 0, READ | WRITE, APPEND).unwrap();
    program.write(file, b"+").unwrap();
    program.ok("fd_tell", &[file, 8]);
    assert_eq!(program.u64(8), OLD.len() as u64 + 1);
    program.ok("fd_seek", &[file, 0, 0, 8]);
    program.write(file, b"+").unwrap();
    let (list, count) = program.buffers(&[(program.free.into(), 1)]);
    program.ok("fd_pwrite", &[file, list, count, 0, 8]);
    program.ok("fd_fdstat_set_flags", &[file, 0]);
    program.ok("fd_seek", &[file, 4, 0, 8]);
    program.write(file, b"C").unwrap();
    program.ok("fd_seek", &[file, 1, 0, 8]);
    assert_eq!(program.read(file, 100).unwrap(), b"ld Contents++");
}

#[test]
fn a_descriptor_does_what_it_was_opened_for() {
    let mut program = Program::new();
    let reader = program.open(ROOT, "old", 0, READ, 0).unwrap();
    assert_eq!(program.write(reader, b"x"), Err(Errno::Badf.into()));
    program.fails("fd_filestat_set_size", &[reader, 0], Errno::Inval);
    program.fails("fd_allocate", &[reader, 0, 1], Errno::Badf);
    let writer = program.open(ROOT, "old", 0, WRITE, 0).unwrap();
    assert_eq!(program.read(writer, 1), Err(Errno::Badf.into()));
    let neither = program.open(ROOT, "old", 0, 0, 0).unwrap();
    assert_eq!(program.read(neither, 1), Err(Errno::Badf.into()));
    assert_eq!(program.write(neither, b"x"), Err(Errno::Badf.into()));
    program.ok("fd_filestat_get", &[neither, 64]);
}

#[test]
fn opening_makes_empties_and_refuses() {
    let mut program = Program::new();
    let fails = |program: &mut Program, path: &str, oflags, rights, errno: Errno| {
        assert_eq!(program.open(ROOT, path, oflags, rights, 0), Err(errno.into()), "{path} {oflags}");
    };
    fails(&mut program, "missing", 0, READ, Errno::Noent);
    fails(&mut program, "old", CREATE | EXCLUSIVE, READ, Errno::Exist);
    fails(&mut program, "old", DIRECTORY, READ, Errno::Notdir);
    fails(&mut program, "old/", 0, READ, Errno::Notdir);
    fails(&mut program, ".", DIRECTORY, READ | WRITE, Errno::Isdir);
    fails(&mut program, ".", CREATE | DIRECTORY, READ, Errno::Inval);
    fails(&mut program, "old", 16, READ, Errno::Inval);
    fails(&mut program, "/old", 0, READ, Errno::Perm);
    fails(&mut program, "../old", 0, READ, Errno::Perm);
    fails(&mut program, "", 0, READ, Errno::Noent);
    fails(&mut program, "old\0", 0, READ, Errno::Inval);
    fails(&mut program, &"n".repeat(256), CREATE, READ, Errno::Nametoolong);
    fails(&mut program, &"n/".repeat(2048), CREATE, READ, Errno::Nametoolong);
    fails(&mut program, "damaged", 0, READ, Errno::Io);
    let at = program.put(&[0xff]);
    program.fails("path_open", &[ROOT, 0, at, 1, 0, READ, 0, 0, 8], Errno::Ilseq);
    let [at, length] = program.path("old");
    program.fails("path_open", &[ROOT, 2, at, length, 0, READ, 0, 0, 8], Errno::Inval);
    program.fails("path_open", &[ROOT, 0, at, length, 0, READ, 0, 32, 8], Errno::Inval);
    program.fails("path_open", &[1, 0, at, length, 0, READ, 0, 0, 8], Errno::Notdir);
    program.fails("path_open", &[ROOT, 0, at, u64::from(u32::MAX), 0, READ, 0, 0, 8], Errno::Fault);
    // Without a place for the answer, nothing is opened.
    program.fails(
        "path_open",
        &[ROOT, 0, at, length, TRUNCATE, READ, 0, 0, MEMORY_BYTES as u64],
        Errno::Fault,
    );
    let file = program.open(ROOT, "old", 0, READ, 0).unwrap();
    assert_eq!((file, program.read(file, 100).unwrap()), (5, OLD.to_vec()));
    let file = program.open(ROOT, "old", TRUNCATE, READ | WRITE, 0).unwrap();
    assert_eq!(program.read(file, 100).unwrap(), b"");
}

#[test]
fn what_was_granted_to_be_read_cannot_be_changed() {
    let mut program = Program::new();
    let file = program.open(READ_ONLY, "old", 0, READ, 0).unwrap();
    assert_eq!(program.read(file, 100).unwrap(), OLD);
    for (path, oflags, rights) in [("old", 0, WRITE), ("old", TRUNCATE, READ), ("new", CREATE, READ)] {
        assert_eq!(program.open(READ_ONLY, path, oflags, rights, 0), Err(Errno::Rofs.into()), "{path}");
    }
    let ([old, old_length], [new, new_length]) = (program.path("old"), program.path("new"));
    program.fails("path_create_directory", &[READ_ONLY, new, new_length], Errno::Rofs);
    program.fails("path_unlink_file", &[READ_ONLY, old, old_length], Errno::Rofs);
    program.fails("path_rename", &[READ_ONLY, old, old_length, ROOT, new, new_length], Errno::Rofs);
    program.fails("path_rename", &[ROOT, old, old_length, READ_ONLY, new, new_length], Errno::Rofs);
    program.fails("path_link", &[READ_ONLY, 0, old, old_length, ROOT, new, new_length], Errno::Rofs);
    program.fails("path_symlink", &[old, old_length, READ_ONLY, new, new_length], Errno::Rofs);
    program.fails("path_filestat_set_times", &[READ_ONLY, 0, old, old_length, 0, 0, 8], Errno::Rofs);
    program.fails("fd_filestat_set_times", &[file, 0, 0, 8], Errno::Rofs);
}

#[test]
fn sizes_and_times_are_set_and_told() {
    let mut program = Program::new();
    let file = program.open(ROOT, "old", 0, READ | WRITE, 0).unwrap();
    program.ok("fd_filestat_get", &[file, 64]);
    assert_eq!(
        (program.memory[80], program.u64(88), program.u64(96), program.u64(112)),
        (4, 1, OLD.len() as u64, 7)
    );
    program.ok("fd_filestat_set_size", &[file, 3]);
    program.ok("fd_allocate", &[file, 4, 6]);
    program.fails("fd_allocate", &[file, 0, 0], Errno::Inval);
    program.fails("fd_allocate", &[file, u64::MAX, 1], Errno::Inval);
    program.fails("fd_allocate", &[file, i64::MAX as u64, 1], Errno::Fbig);
    program.fails("fd_allocate", &[file, 0, TREE_BYTES + 1], Errno::Nospc);
    program.fails("fd_filestat_set_size", &[file, u64::MAX], Errno::Inval);
    program.ok("fd_filestat_set_times", &[file, 11, 22, 1 | 4]);
    let [at, length] = program.path("old");
    program.ok("path_filestat_get", &[ROOT, 0, at, length, 64]);
    assert_eq!([96, 104, 112, 120].map(|at| program.u64(at)), [10, 11, 22, 99]);
    assert_eq!(program.read(file, 100).unwrap(), b"old\0\0\0\0\0\0\0");
    program.ok("path_filestat_set_times", &[ROOT, 1, at, length, 5, 6, 8]);
    program.ok("fd_filestat_get", &[file, 64]);
    assert_eq!([104, 112].map(|at| program.u64(at)), [11, 99], "kept, and now");
    for flags in [3, 12, 16, 0xffff_fff0] {
        program.fails("fd_filestat_set_times", &[file, 1, 1, flags], Errno::Inval);
        program.fails("path_filestat_set_times", &[ROOT, 0, at, length, 1, 1, flags], Errno::Inval);
    }
    program.ok("fd_advise", &[file, 0, 10, 5]);
    program.fails("fd_advise", &[file, 0, 10, 6], Errno::Inval);
    program.fails("fd_advise", &[file, u64::MAX, 1, 0], Errno::Inval);
    for (name, fd) in [("fd_sync", file), ("fd_datasync", file), ("fd_sync", ROOT)] {
        program.ok(name, &[fd]);
    }
}

#[test]
fn names_are_made_moved_and_removed() {
    let mut program = Program::new();
    let [d, d_length] = program.path("d");
    let [old, old_length] = program.path("old");
    let [inner, inner_length] = program.path("d/inner");
    let [link, link_length] = program.path("link");
    program.ok("path_create_directory", &[ROOT, d, d_length]);
    program.fails("path_create_directory", &[ROOT, d, d_length], Errno::Exist);
    program.ok("path_rename", &[ROOT, old, old_length, ROOT, inner, inner_length]);
    program.ok("path_link", &[ROOT, 0, inner, inner_length, ROOT, old, old_length]);
    program.fails("path_link", &[ROOT, 1, inner, inner_length, ROOT, link, link_length], Errno::Inval);
    program.fails("path_remove_directory", &[ROOT, d, d_length], Errno::Notempty);
    program.fails("path_unlink_file", &[ROOT, d, d_length], Errno::Isdir);
    let file = program.open(ROOT, "d/inner", 0, READ, 0).unwrap();
    program.ok("path_unlink_file", &[ROOT, inner, inner_length]);
    program.ok("path_unlink_file", &[ROOT, old, old_length]);
    assert_eq!(program.read(file, 100).unwrap(), OLD, "open, without a name");
    program.ok("path_remove_directory", &[ROOT, d, d_length]);
    program.fails("path_remove_directory", &[ROOT, d, d_length], Errno::Noent);
}

#[test]
fn symbolic_links_say_where_they_lead() {
    let mut program = Program::new();
    let [text, text_length] = program.path("old");
    let [link, link_length] = program.path("link");
    program.ok("path_symlink", &[text, text_length, ROOT, link, link_length]);
    program.ok("path_readlink", &[ROOT, link, link_length, 100, 50, 8]);
    assert_eq!((program.u32(8), program.bytes(100, 4)), (3, &b"old\0"[..]));
    program.ok("path_readlink", &[ROOT, link, link_length, 200, 2, 8]);
    assert_eq!((program.u32(8), program.bytes(200, 3)), (2, &b"ol\0"[..]));
    program.ok("path_readlink", &[ROOT, link, link_length, link, 3, 8]);
    assert_eq!(program.bytes(link, 4), b"oldk", "over the path itself");
    program.fails("path_readlink", &[ROOT, text, text_length, 100, 50, 8], Errno::Inval);
    let [link, link_length] = program.path("link");
    program.fails("path_open", &[ROOT, 0, link, link_length, 0, READ, 0, 0, 8], Errno::Loop);
    let file = program.open(ROOT, "link", 0, READ, 0).unwrap();
    assert_eq!(program.read(file, 100).unwrap(), OLD);
    for (follow, kind) in [(0, 7), (1, 4)] {
        program.ok("path_filestat_get", &[ROOT, follow, link, link_length, 64]);
        assert_eq!(program.memory[80], kind);
    }
    for (text, errno) in [("/old", Errno::Perm), ("", Errno::Noent), ("a\0", Errno::Inval)] {
        let [text, text_length] = program.path(text);
        let [new, new_length] = program.path("new");
        program.fails("path_symlink", &[text, text_length, ROOT, new, new_length], errno);
    }
    for text in ["..", "../x", "d/../../x"] {
        let [text, text_length] = program.path(text);
        let [out, out_length] = program.path("out");
        program.call("path_create_directory", &[ROOT, text, 1]).ok();
        program.ok("path_symlink", &[text, text_length, ROOT, out, out_length]);
        assert_eq!(program.open(ROOT, "out", CREATE, READ, 0), Err(Errno::Perm.into()));
        program.ok("path_unlink_file", &[ROOT, out, out_length]);
    }
}

/// Names and the cookies behind them, read with a buffer of `length` bytes from `cookie` to the end.
fn list(program: &mut Program, fd: u64, length: u64, mut cookie: u64) -> Vec<(String, u64)> {
    let mut names = Vec::new();
    loop {
        program.memory[0x8000..0x9000].fill(0xee);
        program.ok("fd_readdir", &[fd, 0x8000, length, cookie, 8]);
        let used = u64::from(program.u32(8));
        assert!(used <= length && program.bytes(0x8000 + used, 8) == [0xee; 8]);
        let mut at = 0;
        while used - at >= 24 {
            let name_length = u64::from(program.u32(0x8000 + at + 16));
            if used - at < 24 + name_length {
                break;
            }
            let name = program.bytes(0x8000 + at + 24, name_length as usize).to_vec();
            cookie = program.u64(0x8000 + at);
            names.push((String::from_utf8(name).unwrap(), cookie));
            at += 24 + name_length;
        }
        if used < length {
            return names;
        }
        assert!(at > 0, "nothing fits");
    }
}

#[test]
fn a_directory_is_listed_whole_whatever_the_buffer() {
    let mut program = Program::new();
    for number in 0..50 {
        let file = program.open(ROOT, &format!("file {number}"), CREATE, READ, 0).unwrap();
        program.ok("fd_close", &[file]);
    }
    let whole = list(&mut program, ROOT, 0xff0, 0);
    assert_eq!(whole.len(), 54);
    assert_eq!((&*whole[0].0, whole[0].1, &*whole[1].0, whole[1].1), (".", 1, "..", 2));
    for length in [33, 40, 64, 100, 333] {
        assert_eq!(list(&mut program, ROOT, length, 0), whole, "{length}");
    }
    for (index, (_, cookie)) in whole.iter().enumerate() {
        assert_eq!(list(&mut program, ROOT, 0xff0, *cookie), whole[index + 1..]);
    }
    program.ok("fd_readdir", &[ROOT, 0x8000, 10, 0, 8]);
    assert_eq!(program.u32(8), 10, "cut: there is more");
    for cookie in [1 << 40, u64::MAX] {
        assert_eq!(list(&mut program, ROOT, 0xff0, cookie), []);
    }
    let file = program.open(ROOT, "old", 0, READ, 0).unwrap();
    program.fails("fd_readdir", &[file, 0x8000, 100, 0, 8], Errno::Notdir);
}

#[test]
fn cookies_stay_good_while_entries_are_removed() {
    let mut program = Program::new();
    for number in 0..30 {
        let file = program.open(ROOT, &format!("{number:02}"), CREATE, READ, 0).unwrap();
        program.ok("fd_close", &[file]);
    }
    let mut cookie = 0;
    let mut removed = 0;
    // As `rm -r` does it: read some, remove them, go on from the last.
    loop {
        program.ok("fd_readdir", &[ROOT, 0x8000, 100, cookie, 8]);
        let used = u64::from(program.u32(8));
        let mut at = 0;
        while used - at >= 24 && used - at >= 24 + u64::from(program.u32(0x8000 + at + 16)) {
            let length = u64::from(program.u32(0x8000 + at + 16));
            cookie = program.u64(0x8000 + at);
            let name = program.bytes(0x8000 + at + 24, length as usize).to_vec();
            if name.len() == 2 && name != b".." {
                program.ok("path_unlink_file", &[ROOT, 0x8000 + at + 24, length]);
                removed += 1;
            }
            at += 24 + length;
        }
        if used < 100 {
            break;
        }
    }
    assert_eq!(removed, 30);
    assert_eq!(list(&mut program, ROOT, 0xff0, 0).len(), 4);
}

/// A host that others use as well.
struct Lent<'f>(&'f mut Fake);

impl Host for Lent<'_> {
    fn clock(&mut self) -> &mut dyn Clock {
        self.0
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        self.0
    }

    fn streams(&mut self) -> &mut dyn Streams {
        self.0
    }

    fn files(&mut self) -> &mut dyn Files {
        &mut self.0.tree
    }

    fn wait(&mut self) -> &mut dyn Wait {
        self.0
    }
}

#[test]
fn what_is_open_is_closed_with_the_process_and_if_it_cannot_begin() {
    let grant = || Grant { access: Access::ReadOnly, copied: Vec::new().into() };
    let tree = Tree::new(vec![grant(), grant(), grant()], &[], TREE_BYTES, SURROUNDINGS).unwrap();
    let mut fake = Fake::new(tree);
    for (descriptors_max, fits) in [(6, Ok(())), (4, Err(Errno::Mfile))] {
        let handles = [0, 1, 2].map(|number| fake.tree.open_grant(number).unwrap());
        let start = Start {
            arguments: Vec::new(),
            environment: Vec::new(),
            directories: handles.map(|handle| Preopen { guest: Box::from("x"), handle }).into(),
            descriptors_max,
            on_descriptors: |_| {},
        };
        assert_eq!(State::new(Lent(&mut fake), start).map(drop), fits);
        for handle in handles {
            assert_eq!(fake.tree.stat(handle).err(), Some(Error::Errno(Errno::Badf)));
        }
    }
}
