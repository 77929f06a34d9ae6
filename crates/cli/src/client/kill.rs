//! `selkis kill`: ends programs, or a whole system.

use super::arguments::KillArguments;
use super::connection::{Connection, Wait};
use super::escape::escaped;
use super::{json, names};
use crate::failure::Failure;
use crate::lists::{print, print_json};
use control::{How, ProgramName, Reply, Request};

/// Ends what is named, and says what has ended.
pub fn kill(arguments: &KillArguments) -> Result<(), Failure> {
    let mut connection = Connection::open(arguments.target.system.as_ref())?;
    let how = if arguments.now { How::AtOnce } else { How::Gracefully };
    let request = match arguments.all {
        true => Request::Shutdown { how },
        false => Request::Kill { which: names::selector(arguments.name.as_deref()), how },
    };
    connection.ask(&request)?;
    match (connection.reply(Wait::ForEver)?, arguments.all) {
        (Reply::Killed(programs), false) => say(arguments, &programs, &lines(&programs)),
        (Reply::ShutDown, true) => say(arguments, &[], &format!("ended the system {}\n", connection.system)),
        (other, _) => Err(connection.unexpected(other).into()),
    }
}

fn say(arguments: &KillArguments, programs: &[ProgramName], words: &str) -> Result<(), Failure> {
    match arguments.target.json {
        true => print_json(&json::Ended { system: arguments.all, programs }),
        false => print(words),
    }
}

fn lines(programs: &[ProgramName]) -> String {
    programs.iter().map(|program| format!("ended {}\n", escaped(&program.to_string()))).collect()
}
