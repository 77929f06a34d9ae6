//! What was used between two looks at a system.

use control::{Domain, System};

/// A domain and what it used.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainUsage<'a> {
    /// As it is now.
    pub domain: &'a Domain,
    /// CPU time, in parts of the time that passed. More than 100 is more than one CPU.
    pub cpu_percent: f64,
}

/// Each domain of `after`, that which used most CPU time first; else in the manifest's order.
pub fn between<'a>(before: &System, after: &'a System) -> Vec<DomainUsage<'a>> {
    let passed_ns = after.uptime_ns.saturating_sub(before.uptime_ns);
    let usage = |domain: &'a Domain| {
        let earlier = before.domains.iter().find(|earlier| earlier.name == domain.name);
        // Nothing is known of a domain that was not there, nor when no time has passed.
        let used_ns = earlier.map_or(0, |earlier| domain.usage.cpu_ns.saturating_sub(earlier.usage.cpu_ns));
        let cpu_percent = if passed_ns == 0 { 0.0 } else { used_ns as f64 * 100.0 / passed_ns as f64 };
        DomainUsage { domain, cpu_percent }
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
}
