//! A claudemesh broker node.

pub mod model;
pub mod store;
