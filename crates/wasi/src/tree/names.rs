//! Making, removing and moving names.

use super::memory::copy_of;
use super::node::{Directory, Kind, NodeId, Nodes};
use super::walk::{AtEnd, Last, Place, Slash};
use super::{BATCH_STEPS, DEVICE, ENTRY_CHARGE, Held, NODE_CHARGE, Tree};
use crate::provider::{Follow, Handle, LINK_BYTES_MAX, Path, Stat};
use crate::{Errno, Result};
use alloc::boxed::Box;
use bundle::Access;

/// A place for a new name.
struct Vacancy {
    held: Held,
    directory: NodeId,
    name: Box<str>,
}

/// A name that is there.
struct Occupied {
    directory: NodeId,
    name: Box<str>,
    node: NodeId,
    slash: Slash,
}

impl<'b> Tree<'b> {
    pub(super) fn writable(&self, held: Held) -> Result<(), Errno> {
        match held.grant {
            Access::ReadOnly => Err(Errno::Rofs),
            Access::ReadWrite => Ok(()),
        }
    }

    pub(super) fn describe(&self, id: NodeId) -> Result<Stat, Errno> {
        let node = self.nodes.get(id)?;
        let (size, links) = match &node.kind {
            Kind::File(contents) => (contents.size(), node.links),
            Kind::Symlink(text) => (text.len() as u64, node.links),
            // Its own `.` and its entry, as if each directory below had no `..`.
            Kind::Directory(_) => (0, 2),
        };
        Ok(Stat {
            device: DEVICE,
            inode: id.0,
            kind: node.file_kind(),
            links: u64::from(links),
            size,
            accessed_ns: node.accessed_ns,
            modified_ns: node.modified_ns,
            changed_ns: node.changed_ns,
        })
    }

    /// Adds a new node under a name that is free.
    pub(super) fn make(&mut self, directory: NodeId, name: &str, kind: Kind<'b>) -> Result<NodeId, Errno> {
        self.alive(directory)?;
        self.budget.take(NODE_CHARGE)?;
        let made = self.nodes.insert(kind, (self.surroundings.wall_ns)()).and_then(|id| {
            self.enter_name(directory, name, id).map(|()| id).inspect_err(|_| {
                self.nodes.remove(id);
            })
        });
        made.inspect_err(|_| self.budget.give_back(NODE_CHARGE))
    }

    pub(super) fn create_directory(&mut self, directory: Handle, path: Path<'_>) -> Result<()> {
        let Vacancy { held, directory, name } =
            vacancy(&self.nodes, self.walk(directory, path, AtEnd::Keep)?, Slash::Trailing)?;
        self.writable(held)?;
        self.make(directory, &name, Kind::Directory(Directory::new(Some(directory))))?;
        Ok(())
    }

    pub(super) fn symlink(&mut self, text: &str, directory: Handle, path: Path<'_>) -> Result<()> {
        match text {
            "" => return Err(Errno::Noent.into()),
            _ if text.len() > LINK_BYTES_MAX => return Err(Errno::Nametoolong.into()),
            _ if text.starts_with('/') => return Err(Errno::Perm.into()),
            _ => {}
        }
        let Vacancy { held, directory, name } =
            vacancy(&self.nodes, self.walk(directory, path, AtEnd::Keep)?, Slash::None)?;
        self.writable(held)?;
        let charge = text.len() as u64;
        self.budget.take(charge)?;
        let made = copy_of(text).and_then(|text| self.make(directory, &name, Kind::Symlink(text)));
        made.inspect_err(|_| self.budget.give_back(charge))?;
        Ok(())
    }

    pub(super) fn link(
        &mut self,
        from_directory: Handle,
        from: Path<'_>,
        to_directory: Handle,
        to: Path<'_>,
    ) -> Result<()> {
        let (from_held, from_place) = self.walk(from_directory, from, Follow::No)?;
        if from.names_directory() {
            from_place.existing(&self.nodes)?;
        }
        let to_place = self.walk(to_directory, to, AtEnd::Keep)?;
        let node = from_place.existing(&self.nodes)?;
        let Vacancy { held, directory, name } = vacancy(&self.nodes, to_place, Slash::None)?;
        self.writable(from_held)?;
        self.writable(held)?;
        if let Kind::Directory(_) = self.nodes.get(node)?.kind {
            return Err(Errno::Perm.into());
        }
        self.alive(directory)?;
        Ok(self.enter_name(directory, &name, node)?)
    }

    pub(super) fn unlink(&mut self, directory: Handle, path: Path<'_>) -> Result<()> {
        let (held, place) = self.walk(directory, path, AtEnd::Keep)?;
        let found = match occupied(place)? {
            Ok(found) => found,
            Err(_) => return Err(Errno::Isdir.into()),
        };
        match (&self.nodes.get(found.node)?.kind, found.slash) {
            (Kind::Directory(_), _) => return Err(Errno::Isdir.into()),
            (_, Slash::Trailing) => return Err(Errno::Notdir.into()),
            (_, Slash::None) => {}
        }
        self.writable(held)?;
        self.remove_name(&found)
    }

    pub(super) fn remove_directory(&mut self, directory: Handle, path: Path<'_>) -> Result<()> {
        let (held, place) = self.walk(directory, path, AtEnd::Keep)?;
        let found = match occupied(place)? {
            Ok(found) => found,
            Err(Last::Dot) => return Err(Errno::Inval.into()),
            Err(Last::DotDot) => return Err(Errno::Notempty.into()),
        };
        let empty = self.nodes.directory(found.node)?.is_empty();
        self.writable(held)?;
        if !empty {
            return Err(Errno::Notempty.into());
        }
        self.remove_name(&found)
    }

    pub(super) fn rename(
        &mut self,
        from_directory: Handle,
        from: Path<'_>,
        to_directory: Handle,
        to: Path<'_>,
    ) -> Result<()> {
        let (from_held, from_place) = self.walk(from_directory, from, AtEnd::Keep)?;
        let (to_held, to_place) = self.walk(to_directory, to, AtEnd::Keep)?;
        let Place::Entry { directory: to_parent, name: to_name, node: replaced, slash: to_slash } = to_place
        else {
            return Err(Errno::Busy.into());
        };
        let to_name = copy_of(to_name)?;
        let source = occupied(from_place)?.map_err(|_| Errno::Busy)?;
        let is_directory = matches!(self.nodes.get(source.node)?.kind, Kind::Directory(_));
        if !is_directory && (source.slash == Slash::Trailing || to_slash == Slash::Trailing) {
            return Err(Errno::Notdir.into());
        }
        self.writable(from_held)?;
        self.writable(to_held)?;
        self.alive(to_parent)?;
        if is_directory && self.is_within(to_parent, source.node)? {
            return Err(Errno::Inval.into());
        }
        match replaced {
            Some(replaced) if replaced == source.node => return Ok(()),
            Some(replaced) => self.rename_over(&source, to_parent, &to_name, replaced)?,
            None => {
                // The old name pays for the new one, which is there before the old one goes.
                self.budget.give_back(name_charge(&source.name));
                if let Err(errno) = self.enter_name(to_parent, &to_name, source.node) {
                    self.budget.take(name_charge(&source.name))?;
                    return Err(errno.into());
                }
                self.leave_name(&source)?;
            }
        }
        if is_directory {
            self.nodes.directory_mut(source.node)?.parent = Some(to_parent);
        }
        Ok(())
    }

    /// Gives the source the name that another node has. The entry stays, so that this needs no memory.
    fn rename_over(
        &mut self,
        source: &Occupied,
        directory: NodeId,
        name: &str,
        replaced: NodeId,
    ) -> Result<()> {
        self.may_replace(replaced, source)?;
        let now_ns = (self.surroundings.wall_ns)();
        self.nodes.directory_mut(directory)?.replace(name, source.node);
        self.nodes.get_mut(directory)?.modify(now_ns);
        self.nodes.get_mut(source.node)?.links += 1;
        self.leave_name(source)?;
        self.budget.give_back(name_charge(&source.name));
        let node = self.nodes.get_mut(replaced)?;
        node.links -= 1;
        node.changed_ns = now_ns;
        self.collect(replaced)
    }

    /// Whether what is renamed may take the place of `replaced`.
    fn may_replace(&self, replaced: NodeId, source: &Occupied) -> Result<()> {
        let source_is_directory = matches!(self.nodes.get(source.node)?.kind, Kind::Directory(_));
        match (&self.nodes.get(replaced)?.kind, source_is_directory) {
            // The directory that the source is in, or one above it, is among these: it is not empty.
            (Kind::Directory(directory), true) if !directory.is_empty() => Err(Errno::Notempty.into()),
            (Kind::Directory(_), false) if self.is_within(source.directory, replaced)? => {
                Err(Errno::Notempty.into())
            }
            (Kind::Directory(_), true) => Ok(()),
            (Kind::Directory(_), false) => Err(Errno::Isdir.into()),
            (_, true) => Err(Errno::Notdir.into()),
            (_, false) => Ok(()),
        }
    }

    /// Whether `directory` is `above` or lies in it.
    fn is_within(&self, mut directory: NodeId, above: NodeId) -> Result<bool> {
        for steps in 1u64.. {
            if steps.is_multiple_of(BATCH_STEPS) {
                (self.surroundings.checkpoint)()?;
            }
            if directory == above {
                return Ok(true);
            }
            match self.nodes.directory(directory)?.parent {
                Some(parent) => directory = parent,
                None => break,
            }
        }
        Ok(false)
    }

    /// `ENOENT` for a directory that has been removed and is only held open: nothing is there, nor can be made there.
    pub(super) fn alive(&self, directory: NodeId) -> Result<(), Errno> {
        let is_root = self.roots.iter().any(|(root, _)| *root == directory);
        if is_root || self.nodes.get(directory)?.links > 0 { Ok(()) } else { Err(Errno::Noent) }
    }

    /// Gives a node a name; the name is free.
    fn enter_name(&mut self, directory: NodeId, name: &str, node: NodeId) -> Result<(), Errno> {
        let links = self.nodes.get(node)?.links.checked_add(1).ok_or(Errno::Mlink)?;
        self.budget.take(name_charge(name))?;
        let now_ns = (self.surroundings.wall_ns)();
        if let Err(errno) = self.nodes.directory_mut(directory)?.insert(name, node) {
            self.budget.give_back(name_charge(name));
            return Err(errno);
        }
        self.nodes.get_mut(directory)?.modify(now_ns);
        let named = self.nodes.get_mut(node)?;
        named.links = links;
        named.changed_ns = now_ns;
        Ok(())
    }

    /// Takes a name away and leaves its node, and what was paid for the name.
    fn leave_name(&mut self, name: &Occupied) -> Result<(), Errno> {
        let now_ns = (self.surroundings.wall_ns)();
        self.nodes.directory_mut(name.directory)?.remove(&name.name);
        self.nodes.get_mut(name.directory)?.modify(now_ns);
        let node = self.nodes.get_mut(name.node)?;
        node.links -= 1;
        node.changed_ns = now_ns;
        Ok(())
    }

    /// Takes a name away, and its node if that was the last use of it.
    fn remove_name(&mut self, name: &Occupied) -> Result<()> {
        self.leave_name(name)?;
        self.budget.give_back(name_charge(&name.name));
        self.collect(name.node)
    }
}

/// The place for a new name. `allowed` says what may stand behind it: only a directory's name can have a
/// slash.
fn vacancy(nodes: &Nodes<'_>, (held, place): (Held, Place<'_>), allowed: Slash) -> Result<Vacancy, Errno> {
    match place {
        Place::Entry { node: Some(node), slash: Slash::Trailing, .. } if allowed == Slash::None => {
            Err(nodes.directory(node).map_or(Errno::Notdir, |_| Errno::Exist))
        }
        Place::Unnamed { .. } | Place::Entry { node: Some(_), .. } => Err(Errno::Exist),
        Place::Entry { slash: Slash::Trailing, .. } if allowed == Slash::None => Err(Errno::Noent),
        Place::Entry { directory, name, .. } => Ok(Vacancy { held, directory, name: copy_of(name)? }),
    }
}

/// A name that is there (`ENOENT` if not), or how a path ends that is not by a name.
fn occupied(place: Place<'_>) -> Result<Result<Occupied, Last>, Errno> {
    match place {
        Place::Unnamed { last, .. } => Ok(Err(last)),
        Place::Entry { node: None, .. } => Err(Errno::Noent),
        Place::Entry { directory, name, node: Some(node), slash } => {
            Ok(Ok(Occupied { directory, name: copy_of(name)?, node, slash }))
        }
    }
}

const fn name_charge(name: &str) -> u64 {
    ENTRY_CHARGE + 2 * name.len() as u64
}
