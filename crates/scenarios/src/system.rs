//! A running system, its events, and its control socket.

use crate::guests;
use crate::selkis::{Context, Input, Output, Run, Running};
use crate::verdict::{Failed, Verdict, check};
use control::{
    Decoder, Domain, Follow, From, GREETING, LogEnd, LogPiece, Program, Reply, Request, Selector, Stream,
    System, encode,
};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// The longest that a reply may take when nothing is wrong.
const REPLY_TIME: Duration = Duration::from_secs(20);

/// A domain with a guest of ours as its program.
pub struct Guest<'a> {
    /// The domain's name.
    pub domain: &'a str,
    /// The guest.
    pub program: &'a str,
    /// More lines for the program.
    pub lines: &'a str,
}

impl<'a> Guest<'a> {
    /// Without more lines.
    pub fn new(domain: &'a str, program: &'a str) -> Self {
        Self { domain, program, lines: "" }
    }

    /// With more lines.
    pub fn with(domain: &'a str, program: &'a str, lines: &'a str) -> Self {
        Self { domain, program, lines }
    }
}

/// A manifest of these, and their files, in the scenario's folder.
pub fn manifest(context: &Context, name: &str, guests: &[Guest<'_>]) -> Verdict<PathBuf> {
    let mut text = String::new();
    for Guest { domain, program, lines } in guests {
        context.file(&format!("{program}.wat"), guests::text(program)?)?;
        text += &format!(
            "[domains.{domain}]\nmemory = \"64MiB\"\n[[domains.{domain}.programs]]\nfile = \"{program}.wat\"\n{lines}\n"
        );
    }
    context.file(&format!("{name}.toml"), text)
}

/// `selkis up --json`, running. Dropping it kills it.
pub struct Up {
    running: Running,
    folder: PathBuf,
    name: String,
}

impl Up {
    /// Starts a system of these guests.
    pub fn start(context: &Context, guests: &[Guest<'_>]) -> Verdict<Self> {
        let manifest = manifest(context, "system", guests)?;
        Self::start_manifest(context, manifest, "system")
    }

    /// Starts the system of this manifest, which has this name.
    pub fn start_manifest(context: &Context, manifest: PathBuf, name: &str) -> Verdict<Self> {
        Self::start_command(context, context.up(manifest), name)
    }

    /// The same, by this command.
    pub fn start_command(context: &Context, command: Run<'_>, name: &str) -> Verdict<Self> {
        let folder = runtime_folder(context)?;
        let running =
            command.options(["--json"]).variable("XDG_RUNTIME_DIR", &folder).input(Input::Empty).start()?;
        Ok(Self { running, folder, name: name.into() })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Running {
        &mut self.running
    }

    /// The next thing that happens.
    pub fn next(&mut self) -> Verdict<Value> {
        Ok(serde_json::from_str(&self.running.read_line()?)?)
    }

    /// Waits for this event of the domain; all that came before is passed over.
    pub fn until(&mut self, domain: &str, event: &str) -> Verdict<Value> {
        loop {
            let next = self.next()?;
            if next["domain"] == domain && next["event"] == event {
                return Ok(next);
            }
        }
    }

    /// Waits for this event of the program; all that came before is passed over.
    pub fn until_program(&mut self, program: &str, event: &str) -> Verdict<Value> {
        loop {
            let next = self.next()?;
            if next["program"] == program && next["event"] == event {
                return Ok(next);
            }
        }
    }

    /// Waits for this event of any instance of the program.
    pub fn until_program_of(&mut self, program: &str, event: &str) -> Verdict<Value> {
        loop {
            let next = self.next()?;
            let name = next["program"].as_str().and_then(|name| name.split('/').next());
            if name == Some(program) && next["event"] == event {
                return Ok(next);
            }
        }
    }

    /// Waits until each of the domains has ended, in any order.
    pub fn until_ended(&mut self, domains: &[&str]) -> Verdict {
        let mut left = domains.to_vec();
        while !left.is_empty() {
            let next = self.next()?;
            left.retain(|domain| next["domain"] != *domain || next["event"] != "ended");
        }
        Ok(())
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("selkis").join(&self.name).with_extension("sock")
    }

    /// A client, that has said nothing.
    pub fn connect(&self) -> Verdict<UnixStream> {
        let socket = self.socket();
        let stream = UnixStream::connect(&socket)
            .map_err(|error| Failed(format!("cannot connect to {}: {error}", socket.display())))?;
        stream.set_read_timeout(Some(REPLY_TIME))?;
        Ok(stream)
    }

    /// A client that speaks the protocol.
    pub fn client(&self) -> Verdict<Client> {
        let mut stream = self.connect()?;
        stream.write_all(&GREETING)?;
        Ok(Client { stream, decoder: Decoder::new() })
    }

    /// Asks, and takes the one reply.
    pub fn ask(&self, request: &Request) -> Verdict<Reply> {
        let mut client = self.client()?;
        client.ask(request)?;
        client.reply()
    }

    /// The system, as a list has it.
    pub fn list(&self) -> Verdict<System> {
        match self.ask(&Request::List)? {
            Reply::List(system) => Ok(system),
            other => Err(Failed(format!("no list: {other:?}"))),
        }
    }

    /// The first domain.
    pub fn first_domain(&self) -> Verdict<Domain> {
        Ok(self.list()?.domains.remove(0))
    }

    /// Waits until it is so of the system.
    pub fn until_listed(&self, is_so: impl Fn(&System) -> Verdict<bool>) -> Verdict<System> {
        loop {
            let system = self.list()?;
            if is_so(&system)? {
                return Ok(system);
            }
            self.running.in_time(|| format!("it is still {system:?}"))?;
        }
    }

    /// Waits until it is so of the first domain.
    pub fn until_domain(&self, is_so: impl Fn(&Domain) -> bool) -> Verdict<Domain> {
        Ok(self.until_listed(|system| Ok(is_so(&system.domains[0])))?.domains.remove(0))
    }

    /// The domain's program, as a list has it.
    pub fn program(&self, domain: &str) -> Verdict<Program> {
        let found = self.list()?.domains.into_iter().find(|found| found.name == domain);
        found.map(|mut found| found.programs.remove(0)).ok_or_else(|| Failed(format!("no domain {domain}")))
    }

    /// Waits until the domain's program has written something to standard output.
    pub fn until_written(&self, domain: &str) -> Verdict {
        let mut client = self.client()?;
        let which = Selector::Named(domain.into());
        client.ask(&Request::Log { which, from: From::Start, follow: Follow::Yes })?;
        loop {
            match client.reply()? {
                Reply::Log(piece) if piece.lines.iter().any(|line| line.stream == Stream::Output) => {
                    return Ok(());
                }
                Reply::Log(_) => {}
                other => return Err(Failed(format!("{domain} has written nothing: {other:?}"))),
            }
        }
    }

    /// What the domain's program wrote to standard output, as far as it is kept.
    pub fn output(&self, domain: &str) -> Verdict<String> {
        let which = Selector::Named(domain.into());
        let mut client = self.client()?;
        client.ask(&Request::Log { which, from: From::Start, follow: Follow::No })?;
        let (pieces, _) = client.log()?;
        let lines = pieces.iter().flat_map(|piece| &piece.lines);
        let own = lines.filter(|line| line.stream == Stream::Output);
        Ok(own.map(|line| String::from_utf8_lossy(&line.bytes) + "\n").collect())
    }

    /// Sends it a signal and waits for its end.
    pub fn end(self, signal: Signal) -> Verdict<Output> {
        self.running.signal(signal)?;
        self.finish()
    }

    /// Waits for its end.
    pub fn finish(self) -> Verdict<Output> {
        self.running.finish()
    }
}

/// Where systems of the scenario listen.
pub fn runtime_folder(context: &Context) -> Verdict<PathBuf> {
    let folder = context.folder().join("runtime");
    fs::DirBuilder::new().mode(0o700).recursive(true).create(&folder)?;
    Ok(folder)
}

/// A client of a system.
pub struct Client {
    stream: UnixStream,
    decoder: Decoder<Reply>,
}

impl Client {
    /// Sends a request.
    pub fn ask(&mut self, request: &Request) -> Verdict {
        Ok(self.stream.write_all(&encode(request)?)?)
    }

    /// The next reply.
    pub fn reply(&mut self) -> Verdict<Reply> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(reply) = self.decoder.next()? {
                return Ok(reply);
            }
            let count = self.stream.read(&mut buffer)?;
            check(count > 0, || "the system closed the connection".into())?;
            self.decoder.push(&buffer[..count]);
        }
    }

    /// The rest of a log.
    pub fn log(&mut self) -> Verdict<(Vec<LogPiece>, LogEnd)> {
        let mut pieces = Vec::new();
        loop {
            match self.reply()? {
                Reply::Log(piece) => pieces.push(piece),
                Reply::LogEnd(end) => return Ok((pieces, end)),
                other => return Err(Failed(format!("not of a log: {other:?}"))),
            }
        }
    }
}
