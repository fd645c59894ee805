//! A mesh that runs here: what the store tells it, what it wants done, and whom its words reach.

use protocol::PresenceId;

use super::io::{SeatEffect, Sight};
use super::item::{Down, FromOwner, Item};
use super::mirror;
use super::owner::events_for;
use super::state::{Role, Seat};
use crate::mesh::Mesh;
use crate::mesh::io::{ConnId, Effect, Input, News, Now, ToEdge};
use crate::model::{Epoch, LeaseRow, MeshCommit, Outcome, Write};

impl Seat {
    pub(super) fn answered(&mut self, now: Now, sight: &Sight, input: Input) {
        let Role::Owner(owner) = &mut self.role else { return };
        let input = match input {
            Input::Activated { activation, entropy, .. } => {
                if let Some(activation) = &activation {
                    self.highest = self.highest.max(activation.epoch);
                }
                let own = self.books.edge(self.process);
                let edges = std::iter::once(own).chain(owner.edges()).collect();
                owner.await_edges(sight.view.others());
                Input::Activated { activation, entropy, edges }
            }
            other => other,
        };
        let activated = matches!(input, Input::Activated { .. });
        let committed = matches!(input, Input::Committed(Outcome::Committed { .. }));
        owner.mesh.apply(now, input);
        if committed {
            self.mirror();
        } else if activated {
            self.mirror_all();
        }
        let Role::Owner(owner) = &mut self.role else { return };
        if activated && let Some(epoch) = owner.mesh.serving() {
            if self.clustered {
                self.out.push(SeatEffect::SayAll(Item::FromOwner(FromOwner::Claim(epoch))));
            }
            self.note_arrivals(now);
        }
    }

    /// What was being committed is durable.
    pub(super) fn mirror(&mut self) {
        let changes = std::mem::take(&mut self.saving);
        if let Some(mesh) = self.mesh().filter(|_| self.clustered && !changes.is_empty())
            && let Some(epoch) = mesh.serving()
        {
            let (tail, whole) = (mesh.tail(), false);
            self.out.push(SeatEffect::Mirror(mirror::News { epoch, tail, changes, whole }));
        }
    }

    /// Whoever has that epoch fences this one, or the store has forgotten it: a new epoch tells.
    pub(super) fn outdone(&mut self, now: Now, epoch: Epoch) {
        self.highest = self.highest.max(epoch);
        if self.mesh().and_then(Mesh::serving).is_some_and(|own| own < epoch) {
            self.start_mesh(now);
        }
    }

    pub(super) fn mirror_all(&mut self) {
        if let Some(mesh) = self.mesh().filter(|_| self.clustered)
            && let Some(epoch) = mesh.serving().filter(|epoch| *epoch > 0)
        {
            let rows = mesh.lease_rows().into_iter();
            let changes = rows.map(|row| (row.presence.clone(), Some(row))).collect();
            let (tail, whole) = (mesh.tail(), true);
            self.out.push(SeatEffect::Mirror(mirror::News { epoch, tail, changes, whole }));
        }
    }

    pub(super) fn note_arrivals(&mut self, now: Now) {
        if let Role::Owner(owner) = &mut self.role
            && owner.is_complete()
        {
            owner.mesh.apply(now, Input::AllAnnounced);
        }
    }

    pub(super) fn apply_mesh(&mut self, now: Now, input: Input) {
        if let Role::Owner(owner) = &mut self.role {
            owner.mesh.apply(now, input);
        }
    }

    /// What the mesh wants done.
    pub(super) fn settle(&mut self, now: Now, sight: &Sight) {
        loop {
            let Role::Owner(owner) = &mut self.role else { return };
            let effects = owner.mesh.drain(now);
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.carry_out(now, sight, effect);
            }
        }
    }

    pub(super) fn carry_out(&mut self, now: Now, sight: &Sight, effect: Effect) {
        let Role::Owner(owner) = &mut self.role else { return };
        let term = self.term;
        match effect {
            Effect::Activate { floor } => self.may_activate(now, sight, floor),
            Effect::Commit(commit) => {
                if self.clustered {
                    self.saving = leases(&commit);
                }
                self.out.push(SeatEffect::Commit { term, commit });
            }
            Effect::Ask(ticket, question) => {
                self.out.push(SeatEffect::Ask { term, ticket, question });
            }
            Effect::Beat => self.out.push(SeatEffect::Beat),
            Effect::Count(count) => self.out.push(SeatEffect::Count(count)),
            Effect::Superseded => self.fenced(now, sight),
            Effect::Reset(epoch) => {
                owner.tell_edges(None, &Down::Reset(epoch));
                let lines = self.lines.iter().copied().collect();
                self.out.push(SeatEffect::Tell(lines, ToEdge::Reset(epoch)));
            }
            Effect::News { process, events, news } => {
                owner.tell_news(process, &events, &news);
                if process.is_none_or(|process| process == self.process) {
                    self.know(events_for(self.process, &events), &news);
                }
            }
            Effect::Attached { held, number, frame } => {
                let conn = held.conn;
                self.tell(vec![conn], ToEdge::Attached { held, number, frame });
            }
            Effect::Refused { conn, number, frame, close } => {
                self.tell(vec![conn], ToEdge::Refused { number, frame, close });
            }
            Effect::Result { conn, number, frame } => {
                self.tell(vec![conn], ToEdge::Result { number, frame });
            }
            Effect::Unsupported { conn, number } => {
                self.tell(vec![conn], ToEdge::Unsupported(number));
            }
            Effect::Refusal { conn, number, frame } => {
                owner.tell_refusal(conn, ToEdge::Result { number, frame: Some(frame) });
            }
            Effect::Push { conn, envelope, hide_member } => {
                self.tell(vec![conn], ToEdge::Push { envelope, hide_member });
            }
            Effect::Broadcast { conns, frame } => self.tell(conns, ToEdge::Event(frame)),
            Effect::Probe { conn, nonce } => self.tell(vec![conn], ToEdge::Probe(nonce)),
            Effect::Close { conn, close } => self.tell(vec![conn], ToEdge::Close(close)),
        }
    }

    /// From the mesh to connections, wherever they are.
    pub(super) fn tell(&mut self, conns: Vec<ConnId>, item: ToEdge) {
        let Role::Owner(owner) = &mut self.role else { return };
        let process = self.process;
        let (here, there): (Vec<_>, Vec<_>) =
            conns.into_iter().partition(|conn| conn.process == process);
        if !there.is_empty() {
            owner.tell(there, &item);
        }
        if !here.is_empty() {
            self.tell_here(here, item);
        }
    }

    pub(super) fn know(&mut self, events: Vec<(Vec<ConnId>, ToEdge)>, news: &News) {
        self.books.remember(news);
        self.out.extend(events.into_iter().map(|(conns, item)| SeatEffect::Tell(conns, item)));
    }

    pub(super) fn tell_here(&mut self, conns: Vec<ConnId>, item: ToEdge) {
        if let ToEdge::Attached { held, .. } = &item
            && self.lines.contains(&held.conn)
        {
            self.books.held.insert(held.conn, held.clone());
        }
        self.out.push(SeatEffect::Tell(conns, item));
    }
}

/// The leases that a commit writes: of each, as it is in the end.
fn leases(commit: &MeshCommit) -> Vec<(PresenceId, Option<LeaseRow>)> {
    let writes = commit.units.iter().flat_map(|unit| &unit.0);
    let changes = writes.filter_map(|write| match write {
        Write::SaveLease(row) => Some((row.presence.clone(), Some(row.clone()))),
        Write::DropLease(presence) => Some((presence.clone(), None)),
        _ => None,
    });
    changes.collect()
}
