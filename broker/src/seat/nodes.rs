//! What the nodes of a cluster say to each other of a mesh, at either end.
//!
//! The peers of a node hear of one owner at a time: what an earlier one still says is of an older
//! link or a lower epoch, and is dropped.

use router::node::NodeKey;

use super::io::{SeatEffect, Sight};
use super::item::{Down, FromOwner, Item, ToOwner};
use super::relay::Heard;
use super::state::{Role, Seat};
use crate::mesh::io::{Input, Ms, Now, ToEdge};
use crate::model::Epoch;

impl Seat {
    /// An edge says something to the owner.
    pub(super) fn asked(&mut self, now: Now, sight: &Sight, from: &NodeKey, said: ToOwner) {
        if matches!(said, ToOwner::Announce { .. }) && self.claimed.as_ref() == Some(from) {
            // Whoever announces itself here does not own the mesh.
            self.claimed = None;
        }
        if let ToOwner::Announce { link, .. } = &said
            && !self.take(now, sight)
        {
            if sight.fresh && self.owner_by(sight).is_some() {
                let elsewhere = Item::FromOwner(FromOwner::Elsewhere(*link));
                self.out.push(SeatEffect::Say(from.clone(), elsewhere));
            }
            return;
        }
        if matches!(said, ToOwner::Announce { .. }) {
            // What has been decided about connections as the link before knew them goes to that link.
            self.settle(now, sight);
        }
        let Role::Owner(owner) = &mut self.role else {
            if let ToOwner::Up { link, .. } = said {
                let elsewhere = Item::FromOwner(FromOwner::Elsewhere(link));
                self.out.push(SeatEffect::Say(from.clone(), elsewhere));
            }
            return;
        };
        match said {
            ToOwner::Announce { link, highest, edge } => {
                if !owner.announce(from, link, &edge) {
                    return;
                }
                owner.arrived(from);
                let superseded = owner.mesh.serving().is_some_and(|e| 0 < e && e < highest);
                self.highest = self.highest.max(highest);
                if superseded || owner.mesh.is_missing() {
                    return self.start_mesh(now);
                }
                if let Some(epoch) = owner.mesh.serving() {
                    owner.tell_edges(Some(edge.process), &Down::Reset(epoch));
                    owner.mesh.apply(now, Input::Announced(edge));
                    // Behind the reset.
                    self.settle(now, sight);
                    self.note_arrivals(now);
                }
            }
            ToOwner::Nothing(epoch) => {
                if owner.mesh.serving() == Some(epoch) {
                    owner.arrived(from);
                    self.note_arrivals(now);
                }
            }
            said => match owner.hear(now.mono, from, said) {
                Ok(input) => input.into_iter().for_each(|input| owner.mesh.apply(now, input)),
                Err(link) => {
                    let unknown = Item::FromOwner(FromOwner::Unknown(link));
                    self.out.push(SeatEffect::Say(from.clone(), unknown));
                }
            },
        }
    }

    /// The owner says something to an edge.
    pub(super) fn told(&mut self, now: Now, sight: &Sight, from: NodeKey, said: FromOwner) {
        if let FromOwner::Claim(epoch) = said {
            return self.claim(now, sight, from, epoch);
        }
        if let FromOwner::Down { link, .. } | FromOwner::Expects { link, .. } = &said
            && !matches!(&self.role, Role::Relay(relay) if relay.is(&from, *link))
        {
            let bye = Item::ToOwner(ToOwner::Bye(*link));
            return self.out.push(SeatEffect::Say(from, bye));
        }
        let Role::Relay(relay) = &mut self.role else { return };
        if relay.owner != from {
            return;
        }
        match relay.hear(now.mono, said) {
            Heard::Nothing | Heard::Down(Down::Unknown) => {}
            Heard::Unknown => self.relay_to(now, from),
            Heard::Elsewhere => {
                self.claimed = None;
                self.relay_to(now, from);
                if let Role::Relay(relay) = &mut self.role {
                    relay.later(now.mono);
                }
                self.route(now, sight);
            }
            Heard::Down(Down::Reset(epoch)) if epoch != 0 && epoch < self.highest => {
                // It has not heard that it was superseded.
                self.relay_to(now, from);
                if let Role::Relay(relay) = &mut self.role {
                    relay.later(now.mono);
                }
            }
            Heard::Down(Down::Reset(epoch)) => {
                self.highest = self.highest.max(epoch);
                self.shed_at = None;
                relay.epoch = Some(epoch);
                let lines = self.lines.iter().copied().collect();
                self.out.push(SeatEffect::Tell(lines, ToEdge::Reset(epoch)));
            }
            Heard::Down(Down::News { events, news }) => self.know(events, &news),
            Heard::Down(Down::To(conns, mut item)) => {
                self.last_answer.share(&mut item);
                self.tell_here(conns, item);
            }
        }
    }

    /// Another node has taken the mesh.
    pub(super) fn claim(&mut self, now: Now, sight: &Sight, from: NodeKey, epoch: Epoch) {
        if !self.lines.is_empty() || matches!(self.role, Role::Owner(_)) {
            if epoch <= self.highest {
                return;
            }
            self.highest = epoch;
            self.shed_at = None;
            self.claimed = Some(from);
            self.named = self.named_by(sight);
            if let Role::Owner(_) = self.role {
                self.step_down(now, sight);
            }
            return self.route(now, sight);
        }
        self.highest = self.highest.max(epoch);
        let nothing = Item::ToOwner(ToOwner::Nothing(epoch));
        self.out.push(SeatEffect::Say(from, nothing));
    }

    /// A process is gone, and its connections with it.
    pub(super) fn lost(&mut self, now: Now, node: &NodeKey, ago_ms: Ms) {
        let Role::Owner(owner) = &mut self.role else { return };
        owner.arrived(node);
        if let Some(process) = owner.drop_link(node) {
            owner.mesh.apply(now, Input::EdgeLost { process, ago_ms });
        }
        self.note_arrivals(now);
    }
}
