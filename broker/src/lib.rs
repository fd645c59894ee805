//! A claudemesh broker node.

pub mod app;
pub mod cli;
pub mod config;
pub mod model;
pub mod store;
pub mod telemetry;
