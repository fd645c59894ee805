//! A claudemesh broker node.

pub mod mesh;
pub mod model;
pub mod store;
