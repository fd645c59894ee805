//! From a mesh to its owner.
//!
//! * [`ring`]: which of the live nodes a key belongs to.
//!
//! Keys and nodes are opaque here: nothing in this crate knows what is behind them.

pub mod ring;

pub use ring::{NodeId, Ring};
