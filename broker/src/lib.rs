//! A claudemesh broker node, as a library: the binary only starts it.
//!
//! * [`app`] wires the rooms together; it is the only one that sees them all.
//! * [`edge`] terminates WebSockets; [`mesh`] runs each mesh; [`store`] keeps what must last.
//! * [`model`] holds the words that `mesh` and `store` share.
//! * [`cli`], [`config`], [`telemetry`]: how an operator talks to a node, and it to them.

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod edge;
pub mod lifecycle;
pub mod mesh;
pub mod model;
pub mod seat;
pub mod store;
pub mod telemetry;
