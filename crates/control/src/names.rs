//! What a user means by a name.

use crate::ProgramName;
use alloc::string::ToString;
use alloc::vec::Vec;

/// Which of `names` are meant, by their places: all that are called `asked` or lie below it, as in a path. If there are none, the
/// same without their domains; then they may be of several.
pub fn meant(asked: &str, names: &[ProgramName]) -> Vec<usize> {
    let having = |is_meant: &dyn Fn(&ProgramName) -> bool| -> Vec<usize> {
        (0..names.len()).filter(|index| is_meant(&names[*index])).collect()
    };
    let whole = having(&|name| is_at_or_below(&name.to_string(), asked));
    if whole.is_empty() { having(&|name| is_at_or_below(&name.program, asked)) } else { whole }
}

fn is_at_or_below(path: &str, asked: &str) -> bool {
    path.strip_prefix(asked).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;

    #[test]
    fn a_domain_goes_before_a_program_and_a_program_has_its_instances() {
        let names: Vec<ProgramName> =
            [("alice", "web/0"), ("alice", "web/1"), ("alice", "web-2"), ("bob", "web"), ("web", "job")]
                .map(|(domain, program)| ProgramName {
                    domain: domain.to_owned(),
                    program: program.to_owned(),
                })
                .to_vec();
        for (asked, places) in [
            ("alice", &[0, 1, 2][..]),
            ("alice/web", &[0, 1]),
            ("alice/web/1", &[1]),
            ("web/1", &[1]),
            ("web", &[4]),
            ("job", &[4]),
            ("bob/web", &[3]),
            ("web-2", &[2]),
        ] {
            assert_eq!(meant(asked, &names), places, "{asked}");
        }
        assert_eq!(meant("web", &names[..4]), [0, 1, 3], "of several domains");
        for none in ["", "/", "alice/", "alice/web/", "alice/we", "web/2", "Alice", "alice/web/1/0"] {
            assert_eq!(meant(none, &names), [0; 0], "{none}");
        }
    }
}
