//! A mesh: the rules that run it.
//!
//! [`Mesh`] is a deterministic state machine: inputs and the time go in, effects come out
//! ([`io`]). It knows no sockets, no SQL, no clock and no randomness, so that the simulator and
//! production run the same code. [`seat`](crate::seat) says on which node it runs.

mod activation;
mod attach;
mod audit;
mod beside;
mod carried;
mod claims;
mod commands;
mod cooldown;
mod delivery;
mod departure;
mod events;
mod facts;
mod hello;
mod hook;
pub mod io;
mod limits;
mod lookup;
mod mentions;
mod missed;
mod moderation;
mod outcome;
mod pipeline;
mod presence;
mod query;
mod queue;
mod room;
mod roster;
mod saved;
mod send;
mod state;
mod status;
mod targets;
#[cfg(test)]
mod tests;
mod visibility;

pub use activation::ANNOUNCE_MS;
pub use attach::SHORT_LIVED_MS;
pub use audit::AUDIT_TEXT_BYTES;
pub(crate) use audit::Verifier;
pub use delivery::{MESH_BYTES, REPUSH_MOST_MS, REPUSH_MS, WINDOW_BYTES, WINDOW_ENVELOPES};
pub use facts::FRESH_MS;
pub use hook::Hook;
pub use limits::{Limits, REPLAY_MS};
pub use missed::{GONE_KEPT, MISSED_BYTES};
pub use query::LIST_BYTES;
pub use roster::{CONTEST_MS, CONTEST_TIMES};
pub use send::UNAVAILABLE;
pub use state::Mesh;
pub use status::StatusLimits;
