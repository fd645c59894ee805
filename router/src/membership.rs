//! Who is alive, as one node sees it: from what Redis says to the ring (design §4). No I/O.
//!
//! A view may be wrong for a while: it names candidates, and the store's fence keeps two owners
//! apart. What it must not do is flap. So a node is lost only by what Redis says of it while this
//! node sees Redis; a node that was blind, or a Redis that has forgotten everything, is given the
//! time to live before silence counts as death. [`Members`] has the rules.

mod members;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::members::Members;
use crate::node::NodeKey;
use crate::ring::{NodeId, Ring};

/// Milliseconds of a clock that never goes back. Only differences mean anything.
pub type Ms = u64;

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It owns meshes.
    Serving,
    /// It is going away: its meshes are to move.
    Draining,
    /// Its store has failed for a while.
    StoreBlind,
}

/// A node, as Redis knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Who.
    pub key: NodeKey,
    /// What it says of itself.
    pub state: State,
    /// Its share of the ring.
    pub weight: u8,
    /// It stands where the stores are: others have no share as long as such a node serves.
    pub home: bool,
    /// Time since its last heartbeat, by Redis's clock.
    pub age_ms: Ms,
    /// Whether anybody listens on its channel; nothing if that is not known.
    pub listens: Option<bool>,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sighting {
    /// Every node Redis knows, this one and dead ones included.
    pub nodes: Vec<Seen>,
    /// For how long this Redis has known the cluster: little, if it has lost its data.
    pub table_age_ms: Ms,
    /// A later process has this node's name, and lives.
    pub superseded: bool,
}

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between heartbeats, in milliseconds.
    pub heartbeat_ms: Ms,
    /// After so long without one a node is lost, in milliseconds.
    pub ttl_ms: Ms,
}

impl Timing {
    /// How long a lost node may have lived after its last heartbeat, in milliseconds: as long as
    /// nobody missed it, or, where that is longer than others should wait for a node that is gone, a
    /// few seconds.
    fn unseen_ms(self) -> Ms {
        const FEW_SECONDS: Ms = 4_000;
        self.ttl_ms.min(FEW_SECONDS.max(2 * self.heartbeat_ms))
    }
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// There is a new [`View`], or the old one can be relied upon again.
    Changed,
    /// This process of a node is gone, for so long at least: it may have lived on for up to the TTL
    /// after its last heartbeat, and nobody who was connected there is counted gone before it was.
    /// Told once, and again only if it has been seen alive in between (a paused process goes on
    /// under its incarnation).
    Lost {
        /// Who.
        node: NodeKey,
        /// Since when it has surely been gone, by Redis's clock, in milliseconds.
        ago_ms: Ms,
    },
    /// A later process has this node's name: stop.
    Superseded,
}

/// Who is alive and who owns what: one view, never changed.
#[derive(Debug)]
pub struct View {
    me: NodeKey,
    alive: BTreeMap<NodeId, (NodeKey, State)>,
    /// The ring's members.
    weights: BTreeMap<NodeId, u8>,
    ring: Ring,
}

impl View {
    /// The view of a node that is alone: everything is its own.
    pub fn alone(me: NodeKey) -> Arc<Self> {
        let alive = BTreeMap::from([(me.id.clone(), (me.clone(), State::Serving))]);
        let weights = BTreeMap::from([(me.id.clone(), 1)]);
        Arc::new(Self::new(me, alive, weights))
    }

    fn new(
        me: NodeKey,
        alive: BTreeMap<NodeId, (NodeKey, State)>,
        weights: BTreeMap<NodeId, u8>,
    ) -> Self {
        let ring = Ring::new(weights.iter().map(|(node, weight)| (node.clone(), *weight)));
        Self { me, alive, weights, ring }
    }

    /// This node.
    pub fn me(&self) -> &NodeKey {
        &self.me
    }

    /// The node a key belongs to.
    pub fn owner(&self, key: &str) -> Option<&NodeKey> {
        self.alive.get(self.ring.owner(key)?).map(|(node, _)| node)
    }

    /// Whether this process is alive, as far as is known.
    pub fn knows(&self, node: &NodeKey) -> bool {
        self.alive.get(&node.id).is_some_and(|(known, _)| known == node)
    }

    /// What a process said of itself; nothing if it is not alive.
    pub fn state(&self, node: &NodeKey) -> Option<State> {
        self.alive.get(&node.id).filter(|(known, _)| known == node).map(|(_, state)| *state)
    }

    /// Whether keys may belong to this process.
    pub fn places(&self, node: &NodeKey) -> bool {
        self.knows(node) && self.weights.contains_key(&node.id)
    }

    /// Every node that is alive but this one, whatever its state.
    pub fn others(&self) -> impl Iterator<Item = &NodeKey> {
        self.alive.values().map(|(node, _)| node).filter(|node| **node != self.me)
    }
}
