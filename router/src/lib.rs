//! From a mesh to its owner, and reliable frames between edge and owner.
//!
//! * [`ring`]: which node owns a mesh, by consistent hashing over the live nodes.
//! * [`link`]: how an edge and an owner keep commands in order, once, and bounded: rules alone.
//!   [`link::local`] carries them where edge and owner share a process.
//!
//! The router knows nothing of messaging: what it carries is opaque to it.

pub mod link;
pub mod ring;
