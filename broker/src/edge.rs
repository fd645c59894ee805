//! The edge: terminates WebSockets, checks hello signatures, bounds each connection. It holds
//! nothing that matters: what it knows, its owner or its peer can tell again.
//!
//! [`session`] is one connection's rules, without I/O; [`auth`] the checks of a hello.

pub mod auth;
pub mod session;
pub mod wire;
