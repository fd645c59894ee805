//! The edge: terminates WebSockets, checks hello signatures, bounds each connection. It holds
//! nothing that matters: what it knows, its owner or its peer can tell again.
//!
//! [`session`] is one connection's rules, without I/O; [`auth`] the checks of a hello; [`wire`]
//! envelopes as JSON. [`accept()`] takes connections in and bounds them before a request is understood; [`routes()`] is
//! what is served, with a task per socket; `metered` bounds messages before they are whole; `posts`
//! is what comes over plain HTTP.

mod accept;
mod address;
pub mod auth;
mod half_open;
mod long;
mod metered;
mod posts;
mod readiness;
mod routes;
pub mod session;
mod socket;
mod upgrade;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

pub use accept::{CONNECTION_TIME, HALF_OPEN_MOST, REQUEST_TIMEOUT, accept, most_half_open};
pub use address::PerAddress;
use axum::http::HeaderName;
pub use half_open::HalfOpen;
pub use metered::{UNFINISHED_FRAMES, UNFINISHED_FREE, UNFINISHED_PART_FRAMES, Unfinished};
use protocol::Close;
pub use readiness::{Readiness, Service};
pub use routes::routes;
pub use socket::{MESSAGE_TIMEOUT, WRITE_TIMEOUT};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::cluster::report::Report;
use crate::config::Secret;
use crate::mesh::io::Ms;
use crate::seat::handle::Directory;
use crate::telemetry::Metrics;

/// Sockets are to go elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Leave {
    /// Over which time: clients come back without jitter, so whoever sends them away spreads them.
    pub spread: Duration,
    /// What they are told.
    pub close: Close,
}

/// What all sockets of a node share.
pub struct Edge {
    /// Drawn at random when the process started.
    pub process: u64,
    /// Connections so far: numbers them.
    pub sockets: AtomicU64,
    /// The door to the meshes.
    pub meshes: Directory,
    /// Connections without a hello.
    pub half_open: HalfOpen,
    /// Bytes of messages that are not whole.
    pub unfinished: Unfinished,
    /// Whether hellos can be answered.
    pub readiness: Readiness,
    /// New sockets are refused: the node is about to stop.
    pub refuses: AtomicBool,
    /// Set while sockets are to go.
    pub leaving: watch::Receiver<Option<Leave>>,
    /// Every socket's task.
    pub tasks: TaskTracker,
    /// The time.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
    /// How long a socket may go without a hello.
    pub hello_timeout_ms: Ms,
    /// The largest frame a peer may send.
    pub max_frame_bytes: usize,
    /// Bytes that may wait for one peer.
    pub outbox_bytes: usize,
    /// The largest body that may be posted.
    pub max_body_bytes: usize,
    /// Where the proxy in front names the client's address.
    pub address_header: Option<HeaderName>,
    /// Hooks, by address.
    pub hooks: PerAddress,
    /// What hooks must show.
    pub hook_token: Option<Secret>,
    /// Attempts to join, by address.
    pub joins: PerAddress,
    /// Whether Fly.io's proxy is in front, and passes upgrades on where it is told to.
    pub replays: bool,
    /// The build.
    pub git_sha: Arc<str>,
    /// This node's name.
    pub node_id: Arc<str>,
    /// Where it stands.
    pub region: Arc<str>,
}

impl Edge {
    /// What this node tells of itself.
    pub fn report(&self) -> Report {
        Report {
            region: self.region.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            meshes: self.meshes.owned(),
            connections: self.tasks.len(),
            refused: 0,
        }
    }
}
