//! A claudemesh broker node.

pub mod config;
pub mod model;
pub mod store;
pub mod telemetry;
