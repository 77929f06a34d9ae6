//! Nodes: files, directories, symbolic links; and the table they are in.

use super::BATCH_STEPS;
use super::contents::Contents;
use super::memory::copy_of;
use super::sorted::Sorted;
use crate::Errno;
use crate::provider::{FileKind, SetTime, Times};
use alloc::boxed::Box;

/// A node's place in [`Nodes`], and its inode number: never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(pub u64);

/// One file, directory or symbolic link.
#[derive(Debug)]
pub(super) struct Node<'b> {
    pub kind: Kind<'b>,
    /// How many directory entries name it.
    pub links: u32,
    /// How many handles hold it.
    pub opens: u32,
    pub accessed_ns: u64,
    pub modified_ns: u64,
    pub changed_ns: u64,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Kind<'b> {
    File(Contents<'b>),
    Directory(Directory),
    Symlink(Box<str>),
}

impl Node<'_> {
    pub const fn file_kind(&self) -> FileKind {
        match self.kind {
            Kind::File(_) => FileKind::Regular,
            Kind::Directory(_) => FileKind::Directory,
            Kind::Symlink(_) => FileKind::Symlink,
        }
    }

    /// Its contents have changed.
    pub const fn modify(&mut self, now_ns: u64) {
        self.modified_ns = now_ns;
        self.changed_ns = now_ns;
    }

    pub fn set_times(&mut self, times: Times, now_ns: u64) {
        let new = |time: SetTime, old: u64| match time {
            SetTime::Keep => old,
            SetTime::Now => now_ns,
            SetTime::At(ns) => ns,
        };
        self.accessed_ns = new(times.accessed, self.accessed_ns);
        self.modified_ns = new(times.modified, self.modified_ns);
        self.changed_ns = now_ns;
    }
}

/// The names in a directory, findable by name and, for readers with cookies, in the order of their making.
#[derive(Debug)]
pub(super) struct Directory {
    /// The directory that it is in; a granted one is in none.
    pub parent: Option<NodeId>,
    names: Sorted<Box<str>, Entry>,
    order: Sorted<u64, Box<str>>,
    /// The next entry's cookie; cookies begin at 1 and are never used twice.
    next_cookie: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    node: NodeId,
    cookie: u64,
}

impl Directory {
    pub const fn new(parent: Option<NodeId>) -> Self {
        Self { parent, names: Sorted::new(), order: Sorted::new(), next_cookie: 1 }
    }

    pub fn get(&self, name: &str) -> Option<NodeId> {
        self.names.get(name).map(|entry| entry.node)
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Adds an entry; the name is free. `ENOSPC` if there is no memory: then nothing has changed.
    pub fn insert(&mut self, name: &str, node: NodeId) -> Result<(), Errno> {
        let cookie = self.next_cookie;
        let (name, again) = (copy_of(name)?, copy_of(name)?);
        self.order.insert(cookie, again)?;
        if let Err(errno) = self.names.insert(name, Entry { node, cookie }) {
            self.order.remove(&cookie);
            return Err(errno);
        }
        self.next_cookie += 1;
        Ok(())
    }

    /// Lets a name that is there stand for another node.
    pub fn replace(&mut self, name: &str, node: NodeId) {
        if let Some(entry) = self.names.get_mut(name) {
            entry.node = node;
        }
    }

    /// Frees all entries.
    pub fn release(mut self, pause: fn()) {
        let mut count = 0;
        while self.names.pop().is_some() | self.order.pop().is_some() {
            count += 1;
            if count % BATCH_STEPS == 0 {
                pause();
            }
        }
    }

    pub fn remove(&mut self, name: &str) {
        if let Some(entry) = self.names.remove(name) {
            self.order.remove(&entry.cookie);
        }
    }

    /// The entries behind a cookie: cookie, name, node.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &str, NodeId)> {
        let behind = self.order.after(&cookie);
        behind.filter_map(|(cookie, name)| Some((*cookie, &**name, self.names.get(name)?.node)))
    }
}

/// All nodes of a tree.
#[derive(Debug, Default)]
pub(super) struct Nodes<'b> {
    nodes: Sorted<NodeId, Node<'b>>,
    /// The last that was given.
    last: u64,
}

impl<'b> Nodes<'b> {
    /// Adds a node that nothing names or holds yet.
    pub fn insert(&mut self, kind: Kind<'b>, now_ns: u64) -> Result<NodeId, Errno> {
        let node =
            Node { kind, links: 0, opens: 0, accessed_ns: now_ns, modified_ns: now_ns, changed_ns: now_ns };
        let id = NodeId(self.last + 1);
        self.nodes.insert(id, node)?;
        self.last = id.0;
        Ok(id)
    }

    pub fn get(&self, id: NodeId) -> Result<&Node<'b>, Errno> {
        self.nodes.get(&id).ok_or(Errno::Badf)
    }

    pub fn get_mut(&mut self, id: NodeId) -> Result<&mut Node<'b>, Errno> {
        self.nodes.get_mut(&id).ok_or(Errno::Badf)
    }

    /// Takes a node out that nothing names or holds.
    pub fn remove(&mut self, id: NodeId) -> Option<Node<'b>> {
        self.nodes.remove(&id)
    }

    /// Takes any node out, when all are to go.
    pub fn pop(&mut self) -> Option<Node<'b>> {
        self.nodes.pop().map(|(_, node)| node)
    }

    pub fn directory(&self, id: NodeId) -> Result<&Directory, Errno> {
        match &self.get(id)?.kind {
            Kind::Directory(directory) => Ok(directory),
            Kind::File(_) | Kind::Symlink(_) => Err(Errno::Notdir),
        }
    }

    pub fn directory_mut(&mut self, id: NodeId) -> Result<&mut Directory, Errno> {
        match &mut self.get_mut(id)?.kind {
            Kind::Directory(directory) => Ok(directory),
            Kind::File(_) | Kind::Symlink(_) => Err(Errno::Notdir),
        }
    }
}
