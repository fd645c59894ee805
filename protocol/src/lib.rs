//! The client wire of claudemesh: what a peer and a broker say to each other over one WebSocket.
//!
//! * [`client`]: frames a peer sends, parsed and bounded; [`server`]: frames a broker sends.
//! * [`canonical`] and [`signature`]: the bytes that are signed and how they are checked.
//! * [`invite`]: v1 invites; [`close`]: close codes; [`limits`]: published bounds.
//!
//! No I/O, no clock, no randomness: the same code serves the broker, the load generator and tests.

pub mod canonical;
pub mod client;
pub mod close;
pub mod id;
pub mod invite;
pub mod limits;
pub mod server;
pub mod signature;
pub mod time;

pub use close::Close;
pub use id::{MemberId, MeshId, MessageId, PresenceId};
