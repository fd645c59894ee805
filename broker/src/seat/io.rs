//! What goes into a seat's rules and what comes out of them.

use std::sync::Arc;

use router::membership::View;
use router::node::NodeKey;

use super::item::Item;
use super::mirror;
use crate::mesh::io::{ConnId, Count, Input, Ms, Question, Ticket, ToEdge};
use crate::model::{Epoch, MeshCommit};

/// What a node sees of the cluster at one moment.
#[derive(Debug, Clone)]
pub struct Sight {
    /// Who is alive.
    pub view: Arc<View>,
    /// When it last looked.
    pub read_at: Ms,
    /// Whether it may act on that: it looked within the time to live, and has looked long enough.
    pub fresh: bool,
}

/// What goes in.
#[derive(Debug, Clone)]
pub enum SeatInput {
    /// A connection of this node wants to attach.
    Open(ConnId),
    /// A connection of this node is gone.
    Shut(ConnId),
    /// A connection of this node says something.
    Local(Input),
    /// The store answers what was asked in this term.
    Store(u64, Input),
    /// Another node says something.
    Said(NodeKey, Item),
    /// Another process of the cluster is gone: its last heartbeat was so long ago.
    Lost {
        /// Which.
        node: NodeKey,
        /// In milliseconds.
        ago_ms: Ms,
    },
    /// Who is alive has changed.
    Looked,
    /// The mesh holds leases: somebody should run it.
    Wake,
    /// Redis lacks leases of this mesh.
    LeasesForgotten,
    /// Redis knows an owner of this higher epoch.
    Outdone(Epoch),
    /// A deadline may have passed.
    Tick,
}

/// What comes out, to be carried out in order.
#[derive(Debug, Clone)]
pub enum SeatEffect {
    /// For connections of this node.
    Tell(Vec<ConnId>, ToEdge),
    /// For another node.
    Say(NodeKey, Item),
    /// For every other node.
    SayAll(Item),
    /// See [`Effect::Activate`](crate::mesh::io::Effect::Activate).
    Activate {
        /// To be given back with the answer.
        term: u64,
        /// The highest epoch ever seen.
        floor: Epoch,
    },
    /// See [`Effect::Commit`](crate::mesh::io::Effect::Commit).
    Commit {
        /// To be given back with the answer.
        term: u64,
        /// What.
        commit: MeshCommit,
    },
    /// See [`Effect::Ask`](crate::mesh::io::Effect::Ask).
    Ask {
        /// To be given back with the answer.
        term: u64,
        /// Of the question.
        ticket: Ticket,
        /// What.
        question: Question,
    },
    /// What was asked of the store before is nobody's business any more.
    Forget,
    /// Leases that have become durable, for Redis.
    Mirror(mirror::News),
    /// See [`Effect::Beat`](crate::mesh::io::Effect::Beat).
    Beat,
    /// See [`Effect::Count`](crate::mesh::io::Effect::Count).
    Count(Count),
    /// Without a cluster: another process has the store. Stop.
    Superseded,
    /// Others have taken the mesh while this node saw nothing: whoever is connected is better off
    /// elsewhere.
    Shed,
}
