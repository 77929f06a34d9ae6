//! Starts domains for the tests.

use crate::code::Code;
use bundle::{Console, Plan, ProgramPlan};
use hosted::Runtime;
use hosted::domain::{Confinement, Domain, End, Quotas, Running, Share};
use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};
use tempfile::TempDir;

/// What makes this executable the process of a domain.
pub const DOMAIN: &str = "be-domain";
/// What makes it a parent that starts a domain for ever.
pub const PARENT: &str = "be-parent";
/// What makes it a parent that starts one domain after the other; a word follows that tells its processes from others.
pub const PARENTS: &str = "be-busy-parent";

/// What a domain gets that is not about quotas.
pub const QUOTAS: Quotas = Quotas {
    memory_bytes: 64 << 20,
    cpu_share: Share { weight: 100, heaviest: 100 },
    cpu_budget_permille: None,
};

/// A domain whose library OS is this code.
pub fn domain(code: &Code) -> Domain {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("runtime");
    code.write(&path).unwrap();
    let artifact = || {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"artifact").unwrap();
        file
    };
    let program = ProgramPlan {
        name: String::from("p"),
        artifact: 0,
        arguments: Vec::new(),
        environment: Vec::new(),
        memory_bytes_max: 0,
        ..ProgramPlan::default()
    };
    Domain {
        runtime: Runtime::open(&path).unwrap(),
        plan: Plan::of_one(program, Console::Host, None),
        artifacts: vec![artifact()],
        trap_helper: artifact(),
        grants: Vec::new(),
        quotas: QUOTAS,
        confinement: Confinement::Confined,
    }
}

/// What starts this executable as the process of a domain.
pub fn command() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(DOMAIN).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn start(domain: &Domain) -> Running {
    domain.start(&mut command()).unwrap()
}

/// Starts a domain that runs for ever, and waits until its library OS does.
pub fn spinning(change: impl FnOnce(&mut Domain)) -> Running {
    let mut code = Code::new();
    let sign = code.text("!".as_ref());
    let mut domain = domain(&code.call(libc::SYS_write, &[1, sign, 1]).spin());
    change(&mut domain);
    let mut running = start(&domain);
    running.take_output().unwrap().read_exact(&mut [0]).unwrap();
    running
}

/// Runs a domain to its end; the end and what it wrote to standard error.
pub fn run(domain: &Domain) -> (End, String) {
    let mut running = start(domain);
    let mut errors = String::new();
    running.take_errors().unwrap().read_to_string(&mut errors).unwrap();
    (running.wait().unwrap().clone(), errors)
}

pub fn be_domain() -> ExitCode {
    match hosted::domain::serve() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(125)
        }
    }
}

/// Starts a domain that runs for ever, tells its number, and waits to be killed.
pub fn be_parent() -> ExitCode {
    let running = start(&domain(&Code::new().spin()));
    println!("{}", running.id());
    loop {
        std::thread::park();
    }
}

/// Starts domains that run for ever, each with that word, until it is killed, or who started it has ended.
pub fn be_busy_parent() -> ExitCode {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let domain = domain(&Code::new().spin());
    let mut running = Vec::new();
    loop {
        running.push(domain.start(command().args(std::env::args().skip(2))).unwrap());
        if running.len() > 4 {
            running.remove(0);
        }
    }
}
