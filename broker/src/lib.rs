//! A claudemesh broker node.

pub mod edge;
pub mod mesh;
pub mod model;
pub mod store;
