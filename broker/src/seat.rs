//! A mesh as one node sees it: its seat there.
//!
//! Either the mesh runs here, for the connections of this node and of all others; or it runs on
//! another node, and what the connections here say is passed on to it. [`Seat`] decides which, and
//! carries what edge and owner say to each other over links that lose nothing ([`item`], `owner`,
//! `relay`). It is rules alone, like [`Mesh`](crate::mesh::Mesh), and runs in the simulator as it
//! runs here; `actor` is what runs it, [`handle`] the door to the actors.

mod actor;
mod cluster;
pub mod handle;
pub mod item;
pub mod mirror;
mod owner;
mod relay;
mod state;

pub use actor::Node;
pub use cluster::{Alone, Cluster};
pub use item::{Item, LINK_BYTES};
pub use state::{RETAKE_MS, Seat, SeatEffect, SeatInput, Sight};
