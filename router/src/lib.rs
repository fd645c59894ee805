//! From a mesh to its owner, and reliable frames between edge and owner.
//!
//! * [`membership`]: which nodes live, as one of them sees it; [`ring`]: which of them owns a mesh, by
//!   consistent hashing.
//! * [`link`]: how an edge and an owner keep commands in order, once, and bounded: rules alone.
//!   [`link::local`] carries them where edge and owner share a process.
//! * [`redis`]: what lies between processes: heartbeats, frames, and where leases are kept.
//!
//! The router knows nothing of messaging: what it carries is opaque to it.

pub mod link;
pub mod membership;
pub mod node;
pub mod redis;
pub mod ring;
