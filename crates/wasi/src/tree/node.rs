//! Nodes: files, directories, symbolic links; and the table they are in.

use super::contents::Contents;
use crate::Errno;
use crate::provider::{FileKind, SetTime, Times};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A node's place in [`Nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeId(u32);

/// One file, directory or symbolic link.
#[derive(Debug)]
pub(super) struct Node<'b> {
    /// Never used twice.
    pub inode: u64,
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
    names: BTreeMap<Arc<str>, Entry>,
    order: BTreeMap<u64, Arc<str>>,
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
        Self { parent, names: BTreeMap::new(), order: BTreeMap::new(), next_cookie: 1 }
    }

    pub fn get(&self, name: &str) -> Option<NodeId> {
        self.names.get(name).map(|entry| entry.node)
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Adds an entry; the name is free.
    pub fn insert(&mut self, name: &str, node: NodeId) {
        let name: Arc<str> = Arc::from(name);
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.order.insert(cookie, Arc::clone(&name));
        self.names.insert(name, Entry { node, cookie });
    }

    pub fn remove(&mut self, name: &str) -> Option<NodeId> {
        let entry = self.names.remove(name)?;
        self.order.remove(&entry.cookie);
        Some(entry.node)
    }

    /// The entries behind a cookie: cookie, name, node.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &str, NodeId)> {
        let behind = self.order.range((core::ops::Bound::Excluded(cookie), core::ops::Bound::Unbounded));
        behind.filter_map(|(cookie, name)| Some((*cookie, &**name, self.names.get(name)?.node)))
    }
}

/// All nodes of a tree.
#[derive(Debug, Default)]
pub(super) struct Nodes<'b> {
    slots: Vec<Option<Node<'b>>>,
    free: Vec<NodeId>,
    next_inode: u64,
}

impl<'b> Nodes<'b> {
    /// Adds a node that nothing names or holds yet.
    pub fn insert(&mut self, kind: Kind<'b>, now_ns: u64) -> Result<NodeId, Errno> {
        self.next_inode += 1;
        let node = Node {
            inode: self.next_inode,
            kind,
            links: 0,
            opens: 0,
            accessed_ns: now_ns,
            modified_ns: now_ns,
            changed_ns: now_ns,
        };
        if let Some(id) = self.free.pop() {
            self.slots[id.0 as usize] = Some(node);
            return Ok(id);
        }
        let id = NodeId(u32::try_from(self.slots.len()).map_err(|_| Errno::Nospc)?);
        self.slots.push(Some(node));
        Ok(id)
    }

    pub fn get(&self, id: NodeId) -> Result<&Node<'b>, Errno> {
        self.slots.get(id.0 as usize).and_then(Option::as_ref).ok_or(Errno::Badf)
    }

    pub fn get_mut(&mut self, id: NodeId) -> Result<&mut Node<'b>, Errno> {
        self.slots.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(Errno::Badf)
    }

    /// Takes a node out that nothing names or holds.
    pub fn remove(&mut self, id: NodeId) -> Option<Node<'b>> {
        let node = self.slots.get_mut(id.0 as usize)?.take()?;
        self.free.push(id);
        Some(node)
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
