//! What clients see.

use crate::domain::{Domain, Process};
use crate::event::DomainSetup;

/// A domain as it is now.
pub fn domain((setup, domain): (&DomainSetup, &Domain)) -> control::Domain {
    control::Domain {
        name: setup.name.clone(),
        process_id: domain.process_id,
        memory_quota_bytes: setup.memory_quota_bytes,
        usage: domain.account.total(),
        programs: domain.processes.iter().filter(|process| process.is_listed()).map(program).collect(),
    }
}

fn program(process: &Process) -> control::Program {
    let life = &process.life;
    control::Program {
        name: process.name.clone(),
        state: life.state(),
        started_ns: life.started_ns,
        last_end: life.last_end.as_ref().map(|(end, _)| end.clone()),
        ended_ns: life.last_end.as_ref().map(|(_, at_ns)| *at_ns),
        restarts: life.restarts,
        usage: process.account.total(),
        log: process.log.size(),
    }
}
