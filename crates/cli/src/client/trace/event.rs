//! What a record says, for people and for scripts.

use control::{TraceAccess, TraceEvent, TraceOutcome};
use serde_json::{Value, json};

/// One word for what happened.
pub fn word(event: &TraceEvent) -> &'static str {
    match event {
        TraceEvent::Switch => "switch",
        TraceEvent::Idle { .. } => "idle",
        TraceEvent::Request { .. } => "request",
        TraceEvent::Tick => "tick",
        TraceEvent::Event => "event",
        TraceEvent::Fault { .. } => "fault",
        TraceEvent::Revoking => "revoking",
        TraceEvent::Touch { .. } => "touch",
        TraceEvent::Alarm => "alarm",
        TraceEvent::Kick => "kick",
        TraceEvent::Interrupt { .. } => "interrupt",
        TraceEvent::Shootdown { .. } => "shootdown",
        TraceEvent::Wake => "wake",
        TraceEvent::Steal { .. } => "steal",
        TraceEvent::Made => "made",
        TraceEvent::Ended { .. } => "ended",
        TraceEvent::Destroyed => "destroyed",
        TraceEvent::Revocation => "revocation",
    }
}

/// What else there is to say. Addresses are text, for they are too large for what many read numbers into.
pub fn details(event: &TraceEvent) -> Vec<(&'static str, Value)> {
    let address = |address: &u64| json!(format!("{address:#x}"));
    match event {
        TraceEvent::Idle { until_ns } => vec![("until_ns", json!(until_ns))],
        TraceEvent::Request { number, outcome } => {
            let name = request(*number);
            let (outcome, more) = match outcome {
                TraceOutcome::Answered(value) => ("answered", Some(("answer", json!(value)))),
                TraceOutcome::Refused(code) => ("refused", Some(("error", json!(error(*code))))),
                TraceOutcome::Sleeps => ("sleeps", None),
                TraceOutcome::Again => ("again", None),
                TraceOutcome::NoReturn => ("no-return", None),
            };
            [("request", json!(name)), ("outcome", json!(outcome))].into_iter().chain(more).collect()
        }
        TraceEvent::Fault { vector, address: at } => {
            vec![("vector", json!(vector)), ("address", address(at))]
        }
        TraceEvent::Touch { address: at, access } => {
            let access = match access {
                TraceAccess::Read => "read",
                TraceAccess::Write => "write",
                TraceAccess::Execute => "execute",
            };
            vec![("address", address(at)), ("access", json!(access))]
        }
        TraceEvent::Interrupt { device, line } => vec![("device", json!(device)), ("line", json!(line))],
        TraceEvent::Shootdown { served, asked } => vec![("served", json!(served)), ("asked", json!(asked))],
        TraceEvent::Steal { from } => vec![("from", json!(from))],
        TraceEvent::Ended { faulted: true, .. } => vec![("faulted", json!(true))],
        TraceEvent::Ended { status, .. } => vec![("status", json!(status))],
        _ => Vec::new(),
    }
}

/// What a request is called.
pub fn request(number: u16) -> String {
    abi::Request::name_of(number.into()).map_or_else(|| format!("request-{number}"), str::to_owned)
}

/// What an error is called: `StaleHandle` is `stale-handle`.
fn error(code: u16) -> String {
    let Some(error) = abi::Error::from_code(code.into()) else { return format!("error-{code}") };
    let mut text = String::new();
    for (index, letter) in format!("{error:?}").chars().enumerate() {
        if letter.is_uppercase() && index > 0 {
            text.push('-');
        }
        text.extend(letter.to_lowercase());
    }
    text
}
