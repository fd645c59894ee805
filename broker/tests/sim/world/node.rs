//! A node's life: it starts, dies, stands still, is cut off, drains.

use std::collections::{BTreeMap, VecDeque};

use broker::seat::Seat;
use protocol::{MeshId, close};
use router::membership::{Members, Timing, View};
use router::node::NodeKey;

use super::links::HEARTBEAT_MS;
use super::{Cuts, Down, Event, Mode, Process, TTL_MS, World};
use crate::client::MESH;
use crate::faults::Fault;

/// After a cut, so long until everybody has surely heard of whom they lost sight of.
const HEAL_MS: u64 = 15_000;

impl World {
    pub(crate) fn start(&mut self, slot: usize) {
        let id = self.next_process;
        self.next_process += 1;
        let limits = self.forge_limits(self.limits);
        let key = NodeKey { id: format!("node-{slot}").into(), incarnation: id };
        let clustered = self.mode != Mode::Alone;
        let timing = Timing { heartbeat_ms: HEARTBEAT_MS, ttl_ms: TTL_MS };
        let process = Process {
            seat: Seat::new(MeshId::from(MESH), id, limits, clustered),
            members: clustered.then(|| Members::new(key.clone(), timing)),
            alone: View::alone(key.clone()),
            key,
            slot,
            open: BTreeMap::new(),
            inbox: VecDeque::new(),
            stepping: false,
            tick_at: None,
            frozen: false,
            draining: false,
            held_back: Vec::new(),
            cuts: Cuts::default(),
            cut_until: 0,
            cut_since: None,
            idle_since: None,
            clock_behind: (0, 0),
        };
        let name = process.key.clone();
        self.processes.insert(id, process);
        self.haunt(&name);
        let first = self.rng.between(0, 1_000);
        self.at(first, Event::Review(id));
        self.look_for_owner();
        if clustered {
            let first = self.rng.between(0, 20);
            self.at(first, Event::Heartbeat(id));
            self.at(first + 1_000, Event::Sweep(id));
        } else {
            self.input(id, broker::seat::SeatInput::Wake);
        }
    }

    /// Whoever may speak for the mesh: it is the store's owner, and knows it.
    pub(crate) fn owner(&self) -> Option<u64> {
        let id = self.store.now.owner;
        let process = self.processes.get(&id).filter(|process| !process.frozen)?;
        let serving = process.seat.mesh()?.serving();
        (serving == Some(self.store.now.epoch)).then_some(id)
    }

    /// Tells the checker when the mesh loses its owner, or gets one.
    pub(super) fn look_for_owner(&mut self) {
        let owned = self.owner().is_some();
        match (self.owned, owned) {
            (true, false) => self.check.owner_lost(self.now),
            (false, true) => self.check.owner_found(self.now),
            _ => {}
        }
        self.owned = owned;
    }

    /// The process that new connections reach where there is no cluster.
    fn current(&self) -> Option<u64> {
        self.processes.iter().rev().find(|(_, process)| !process.frozen).map(|(id, _)| *id)
    }

    /// Any node that may be connected to: at times one that does not answer.
    pub(crate) fn pick_node(&mut self) -> Option<u64> {
        if self.mode == Mode::Alone {
            return self.current();
        }
        let blindly = self.chaos && self.rng.one_in(20);
        let usable = self.processes.iter().filter(|(_, p)| blindly || !(p.frozen || p.draining));
        let usable: Vec<_> = usable.map(|(id, _)| *id).collect();
        (!usable.is_empty()).then(|| *self.rng.pick(&usable))
    }

    pub(crate) fn crash(&mut self, process: u64) {
        if self.processes.contains_key(&process) {
            self.crashes += 1;
            self.check.forgive();
            self.kill(process);
        }
    }

    pub(crate) fn kill(&mut self, process: u64) {
        let Some(gone) = self.processes.remove(&process) else { return };
        self.trace(|| format!("process-{process} dies"));
        self.look_for_owner();
        // A node that dies takes nothing of anybody's grace; of one that was cut off before, others
        // had the last heartbeat.
        let lost_at = gone.cut_since.unwrap_or(self.now);
        let sockets: Vec<_> =
            self.sockets.iter().filter(|(_, s)| s.process == process).map(|(id, _)| *id).collect();
        for socket in sockets {
            self.down(socket, Down::Closed);
            let now = self.now;
            self.check.connection_ended(now, socket);
            if let Some(state) = self.sockets.get_mut(&socket) {
                state.process = 0;
                let since = *state.lost_at.get_or_insert(lost_at);
                // Who does not read does not know.
                if self.clients[state.client].socket == Some(socket) {
                    self.check.cut_off(state.identity, since);
                }
            }
        }
        for op in self.ops.values_mut().filter(|op| op.process == process) {
            op.orphan = true;
        }
        // A backend may finish what a dead client asked for, or roll it back when it notices.
        let orphans: Vec<_> =
            self.ops.iter().filter(|(_, op)| op.process == process).map(|(id, _)| *id).collect();
        for op in orphans {
            let begun = self.ops.get(&op).is_some_and(|op| op.running);
            if !begun || self.rng.one_in(2) {
                self.drop_op(op);
            }
        }
        self.streamed.retain(|(id, ..), _| *id != process);
        self.start_again(gone.slot);
    }

    /// Where there is one node, the next starts when none is left; in a cluster each starts again.
    fn is_wanted(&self, slot: usize) -> bool {
        match self.mode {
            Mode::Alone => self.processes.is_empty(),
            Mode::Cluster(_) => !self.processes.values().any(|process| process.slot == slot),
        }
    }

    pub(super) fn start_if_wanted(&mut self, slot: usize) {
        if self.is_wanted(slot) {
            self.start(slot);
        }
    }

    fn start_again(&mut self, slot: usize) {
        if self.is_wanted(slot) {
            let pause = if self.rng.one_in(4) && self.chaos { 20_000 } else { 1_500 };
            let pause = self.rng.between(50, pause);
            self.at(self.restart_after.unwrap_or(pause), Event::Start(slot));
        }
    }

    // --- standing still ---------------------------------------------------------------------

    pub(crate) fn freeze(&mut self, process: u64, pause: u64) {
        let Some(state) = self.processes.get_mut(&process) else { return };
        state.frozen = true;
        for (id, _) in self.sockets.iter().filter(|(_, s)| s.process == process) {
            self.check.connection_frozen(*id);
        }
        self.cut_off(process, pause);
        self.look_for_owner();
        self.at(pause, Event::Thaw(process));
    }

    /// A second process of the same name comes, while the first stands still.
    pub(crate) fn freeze_and_replace(&mut self, process: u64) {
        let pause = self.rng.between(200, 20_000);
        self.freeze(process, pause);
        self.fire(Fault::TwoProcesses);
        if let Some(state) = self.processes.get(&process) {
            self.start(state.slot);
        }
    }

    pub(super) fn thaw(&mut self, process: u64) {
        let Some(state) = self.processes.get_mut(&process).filter(|process| process.frozen) else {
            return;
        };
        state.frozen = false;
        for (from, bytes) in std::mem::take(&mut state.held_back) {
            let to = self.processes[&process].key.clone();
            self.carried(&to, from, bytes);
        }
        self.step_soon(process);
        let sockets = self.sockets.iter().filter(|(_, s)| s.process == process);
        for socket in sockets.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.read(socket);
            self.pump(socket);
        }
        if self.mode == Mode::Alone {
            let notices = self.rng.between(500, 3_000);
            self.at(notices, Event::ClaimLost(process));
        } else {
            self.beat(process);
        }
    }

    // --- cut off ----------------------------------------------------------------------------

    /// Whoever cannot reach it may think that its connections are gone since its last heartbeat.
    pub(crate) fn cut_off(&mut self, process: u64, lasts: u64) {
        let now = self.now;
        let Some(state) = self.processes.get_mut(&process) else { return };
        let since =
            now.saturating_sub(if self.mode == Mode::Alone { 0 } else { HEARTBEAT_MS + 50 });
        let since = *state.cut_since.get_or_insert(since);
        state.cut_until = state.cut_until.max(now + lasts + HEAL_MS);
        let healed = state.cut_until - now;
        for (id, socket) in self.sockets.iter_mut().filter(|(_, s)| s.process == process) {
            let since = *socket.lost_at.get_or_insert(since);
            if self.clients[socket.client].socket == Some(*id) {
                self.check.cut_off(socket.identity, since);
            }
        }
        self.check.trouble(now, now + lasts + HEAL_MS / 3);
        self.at(healed, Event::Healed(process));
    }

    pub(super) fn healed(&mut self, process: u64) {
        let now = self.now;
        let Some(state) = self.processes.get_mut(&process) else { return };
        if state.cut_until > now || state.frozen {
            return;
        }
        state.cut_since = None;
        let sockets = self.sockets.values_mut();
        for socket in sockets.filter(|s| s.process == process && !s.session.is_closed()) {
            socket.lost_at = None;
            self.check.joined_again(socket.identity);
        }
    }

    pub(super) fn heal_all(&mut self) {
        self.redis.down_until = 0;
        self.redis.paused_until = 0;
        self.redis.drops_until = 0;
        for id in self.processes.keys().copied().collect::<Vec<_>>() {
            if let Some(process) = self.processes.get_mut(&id) {
                process.cuts = Cuts::default();
            }
            self.thaw(id);
        }
        (0..self.nodes()).for_each(|slot| self.start_if_wanted(slot));
    }

    /// How many there are when all is well.
    pub(super) fn nodes(&self) -> usize {
        if let Mode::Cluster(nodes) = self.mode { nodes } else { 1 }
    }

    // --- draining ---------------------------------------------------------------------------

    pub(crate) fn begin_drain(&mut self, process: u64) {
        if let Some(state) = self.processes.get_mut(&process)
            && !std::mem::replace(&mut state.draining, true)
        {
            self.fire(Fault::Drain);
            self.beat(process);
            self.at(1_500, Event::DrainNext(process));
        }
    }

    /// Sockets are closed one after the other, then the node leaves.
    pub(super) fn drain_next(&mut self, process: u64) {
        let Some(state) = self.processes.get(&process) else { return };
        if state.frozen {
            return self.at(500, Event::DrainNext(process));
        }
        let pause = self.rng.between(20, 400);
        if self.close_one(process) {
            return self.at(pause, Event::DrainNext(process));
        }
        if !self.processes[&process].open.is_empty() && self.rng.between(0, 20) > 0 {
            return self.at(pause, Event::DrainNext(process));
        }
        let key = self.processes[&process].key.clone();
        let effects = self.processes.get_mut(&process).map(|state| state.seat.leave());
        for effect in effects.into_iter().flatten() {
            self.carry_out(process, effect);
        }
        self.redis.leave(&key);
        self.kill(process);
    }

    /// Whether there was one.
    fn close_one(&mut self, process: u64) -> bool {
        let now = self.time(process);
        let mut sockets = self.sockets.iter_mut();
        let next = sockets.find(|(_, s)| s.process == process && !s.session.is_closed());
        let Some((id, socket)) = next else { return false };
        let id = *id;
        socket.session.close(now, close::SHUTTING_DOWN);
        self.pump(id);
        true
    }

    /// Others have taken the mesh while this node saw nothing.
    pub(super) fn shed(&mut self, process: u64) {
        self.fire(Fault::Shed);
        while self.close_one(process) {}
    }
}
