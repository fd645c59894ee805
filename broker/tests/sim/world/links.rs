//! What nodes hear of each other: heartbeats through Redis, and what they say to each other through
//! its pub/sub, which loses, repeats, delays and reorders.

use broker::seat::item::{self, Item};
use broker::seat::{SeatInput, Sight};
use protocol::MeshId;
use router::membership::{Notice, Sighting, State};
use router::node::NodeKey;

use super::{Event, Mode, World, skew};
use crate::client::MESH;
use crate::faults::{Fault, Planted};

pub(crate) const HEARTBEAT_MS: u64 = 500;
/// A node whose store fails for so long says so.
const STORE_BLIND_MS: u64 = 3_000;
/// How often a node looks for a mesh that it should run.
const SWEEP_MS: u64 = 3_000;

impl World {
    /// What a node sees now.
    pub(crate) fn sight(&self, id: u64) -> Sight {
        let process = &self.processes[&id];
        let mono = self.time(id).mono;
        let Some(members) = &process.members else {
            return Sight { view: process.alone.clone(), read_at: mono, fresh: true };
        };
        let (read_at, fresh) = (members.sighted_at().unwrap_or(0), members.is_fresh(mono));
        if self.plants(Planted::BlindActivates) && !fresh {
            return Sight { view: members.view(), read_at: mono, fresh: true };
        }
        Sight { view: members.view(), read_at, fresh }
    }

    // --- Redis ----------------------------------------------------------------------------------

    /// Whether what a node asks of Redis arrives there.
    fn reaches_redis(&self, id: u64) -> bool {
        let process = self.processes.get(&id);
        !self.redis.is_down(self.now)
            && process.is_some_and(|p| p.cuts.blind <= self.now && p.cuts.mute <= self.now)
    }

    /// Whether Redis has a subscriber there.
    fn listens(&self, key: &NodeKey) -> bool {
        let process = self.processes.values().find(|process| process.key == *key);
        process.is_some_and(|p| p.cuts.blind <= self.now && p.cuts.deaf <= self.now)
    }

    pub(super) fn heartbeat(&mut self, id: u64) {
        if !self.processes.contains_key(&id) {
            return;
        }
        let pause = self.rng.between(HEARTBEAT_MS - 50, HEARTBEAT_MS + 50);
        self.at(pause, Event::Heartbeat(id));
        self.beat(id);
    }

    pub(super) fn beat(&mut self, id: u64) {
        let asked = self.time(id).mono;
        let state = self.state(id);
        if self.processes[&id].frozen || !self.reaches_redis(id) {
            return;
        }
        let key = self.processes[&id].key.clone();
        let mut redis = std::mem::take(&mut self.redis);
        let sighting = redis.beat(self.now, &key, state, |other| self.listens(other));
        self.redis = redis;
        let paused = self.redis.paused_until.saturating_sub(self.now);
        let latency = self.rng.between(1, 4) + paused;
        let unanswered = self.processes[&id].cuts.unanswered > self.now;
        if !unanswered {
            self.at(latency, Event::Sighted(id, asked, sighting));
        }
    }

    /// What a node says of itself.
    fn state(&self, id: u64) -> State {
        let process = &self.processes[&id];
        let cut = process.cuts.store;
        let blind =
            |(since, until): (u64, u64)| since + STORE_BLIND_MS < self.now && self.now < until;
        if process.draining {
            State::Draining
        } else if blind(cut) || blind((self.store_down_since, self.store_down_until)) {
            State::StoreBlind
        } else {
            State::Serving
        }
    }

    pub(super) fn sighted(&mut self, id: u64, asked: u64, sighting: &Sighting) {
        if self.processes.get(&id).is_none_or(|process| process.frozen) {
            return;
        }
        let Some(members) = self.processes.get_mut(&id).and_then(|p| p.members.as_mut()) else {
            return;
        };
        let notices = members.observed(asked, sighting);
        self.check.looked(asked - skew(id), id);
        self.noticed(id, notices);
    }

    pub(super) fn unheard(&mut self, id: u64, other: &NodeKey) {
        let now = self.time(id).mono;
        let Some(process) = self.processes.get_mut(&id).filter(|p| !p.frozen) else { return };
        let Some(members) = &mut process.members else { return };
        let notices = members.suspect(now, other);
        if !notices.is_empty() {
            self.fire(Fault::Suspected);
        }
        self.noticed(id, notices);
    }

    fn noticed(&mut self, id: u64, notices: Vec<Notice>) {
        for notice in notices {
            self.trace(|| format!("process-{id} notices {notice:?}"));
            match notice {
                Notice::Changed => self.input(id, SeatInput::Looked),
                Notice::Lost { node, ago_ms } => {
                    self.fire(Fault::NodeLost);
                    let early = if self.plants(Planted::LossBackdated) { 3_000 } else { 0 };
                    let ago_ms = ago_ms + early;
                    self.input(id, SeatInput::Lost { node, ago_ms });
                }
                Notice::Superseded => self.kill(id),
            }
        }
    }

    /// A mesh that has leases should run, even if nobody is connected.
    pub(super) fn sweep(&mut self, id: u64) {
        if !self.processes.contains_key(&id) {
            return;
        }
        let pause = self.rng.between(SWEEP_MS / 2, SWEEP_MS);
        self.at(pause, Event::Sweep(id));
        let reachable = self.now >= self.store_down_until && !self.processes[&id].frozen;
        let abandoned = self.owner().is_none() && !self.store.now.leases.is_empty();
        if reachable && abandoned && self.mode != Mode::Alone {
            self.input(id, SeatInput::Wake);
        }
    }

    // --- from node to node ------------------------------------------------------------------------

    pub(super) fn say_all(&mut self, id: u64, item: &Item) {
        let view = self.sight(id).view;
        for node in view.others().cloned().collect::<Vec<_>>() {
            self.say(id, &node, item.clone());
        }
    }

    /// Published, if Redis is reached.
    pub(super) fn say(&mut self, id: u64, to: &NodeKey, item: Item) {
        let Some(item) = self.forge_said(id, to, item) else { return };
        let Some(mut bytes) = item::encode(&MeshId::from(MESH), &item) else { return };
        self.rewrite(&mut bytes);
        self.trace(|| format!("process-{id} says to {to} {item:?}"));
        if !self.reaches_redis(id) || self.processes[&id].cuts.gagged > self.now {
            return;
        }
        if !self.listens(to) {
            let to = self.heir(to).unwrap_or_else(|| to.clone());
            if !self.listens(&to) {
                return self.at(2, Event::Unheard(id, to));
            }
        }
        if self.now < self.redis.drops_until || self.mishap(Fault::ItemLost, 80) {
            return;
        }
        let from = self.processes[&id].key.clone();
        self.lingers(&from, to, &bytes);
        let latency = self.rng.between(0, 2) + self.redis.paused_until.saturating_sub(self.now);
        let carried = Event::Carried { to: to.clone(), from: from.clone(), bytes };
        if self.mishap(Fault::ItemRepeated, 120) {
            let again = self.rng.between(0, 600);
            self.at(again, carried.clone());
        }
        if self.mishap(Fault::ItemDelayed, 120) {
            let late = if self.rng.one_in(12) { 9_000 } else { 400 };
            let late = self.rng.between(1, late);
            return self.at(late, carried);
        }
        let fifo = self.carried_at.entry((from, to.clone())).or_default();
        *fifo = (*fifo).max(self.now + latency);
        let after = *fifo - self.now;
        self.at(after, carried);
    }

    /// Somebody's request is one that only a later version knows.
    fn rewrite(&mut self, bytes: &mut [u8]) {
        const KNOWN: &[u8] = b"Request";
        let mut places = bytes.windows(KNOWN.len());
        if let Some(at) = places.position(|place| place == KNOWN)
            && self.mishap(Fault::LaterVersion, 200)
        {
            bytes[at] = b'?';
        }
    }

    fn mishap(&mut self, fault: Fault, one_in: u64) -> bool {
        let happens = self.chaos && self.rng.one_in(one_in);
        if happens {
            self.fire(fault);
        }
        happens
    }

    pub(super) fn carried(&mut self, to: &NodeKey, from: NodeKey, bytes: Vec<u8>) {
        let to = self.heir(to).unwrap_or_else(|| to.clone());
        let from = self.heir(&from).unwrap_or(from);
        let found = self.processes.iter().find(|(_, process)| process.key == to);
        let Some(id) = found.map(|(id, _)| *id).filter(|_| self.listens(&to)) else { return };
        if self.processes[&id].frozen {
            if let Some(process) = self.processes.get_mut(&id) {
                process.held_back.push((from, bytes));
            }
            return;
        }
        let (_, item) = item::decode(&bytes).expect("what was encoded can be decoded");
        if let Some(item) = self.forge_heard(id, &from, item) {
            self.input(id, SeatInput::Said(from, item));
        }
    }

    /// Plants that a process is taken for the one that had its name before.
    fn heir(&self, key: &NodeKey) -> Option<NodeKey> {
        if !self.plants(Planted::OldIncarnation) {
            return None;
        }
        let heirs = self.processes.values().map(|process| &process.key);
        heirs.filter(|other| other.id == key.id).max().cloned()
    }
}
