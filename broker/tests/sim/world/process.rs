//! A process at work: what goes into its seat, and what comes out.

use std::sync::Arc;

use broker::mesh::Mesh;
use broker::mesh::io::{ConnId, Held, Input, Now, ToEdge};
use broker::model::{Envelope, Outcome};
use broker::seat::item::{Down, FromOwner, Item, ToOwner};
use broker::seat::{Seat, SeatEffect, SeatInput, Sight};
use protocol::MeshId;
use protocol::server::Frame;

use super::{Event, Mode, Work, World, skew};
use crate::check::{Outlet, SeenPeer};
use crate::client::MESH;
use crate::faults::{Fault, Planted};

/// A seat that nobody uses is forgotten after so long.
const IDLE_MS: u64 = 30_000;

/// What an owner lets go to connections, there and elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Let {
    pub(crate) conns: Vec<ConnId>,
    pub(crate) item: ToEdge,
}

impl World {
    pub(super) fn mesh_tick(&mut self, process: u64) {
        let now = self.now;
        if let Some(state) = self.processes.get_mut(&process)
            && state.tick_at == Some(now)
        {
            state.tick_at = None;
            self.input(process, SeatInput::Tick);
        }
    }

    pub(super) fn frozen_socket(&self, socket: u64) -> bool {
        let process = self.sockets.get(&socket).map(|s| s.process);
        process.and_then(|p| self.processes.get(&p)).is_some_and(|p| p.frozen)
    }

    pub(crate) fn input(&mut self, process: u64, input: SeatInput) {
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
        let now = self.time(id);
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.stepping = false;
        if process.frozen {
            return;
        }
        let inputs: Vec<_> = process.inbox.drain(..).collect();
        let sight = self.sight(id);
        for input in inputs {
            self.trace(|| format!("process-{id} takes {input:?}"));
            let input = self.forge_input(input);
            let sight = self.forge_sight(&sight, &input);
            let announces =
                matches!(input, SeatInput::Said(_, Item::ToOwner(ToOwner::Announce { .. })));
            if let Some(process) = self.processes.get_mut(&id) {
                process.seat.apply(now, &sight, input);
            }
            // The mesh has spoken, and is judged by what is true just now.
            if announces {
                self.carry_all_out(id, now, &sight);
            }
        }
        if let Some(process) = self.processes.get_mut(&id) {
            process.seat.apply(now, &sight, SeatInput::Tick);
        }
        self.carry_all_out(id, now, &sight);
        self.tick_when_due(id);
        self.look_for_owner();
        self.check.bounds(self.now, self.processes.get(&id).map(|p| &p.seat));
        self.rest(id);
    }

    fn carry_all_out(&mut self, id: u64, now: Now, sight: &Sight) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let mut effects = process.seat.drain(now, sight);
        let forged = self.forge_effects(id, &mut effects);
        self.judge(id, &mut effects, &forged);
        for effect in effects {
            self.trace(|| format!("process-{id} {effect:?}"));
            self.carry_out(id, effect);
        }
        for Let { conns, item } in forged {
            for conn in conns {
                self.tell(conn.process, conn, item.clone());
            }
        }
    }

    fn tick_when_due(&mut self, id: u64) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let Some(deadline) = process.seat.deadline() else { return };
        let due = deadline.saturating_sub(skew(id)).max(self.now + 1);
        if process.tick_at.is_none_or(|at| due < at) {
            process.tick_at = Some(due);
            self.at(due - self.now, Event::MeshTick(id));
        }
    }

    /// A seat that nobody uses leaves memory, and with it what it knew.
    fn rest(&mut self, id: u64) {
        let busy = self.ops.values().any(|op| op.process == id && !op.orphan);
        let limits = self.forge_limits(self.limits);
        let Some(process) = self.processes.get_mut(&id) else { return };
        if busy || !process.seat.is_idle() || self.mode == Mode::Alone {
            process.idle_since = None;
            return;
        }
        if *process.idle_since.get_or_insert(self.now) + IDLE_MS > self.now {
            return;
        }
        process.idle_since = None;
        let effects = process.seat.leave();
        process.seat = Seat::new(MeshId::from(MESH), id, limits, true);
        self.fire(Fault::SeatForgotten);
        for effect in effects {
            self.carry_out(id, effect);
        }
        self.look_for_owner();
    }

    /// What leaves for peers for the first time.
    fn letting(&mut self, id: u64, effects: &[SeatEffect]) -> Vec<Let> {
        let mut all = Vec::new();
        let owns = self.processes.get(&id).is_some_and(|process| process.seat.mesh().is_some());
        for effect in effects {
            match effect {
                SeatEffect::Tell(conns, item) if owns => {
                    all.push(Let { conns: conns.clone(), item: item.clone() });
                }
                SeatEffect::Say(
                    to,
                    Item::FromOwner(FromOwner::Down { link, number, down, .. }),
                ) => {
                    let next = self.streamed.entry((id, to.clone(), *link)).or_default();
                    if *number < *next {
                        continue;
                    }
                    *next = *number + 1;
                    let items = match down {
                        Down::To(conns, item) => &[(conns.clone(), item.clone())],
                        Down::News { events, .. } => &events[..],
                        Down::Reset(_) | Down::Unknown => &[],
                    };
                    let items = items.iter().cloned();
                    all.extend(items.map(|(conns, item)| Let { conns, item }));
                }
                _ => {}
            }
        }
        all
    }

    pub(crate) fn socket_of(&self, conn: ConnId) -> Option<u64> {
        self.processes.get(&conn.process)?.open.get(&conn).copied()
    }

    /// What leaves must be allowed to, and disturb nobody who does not want to be. What the owner
    /// says of everybody's status is asked as a peer would ask.
    fn judge(&mut self, id: u64, effects: &mut [SeatEffect], forged: &[Let]) {
        let mut all = self.letting(id, effects);
        all.extend_from_slice(forged);
        let mut disturbed = Vec::new();
        for Let { conns, item } in &all {
            self.check.spoken(self.now, id, self.speaks_under(id));
            match item {
                ToEdge::Push { envelope, .. } if self.store.now.owner == id => {
                    disturbed.extend(conns.iter().filter_map(|conn| self.pushes(*conn, envelope)));
                }
                ToEdge::Event(frame) => {
                    if let Frame::Event(event) = &**frame {
                        self.check.announced(self.now, event.event, &event.event_data);
                    }
                }
                ToEdge::Result { frame: Some(Frame::PeersList { .. }), .. } => {
                    let sockets = conns.iter().filter_map(|conn| self.socket_of(*conn));
                    let asked = sockets.filter_map(|socket| self.sockets.get(&socket));
                    for identity in asked.map(|state| state.identity).collect::<Vec<_>>() {
                        self.check.lists(self.now, identity);
                    }
                }
                ToEdge::Attached { held, .. } => {
                    let socket = self.socket_of(held.conn).and_then(|s| self.sockets.get(&s));
                    if let Some(state) = socket {
                        self.check.let_in(self.now, state.identity);
                    }
                }
                _ => {}
            }
        }
        if !disturbed.is_empty() {
            let peers = self.peers(id);
            self.check.disturbed(self.now, &disturbed, &peers);
        }
    }

    fn speaks_under(&self, id: u64) -> Option<u64> {
        self.processes.get(&id)?.seat.mesh()?.serving()
    }

    /// The session that a push disturbs.
    fn pushes(&mut self, conn: ConnId, envelope: &Arc<Envelope>) -> Option<String> {
        let socket = self.socket_of(conn)?;
        let state = self.sockets.get(&socket)?;
        let to = Outlet { socket, identity: state.identity, client: state.client };
        let session = self.clients[to.client].session_of(to.identity);
        self.check.leaves(self.now, &to, envelope).then_some(session)
    }

    /// Everybody visible, as the owner sees them now.
    pub(crate) fn peers(&self, id: u64) -> Vec<SeenPeer> {
        let mesh = self.processes.get(&id).and_then(|process| process.seat.mesh());
        let rows = mesh.map(Mesh::lease_rows).unwrap_or_default();
        let seen = rows.iter().map(|row| serde_json::from_str(&row.body).expect("a row is JSON"));
        seen.filter(|peer: &SeenPeer| peer.visible).collect()
    }

    pub(super) fn carry_out(&mut self, id: u64, effect: SeatEffect) {
        match effect {
            SeatEffect::Activate { term, floor } => {
                if self.mode != Mode::Alone {
                    self.check.activates(self.now, id);
                }
                self.op(id, term, Work::Activate { floor, snapshot: None, raised: None });
            }
            SeatEffect::Commit { term, commit } => {
                if self.planted == Some(Planted::AckBeforeCommit) {
                    let early = Input::Committed(Outcome::Committed { purged: 0 });
                    self.input(id, SeatInput::Store(term, early));
                }
                self.op(id, term, Work::Commit(commit));
            }
            SeatEffect::Ask { term, ticket, question } => {
                self.op(id, term, Work::Ask(ticket, question));
            }
            SeatEffect::Beat => self.op(id, 0, Work::Beat),
            SeatEffect::Forget => self.forget_ops(id),
            SeatEffect::Tell(conns, item) => self.tell_all(id, &conns, &item),
            SeatEffect::Say(to, item) => self.say(id, &to, item),
            SeatEffect::SayAll(item) => self.say_all(id, &item),
            SeatEffect::Superseded => self.kill(id),
            SeatEffect::Shed => self.shed(id),
            SeatEffect::Mirror(_) | SeatEffect::Count(_) => {}
        }
    }

    fn tell_all(&mut self, id: u64, conns: &[ConnId], item: &ToEdge) {
        match item {
            ToEdge::Attached { held, .. } => self.note_attached(id, held),
            ToEdge::Push { envelope, .. } if self.planted == Some(Planted::ConfirmedByPush) => {
                self.store.now.received_by_all(envelope.seq);
            }
            _ => {}
        }
        for conn in conns {
            self.tell(id, *conn, item.clone());
        }
    }

    fn note_attached(&mut self, id: u64, held: &Held) {
        let Some(process) = self.processes.get(&id) else { return };
        let Some(socket) = process.open.get(&held.conn).copied() else { return };
        // Its last heartbeat may be older than this attach.
        let cut = process.cut_since;
        if let Some(state) = self.sockets.get_mut(&socket) {
            state.lost_at = cut;
            self.check.attached(state.identity, socket);
            self.check.line_attached(self.now, socket);
            match cut {
                Some(since) => self.check.cut_off(state.identity, since),
                None => self.check.joined_again(state.identity),
            }
        }
    }
}
