//! Where a mesh runs, as one node decides it.
//!
//! The owner is whom the ring names, or whoever has since shown a higher epoch. A node takes a mesh
//! over only while it sees Redis and is named itself, and after it was fenced only once it has looked
//! again: so nodes that disagree cannot take a mesh from each other for ever. It lets a mesh go as
//! soon as it sees that another is named; and while it sees nothing, it goes on with what it has, for
//! the store's fence is what keeps two owners apart (design §4).

use router::node::NodeKey;

use super::io::{SeatEffect, Sight};
use super::owner::Owner;
use super::relay::Relay;
use super::state::{Role, Seat};
use crate::mesh::Mesh;
use crate::mesh::io::{Input, Ms, Now};
use crate::model::Epoch;

/// First and longest pause before a node that was fenced takes the mesh again, in milliseconds.
pub const RETAKE_MS: (Ms, Ms) = (100, 5_000);
/// Whoever has held a mesh for so long was not taking part in a quarrel, in milliseconds.
const SETTLED_MS: Ms = 10_000;
/// How long a node that was fenced while it saw nothing may take to see again, before it sends its
/// peers elsewhere, in milliseconds: one that was only frozen sees again after the time to live.
const SHED_MS: Ms = 8_000;

impl Seat {
    /// The mesh must begin a new epoch. Only who sees that it is still its owner may.
    pub(super) fn may_activate(&mut self, now: Now, sight: &Sight, floor: Epoch) {
        if !sight.fresh {
            return self.apply_mesh(now, Input::NotActivated);
        }
        if self.owner_by(sight).is_some() {
            return self.step_down(now, sight);
        }
        let (term, floor) = (self.term, floor.max(self.highest));
        self.out.push(SeatEffect::Activate { term, floor });
    }

    /// Whoever else owns the mesh.
    pub(super) fn owner_by(&self, sight: &Sight) -> Option<NodeKey> {
        let claimed = self.claimed.as_ref().filter(|node| sight.view.knows(node));
        let owner = claimed.or_else(|| sight.view.owner(self.id.as_str()));
        owner.filter(|owner| *owner != sight.view.me()).cloned()
    }

    /// Whom the ring names, if it is another.
    pub(super) fn named_by(&self, sight: &Sight) -> Option<NodeKey> {
        let owner = sight.view.owner(self.id.as_str());
        owner.filter(|owner| *owner != sight.view.me()).cloned()
    }

    /// Who is alive has changed: the ring may name another.
    pub(super) fn looked(&mut self, now: Now, sight: &Sight) {
        let named = self.named_by(sight);
        if named != self.named {
            self.claimed = None;
            self.named = named;
        }
        if let Role::Owner(_) = self.role
            && sight.fresh
            && self.owner_by(sight).is_some()
        {
            self.step_down(now, sight);
        }
        self.route(now, sight);
    }

    /// Turns to whoever owns the mesh, if anybody here wants it.
    pub(super) fn route(&mut self, now: Now, sight: &Sight) {
        self.waiting = false;
        if matches!(self.role, Role::Owner(_)) || !self.wants() {
            return;
        }
        let Some(owner) = self.owner_by(sight) else {
            self.waiting = !self.take(now, sight);
            // Nobody says when this node will have seen enough.
            self.retake_at = self.retake_at.max(now.mono + RETAKE_MS.0);
            return;
        };
        self.wanted = false;
        if !matches!(&self.role, Role::Relay(relay) if relay.owner == owner) {
            self.relay_to(now, owner);
        }
    }

    /// Takes the mesh over, if this node may.
    pub(super) fn take(&mut self, now: Now, sight: &Sight) -> bool {
        if matches!(self.role, Role::Owner(_)) {
            return true;
        }
        let looked_since = self.fenced_at.is_none_or(|at| sight.read_at > at);
        let is_me = sight.view.owner(self.id.as_str()) == Some(sight.view.me());
        let may = sight.fresh && looked_since && self.retake_at <= now.mono;
        if may && is_me && self.owner_by(sight).is_none() {
            self.wanted = false;
            self.start_mesh(now);
            return true;
        }
        false
    }

    /// With nobody left who was told anything, the next who comes is told everything.
    pub(super) fn forget_the_absent(&mut self) {
        if self.lines.is_empty() {
            self.books.forget();
        }
    }

    pub(super) fn start_mesh(&mut self, now: Now) {
        self.forget_the_absent();
        self.waiting = false;
        self.term += 1;
        self.out.push(SeatEffect::Forget);
        let mesh = Mesh::new(self.id.clone(), self.limits, self.process);
        self.doubtful = false;
        match &mut self.role {
            Role::Owner(owner) => owner.mesh = mesh,
            role => *role = Role::Owner(Box::new(Owner::new(mesh, now.mono))),
        }
    }

    pub(super) fn relay_to(&mut self, now: Now, owner: NodeKey) {
        self.link = (self.link + 1).max(now.mono);
        self.forget_the_absent();
        self.role = Role::Relay(Box::new(Relay::new(owner, self.link, now.mono)));
    }

    /// The mesh does not run here any more. What is not durable, the edges ask again; what is, the
    /// next owner finds.
    pub(super) fn step_down(&mut self, now: Now, sight: &Sight) {
        let Role::Owner(owner) = std::mem::replace(&mut self.role, Role::Idle) else { return };
        self.term += 1;
        self.out.push(SeatEffect::Forget);
        let farewell = owner.farewell().map(|(to, item)| SeatEffect::Say(to, item));
        self.out.extend(farewell.collect::<Vec<_>>());
        self.route(now, sight);
    }

    /// A commit found another owner in the store.
    pub(super) fn fenced(&mut self, now: Now, sight: &Sight) {
        if !self.clustered {
            return self.out.push(SeatEffect::Superseded);
        }
        let Role::Owner(owner) = &self.role else { return };
        if now.mono.saturating_sub(owner.since) > SETTLED_MS {
            self.pause = RETAKE_MS.0;
        }
        // Nodes that quarrel must not do so in step.
        let jitter = (self.process ^ now.mono) % (self.pause / 2);
        self.fenced_at = Some(now.mono);
        self.retake_at = now.mono + self.pause + jitter;
        self.pause = (self.pause * 2).min(RETAKE_MS.1);
        self.shed_at = (!sight.fresh).then_some(now.mono + SHED_MS);
        self.step_down(now, sight);
    }
}
