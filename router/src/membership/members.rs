//! The rules by which sightings become views.
//!
//! * Death is what Redis says, not what a clock here makes of its silence: a node is lost when a
//!   sighting shows its last heartbeat older than the time to live, or does not show it at all. So
//!   an outage of Redis ends nobody, and neither does a slow answer.
//! * A sighting says nothing about silence as long as everybody may still be on the way back: for
//!   the time to live after this node was blind, and while Redis's table is younger than that.
//!   Those known before live on in the view meanwhile, and nobody is suspected.
//! * The ring has the nodes of the best rank there is: nodes that are heard before those that are
//!   not; among them serving ones before draining ones before those without a store.
//! * Nodes away from home have no share, unless none at home has served for the time to live.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Ms, Notice, Seen, Sighting, State, Timing, View};
use crate::node::NodeKey;
use crate::ring::NodeId;

/// The nodes of a cluster, as one of them knows them.
#[derive(Debug)]
pub struct Members {
    me: NodeKey,
    timing: Timing,
    nodes: BTreeMap<NodeId, Node>,
    sighted_at: Option<Ms>,
    /// From when on a sighting tells who is dead.
    settles_at: Ms,
    superseded: bool,
    /// Since when no node at home serves.
    homeless_since: Option<Ms>,
    view: Arc<View>,
}

/// What is known of a node: at the sighting before last at the latest, if it is not alive.
#[derive(Debug)]
struct Node {
    seen: Seen,
    /// When that was said.
    at: Ms,
    alive: bool,
    /// Its loss has been told.
    told: bool,
    /// Since when nobody has listened on its channel.
    deaf_since: Option<Ms>,
    /// When a message to it reached nobody.
    suspected_at: Option<Ms>,
    /// Nobody seems to hear what is said to it.
    unheard: bool,
}

impl Node {
    fn new(seen: Seen, at: Ms) -> Self {
        Self {
            seen,
            at,
            alive: false,
            told: false,
            deaf_since: None,
            suspected_at: None,
            unheard: false,
        }
    }

    /// Time since its last heartbeat.
    fn age(&self, now: Ms) -> Ms {
        self.seen.age_ms.saturating_add(now.saturating_sub(self.at))
    }

    /// It is gone: what there is to tell, if that is new and the node not `me`. It may have been
    /// alive for `unseen` longer than it was seen.
    fn lost(&mut self, now: Ms, me: &NodeKey, unseen: Ms) -> Option<Notice> {
        self.alive = false;
        if std::mem::replace(&mut self.told, true) || self.seen.key == *me {
            return None;
        }
        let ago_ms = self.age(now).saturating_sub(unseen);
        Some(Notice::Lost { node: self.seen.key.clone(), ago_ms })
    }

    /// Whether messages reach it, as of a sighting at `now`.
    fn listen(&mut self, now: Ms, heartbeat_ms: Ms) {
        match self.seen.listens {
            Some(false) => _ = self.deaf_since.get_or_insert(now),
            Some(true) | None => self.deaf_since = None,
        }
        let beat_since = |suspected: Ms| now > suspected.saturating_add(self.seen.age_ms);
        let recovered = self.deaf_since.is_none() && self.suspected_at.is_some_and(beat_since);
        if recovered {
            self.suspected_at = None;
        }
        let deaf = self.deaf_since.is_some_and(|since| now.saturating_sub(since) >= heartbeat_ms);
        self.unheard = deaf || self.suspected_at.is_some();
    }

    /// Nothing is held against it.
    fn clear(&mut self) {
        self.deaf_since = None;
        self.suspected_at = None;
        self.unheard = false;
    }

    /// Its place in the order in which nodes come into the ring.
    fn rank(&self) -> (bool, u8) {
        let state = match self.seen.state {
            State::Serving => 0,
            State::Draining => 1,
            State::StoreBlind => 2,
        };
        (self.unheard, state)
    }
}

impl Members {
    /// A node that has seen nothing yet: it is alive, and nobody owns anything.
    pub fn new(me: NodeKey, timing: Timing) -> Self {
        let alive = BTreeMap::from([(me.id.clone(), (me.clone(), State::Serving))]);
        let view = Arc::new(View::new(me.clone(), alive, BTreeMap::new()));
        Self {
            me,
            timing,
            nodes: BTreeMap::new(),
            sighted_at: None,
            settles_at: 0,
            superseded: false,
            homeless_since: None,
            view,
        }
    }

    /// Takes in what Redis said. `now` is when it was *asked*, by this node's clock: then an answer
    /// that took its time is never taken for fresher than it is. One that has been overtaken by a
    /// later one is ignored. Losses are told first, then the new view, then this node's own end.
    pub fn observed(&mut self, now: Ms, sighting: &Sighting) -> Vec<Notice> {
        if self.sighted_at.is_some_and(|last| now < last) {
            return Vec::new();
        }
        let was_settled = self.is_settled() && !self.is_blind(now);
        if self.is_blind(now) {
            self.settles_at = now.saturating_add(self.timing.ttl_ms);
        }
        let young = self.timing.ttl_ms.saturating_sub(sighting.table_age_ms);
        if young > 0 {
            self.settles_at = self.settles_at.max(now.saturating_add(young));
        }
        self.sighted_at = Some(now);

        let mut notices = Vec::new();
        let mut shown = BTreeSet::new();
        for seen in &sighting.nodes {
            if self.take(now, seen, &mut notices) {
                shown.insert(seen.key.id.clone());
            }
        }
        self.judge(now, &shown, &mut notices);
        let ends = (sighting.superseded || self.is_replaced()) && !self.superseded;
        self.superseded |= ends;
        self.publish(now, &mut notices);
        // The same nodes may own what they did not dare to own, and the other way round.
        if !was_settled && self.is_settled() && !notices.contains(&Notice::Changed) {
            notices.push(Notice::Changed);
        }
        if ends {
            notices.push(Notice::Superseded);
        }
        notices
    }

    /// A message to this node reached nobody at `now`: it leaves the ring until a later heartbeat
    /// of it is seen, and somebody listens on its channel, if that is known. That is no loss.
    pub fn suspect(&mut self, now: Ms, node: &NodeKey) -> Vec<Notice> {
        let mut notices = Vec::new();
        if self.is_settled()
            && let Some(known) = self.nodes.get_mut(&node.id)
            && known.seen.key == *node
            && known.alive
        {
            known.suspected_at = Some(now);
            known.unheard = true;
            self.publish(now, &mut notices);
        }
        notices
    }

    /// Who is alive and who owns what, as of the last notice.
    pub fn view(&self) -> Arc<View> {
        self.view.clone()
    }

    /// When Redis was asked for what was last seen.
    pub fn sighted_at(&self) -> Option<Ms> {
        self.sighted_at
    }

    /// Whether the view may be acted on: it is younger than the time to live, and everybody has had
    /// the time to appear in it.
    pub fn is_fresh(&self, now: Ms) -> bool {
        self.sighted_at.is_some() && !self.is_blind(now) && self.is_settled() && !self.superseded
    }

    /// Time since the last heartbeat of this very process, dead or alive; nothing if Redis no longer
    /// knows it, or knows a later process of that name.
    pub fn silence(&self, now: Ms, node: &NodeKey) -> Option<Ms> {
        self.nodes.get(&node.id).filter(|known| known.seen.key == *node).map(|known| known.age(now))
    }

    /// Whether the last sighting is too old to tell anything at `now`.
    fn is_blind(&self, now: Ms) -> bool {
        self.sighted_at.is_some_and(|last| now.saturating_sub(last) > self.timing.ttl_ms)
    }

    /// Whether the last sighting told who is dead.
    fn is_settled(&self) -> bool {
        self.sighted_at.is_some_and(|last| last >= self.settles_at)
    }

    /// A later process has this node's name.
    fn is_replaced(&self) -> bool {
        self.nodes.get(&self.me.id).is_some_and(|node| node.seen.key > self.me)
    }

    /// Takes in what was said of one node, unless it is of a process that a later one replaced.
    fn take(&mut self, now: Ms, seen: &Seen, notices: &mut Vec<Notice>) -> bool {
        let id = &seen.key.id;
        if let Some(known) = self.nodes.get_mut(id) {
            if known.seen.key > seen.key {
                return false;
            }
            if known.seen.key < seen.key {
                // Its last heartbeat went with its row: nobody is counted gone too early for that.
                notices.extend(known.lost(now, &self.me, self.timing.ttl_ms));
                self.nodes.remove(id);
            }
        }
        let settled = self.is_settled();
        let (ttl_ms, unseen_ms) = (self.timing.ttl_ms, self.timing.unseen_ms());
        let known = self.nodes.entry(id.clone()).or_insert_with(|| Node::new(seen.clone(), now));
        known.seen = seen.clone();
        known.at = now;
        if seen.age_ms <= ttl_ms {
            known.alive = true;
            known.told = false;
        } else if settled {
            notices.extend(known.lost(now, &self.me, unseen_ms));
        }
        if settled {
            known.listen(now, self.timing.heartbeat_ms);
        } else {
            known.clear();
        }
        true
    }

    /// Those whom the sighting does not show have left, if it tells.
    fn judge(&mut self, now: Ms, shown: &BTreeSet<NodeId>, notices: &mut Vec<Notice>) {
        if self.is_settled() {
            let (me, unseen_ms) = (&self.me, self.timing.unseen_ms());
            self.nodes.retain(|id, node| {
                let is_shown = shown.contains(id);
                if !is_shown {
                    notices.extend(node.lost(now, me, unseen_ms));
                }
                is_shown
            });
        } else {
            self.nodes.values_mut().for_each(Node::clear);
        }
    }

    /// Swaps the view in, if it differs.
    fn publish(&mut self, now: Ms, notices: &mut Vec<Notice>) {
        let over = |node: &Node| self.superseded && node.seen.key == self.me;
        let living = || self.nodes.iter().filter(|(_, node)| node.alive && !over(node));
        let mut alive: BTreeMap<_, _> = living()
            .map(|(id, node)| (id.clone(), (node.seen.key.clone(), node.seen.state)))
            .collect();
        if !self.superseded {
            let state = self.nodes.get(&self.me.id).map_or(State::Serving, |node| node.seen.state);
            alive.insert(self.me.id.clone(), (self.me.clone(), state));
        }
        let serves =
            |node: &Node| node.seen.home && node.seen.weight > 0 && node.rank() == (false, 0);
        let homeless = !living().any(|(_, node)| serves(node));
        let homeless_since = homeless.then(|| self.homeless_since.unwrap_or(now));
        let away =
            homeless_since.is_some_and(|since| now.saturating_sub(since) >= self.timing.ttl_ms);
        let has_share = |node: &Node| node.seen.weight > 0 && (node.seen.home || away);
        let able = || living().filter(|(_, node)| has_share(node));
        let best = able().map(|(_, node)| node.rank()).min();
        let weights: BTreeMap<_, _> = able()
            .filter(|(_, node)| Some(node.rank()) == best)
            .map(|(id, node)| (id.clone(), node.seen.weight))
            .collect();
        self.homeless_since = homeless_since;
        if alive != self.view.alive || weights != self.view.weights {
            self.view = Arc::new(View::new(self.me.clone(), alive, weights));
            notices.push(Notice::Changed);
        }
    }
}

#[cfg(test)]
mod tests;
