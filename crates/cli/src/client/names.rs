//! Which programs a name means.

use super::ClientError;
use control::{Domain, Program, ProgramName, Refusal, Selector, System};

/// What a command's NAME selects.
pub fn selector(name: Option<&str>) -> Selector {
    name.map_or(Selector::All, |name| Selector::Named(name.to_owned()))
}

/// Leaves of the system what the name means, by the rule of [`Selector::Named`]; of a program that several domains have, each.
pub fn narrow(system: &mut System, name: Option<&str>) -> Result<(), ClientError> {
    let Some(name) = name else { return Ok(()) };
    let known = programs(system);
    let meant = control::meant(name, &known);
    let mut places = 0..;
    for domain in &mut system.domains {
        domain.programs.retain(|_| places.next().is_some_and(|place| meant.binary_search(&place).is_ok()));
    }
    system.domains.retain(|domain| !domain.programs.is_empty());
    if system.domains.is_empty() {
        return Err(ClientError::Refused(Refusal::NoSuchName { asked: name.to_owned(), known }));
    }
    Ok(())
}

/// The error for a name that nothing has.
pub fn no_such(system: &System, name: &str) -> ClientError {
    ClientError::Refused(Refusal::NoSuchName { asked: name.to_owned(), known: programs(system) })
}

/// All programs.
pub fn programs(system: &System) -> Vec<ProgramName> {
    let of = |domain: &Domain, program: &Program| ProgramName {
        domain: domain.name.clone(),
        program: program.name.clone(),
    };
    system
        .domains
        .iter()
        .flat_map(|domain| domain.programs.iter().map(move |program| of(domain, program)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::ps::tests::system;
    use super::*;

    fn narrowed(name: &str) -> Result<Vec<String>, ClientError> {
        let mut system = system();
        narrow(&mut system, Some(name))?;
        Ok(programs(&system).iter().map(ProgramName::to_string).collect())
    }

    #[test]
    fn a_name_means_a_domain_before_a_program() {
        assert_eq!(narrowed("alice").unwrap(), ["alice/clock", "alice/bob"]);
        assert_eq!(narrowed("bob").unwrap(), ["bob/primes"], "the domain, not Alice's program");
        assert_eq!(narrowed("alice/bob").unwrap(), ["alice/bob"]);
        assert_eq!(narrowed("primes").unwrap(), ["bob/primes"]);
        for none in ["carol", "alice/primes", "", "/", "alice/"] {
            assert!(
                matches!(narrowed(none), Err(ClientError::Refused(Refusal::NoSuchName { .. }))),
                "{none}"
            );
        }
    }
}
