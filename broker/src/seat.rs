//! A mesh as one node sees it: its seat there.
//!
//! Either the mesh runs here, for the connections of this node and of all others; or it runs on
//! another node, and what the connections here say is passed on to it. [`Seat`] decides which
//! (`ownership`), and carries what edge and owner say to each other over links that lose nothing
//! ([`item`], `owner`, `relay`). It is rules alone, like [`Mesh`](crate::mesh::Mesh), and runs in the
//! simulator as it runs here; `actor` is what runs it, [`handle`] the door to the actors, and
//! [`mirror`] tells Redis of leases.

mod actor;
mod cluster;
pub mod handle;
pub mod io;
pub mod item;
pub mod mirror;
mod nodes;
mod owner;
mod ownership;
mod relay;
mod running;
mod sharing;
mod state;
mod verify;

pub use actor::Node;
pub use cluster::{Alone, Cluster};
pub use io::{SeatEffect, SeatInput, Sight};
pub use item::{Item, LINK_BYTES};
pub use ownership::RETAKE_MS;
pub use state::Seat;
pub use verify::verify;
