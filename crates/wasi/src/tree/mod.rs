//! A file system in memory, made from the copies of directories that travel in a bundle.
//!
//! What came with the bundle becomes nodes when the program looks at it for the first time; if it describes no files,
//! that answers `EIO`. Contents stay in the bundle until they are written; then a chunk at a time is copied. Memory for what
//! programs make and write comes out of a budget, so that it ends in `ENOSPC`. Each file's checksum is
//! verified when the file is opened for the first time: a damaged one answers `EIO`.
//!
//! Times of access are kept as they were set; reading does not change them.

mod contents;
mod memory;
mod names;
mod node;
mod plant;
mod sorted;
#[cfg(test)]
mod tests;
mod walk;

use crate::provider::{
    Appended, Create, Entry, Expect, FileAccess, Files, Follow, Handle, Open, Opened, Path, Stat, Sync,
    Times, Truncate, Visit,
};
use crate::{Errno, Result, Stopped};
use alloc::vec::Vec;
use bundle::{Access, Copied};
use contents::Contents;
use memory::{copy_of, make_room};
use node::{Directory, Kind, Node, NodeId, Nodes};
pub use plant::planted_bytes;
use walk::{AtEnd, Place, Slash, walk};

/// The device that all files of a tree say they are on.
const DEVICE: u64 = 1;
/// What the budget is charged for a node, its names not counted.
const NODE_CHARGE: u64 = 256;
/// What the budget is charged for a directory entry, besides its name.
const ENTRY_CHARGE: u64 = 224;
/// How many names are looked up before the process can be ended again.
const BATCH_STEPS: u64 = 256;

/// A copied directory, as it is granted.
#[derive(Debug)]
pub struct Grant {
    /// What may be done with it.
    pub access: Access,
    /// What is in it.
    pub copied: Copied,
}

/// The file system.
pub struct Tree<'b> {
    nodes: Nodes<'b>,
    roots: Vec<(NodeId, Access)>,
    open: Vec<Slot>,
    budget: Budget,
    surroundings: Surroundings,
    /// Where the contents of what came with the bundle lie.
    files: &'b [u8],
    /// What came with it, until somebody looks for it; by the places of the roots.
    unplanted: Option<Vec<Copied>>,
    /// What has come of that.
    planted: Result<(), Errno>,
}

/// What a tree asks of those who made it.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Nanoseconds since 1970: the time that changes are stamped with.
    pub wall_ns: fn() -> u64,
    /// Called between the pieces of what takes long, as [`crate::provider::Wait::checkpoint`] is.
    pub checkpoint: Checkpoint,
    /// Called between the pieces of what takes long and need not be done at once, also when the process is to end.
    pub pause: fn(),
}

/// Fails if the process is to end. Returns at once.
pub type Checkpoint = fn() -> Result<(), Stopped>;

/// How much memory a tree may still take, in bytes. What came with the bundle was not charged; the memory
/// that removing it frees is added.
#[derive(Debug)]
struct Budget {
    left: u64,
}

impl Budget {
    const fn new(bytes: u64) -> Self {
        Self { left: bytes }
    }

    fn take(&mut self, bytes: u64) -> Result<(), Errno> {
        self.left = self.left.checked_sub(bytes).ok_or(Errno::Nospc)?;
        Ok(())
    }

    const fn give_back(&mut self, bytes: u64) {
        self.left += bytes;
    }

    #[cfg(test)]
    const fn left(&self) -> u64 {
        self.left
    }
}

/// A place for something open, with the generation that the handle of what is in it bears.
#[derive(Debug)]
struct Slot {
    generation: u32,
    held: Option<Held>,
}

/// Something open.
#[derive(Clone, Copy, Debug)]
struct Held {
    node: NodeId,
    grant: Access,
    access: FileAccess,
}

impl<'b> Tree<'b> {
    /// The file system of `grants`, whose contents lie in `files`. What programs make and write may take
    /// `bytes_max` bytes; that what is granted describes files in `files` is found out when somebody looks.
    ///
    /// # Errors
    /// `ENOSPC` if there is no memory for so many grants.
    pub fn new(
        grants: Vec<Grant>,
        files: &'b [u8],
        bytes_max: u64,
        surroundings: Surroundings,
    ) -> Result<Self, Errno> {
        let mut tree = Self {
            nodes: Nodes::default(),
            roots: Vec::new(),
            open: Vec::new(),
            budget: Budget::new(bytes_max),
            surroundings,
            files,
            unplanted: None,
            planted: Ok(()),
        };
        let now_ns = (surroundings.wall_ns)();
        for grant in &grants {
            let root = tree.nodes.insert(Kind::Directory(Directory::new(None)), now_ns)?;
            tree.roots.push((root, grant.access));
        }
        tree.unplanted = Some(grants.into_iter().map(|grant| grant.copied).collect());
        Ok(tree)
    }

    fn held(&self, handle: Handle) -> Result<Held, Errno> {
        let slot = self.open.get(handle.0 as u32 as usize).ok_or(Errno::Badf)?;
        if u64::from(slot.generation) == handle.0 >> 32 {
            slot.held.ok_or(Errno::Badf)
        } else {
            Err(Errno::Badf)
        }
    }

    /// A place for something open, made if there is none.
    fn vacant(&mut self) -> Result<usize, Errno> {
        if let Some(index) = self.open.iter().position(|slot| slot.held.is_none()) {
            return Ok(index);
        }
        make_room(&mut self.open).map_err(|_| Errno::Nomem)?;
        self.open.push(Slot { generation: 0, held: None });
        Ok(self.open.len() - 1)
    }

    fn hold(&mut self, held: Held) -> Result<Handle, Errno> {
        let index = self.vacant()?;
        self.nodes.get_mut(held.node)?.opens += 1;
        let slot = &mut self.open[index];
        slot.held = Some(held);
        Ok(Handle(u64::from(slot.generation) << 32 | index as u64))
    }

    fn walk<'w>(
        &'w self,
        directory: Handle,
        path: Path<'w>,
        at_end: impl Into<AtEnd>,
    ) -> Result<(Held, Place<'w>)> {
        let held = self.held(directory)?;
        Ok((held, walk(&self.nodes, held.node, path, at_end.into(), self.surroundings.checkpoint)?))
    }

    /// The contents of an open file, and the budget and time for changing them.
    fn contents(&mut self, node: NodeId) -> Result<(&mut Node<'b>, &mut Budget), Errno> {
        Ok((self.nodes.get_mut(node)?, &mut self.budget))
    }

    /// Changes the contents of a file that is open to be written.
    fn change<A>(
        &mut self,
        file: Handle,
        how: impl FnOnce(&mut Contents<'b>, &mut Budget) -> Result<A>,
    ) -> Result<A> {
        let held = self.held(file)?;
        if held.access == FileAccess::Read {
            return Err(Errno::Badf.into());
        }
        let now_ns = (self.surroundings.wall_ns)();
        let (node, budget) = self.contents(held.node)?;
        let Kind::File(contents) = &mut node.kind else { return Err(Errno::Badf.into()) };
        let answer = how(contents, budget)?;
        node.modify(now_ns);
        Ok(answer)
    }

    /// Frees a node that nothing names or holds any more.
    fn collect(&mut self, id: NodeId) -> Result<()> {
        let unused = self.nodes.get(id).is_ok_and(|node| node.links == 0 && node.opens == 0);
        let is_root = self.roots.iter().any(|(root, _)| *root == id);
        if unused
            && !is_root
            && let Some(node) = self.nodes.remove(id)
        {
            self.budget.give_back(NODE_CHARGE);
            match node.kind {
                Kind::File(contents) => contents.release(&mut self.budget, self.surroundings.pause),
                Kind::Symlink(text) => self.budget.give_back(text.len() as u64),
                Kind::Directory(_) => {}
            }
        }
        Ok(())
    }

    fn open_existing(&mut self, held: Held, id: NodeId, open: Open) -> Result<Opened> {
        let checkpoint = self.surroundings.checkpoint;
        let node = self.nodes.get_mut(id)?;
        let kind = node.file_kind();
        let writes = open.access != FileAccess::Read || open.truncate == Truncate::Empty;
        match &mut node.kind {
            Kind::Symlink(_) => {
                let errno = if open.expect == Expect::Directory { Errno::Notdir } else { Errno::Loop };
                return Err(errno.into());
            }
            Kind::Directory(_) if writes || open.create != Create::Never => return Err(Errno::Isdir.into()),
            Kind::Directory(_) => {}
            Kind::File(_) if open.expect == Expect::Directory => return Err(Errno::Notdir.into()),
            Kind::File(_) if writes && held.grant == Access::ReadOnly => return Err(Errno::Rofs.into()),
            Kind::File(contents) => {
                contents.verify(checkpoint)?;
                if open.truncate == Truncate::Empty {
                    contents.set_size(0, &mut self.budget, checkpoint)?;
                    node.modify((self.surroundings.wall_ns)());
                }
            }
        }
        let handle = self.hold(Held { node: id, grant: held.grant, access: open.access })?;
        Ok(Opened { handle, kind })
    }
}

impl Files for Tree<'_> {
    fn open_grant(&mut self, grant: u32) -> Result<Handle> {
        let (node, grant) = *self.roots.get(grant as usize).ok_or(Errno::Noent)?;
        Ok(self.hold(Held { node, grant, access: FileAccess::Read })?)
    }

    fn open_at(&mut self, directory: Handle, path: Path<'_>, open: Open) -> Result<Opened> {
        let at_end = match (open.create, open.follow) {
            (Create::Never, follow) => follow.into(),
            (Create::IfMissing, Follow::Yes) => AtEnd::FollowBeforeNothing,
            (Create::IfMissing, Follow::No) | (Create::Exclusively, _) => AtEnd::Keep,
        };
        self.plant_all()?;
        // Before anything is made that nobody could be given.
        self.vacant()?;
        let (held, place) = self.walk(directory, path, at_end)?;
        let (parent, name) = match place {
            Place::Unnamed { .. } if open.create == Create::Exclusively => return Err(Errno::Exist.into()),
            Place::Unnamed { .. } | Place::Entry { slash: Slash::Trailing, .. }
                if open.create != Create::Never =>
            {
                return Err(Errno::Isdir.into());
            }
            Place::Entry { node: Some(_), .. } if open.create == Create::Exclusively => {
                return Err(Errno::Exist.into());
            }
            Place::Entry { directory, name, node: None, slash: Slash::None }
                if open.create != Create::Never =>
            {
                (directory, copy_of(name)?)
            }
            place => {
                let id = place.existing(&self.nodes)?;
                return self.open_existing(held, id, open);
            }
        };
        self.writable(held)?;
        let id = self.make(parent, &name, Kind::File(Contents::default()))?;
        let handle = self.hold(Held { node: id, grant: held.grant, access: open.access })?;
        Ok(Opened { handle, kind: crate::provider::FileKind::Regular })
    }

    fn close(&mut self, handle: Handle) -> Result<()> {
        let held = self.held(handle)?;
        let slot = &mut self.open[handle.0 as u32 as usize];
        slot.held = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.nodes.get_mut(held.node)?.opens -= 1;
        self.collect(held.node)
    }

    fn read_at(&mut self, file: Handle, offset: u64, into: &mut [u8]) -> Result<usize> {
        let held = self.held(file)?;
        match &self.nodes.get(held.node)?.kind {
            Kind::Directory(_) => Err(Errno::Isdir.into()),
            Kind::File(contents) if held.access != FileAccess::Write => Ok(contents.read(offset, into)?),
            Kind::File(_) | Kind::Symlink(_) => Err(Errno::Badf.into()),
        }
    }

    fn write_at(&mut self, file: Handle, offset: u64, bytes: &[u8]) -> Result<usize> {
        self.change(file, |contents, budget| Ok(contents.write(offset, bytes, budget)?))
    }

    fn append(&mut self, file: Handle, bytes: &[u8]) -> Result<Appended> {
        self.change(file, |contents, budget| {
            let count = contents.write(contents.size(), bytes, budget)?;
            Ok(Appended { count, end: contents.size() })
        })
    }

    fn set_size(&mut self, file: Handle, size: u64) -> Result<()> {
        let checkpoint = self.surroundings.checkpoint;
        self.change(file, |contents, budget| contents.set_size(size, budget, checkpoint))
    }

    fn allocate(&mut self, file: Handle, offset: u64, length: u64) -> Result<()> {
        let checkpoint = self.surroundings.checkpoint;
        self.change(file, |contents, budget| contents.allocate(offset, length, budget, checkpoint))
    }

    fn sync(&mut self, handle: Handle, _: Sync) -> Result<()> {
        self.held(handle)?;
        Ok(())
    }

    fn stat(&mut self, handle: Handle) -> Result<Stat> {
        Ok(self.describe(self.held(handle)?.node)?)
    }

    fn stat_at(&mut self, directory: Handle, path: Path<'_>, follow: Follow) -> Result<Stat> {
        self.plant_all()?;
        let (_, place) = self.walk(directory, path, follow)?;
        Ok(self.describe(place.existing(&self.nodes)?)?)
    }

    fn set_times(&mut self, handle: Handle, times: Times) -> Result<()> {
        let held = self.held(handle)?;
        self.writable(held)?;
        self.nodes.get_mut(held.node)?.set_times(times, (self.surroundings.wall_ns)());
        Ok(())
    }

    fn set_times_at(
        &mut self,
        directory: Handle,
        path: Path<'_>,
        follow: Follow,
        times: Times,
    ) -> Result<()> {
        self.plant_all()?;
        let (held, place) = self.walk(directory, path, follow)?;
        let id = place.existing(&self.nodes)?;
        self.writable(held)?;
        self.nodes.get_mut(id)?.set_times(times, (self.surroundings.wall_ns)());
        Ok(())
    }

    fn read_directory(&mut self, directory: Handle, cookie: u64, visit: Visit<'_>) -> Result<()> {
        self.plant_all()?;
        let held = self.held(directory)?;
        let entries = self.nodes.directory(held.node)?.after(cookie);
        // Linux says of a removed directory that it is not there, not that it is empty.
        self.alive(held.node)?;
        // A long list in several calls: the process can be ended between them.
        for (next, name, id) in entries.take(BATCH_STEPS as usize) {
            let node = self.nodes.get(id)?;
            let entry = Entry { next, inode: id.0, kind: node.file_kind(), name };
            if visit(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn create_directory_at(&mut self, directory: Handle, path: Path<'_>) -> Result<()> {
        self.plant_all()?;
        self.create_directory(directory, path)
    }

    fn remove_directory_at(&mut self, directory: Handle, path: Path<'_>) -> Result<()> {
        self.plant_all()?;
        self.remove_directory(directory, path)
    }

    fn unlink_at(&mut self, directory: Handle, path: Path<'_>) -> Result<()> {
        self.plant_all()?;
        self.unlink(directory, path)
    }

    fn rename_at(
        &mut self,
        directory: Handle,
        from: Path<'_>,
        to_directory: Handle,
        to: Path<'_>,
    ) -> Result<()> {
        self.plant_all()?;
        self.rename(directory, from, to_directory, to)
    }

    fn link_at(
        &mut self,
        directory: Handle,
        from: Path<'_>,
        to_directory: Handle,
        to: Path<'_>,
    ) -> Result<()> {
        self.plant_all()?;
        self.link(directory, from, to_directory, to)
    }

    fn symlink_at(&mut self, text: &str, directory: Handle, path: Path<'_>) -> Result<()> {
        self.plant_all()?;
        self.symlink(text, directory, path)
    }

    fn read_link_at(&mut self, directory: Handle, path: Path<'_>, into: &mut [u8]) -> Result<usize> {
        self.plant_all()?;
        let (_, place) = self.walk(directory, path, Follow::No)?;
        let id = place.existing(&self.nodes)?;
        let Kind::Symlink(text) = &self.nodes.get(id)?.kind else { return Err(Errno::Inval.into()) };
        let count = text.len().min(into.len());
        into[..count].copy_from_slice(&text.as_bytes()[..count]);
        Ok(count)
    }
}
