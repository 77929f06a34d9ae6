use super::message::{Request, entries};
use super::*;
use crate::provider::*;
use crate::tree::{Grant, Surroundings, Tree};
use crate::{Errno, Error, Stopped};
use alloc::string::{String, ToString};
use alloc::{format, vec, vec::Vec};
use bundle::Access;
use core::ops::ControlFlow;
use proptest::prelude::*;

/// A host whose answers can be told apart.
struct Far {
    tree: Tree<'static>,
    written: Vec<u8>,
    ended: bool,
}

impl Far {
    fn new() -> Self {
        let grant = Grant { access: Access::ReadWrite, copied: Vec::new().into() };
        let surroundings = Surroundings { wall_ns: || 77, checkpoint: || Ok(()), pause: || {} };
        let tree = Tree::new(vec![grant], &[], 1 << 20, surroundings).unwrap();
        Self { tree, written: Vec::new(), ended: false }
    }
}

impl Host for Far {
    fn clock(&mut self) -> &mut dyn Clock {
        self
    }

    fn entropy(&mut self) -> &mut dyn Entropy {
        self
    }

    fn streams(&mut self) -> &mut dyn Streams {
        self
    }

    fn files(&mut self) -> &mut dyn Files {
        &mut self.tree
    }

    fn wait(&mut self) -> &mut dyn Wait {
        self
    }
}

impl Clock for Far {
    fn monotonic_ns(&mut self) -> Result<u64> {
        Ok(1)
    }

    fn wall_ns(&mut self) -> Result<u64> {
        Ok(u64::MAX)
    }

    fn cpu_ns(&mut self) -> Result<u64> {
        Err(Errno::Nosys.into())
    }

    fn resolution_ns(&mut self, which: ClockKind) -> Result<u64> {
        Ok(10 + which as u64)
    }
}

impl Entropy for Far {
    fn fill(&mut self, into: &mut [u8]) -> Result<()> {
        into.fill(0xaa);
        Ok(())
    }
}

impl Streams for Far {
    fn read(&mut self, into: &mut [u8]) -> Result<Input> {
        match into.len() {
            1 => Ok(Input::NotReady),
            2 => Ok(Input::End),
            length => {
                into.fill(0xbb);
                Ok(Input::Bytes(length - 1))
            }
        }
    }

    fn write(&mut self, to: OutputStream, bytes: &[u8]) -> Result<Output> {
        if to == OutputStream::Error {
            return Ok(Output::NotReady);
        }
        self.written.extend_from_slice(bytes);
        Ok(Output::Bytes(bytes.len()))
    }

    fn terminal(&mut self, stream: Stream) -> Result<Terminal> {
        Ok(if stream == Stream::Output { Terminal::Yes } else { Terminal::No })
    }
}

impl Wait for Far {
    fn wait(&mut self, streams: StreamSet, deadline_ns: Option<u64>) -> Result<StreamSet, Stopped> {
        if deadline_ns.is_none() { Err(Stopped) } else { Ok(streams.intersection(StreamSet::ERROR)) }
    }

    fn checkpoint(&mut self) -> Result<(), Stopped> {
        if self.ended { Err(Stopped) } else { Ok(()) }
    }

    fn give_way(&mut self) -> Result<(), Stopped> {
        self.ended = true;
        Ok(())
    }
}

/// The other side is here.
struct Direct(Far);

impl Transport for Direct {
    fn call(&mut self, exchange: Exchange<'_>) -> Result<usize> {
        assert!(exchange.request.len() <= REQUEST_BYTES_MAX && exchange.reply.len() >= REPLY_BYTES_MAX);
        Ok(serve(&mut self.0, exchange))
    }
}

fn far() -> Remote<Direct> {
    Remote::new(Direct(Far::new()))
}

#[test]
fn clocks_chance_and_streams_cross() {
    let mut host = far();
    assert_eq!((host.monotonic_ns(), host.wall_ns()), (Ok(1), Ok(u64::MAX)));
    assert_eq!(host.cpu_ns(), Err(Errno::Nosys.into()));
    assert_eq!(host.resolution_ns(ClockKind::Cpu), Ok(12));
    let mut bytes = [0; 5];
    host.fill(&mut bytes[..3]).unwrap();
    assert_eq!(bytes, [0xaa, 0xaa, 0xaa, 0, 0]);
    assert_eq!(host.read(&mut bytes[..1]), Ok(Input::NotReady));
    assert_eq!(host.read(&mut bytes[..2]), Ok(Input::End));
    assert_eq!(host.read(&mut bytes), Ok(Input::Bytes(4)));
    assert_eq!(bytes, [0xbb; 5]);
    assert_eq!(host.write(OutputStream::Output, b"abc"), Ok(Output::Bytes(3)));
    assert_eq!(host.write(OutputStream::Error, b"abc"), Ok(Output::NotReady));
    assert_eq!(host.terminal(Stream::Output), Ok(Terminal::Yes));
    assert_eq!(host.terminal(Stream::Input), Ok(Terminal::No));
}

#[test]
fn waits_and_the_end_cross() {
    let mut host = far();
    let both = StreamSet::INPUT.union(StreamSet::ERROR);
    assert_eq!(Wait::wait(&mut host, both, Some(u64::MAX)), Ok(StreamSet::ERROR));
    assert_eq!(Wait::wait(&mut host, both, None), Err(Stopped));
    assert_eq!(host.checkpoint(), Ok(()));
    assert_eq!(host.give_way(), Ok(()));
    assert_eq!(host.checkpoint(), Err(Stopped));
}

fn path(text: &str) -> Path<'_> {
    Path::new(text.as_bytes()).unwrap()
}

const MAKE: Open = Open {
    access: FileAccess::ReadWrite,
    create: Create::IfMissing,
    truncate: Truncate::Keep,
    expect: Expect::Any,
    follow: Follow::Yes,
};

#[test]
fn every_call_about_files_crosses() {
    let mut files = far();
    let root = files.open_grant(0).unwrap();
    assert_eq!(files.open_grant(1), Err(Errno::Noent.into()));
    let Opened { handle: file, kind } = files.open_at(root, path("f"), MAKE).unwrap();
    assert_eq!(kind, FileKind::Regular);
    assert_eq!(files.write_at(file, 2, b"xyz"), Ok(3));
    assert_eq!(files.append(file, b"!"), Ok(Appended { count: 1, end: 6 }));
    let mut bytes = [1; 9];
    assert_eq!(files.read_at(file, 1, &mut bytes), Ok(5));
    assert_eq!(&bytes, b"\0xyz!\x01\x01\x01\x01");
    files.set_size(file, 3).unwrap();
    files.allocate(file, 0, 10).unwrap();
    files.sync(file, Sync::All).unwrap();
    let times = Times { accessed: SetTime::At(5), modified: SetTime::Now };
    files.set_times(file, times).unwrap();
    let stat = files.stat(file).unwrap();
    assert_eq!((stat.size, stat.accessed_ns, stat.modified_ns), (10, 5, 77));
    assert_eq!(files.stat_at(root, path("f"), Follow::No), Ok(stat));
    files.create_directory_at(root, path("d")).unwrap();
    files.symlink_at("../f", root, path("d/l")).unwrap();
    let count = files.read_link_at(root, path("d/l"), &mut bytes).unwrap();
    assert_eq!(&bytes[..count], b"../f");
    assert_eq!(files.stat_at(root, path("d/l"), Follow::Yes), Ok(stat));
    files.set_times_at(root, path("d/l"), Follow::No, times).unwrap();
    assert_eq!(files.stat_at(root, path("d/l"), Follow::No).unwrap().accessed_ns, 5);
    files.link_at(root, path("f"), root, path("d/f")).unwrap();
    files.rename_at(root, path("f"), root, path("g")).unwrap();
    files.unlink_at(root, path("g")).unwrap();
    assert_eq!(files.remove_directory_at(root, path("d")), Err(Errno::Notempty.into()));
    assert_eq!(files.stat(file).unwrap().links, 1);
    files.close(file).unwrap();
    assert_eq!(files.stat(file), Err(Errno::Badf.into()));
}

#[test]
fn a_long_directory_crosses_in_pages() {
    let mut files = far();
    let root = files.open_grant(0).unwrap();
    let names: Vec<String> = (0..40).map(|number| format!("{number:0255}")).collect();
    for name in &names {
        files.create_directory_at(root, path(name)).unwrap();
    }
    let (mut found, mut cookie, mut pages) = (Vec::new(), 0, 0);
    loop {
        let before = found.len();
        files
            .read_directory(root, cookie, &mut |entry| {
                assert_eq!(entry.kind, FileKind::Directory);
                found.push(entry.name.to_string());
                cookie = entry.next;
                ControlFlow::Continue(())
            })
            .unwrap();
        if found.len() == before {
            break;
        }
        pages += 1;
    }
    assert_eq!(found, names);
    assert!(pages > 1, "this was to take several pages");
}

/// The other side is here, and what it is asked is kept.
struct Noting(Far, Vec<Request>);

impl Transport for Noting {
    fn call(&mut self, exchange: Exchange<'_>) -> Result<usize> {
        self.1.push(postcard::from_bytes(exchange.request).unwrap());
        Ok(serve(&mut self.0, exchange))
    }
}

#[test]
fn a_synchronous_write_is_brought_to_the_storage_and_others_are_not() {
    use crate::p1::{Memory, Preopen, Start, State};
    let mut remote = Remote::new(Noting(Far::new(), Vec::new()));
    let handle = remote.open_grant(0).unwrap();
    let directories = vec![Preopen { guest: "/".into(), handle }];
    let start = Start {
        arguments: Vec::new(),
        environment: Vec::new(),
        directories,
        descriptors_max: 9,
        on_descriptors: |_| {},
    };
    let mut state = State::new(remote, start).unwrap();
    // A path at 0, a buffer over it at 8, room for an answer at 16.
    let mut bytes = [b'f', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    let mut memory = Memory::new(&mut bytes);
    for (fd, fdflags, synchronous) in [(4, 0, false), (5, 2, true), (6, 16, true)] {
        state.path_open(&mut memory, 3, 0, 0, 1, 1, 1 << 6, 0, fdflags, 16).unwrap();
        state.fd_write(&mut memory, fd, 8, 1, 16).unwrap();
        let last = state.host().transport.1.last().copied();
        assert_eq!(matches!(last, Some(Request::Sync { what: Sync::All, .. })), synchronous, "{fdflags}");
    }
}

/// A side that answers what it likes.
struct Liar(Vec<u8>);

impl Transport for Liar {
    fn call(&mut self, exchange: Exchange<'_>) -> Result<usize> {
        let count = self.0.len().min(exchange.reply.len());
        exchange.reply[..count].copy_from_slice(&self.0[..count]);
        exchange.incoming.fill(0xff);
        Ok(self.0.len())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_wrong_answer_is_an_errno(answer in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut files = Remote::new(Liar(answer));
        let mut bytes = [0; 10];
        if let Ok(count) = files.read_at(Handle(1), 0, &mut bytes) {
            prop_assert!(count <= 10);
        }
        if let Ok(Input::Bytes(count)) = files.read(&mut bytes) {
            prop_assert!(count <= 10);
        }
        let mut shown = 0;
        let _ = files.read_directory(Handle(1), 0, &mut |_| {
            shown += 1;
            ControlFlow::Continue(())
        });
        prop_assert_eq!(shown, 0, "bytes of 0xff are no entries");
    }

    #[test]
    fn a_wrong_request_is_answered(
        request in prop::collection::vec(any::<u8>(), 0..80),
        first in prop::collection::vec(any::<u8>(), 0..20),
        room in 0..200usize,
    ) {
        let mut host = Far::new();
        let (mut reply, mut incoming) = (vec![0; room], [0; 30]);
        let outgoing = [&first[..], &first[..]];
        let exchange = Exchange { request: &request, outgoing, reply: &mut reply, incoming: &mut incoming };
        prop_assert!(serve(&mut host, exchange) <= room);
    }
}

#[test]
fn the_longest_messages_fit() {
    let longest = Times { accessed: SetTime::At(u64::MAX), modified: SetTime::At(u64::MAX) };
    let far = Handle(u64::MAX);
    let requests = [
        Request::SetTimesAt { directory: far, follow: Follow::Yes, times: longest },
        Request::Allocate { file: far, offset: u64::MAX, length: u64::MAX },
        Request::Wait { streams: StreamSet::ERROR, deadline_ns: Some(u64::MAX) },
    ];
    for request in requests {
        assert!(postcard::to_slice(&request, &mut [0; REQUEST_BYTES_MAX]).is_ok());
    }
    let stat = Stat {
        device: u64::MAX,
        inode: u64::MAX,
        kind: FileKind::Symlink,
        links: u64::MAX,
        size: u64::MAX,
        accessed_ns: u64::MAX,
        modified_ns: u64::MAX,
        changed_ns: u64::MAX,
    };
    assert!(postcard::to_slice(&Ok::<_, Error>(stat), &mut [0; REPLY_BYTES_MAX]).is_ok());
    let name = "n".repeat(NAME_BYTES_MAX);
    let entry = Entry { next: 1, inode: 1, kind: FileKind::Regular, name: &name };
    assert!(entries::encode(entry, &mut [0; entries::PAGE_BYTES]).is_some());
}
