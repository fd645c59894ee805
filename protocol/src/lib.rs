//! The client wire of claudemesh: what a peer and a broker say to each other over one WebSocket.
//!
//! * [`client`]: frames a peer sends, parsed and bounded; [`server`]: frames a broker sends.
//! * [`canonical`] and [`signature`]: the bytes that are signed and how they are checked.
//! * [`invite`]: v1 invites; [`close`]: close codes; [`limits`]: published bounds; [`names`]: what is
//!   shown of the texts that peers choose; [`lenient`]: JSON as JavaScript writes it.
//!
//! No I/O, no clock, no randomness: the same code serves the broker, the load generator and tests.

pub mod canonical;
pub mod client;
pub mod close;
mod echo;
pub mod id;
pub mod invite;
pub mod lenient;
pub mod limits;
pub mod names;
pub mod server;
pub mod signature;
pub mod time;

pub use close::Close;
pub use echo::EchoId;
pub use id::{MemberId, MeshId, MessageId, PresenceId};
