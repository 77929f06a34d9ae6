//! What the tests of this crate look at: the checkout, its dependency graph, its Rust code.
//!
//! The tests are in `tests/`: `arrows` (who may depend on whom), `licences`, `style` (of files), `size` (lines of the
//! trusted base, `unsafe`). They describe the project to a reader and fail when it stops being so.

mod graph;
mod rust;
mod tree;

pub use graph::{Graph, Package, linked_into};
pub use rust::Code;
pub use tree::{SourceFile, files, root};
