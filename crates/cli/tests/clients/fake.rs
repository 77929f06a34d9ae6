//! A system that answers as a test tells it to.

use control::{
    Counters, Decoder, Domain, End, GREETING, Line, LineEnd, LogEnd, LogPiece, LogSize, Memory, Phase,
    Platform, ProcessUsage, Program, ProgramName, Reply, Request, State, Stream, System, Usage, encode,
};
use std::fs::{self, DirBuilder};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;

pub const S: u64 = 1_000_000_000;

/// A folder for sockets, as `$XDG_RUNTIME_DIR` names it, and the systems in it.
pub struct Machine {
    folder: TempDir,
    /// What they were asked, except for lists.
    requests: Arc<Mutex<Vec<Request>>>,
}

/// What a system says to a request, and then.
pub type Answer = (Vec<Reply>, Then);

/// What a system does when it has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It waits for the next request.
    Waits,
    /// It is gone.
    Ends,
}

impl Machine {
    /// On which nothing runs.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        DirBuilder::new().mode(0o700).create(folder.path().join("selkis")).unwrap();
        Self { folder, requests: Arc::default() }
    }

    /// The folder for `$XDG_RUNTIME_DIR`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where a system of that name listens.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join("selkis").join(name).with_extension("sock")
    }

    /// Starts a system that answers lists with [`list`], and other requests so.
    pub fn start(self, name: &str, answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let own_name = name.to_owned();
        self.start_stepwise(name, move |request, say| {
            let (replies, then) = match request {
                Request::List => (vec![list(&own_name)], Then::Waits),
                request => answer(request),
            };
            replies.into_iter().for_each(say);
            then
        })
    }

    /// Starts a system whose answers take their time. It answers lists itself.
    pub fn start_stepwise(
        self,
        name: &str,
        answer: impl Fn(&Request, &mut dyn FnMut(Reply)) -> Then + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(self.socket(name)).unwrap();
        let (requests, answer) = (self.requests.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (requests, answer) = (requests.clone(), answer.clone());
                thread::spawn(move || serve(stream.unwrap(), &requests, &*answer));
            }
        });
        self
    }

    /// Starts one that says these bytes to whoever comes, and no more.
    pub fn start_stranger(self, name: &str, words: Vec<u8>) -> Self {
        let listener = UnixListener::bind(self.socket(name)).unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map(Result::unwrap) {
                // Who only wanted to see whether somebody listens has gone again.
                let _ = stream.write_all(&words);
                let _ = stream.read(&mut [0; 64]);
            }
        });
        self
    }

    /// Leaves a socket on which nobody listens.
    pub fn leave_socket(self, name: &str) -> Self {
        drop(UnixListener::bind(self.socket(name)).unwrap());
        assert!(fs::symlink_metadata(self.socket(name)).is_ok());
        self
    }

    /// The command, which finds these systems.
    pub fn selkis(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selkis"));
        command
            .args(arguments)
            .env("XDG_RUNTIME_DIR", self.folder())
            .env("TERM", "xterm")
            .env_remove("NO_COLOR");
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        Ended::from(self.selkis(arguments).output().unwrap())
    }

    /// What systems were asked so far, except for lists.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub status: Option<i32>,
    pub output: String,
    pub error: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { status: output.status.code(), output: text(output.stdout), error: text(output.stderr) }
    }
}

impl Ended {
    /// It must have succeeded: what it wrote.
    pub fn output(self) -> String {
        assert_eq!((self.status, self.error.as_str()), (Some(0), ""), "{}", self.output);
        self.output
    }

    /// It must have failed with status 1: what it said.
    pub fn refusal(self) -> String {
        assert_eq!((self.status, self.output.as_str()), (Some(1), ""), "{}", self.error);
        self.error
    }
}

/// Answers a client until it leaves.
fn serve(mut stream: UnixStream, requests: &Mutex<Vec<Request>>, answer: &Answerer) -> Option<()> {
    stream.write_all(&GREETING).ok()?;
    let mut decoder = Decoder::<Request>::new();
    let mut bytes = [0; 4096];
    loop {
        let length = stream.read(&mut bytes).ok().filter(|length| *length > 0)?;
        decoder.push(&bytes[..length]);
        while let Some(request) = decoder.next().expect("a client speaks the protocol") {
            if request != Request::List {
                requests.lock().unwrap().push(request.clone());
            }
            // That a client leaves in the middle is its right.
            let mut say = |reply: Reply| drop(stream.write_all(&encode(&reply).unwrap()));
            if answer(&request, &mut say) == Then::Ends {
                return None;
            }
        }
    }
}

type Answerer = dyn Fn(&Request, &mut dyn FnMut(Reply)) -> Then;

/// The answer to a list, of a system of that name.
pub fn list(name: &str) -> Reply {
    Reply::List(System { name: name.to_owned(), ..system() })
}

/// A system with a clock that runs and dice that failed.
fn system() -> System {
    let program = |name: &str, state, last_end, restarts| Program {
        name: name.to_owned(),
        state,
        started_ns: Some(S),
        ended_ns: Some(58 * S).filter(|_| state != State::Running),
        last_end,
        restarts,
        usage: ProcessUsage::default(),
        log: LogSize::default(),
    };
    let domain = |name: &str, process_id, used_bytes, programs| Domain {
        name: name.to_owned(),
        process_id,
        memory_quota_bytes: 64 << 20,
        usage: Usage {
            memory: Memory { used_bytes, peak_bytes: used_bytes },
            cpu_ns: 2 * S,
            counters: Counters::default(),
        },
        programs,
    };
    let failed = Some(End::Exited { status: 3 });
    System {
        name: String::new(),
        platform: Platform::Hosted,
        phase: Phase::Up,
        uptime_ns: 61 * S,
        started_unix_ns: Some(1_000_000_000 * S),
        cpus: Vec::new(),
        domains: vec![
            domain("alice", Some(77), 3 << 20, vec![program("clock", State::Running, None, 0)]),
            domain("dave", None, 0, vec![program("dice", State::Backoff { until_ns: 63 * S }, failed, 4)]),
        ],
    }
}

/// Lines of Alice's clock.
pub fn piece(stream: Stream, texts: &[&str]) -> Reply {
    let line = |text: &&str| Line {
        at_ns: 1_500_000_000,
        stream,
        bytes: text.as_bytes().to_vec(),
        end: LineEnd::Newline,
    };
    let program = clock();
    Reply::Log(LogPiece { program, lines_dropped: 0, lines: texts.iter().map(line).collect() })
}

/// Alice's clock.
pub fn clock() -> ProgramName {
    ProgramName { domain: "alice".to_owned(), program: "clock".to_owned() }
}

/// An answer to a request that nobody makes.
pub fn nothing(_: &Request) -> Answer {
    (vec![Reply::LogEnd(LogEnd::Newest)], Then::Waits)
}
