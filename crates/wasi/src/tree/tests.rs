use super::*;
use crate::provider::FileKind;
use alloc::string::String;
use alloc::vec;
use bundle::NodeKind;
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

const FILES: &[u8] = b"first second";
const SURROUNDINGS: Surroundings = Surroundings { wall_ns: || 1000, checkpoint: || Ok(()), pause: || {} };

fn node(name: &str, kind: NodeKind) -> bundle::Node {
    bundle::Node { name: String::from(name), modified_ns: 5, kind }
}

fn file(name: &str, offset: u64, length: u64) -> bundle::Node {
    let bytes = &FILES[offset as usize..][..length as usize];
    node(name, NodeKind::File { offset, length, checksum: bundle::checksum(bytes) })
}

fn symlink(name: &str, text: &str) -> bundle::Node {
    node(name, NodeKind::Symlink(String::from(text)))
}

fn directory(name: &str, nodes: Vec<bundle::Node>) -> bundle::Node {
    node(name, NodeKind::Directory(nodes))
}

fn tree_of(nodes: Vec<bundle::Node>, bytes_max: u64) -> (Tree<'static>, Handle) {
    let grant = Grant { access: Access::ReadWrite, copied: nodes.into() };
    let mut tree = Tree::new(vec![grant], FILES, bytes_max, SURROUNDINGS).unwrap();
    let root = tree.open_grant(0).unwrap();
    (tree, root)
}

fn path(text: &str) -> Path<'_> {
    Path::new(text.as_bytes()).unwrap()
}

fn how(access: FileAccess, create: Create) -> Open {
    Open { access, create, truncate: Truncate::Keep, expect: Expect::Any, follow: Follow::Yes }
}

const READ: FileAccess = FileAccess::Read;

fn open(tree: &mut Tree<'_>, root: Handle, text: &str) -> Result<Handle> {
    tree.open_at(root, path(text), how(READ, Create::Never)).map(|opened| opened.handle)
}

fn make(tree: &mut Tree<'_>, root: Handle, text: &str) -> Result<Handle> {
    tree.open_at(root, path(text), how(FileAccess::ReadWrite, Create::IfMissing)).map(|opened| opened.handle)
}

fn contents(tree: &mut Tree<'_>, file: Handle) -> Vec<u8> {
    let mut bytes = vec![0; 100];
    let count = tree.read_at(file, 0, &mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

fn names(tree: &mut Tree<'_>, directory: Handle) -> Vec<String> {
    let mut names = Vec::new();
    tree.read_directory(directory, 0, &mut |entry| {
        names.push(String::from(entry.name));
        ControlFlow::Continue(())
    })
    .unwrap();
    names.sort();
    names
}

#[test]
fn what_the_bundle_holds_is_there() {
    let inner = vec![file("second", 6, 6), symlink("up", "../first")];
    let (mut tree, root) = tree_of(vec![file("first", 0, 5), directory("d", inner)], 0);
    assert_eq!(names(&mut tree, root), ["d", "first"]);
    for (name, expected) in [("first", &b"first"[..]), ("d/second", b"second"), ("d/up", b"first")] {
        let file = open(&mut tree, root, name).unwrap();
        assert_eq!(contents(&mut tree, file), expected);
    }
    let stat = tree.stat_at(root, path("d/second"), Follow::No).unwrap();
    assert_eq!((stat.kind, stat.size, stat.links, stat.modified_ns), (FileKind::Regular, 6, 1, 5));
}

#[test]
fn a_plan_that_describes_no_tree_is_refused() {
    let refused = |nodes| {
        let grant = Grant { access: Access::ReadOnly, copied: Vec::into(nodes) };
        let mut tree = Tree::new(vec![grant], FILES, 0, SURROUNDINGS).unwrap();
        let root = tree.open_grant(0).unwrap();
        // Each time, and whoever asks.
        let errno = open(&mut tree, root, "b").unwrap_err();
        assert_eq!(tree.create_directory_at(root, path("d")), Err(errno));
        errno
    };
    for name in ["", ".", "..", "a/b", "/", "a\0"] {
        assert_eq!(refused(vec![symlink(name, "x")]), Errno::Io.into(), "{name:?}");
    }
    assert_eq!(refused(vec![symlink("a", "x"), file("a", 0, 1)]), Errno::Io.into());
    for (offset, length) in [(0, 13), (13, 0), (12, 1), (u64::MAX, 1), (1, u64::MAX)] {
        let kind = NodeKind::File { offset, length, checksum: 0 };
        assert_eq!(refused(vec![node("a", kind)]), Errno::Io.into(), "{offset} {length}");
    }
}

#[test]
fn what_is_granted_is_planted_in_pieces_by_whoever_looks_first_and_is_freed_in_pieces() {
    static PAUSES: AtomicU64 = AtomicU64::new(0);
    static STOPS: AtomicBool = AtomicBool::new(false);
    let count = 10 * BATCH_STEPS;
    let nodes = (0..count).map(|number| file(&alloc::format!("{number}"), 0, 5)).collect();
    let copied = Copied::from(vec![directory("d", nodes)]);
    assert_eq!(copied.count(), count + 1);
    let surroundings = Surroundings {
        checkpoint: || if STOPS.load(Relaxed) { Err(Stopped) } else { Ok(()) },
        pause: || _ = PAUSES.fetch_add(1, Relaxed),
        ..SURROUNDINGS
    };
    for stops in [false, true] {
        STOPS.store(stops, Relaxed);
        let grant = Grant { access: Access::ReadOnly, copied: copied.clone() };
        let mut tree = Tree::new(vec![grant], FILES, 0, surroundings).unwrap();
        let root = tree.open_grant(0).unwrap();
        assert_eq!(PAUSES.swap(0, Relaxed), 0, "nobody has looked");
        let opened = open(&mut tree, root, "d/7");
        let planted = if stops { 1 } else { 10 };
        assert_eq!((opened.is_ok(), PAUSES.swap(0, Relaxed)), (!stops, planted));
        assert_eq!(open(&mut tree, root, "d/8").is_ok(), !stops);
        assert_eq!(PAUSES.load(Relaxed), 0, "it is planted once");
        drop(tree);
        // The files, and their names.
        assert!(PAUSES.swap(0, Relaxed) >= if stops { 0 } else { 20 });
    }
}

#[test]
fn a_damaged_file_is_eio_each_time_and_the_others_are_good() {
    let damaged = node("damaged", NodeKind::File { offset: 0, length: 5, checksum: 1 });
    let (mut tree, root) = tree_of(vec![damaged, file("good", 0, 5)], 1 << 20);
    for _ in 0..2 {
        assert_eq!(open(&mut tree, root, "damaged"), Err(Errno::Io.into()));
        assert_eq!(make(&mut tree, root, "damaged"), Err(Errno::Io.into()));
    }
    assert!(open(&mut tree, root, "good").is_ok());
    tree.unlink_at(root, path("damaged")).unwrap();
}

#[test]
fn no_path_leads_out_of_the_directory_it_begins_in() {
    let nodes = vec![
        directory("d", vec![symlink("out", "../../x"), symlink("up", ".."), file("f", 0, 5)]),
        symlink("absolute", "/etc"),
        symlink("out", "d/../../d"),
        symlink("in", "d/../d/f"),
    ];
    let (mut tree, root) = tree_of(nodes, 1 << 20);
    for text in ["..", "d/../..", "d/up/..", "absolute", "absolute/x", "out", "out/f", "d/out", "d/up/../x"] {
        assert_eq!(open(&mut tree, root, text), Err(Errno::Perm.into()), "{text}");
        assert_eq!(make(&mut tree, root, text).err(), Some(Errno::Perm.into()), "{text}");
    }
    assert!(open(&mut tree, root, "in").is_ok());
    assert!(open(&mut tree, root, "d/up/d/up").is_ok());
    let inner = open(&mut tree, root, "d").unwrap();
    for text in ["..", "up", "up/d", "../d/f"] {
        assert_eq!(open(&mut tree, inner, text), Err(Errno::Perm.into()), "{text} from below");
    }
    assert!(open(&mut tree, inner, "f").is_ok());
}

#[test]
fn links_to_links_end() {
    let mut nodes =
        vec![symlink("loop", "loop"), symlink("ping", "pong/x"), symlink("pong", "ping"), file("end", 0, 5)];
    nodes.push(symlink("0", "end"));
    nodes.extend(
        (1..45).map(|number| symlink(&alloc::format!("{number}"), &alloc::format!("{}", number - 1))),
    );
    let (mut tree, root) = tree_of(nodes, 0);
    for text in ["loop", "loop/x", "ping", "pong", "40"] {
        assert_eq!(open(&mut tree, root, text), Err(Errno::Loop.into()), "{text}");
    }
    assert!(open(&mut tree, root, "39").is_ok(), "40 links are followed");
}

#[test]
fn the_budget_ends_in_enospc_and_comes_back() {
    let (mut tree, root) = tree_of(Vec::new(), 20_000);
    let file = make(&mut tree, root, "f").unwrap();
    let bytes = vec![1; 100_000];
    let written = tree.write_at(file, 0, &bytes).unwrap();
    assert!((4096..20_000).contains(&written));
    assert_eq!(tree.write_at(file, 1 << 20, &bytes), Err(Errno::Nospc.into()));
    assert_eq!(tree.append(file, &bytes), Err(Errno::Nospc.into()));
    tree.set_size(file, 0).unwrap();
    assert_eq!(tree.write_at(file, 0, &bytes), Ok(written));
    tree.unlink_at(root, path("f")).unwrap();
    assert_eq!(tree.write_at(file, 1 << 20, &bytes), Err(Errno::Nospc.into()), "it is still open");
    tree.close(file).unwrap();
    assert_eq!(tree.budget.left(), 20_000);
}

#[test]
fn names_are_paid_for() {
    let (mut tree, root) = tree_of(Vec::new(), 11_200);
    let text = "t".repeat(1000);
    let mut made = 0;
    loop {
        let name = alloc::format!("{made}");
        let result = match made % 3 {
            0 => tree.create_directory_at(root, path(&name)),
            1 => tree.symlink_at(&text, root, path(&name)),
            _ => make(&mut tree, root, &name).and_then(|file| tree.close(file)),
        };
        match result {
            Ok(()) => made += 1,
            Err(error) => break assert_eq!(error, Errno::Nospc.into()),
        }
        assert!(made < 100);
    }
    let left = tree.budget.left();
    assert_eq!(tree.link_at(root, path("2"), root, path(&"l".repeat(255))), Ok(()));
    tree.rename_at(root, path(&"l".repeat(255)), root, path("l")).unwrap();
    tree.unlink_at(root, path("l")).unwrap();
    assert_eq!(tree.budget.left(), left);
    for number in 0..made {
        let name = alloc::format!("{number}");
        let path = path(&name);
        tree.unlink_at(root, path).or_else(|_| tree.remove_directory_at(root, path)).unwrap();
    }
    assert_eq!(tree.budget.left(), 11_200);
}

#[test]
fn nothing_is_made_in_a_directory_that_was_removed() {
    let (mut tree, root) = tree_of(vec![directory("d", Vec::new()), file("f", 0, 5)], 1 << 20);
    let gone = open(&mut tree, root, "d").unwrap();
    tree.remove_directory_at(root, path("d")).unwrap();
    assert_eq!(make(&mut tree, gone, "x"), Err(Errno::Noent.into()));
    assert_eq!(tree.create_directory_at(gone, path("x")), Err(Errno::Noent.into()));
    assert_eq!(tree.link_at(root, path("f"), gone, path("x")), Err(Errno::Noent.into()));
    assert_eq!(tree.rename_at(root, path("f"), gone, path("x")), Err(Errno::Noent.into()));
    assert!(tree.stat(gone).is_ok());
    let listed = tree.read_directory(gone, 0, &mut |_| ControlFlow::Continue(()));
    assert_eq!(listed, Err(Errno::Noent.into()));
}

#[test]
fn two_grants_are_one_file_system_with_two_roots() {
    let grants = vec![
        Grant { access: Access::ReadWrite, copied: vec![file("f", 0, 5)].into() },
        Grant { access: Access::ReadWrite, copied: Vec::new().into() },
    ];
    let mut tree = Tree::new(grants, FILES, 1 << 20, SURROUNDINGS).unwrap();
    let (first, second) = (tree.open_grant(0).unwrap(), tree.open_grant(1).unwrap());
    tree.rename_at(first, path("f"), second, path("g")).unwrap();
    assert_eq!((names(&mut tree, first).len(), names(&mut tree, second)), (0, vec![String::from("g")]));
    assert_eq!(open(&mut tree, second, "../f"), Err(Errno::Perm.into()));
    assert_eq!(tree.open_grant(2), Err(Errno::Noent.into()));
    tree.close(first).unwrap();
    assert_eq!(tree.stat(first), Err(Errno::Badf.into()));
    assert!(tree.open_grant(0).is_ok(), "a root outlives its handles");
}

#[test]
fn a_walk_and_a_list_that_are_long_can_be_ended() {
    let (mut tree, root) = tree_of(vec![directory("d", Vec::new())], 1 << 20);
    for number in 0..BATCH_STEPS + 10 {
        tree.symlink_at("x", root, path(&alloc::format!("{number}"))).unwrap();
    }
    let mut shown = 0;
    let mut count = |_: crate::provider::Entry<'_>| {
        shown += 1;
        ControlFlow::Continue(())
    };
    tree.read_directory(root, 0, &mut count).unwrap();
    assert_eq!(shown, BATCH_STEPS);
    tree.surroundings.checkpoint = || Err(Stopped);
    assert!(tree.stat_at(root, path("d/../d"), Follow::Yes).is_ok());
    let long = "d/../".repeat(200) + "d";
    assert_eq!(tree.stat_at(root, path(&long), Follow::Yes), Err(crate::Error::Stopped));
}

#[test]
fn a_rename_that_has_no_room_changes_nothing() {
    let (mut tree, root) = tree_of(Vec::new(), 1 << 20);
    let inode = |tree: &mut Tree<'_>, name: &str| {
        tree.stat_at(root, path(name), Follow::No).map(|stat| (stat.inode, stat.links))
    };
    make(&mut tree, root, "a").and_then(|file| tree.close(file)).unwrap();
    make(&mut tree, root, "b").and_then(|file| tree.close(file)).unwrap();
    let (a, b) = (inode(&mut tree, "a"), inode(&mut tree, "b"));
    tree.budget = Budget::new(0);
    let renamed = tree.rename_at(root, path("a"), root, path("a longer name"));
    assert_eq!(renamed, Err(Errno::Nospc.into()));
    assert_eq!((inode(&mut tree, "a"), tree.budget.left()), (a, 0));
    tree.rename_at(root, path("a"), root, path("c")).unwrap();
    tree.rename_at(root, path("c"), root, path("b")).unwrap();
    assert_eq!((inode(&mut tree, "b"), inode(&mut tree, "c")), (a, Err(Errno::Noent.into())));
    assert_ne!(a, b);
}
