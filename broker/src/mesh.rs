//! A mesh: the rules that run it, and the actor that runs the rules.
//!
//! [`Mesh`] is a deterministic state machine: inputs and the time go in, effects come out
//! ([`io`]). It knows no sockets, no SQL, no clock and no randomness, so that the simulator and
//! production run the same code. [`handle`] is the door to the actors.

mod activation;
mod actor;
mod attach;
mod audit;
mod delivery;
mod departure;
mod events;
mod facts;
pub mod handle;
mod hello;
mod hook;
pub mod io;
mod limits;
mod lookup;
mod mentions;
mod moderation;
mod pipeline;
mod presence;
mod query;
mod queue;
mod roster;
mod saved;
mod send;
mod state;
mod status;
mod targets;
#[cfg(test)]
mod tests;

pub use actor::Node;
pub use attach::BRIEF_MS;
pub use delivery::{MESH_BYTES, REPUSH_MOST_MS, REPUSH_MS, WINDOW_BYTES, WINDOW_ENVELOPES};
pub use facts::FRESH_MS;
pub use hook::Hook;
pub use limits::{Limits, REPLAY_MS};
pub use roster::{CONTEST_MS, CONTEST_TIMES};
pub use send::UNAVAILABLE;
pub use state::Mesh;
pub use status::StatusLimits;
