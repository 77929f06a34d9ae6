//! From a path to a node, never leaving the directory where the walk begins.

use super::node::{Kind, NodeId, Nodes};
use super::{BATCH_STEPS, Checkpoint};
use crate::provider::{Follow, NAME_BYTES_MAX, Path};
use crate::{Errno, Result};

/// How many symbolic links a walk follows: Linux' MAXSYMLINKS.
const LINKS_MAX: usize = 40;

/// Where a walk ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'w> {
    /// At a directory that the path does not name by an entry: the beginning itself, or what `.` or `..`
    /// leads to.
    Unnamed { node: NodeId, last: Last },
    /// At an entry of a directory, which may not be there yet.
    Entry { directory: NodeId, name: &'w str, node: Option<NodeId>, slash: Slash },
}

/// How a path ends that does not end in a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Dot,
    DotDot,
}

/// What to do with a symbolic link as the last component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtEnd {
    /// Follow it.
    Follow,
    /// Follow it only if there is a slash behind it.
    FollowBeforeSlash,
    /// Follow it only if there is no slash behind it.
    FollowBeforeNothing,
    /// Keep it: this is about the name.
    Keep,
}

impl From<Follow> for AtEnd {
    fn from(follow: Follow) -> Self {
        match follow {
            Follow::Yes => Self::Follow,
            Follow::No => Self::FollowBeforeSlash,
        }
    }
}

/// Whether a name is followed by a slash, and so can only be a directory's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slash {
    None,
    Trailing,
}

impl Place<'_> {
    /// The node, which must be there and, if the path ends in a slash, a directory.
    pub fn existing(self, nodes: &Nodes<'_>) -> Result<NodeId, Errno> {
        match self {
            Self::Unnamed { node, .. } => Ok(node),
            Self::Entry { node: None, .. } => Err(Errno::Noent),
            Self::Entry { node: Some(node), slash: Slash::None, .. } => Ok(node),
            Self::Entry { node: Some(node), slash: Slash::Trailing, .. } => {
                nodes.directory(node).map(|_| node)
            }
        }
    }
}

/// Texts that are yet to be walked: the path, and the symbolic links that were met, the last one on top. What
/// is left of each is nothing, one slash (the text ended in some), or begins with a component.
struct Pending<'w> {
    texts: [&'w str; LINKS_MAX + 1],
    depth: usize,
    links: usize,
}

impl<'w> Pending<'w> {
    fn new(path: &'w str) -> Self {
        let mut texts = [""; LINKS_MAX + 1];
        texts[0] = path;
        Self { texts, depth: 1, links: 0 }
    }

    /// The next component, `None` at the end.
    fn next(&mut self) -> Option<&'w str> {
        while self.depth > 0 {
            let text = self.texts[self.depth - 1].trim_start_matches('/');
            if text.is_empty() {
                self.depth -= 1;
                continue;
            }
            let (name, behind) = text.split_at(text.find('/').unwrap_or(text.len()));
            let rest = behind.trim_start_matches('/');
            self.texts[self.depth - 1] = if rest.is_empty() { behind.get(..1).unwrap_or("") } else { rest };
            return Some(name);
        }
        None
    }

    /// What follows the component that was just taken.
    fn rest(&self) -> Rest {
        self.texts[..self.depth].iter().fold(Rest::Nothing, |rest, text| match (rest, *text) {
            (_, "") => rest,
            (Rest::Nothing | Rest::Slash, "/") => Rest::Slash,
            _ => Rest::Components,
        })
    }

    fn push_link(&mut self, text: &'w str) -> Result<(), Errno> {
        if text.starts_with('/') {
            return Err(Errno::Perm);
        }
        if self.links == LINKS_MAX {
            return Err(Errno::Loop);
        }
        self.links += 1;
        // A link follows a component, whose own text may be used up: there is always room for as many as
        // links.
        self.texts[self.depth] = text;
        self.depth += 1;
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Nothing,
    Slash,
    Components,
}

/// Walks from `begin`. Symbolic links on the way are followed, one at the end as `at_end` says. `EPERM` for a
/// step above `begin`.
pub(super) fn walk<'w>(
    nodes: &'w Nodes<'_>,
    begin: NodeId,
    path: Path<'w>,
    at_end: AtEnd,
    checkpoint: Checkpoint,
) -> Result<Place<'w>> {
    let mut pending = Pending::new(path.as_str());
    let mut here = begin;
    let mut place = Place::Unnamed { node: begin, last: Last::Dot };
    let mut steps = 0u64;
    while let Some(name) = pending.next() {
        steps += 1;
        if steps.is_multiple_of(BATCH_STEPS) {
            checkpoint()?;
        }
        let directory = nodes.directory(here)?;
        let rest = pending.rest();
        match name {
            "." => place = Place::Unnamed { node: here, last: Last::Dot },
            ".." if here == begin => return Err(Errno::Perm.into()),
            ".." => {
                here = directory.parent.ok_or(Errno::Perm)?;
                place = Place::Unnamed { node: here, last: Last::DotDot };
            }
            _ if name.len() > NAME_BYTES_MAX => return Err(Errno::Nametoolong.into()),
            _ => {
                let node = directory.get(name);
                let link = match node.map(|node| nodes.get(node)).transpose()?.map(|node| &node.kind) {
                    Some(Kind::Symlink(text)) => Some(text),
                    _ => None,
                };
                let follow = match rest {
                    Rest::Components => true,
                    Rest::Slash => matches!(at_end, AtEnd::Follow | AtEnd::FollowBeforeSlash),
                    Rest::Nothing => matches!(at_end, AtEnd::Follow | AtEnd::FollowBeforeNothing),
                };
                match (link, rest) {
                    (Some(text), _) if follow => pending.push_link(text)?,
                    (_, Rest::Components) => here = node.ok_or(Errno::Noent)?,
                    (_, Rest::Slash | Rest::Nothing) => {
                        let slash = if rest == Rest::Slash { Slash::Trailing } else { Slash::None };
                        return Ok(Place::Entry { directory: here, name, node, slash });
                    }
                }
            }
        }
    }
    Ok(place)
}
