//! A claudemesh broker node, as a library: the binary only starts it.
//!
//! * [`app`] wires the rooms together; it is the only one that sees them all.
//! * [`edge`] terminates WebSockets; [`mesh`] holds the rules of a mesh, [`seat`] says on which node it
//!   runs; [`store`] keeps what must last.
//! * [`cluster`] is this node among others.
//! * [`model`] holds the words that `mesh` and `store` share.
//! * [`cli`], [`config`], [`telemetry`]: how an operator talks to a node, and it to them; [`build`]: which
//!   commit it is.

pub mod app;
pub mod build;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod edge;
pub mod lifecycle;
pub mod mesh;
pub mod model;
pub mod seat;
pub mod store;
pub mod telemetry;
