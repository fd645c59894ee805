//! The other nodes, as a seat's actor needs them.

use std::sync::Arc;

use async_trait::async_trait;
use protocol::MeshId;
use router::membership::View;
use router::node::NodeKey;
use router::redis::Saved;
use tokio::sync::watch;

use super::io::Sight;
use super::mirror::Remembered;
use crate::clock::Clock;
use crate::model::Epoch;

/// See the module.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Whether there may be other nodes.
    fn is_clustered(&self) -> bool;

    /// What this node sees now.
    fn sight(&self) -> Sight;

    /// Ticks when who is alive has changed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Passes an item to another node. It may be lost, and never waits.
    fn say(&self, to: &NodeKey, item: Vec<u8>);

    /// Keeps leases beside the store. Nothing if nobody knows whether they are kept.
    async fn save_leases(
        &self,
        mesh: &MeshId,
        epoch: Epoch,
        number: u64,
        changes: Vec<(String, Option<Vec<u8>>)>,
        whole: bool,
    ) -> Option<Saved>;

    /// What is kept of a mesh's leases, if anything is.
    async fn leases(&self, mesh: &MeshId) -> Remembered;
}

/// No others: a node with its store to itself.
pub struct Alone {
    view: Arc<View>,
    clock: Clock,
    never: watch::Sender<u64>,
}

impl Alone {
    /// Everything is `me`'s.
    pub fn new(me: NodeKey, clock: Clock) -> Self {
        Self { view: View::alone(me), clock, never: watch::Sender::new(0) }
    }
}

#[async_trait]
impl Cluster for Alone {
    fn is_clustered(&self) -> bool {
        false
    }

    fn sight(&self) -> Sight {
        Sight { view: self.view.clone(), read_at: self.clock.now().mono, fresh: true }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.never.subscribe()
    }

    fn say(&self, _: &NodeKey, _: Vec<u8>) {}

    async fn save_leases(
        &self,
        _: &MeshId,
        _: Epoch,
        _: u64,
        _: Vec<(String, Option<Vec<u8>>)>,
        _: bool,
    ) -> Option<Saved> {
        Some(Saved::Ok)
    }

    async fn leases(&self, _: &MeshId) -> Remembered {
        Remembered::default()
    }
}
