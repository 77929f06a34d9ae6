//! What was used between two looks at a system.

use control::{Domain, Program, System};

/// A domain and what it used.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainUsage<'a> {
    /// As it is now.
    pub domain: &'a Domain,
    /// CPU time, in parts of the time that passed. More than 100 is more than one CPU.
    pub cpu_percent: f64,
    /// Its processes, that which used most CPU time first; else in the domain's order.
    pub programs: Vec<ProgramUsage<'a>>,
}

/// A process and what it used.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramUsage<'a> {
    /// As it is now.
    pub program: &'a Program,
    /// As for a domain.
    pub cpu_percent: f64,
}

/// Each domain of `after`, that which used most CPU time first; else in the manifest's order.
pub fn between<'a>(before: &System, after: &'a System) -> Vec<DomainUsage<'a>> {
    let passed_ns = after.uptime_ns.saturating_sub(before.uptime_ns);
    // Nothing is known of what was not there, nor when no time has passed.
    let percent = |earlier_ns: Option<u64>, now_ns: u64| {
        let used_ns = earlier_ns.map_or(0, |earlier_ns| now_ns.saturating_sub(earlier_ns));
        if passed_ns == 0 { 0.0 } else { used_ns as f64 * 100.0 / passed_ns as f64 }
    };
    let usage = |domain: &'a Domain| {
        let earlier = before.domains.iter().find(|earlier| earlier.name == domain.name);
        let program = |program: &'a Program| {
            let earlier =
                earlier.and_then(|domain| domain.programs.iter().find(|it| it.name == program.name));
            let cpu_percent = percent(earlier.map(|earlier| earlier.usage.cpu_ns), program.usage.cpu_ns);
            ProgramUsage { program, cpu_percent }
        };
        let mut programs: Vec<ProgramUsage> = domain.programs.iter().map(program).collect();
        programs.sort_by(|one, other| other.cpu_percent.total_cmp(&one.cpu_percent));
        let cpu_percent = percent(earlier.map(|earlier| earlier.usage.cpu_ns), domain.usage.cpu_ns);
        DomainUsage { domain, cpu_percent, programs }
    };
    let mut usages: Vec<DomainUsage> = after.domains.iter().map(usage).collect();
    usages.sort_by(|one, other| other.cpu_percent.total_cmp(&one.cpu_percent));
    usages
}

#[cfg(test)]
mod tests {
    use super::super::super::ps::tests::system;
    use super::*;

    #[test]
    fn the_busiest_comes_first() {
        let before = system();
        let mut after = system();
        after.uptime_ns += 2_000_000_000;
        after.domains[0].usage.cpu_ns += 500_000_000;
        after.domains[1].usage.cpu_ns += 3_000_000_000;
        let of = |before: &System, after: &System| -> Vec<(String, f64)> {
            let usages = between(before, after);
            usages.iter().map(|usage| (usage.domain.name.clone(), usage.cpu_percent)).collect()
        };
        assert_eq!(of(&before, &after), [("bob".to_owned(), 150.0), ("alice".to_owned(), 25.0)]);
        assert_eq!(of(&before, &before), [("alice".to_owned(), 0.0), ("bob".to_owned(), 0.0)]);
        assert_eq!(of(&after, &before)[0].1, 0.0, "a time that goes back");
    }

    #[test]
    fn the_busiest_process_comes_first_in_its_domain() {
        let before = system();
        let mut after = system();
        after.uptime_ns += 2_000_000_000;
        after.domains[0].programs[1].usage.cpu_ns += 500_000_000;
        let usages = between(&before, &after);
        let programs = usages[0].programs.iter().map(|usage| (&*usage.program.name, usage.cpu_percent));
        assert_eq!(programs.collect::<Vec<_>>(), [("bob", 25.0), ("clock", 0.0)]);
    }
}
