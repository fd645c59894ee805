//! What the store says and others may change beside us: who lets whom write, who is in a topic.
//!
//! Read again when it is older than [`FRESH_MS`] and somebody sends: what is sent meanwhile waits,
//! in order. So a mesh that is busy reads once a second, and one that is quiet not at all.

use std::collections::HashMap;
use std::sync::Arc;

use protocol::{MemberId, names};

use super::io::{ConnId, Ms};
use crate::model::{Capability, Grants, Sender, Topic};

/// How old what is known may be, in milliseconds.
pub const FRESH_MS: Ms = 1_000;
/// Topics remembered at once.
const TOPICS: usize = 256;

/// Something to know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Fact {
    /// What all members let others do.
    Grants,
    /// The topic of this id or name.
    Topic(String),
    /// How much waits in the queues; see [`Room`](super::room::Room), which knows how old that is.
    QueueBytes,
}

impl Fact {
    /// What must be known to send to `target`.
    pub(crate) fn for_target(target: &str) -> Self {
        target.strip_prefix('#').map_or(Self::Grants, |spec| Self::Topic(spec.to_owned()))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    grants: HashMap<MemberId, Grants>,
    topics: HashMap<String, Option<Arc<Topic>>>,
    read_at: HashMap<Fact, Ms>,
    /// Until the store has told who lets whom write, nothing may leave.
    awaits_grants: bool,
    /// Whoever waits for an answer of the store.
    waiting: HashMap<Fact, Vec<ConnId>>,
}

impl Facts {
    pub(crate) fn are_fresh(&self, fact: &Fact, now: Ms) -> bool {
        self.read_at.get(fact).is_some_and(|at| now.saturating_sub(*at) < FRESH_MS)
    }

    /// Peers are here whose grants this owner has not read: it must, before anything leaves.
    pub(crate) fn await_grants(&mut self) {
        self.awaits_grants = true;
    }

    /// Whether this owner has ever read what all members let others do.
    pub(crate) fn knows_grants(&self) -> bool {
        self.read_at.contains_key(&Fact::Grants)
    }

    pub(crate) fn awaits_grants(&self) -> bool {
        self.awaits_grants
    }

    /// A connection waits. Answers whether nobody has asked yet.
    pub(crate) fn wait(&mut self, fact: &Fact, conn: ConnId) -> bool {
        let waiting = self.waiting.entry(fact.clone()).or_default();
        waiting.push(conn);
        waiting.len() == 1
    }

    /// The store has answered, or could not. Answers who waited.
    pub(crate) fn answered(&mut self, fact: &Fact) -> Vec<ConnId> {
        self.waiting.remove(fact).unwrap_or_default()
    }

    pub(crate) fn learn_grants(&mut self, grants: Vec<(MemberId, Grants)>, now: Ms) {
        self.grants = grants.into_iter().collect();
        self.read_at.insert(Fact::Grants, now);
        self.awaits_grants = false;
    }

    /// A member has come: its grants were read with it.
    pub(crate) fn learn_member(&mut self, member: &MemberId, grants: &Grants) {
        if grants.is_empty() {
            self.grants.remove(member);
        } else {
            self.grants.insert(member.clone(), grants.clone());
        }
    }

    pub(crate) fn learn_topic(&mut self, spec: String, topic: Option<Topic>, now: Ms) {
        if self.topics.len() >= TOPICS {
            self.topics.clear();
            self.read_at.retain(|fact, _| *fact == Fact::Grants);
        }
        self.read_at.insert(Fact::Topic(spec.clone()), now);
        let safe = |topic: Topic| Topic { name: names::tidied(&topic.name).into(), ..topic };
        self.topics.insert(spec, topic.map(|topic| Arc::new(safe(topic))));
    }

    pub(crate) fn topic(&self, spec: &str) -> Option<Arc<Topic>> {
        self.topics.get(spec).cloned().flatten()
    }

    /// Whether `to` lets `sender` write to it like this. One's own member always may.
    pub(crate) fn allow(&self, to: &MemberId, sender: &Sender, wanted: Capability) -> bool {
        *to == sender.member
            || self.grants.get(to).is_none_or(|grants| grants.allow(sender, wanted))
    }
}
