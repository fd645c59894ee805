//! A process: its mesh, its connections, its death.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use broker::mesh::Mesh;
use broker::mesh::io::{Command, ConnId, Effect, Held, Input, Numbered, ToEdge};
use broker::model::Outcome;
use protocol::MeshId;
use protocol::client::{Request, Verb};
use protocol::server::{Frame, Peer};

use super::{Down, Event, Process, Work, World};
use crate::check::Outlet;
use crate::client::MESH;
use crate::faults::{Fault, Planted};

impl World {
    pub(crate) fn start(&mut self) {
        let id = self.next_process;
        self.next_process += 1;
        let limits = self.forge_limits(self.limits);
        let process = Process {
            mesh: Mesh::new(MeshId::from(MESH), limits),
            open: BTreeMap::new(),
            held: BTreeMap::new(),
            inbox: VecDeque::new(),
            stepping: false,
            tick_at: None,
            frozen: false,
        };
        self.processes.insert(id, process);
        self.check.owner_lost(self.now);
        self.step_soon(id);
    }

    /// The process that new connections reach.
    pub(crate) fn current(&self) -> Option<u64> {
        self.processes.iter().rev().find(|(_, process)| !process.frozen).map(|(id, _)| *id)
    }

    pub(crate) fn crash(&mut self, process: u64) {
        if self.processes.contains_key(&process) {
            self.crashes += 1;
            self.kill(process);
        }
    }

    pub(super) fn kill(&mut self, process: u64) {
        if self.processes.remove(&process).is_none() {
            return;
        }
        self.check.owner_lost(self.now);
        let sockets: Vec<_> =
            self.sockets.iter().filter(|(_, s)| s.process == process).map(|(id, _)| *id).collect();
        for socket in sockets {
            self.down(socket, Down::Closed);
            let now = self.now;
            self.check.connection_ended(now, socket);
            if let Some(state) = self.sockets.get_mut(&socket) {
                state.process = 0;
                state.lost_at.get_or_insert(now);
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
        if self.processes.is_empty() {
            let pause = if self.rng.one_in(4) { 20_000 } else { 1_500 };
            let pause = self.rng.between(50, pause);
            self.at(pause, Event::Start);
        }
    }

    pub(crate) fn freeze_and_replace(&mut self, process: u64) {
        let Some(state) = self.processes.get_mut(&process) else { return };
        state.frozen = true;
        let now = self.now;
        for (id, socket) in self.sockets.iter_mut().filter(|(_, s)| s.process == process) {
            socket.lost_at.get_or_insert(now);
            self.check.connection_frozen(*id);
        }
        self.check.owner_lost(self.now);
        self.fire(Fault::TwoProcesses);
        self.start();
        let pause = self.rng.between(200, 20_000);
        self.at(pause, Event::Thaw(process));
    }

    pub(super) fn thaw(&mut self, process: u64) {
        let Some(state) = self.processes.get_mut(&process) else { return };
        state.frozen = false;
        self.step_soon(process);
        let sockets = self.sockets.iter().filter(|(_, s)| s.process == process);
        for socket in sockets.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.read(socket);
            self.pump(socket);
        }
        let notices = self.rng.between(500, 3_000);
        self.at(notices, Event::ClaimLost(process));
    }

    pub(super) fn mesh_tick(&mut self, process: u64) {
        let now = self.now;
        if let Some(state) = self.processes.get_mut(&process)
            && state.tick_at == Some(now)
        {
            state.tick_at = None;
            self.input(process, Input::Tick);
        }
    }

    pub(super) fn frozen_socket(&self, socket: u64) -> bool {
        let process = self.sockets.get(&socket).map(|s| s.process);
        process.and_then(|p| self.processes.get(&p)).is_some_and(|p| p.frozen)
    }

    pub(crate) fn input(&mut self, process: u64, input: Input) {
        if let Some(state) = self.processes.get_mut(&process) {
            state.inbox.push_back(input);
            self.step_soon(process);
        }
    }

    pub(super) fn step_soon(&mut self, process: u64) {
        let pause = self.rng.between(0, 2);
        if let Some(state) = self.processes.get_mut(&process)
            && !state.stepping
        {
            state.stepping = true;
            self.at(pause, Event::MeshStep(process));
        }
    }

    pub(super) fn mesh_step(&mut self, id: u64) {
        let now = self.time();
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.stepping = false;
        if process.frozen {
            return;
        }
        let inputs: Vec<_> = process.inbox.drain(..).collect();
        for input in inputs {
            self.trace(|| format!("process-{id} takes {input:?}"));
            let input = self.forge_input(input);
            if let Some(process) = self.processes.get_mut(&id) {
                process.mesh.apply(now, input);
            }
        }
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.mesh.apply(now, Input::Tick);
        let mut effects = process.mesh.drain(now);
        let deadline = process.mesh.deadline();
        self.forge_effects(id, &mut effects);
        self.judge_pushes(id, &mut effects);
        for effect in effects {
            self.trace(|| format!("process-{id} {effect:?}"));
            self.carry_out(id, effect);
        }
        if let (Some(deadline), Some(process)) = (deadline, self.processes.get_mut(&id)) {
            let due = deadline.max(self.now + 1);
            if process.tick_at.is_none_or(|at| due < at) {
                process.tick_at = Some(due);
                self.at(due - self.now, Event::MeshTick(id));
            }
        }
        self.check.bounds(self.now, self.processes.get(&id).map(|p| &p.mesh));
    }

    /// What leaves must be allowed to, and disturb nobody who does not want to be. What the owner
    /// says of everybody's status is asked as a peer would ask.
    fn judge_pushes(&mut self, id: u64, effects: &mut Vec<Effect>) {
        if self.store.now.owner != id {
            return;
        }
        let mut disturbed = Vec::new();
        for effect in effects.iter() {
            let Effect::Push { conn, envelope, .. } = effect else { continue };
            let open = self.processes.get(&id).and_then(|process| process.open.get(conn));
            let Some((socket, state)) = open.and_then(|s| Some((*s, self.sockets.get(s)?))) else {
                continue;
            };
            let to = Outlet { socket, identity: state.identity, client: state.client };
            let session = self.clients[to.client].session_of(to.identity);
            if self.check.leaves(self.now, &to, envelope) {
                disturbed.push(session);
            }
        }
        if !disturbed.is_empty() {
            let peers = self.peers(id, effects);
            self.check.disturbed(self.now, &disturbed, &peers);
        }
    }

    /// Everybody visible, as the owner sees them now.
    pub(crate) fn peers(&mut self, id: u64, effects: &mut Vec<Effect>) -> Vec<Peer> {
        let now = self.time();
        let conn = ConnId { process: u64::MAX, number: self.fresh() };
        let Some(process) = self.processes.get_mut(&id) else { return Vec::new() };
        let Some(epoch) = process.mesh.serving() else { return Vec::new() };
        let command = Arc::new(Command::Request(Request { verb: Verb::ListPeers, req_id: None }));
        let asked = Numbered { conn, epoch, base: 0, number: 0, command };
        process.mesh.apply(now, Input::Command(asked));
        process.mesh.apply(now, Input::Lost(conn));
        let mut seen = Vec::new();
        for effect in process.mesh.drain(now) {
            match effect {
                Effect::Result {
                    conn: to, frame: Some(Frame::PeersList { peers, .. }), ..
                } if to == conn => {
                    seen = peers;
                }
                other => effects.push(other),
            }
        }
        seen
    }

    pub(super) fn carry_out(&mut self, id: u64, effect: Effect) {
        match effect {
            Effect::Activate { floor } => {
                self.check.owner_lost(self.now);
                self.op(id, Work::Activate { floor, snapshot: None, raised: None });
            }
            Effect::Commit(commit) => {
                if self.planted == Some(Planted::AckBeforeCommit) {
                    let early = Outcome::Committed { purged: 0 };
                    self.input(id, Input::Committed(early));
                }
                self.op(id, Work::Commit(commit));
            }
            Effect::Ask(ticket, question) => self.op(id, Work::Ask(ticket, question)),
            Effect::Beat => self.op(id, Work::Beat),
            Effect::Reset(epoch) => {
                self.check.owner_found(self.now);
                let open = self.processes.get(&id).map(|process| process.open.keys().copied());
                let conns: Vec<_> = open.into_iter().flatten().collect();
                for conn in conns {
                    self.tell(id, conn, ToEdge::Reset(epoch));
                }
            }
            Effect::Attached { held, number, frame } => {
                self.note_attached(id, &held);
                self.tell(id, held.conn, ToEdge::Attached { held, number, frame });
            }
            Effect::Refused { conn, number, frame, close } => {
                self.tell(id, conn, ToEdge::Refused { number, frame, close });
            }
            Effect::Result { conn, number, frame } => {
                self.tell(id, conn, ToEdge::Result { number, frame });
            }
            Effect::Push { conn, envelope, hide_member } => {
                if self.planted == Some(Planted::ConfirmedByPush) {
                    self.store.now.received_by_all(envelope.seq);
                }
                self.tell(id, conn, ToEdge::Push { envelope, hide_member });
            }
            Effect::Broadcast { conns, frame } => {
                if let Frame::Event(event) = &*frame {
                    self.check.announced(self.now, event.event, &event.event_data);
                }
                for conn in conns {
                    self.tell(id, conn, ToEdge::Event(frame.clone()));
                }
            }
            Effect::Probe { conn, nonce } => self.tell(id, conn, ToEdge::Probe(nonce)),
            Effect::Close { conn, close } => self.tell(id, conn, ToEdge::Close(close)),
            Effect::Superseded => self.kill(id),
            Effect::Count(_) => {}
        }
    }

    fn note_attached(&mut self, id: u64, held: &Held) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let Some(socket) = process.open.get(&held.conn).copied() else { return };
        process.held.insert(held.conn, held.clone());
        if let Some(state) = self.sockets.get_mut(&socket) {
            state.lost_at = None;
            self.check.attached(self.now, state.identity, socket);
            self.check.line_attached(self.now, socket);
        }
    }
}
