//! Who has the domains.

use super::ready::Ready;
use crate::failure::Failure;
use control::{How, Request};
use rustix::event::PollFd;
use std::fmt::Debug;
use std::time::Duration;
use supervisor::{News, Outcome, Progress};

/// A system that runs: its domains are processes of this one, or are in a machine.
pub trait Backend {
    /// An answer to a client that is being given.
    type Answer: Debug;

    /// Starts everything.
    fn begin(&mut self);

    /// Ends everything.
    fn shutdown(&mut self, how: How);

    /// Takes in what has happened since.
    fn advance(&mut self, ready: &Ready) -> Result<(), Failure>;

    /// What to wait for.
    fn wait_for<'a>(&'a self, entries: &mut Vec<PollFd<'a>>);

    /// How long to wait at most.
    fn time_left(&self) -> Option<Duration>;

    /// How it has done, if every program has ended for good.
    fn outcome(&self) -> Option<Outcome>;

    /// Takes a client's request.
    fn ask(&mut self, request: Request) -> Self::Answer;

    /// The next part of an answer.
    fn next_reply(&mut self, answer: &mut Self::Answer) -> Progress;

    /// Nobody waits for the answer any more.
    fn forget(&mut self, answer: Self::Answer);

    /// What has happened since this was called last.
    fn take_news(&mut self) -> Vec<News>;

    /// Nobody has anything to ask any more: ends what is still there.
    fn close(&mut self) -> Result<(), Failure>;
}
