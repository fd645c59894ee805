//! The other nodes, as a seat's actor needs them.

use std::sync::Arc;

use router::membership::View;
use router::node::NodeKey;
use tokio::sync::watch;

use super::state::Sight;
use crate::clock::Clock;

/// See the module.
pub trait Cluster: Send + Sync + 'static {
    /// Whether there may be other nodes.
    fn is_clustered(&self) -> bool;

    /// What this node sees now.
    fn sight(&self) -> Sight;

    /// Ticks when who is alive has changed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Passes an item to another node. It may be lost, and never waits.
    fn say(&self, to: &NodeKey, item: Vec<u8>);
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
}
