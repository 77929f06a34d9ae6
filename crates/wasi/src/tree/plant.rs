//! What came with the bundle becomes nodes: when a program first looks into its directories, and in that one's time. And what they all become nothing in.

use super::contents::Contents;
use super::memory::{copy_of, make_room};
use super::node::{Directory, Kind, NodeId};
use super::{BATCH_STEPS, Tree};
use crate::{Errno, Result};
use alloc::vec::Vec;
use bundle::{Copied, NodeKind};
use core::slice::Iter;

/// What a node takes of the heap at most, and how often its name; and the granted directory itself.
const NODE_BYTES: u64 = 768;
const NAME_COPIES: u64 = 4;

/// What a copied directory takes of the heap at most, as long as nobody makes anything in it.
pub fn planted_bytes(copied: &Copied) -> u64 {
    (copied.count() + 1).saturating_mul(NODE_BYTES).saturating_add(NAME_COPIES * copied.text_bytes())
}

impl Tree<'_> {
    /// Plants what was granted, if that has not been done. `ENOMEM` if there was no memory for all of it, `EIO` if it describes no files: then
    /// each time.
    pub(super) fn plant_all(&mut self) -> Result<()> {
        if let Some(grants) = self.unplanted.take() {
            // Of half of it nothing is shown.
            self.planted = Err(Errno::Io);
            let roots: Vec<NodeId> = self.roots.iter().map(|(root, _)| *root).collect();
            for (root, copied) in roots.into_iter().zip(&grants) {
                match self.plant(root, copied.nodes()) {
                    Err(crate::Error::Errno(errno)) => {
                        self.planted = Err(errno);
                        return Err(errno.into());
                    }
                    stopped_or_done => stopped_or_done?,
                }
            }
            self.planted = Ok(());
        }
        Ok(self.planted?)
    }

    fn plant(&mut self, root: NodeId, nodes: &[bundle::Node]) -> Result<()> {
        let mut work: Vec<(NodeId, Iter<'_, bundle::Node>)> = Vec::new();
        make_room(&mut work).map_err(|_| Errno::Nomem)?;
        work.push((root, nodes.iter()));
        let mut count = 0;
        while let Some((parent, nodes)) = work.last_mut() {
            let Some(node) = nodes.next() else {
                work.pop();
                continue;
            };
            count += 1;
            if count % BATCH_STEPS == 0 {
                (self.surroundings.pause)();
                (self.surroundings.checkpoint)()?;
            }
            let parent = *parent;
            let id = self.plant_node(parent, node)?;
            if let NodeKind::Directory(inner) = &node.kind {
                make_room(&mut work).map_err(|_| Errno::Nomem)?;
                work.push((id, inner.iter()));
            }
        }
        Ok(())
    }

    fn plant_node(&mut self, parent: NodeId, node: &bundle::Node) -> Result<NodeId, Errno> {
        let name = node.name.as_str();
        let kind = match &node.kind {
            NodeKind::Directory(_) => Kind::Directory(Directory::new(Some(parent))),
            NodeKind::File { offset, length, checksum } => {
                let bytes = slice(self.files, *offset, *length).ok_or(Errno::Io)?;
                Kind::File(Contents::of_bundle(bytes, *checksum))
            }
            NodeKind::Symlink(text) => Kind::Symlink(copy_of(text).map_err(|_| Errno::Nomem)?),
        };
        let is_sound = !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
        if !is_sound || self.nodes.directory(parent)?.get(name).is_some() {
            return Err(Errno::Io);
        }
        let id = self.nodes.insert(kind, node.modified_ns).map_err(|_| Errno::Nomem)?;
        self.nodes.directory_mut(parent)?.insert(name, id).map_err(|_| Errno::Nomem)?;
        self.nodes.get_mut(id)?.links += 1;
        Ok(id)
    }
}

/// In pieces, since there may be much, and whoever frees it is not interrupted otherwise.
impl Drop for Tree<'_> {
    fn drop(&mut self) {
        let pause = self.surroundings.pause;
        let mut count = 0;
        while let Some(node) = self.nodes.pop() {
            match node.kind {
                Kind::File(contents) => contents.release(&mut self.budget, pause),
                Kind::Directory(directory) => directory.release(pause),
                Kind::Symlink(_) => {}
            }
            count += 1;
            if count % BATCH_STEPS == 0 {
                pause();
            }
        }
    }
}

fn slice(files: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    files.get(start..end)
}
