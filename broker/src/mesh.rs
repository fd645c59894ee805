//! A mesh: the rules that run it, and the actor that runs the rules.
//!
//! [`Mesh`] is a deterministic state machine: inputs and the time go in, effects come out
//! ([`io`]). It knows no sockets, no SQL, no clock and no randomness, so that the simulator and
//! production run the same code. [`handle`] is the door to the actors.

mod actor;
mod attach;
mod audit;
mod delivery;
mod events;
pub mod handle;
pub mod io;
mod limits;
mod pipeline;
mod query;
mod queue;
mod roster;
mod send;
mod state;
mod targets;

pub use actor::Node;
pub use delivery::{MESH_BYTES, REPUSH_MOST_MS, REPUSH_MS, WINDOW_BYTES, WINDOW_ENVELOPES};
pub use limits::{Limits, REPLAY_MS};
pub use roster::{CONTEST_MS, CONTEST_TIMES};
pub use send::UNAVAILABLE;
pub use state::Mesh;
