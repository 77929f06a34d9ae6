//! How much memory it takes to keep what is kept.

use crate::domain::Process;
use crate::event::DomainSetup;
use link::FAILED_CHILDREN_MAX;

/// What all logs may take together.
const LOGS_BYTES_MAX: usize = 64 << 20;
/// What the log of a child may take: there can be many, and whatever it has said goes with the next that has its place.
const CHILD_LOG_BYTES_MAX: usize = 32 << 10;
/// How often a log takes what it counts: lines that have begun, and lists that have room to grow.
const LOG_COPIES: u64 = 2;

/// What else is kept of a process: its names and what the link to its domain has of it, in lists that move when they grow.
const PROCESS_BYTES: u64 = 4 << 10;
const _: () = assert!(3 * size_of::<Process>() as u64 <= PROCESS_BYTES - (1 << 10));
/// What is kept of how one has failed: a reason, names of functions, last lines and last words, each as long as it can be.
const REPORT_BYTES: u64 = 64 << 10;

/// What a log may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogBytes {
    /// That of a process that the manifest names, and that of a domain.
    pub own: usize,
    /// That of a child.
    pub child: usize,
}

impl LogBytes {
    /// Of processes of these domains: `most` if they are few. The children have one half among them, and what the manifest names the other.
    pub fn new(domains: &[DomainSetup], most: usize) -> Self {
        let (own, children) = count(domains);
        let each = |count: usize| LOGS_BYTES_MAX / 2 / count.max(1);
        Self {
            own: each(own + domains.len()).min(most),
            child: each(children).min(most).min(CHILD_LOG_BYTES_MAX),
        }
    }
}

/// How much memory a supervisor of these domains takes at most, with the links to them, if it gives no log more than `log_bytes_max`.
pub fn memory_bytes_max(domains: &[DomainSetup], log_bytes_max: usize) -> u64 {
    let (own, children) = count(domains);
    let log = LogBytes::new(domains, log_bytes_max);
    let logs = LOG_COPIES * ((own + domains.len()) * log.own + children * log.child) as u64;
    let failed: usize = domains.iter().map(|domain| domain.children.min(FAILED_CHILDREN_MAX)).sum();
    logs + (own + children) as u64 * PROCESS_BYTES + (own + failed) as u64 * REPORT_BYTES
}

fn count(domains: &[DomainSetup]) -> (usize, usize) {
    let own = domains.iter().map(DomainSetup::processes).sum();
    (own, domains.iter().map(|domain| domain.children).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ProgramSetup, Restart};
    use alloc::string::String;
    use alloc::vec;

    fn domain(instances: u32, children: usize) -> DomainSetup {
        let program = ProgramSetup { name: String::new(), instances, restart: Restart::Never };
        DomainSetup { name: String::new(), memory_quota_bytes: 0, programs: vec![program], children }
    }

    #[test]
    fn few_have_what_they_may_and_many_share() {
        let few = LogBytes::new(&[domain(2, 36)], 1 << 20);
        assert_eq!(few, LogBytes { own: 1 << 20, child: CHILD_LOG_BYTES_MAX });
        for domains in
            [vec![domain(1, 32_032)], vec![domain(5000, 0), domain(3, 100_000)], vec![domain(1, 0)]]
        {
            let (own, children) = count(&domains);
            let log = LogBytes::new(&domains, 1 << 20);
            let logs_bytes = (own + domains.len()) * log.own + children * log.child;
            assert!(logs_bytes <= LOGS_BYTES_MAX, "{own} and {children}");
        }
    }
}
