//! A mesh as one node sees it: what its own connections say, and where that goes.
//!
//! `ownership` decides where the mesh runs; `running` is what follows if that is here, `nodes` what
//! is heard from elsewhere. This file holds what they share and feeds them.

use std::collections::BTreeSet;

use protocol::{MeshId, PresenceId};
use router::node::NodeKey;

use super::io::{SeatEffect, SeatInput, Sight};
use super::item::{Item, LinkNo, Up};
use super::owner::{Books, Owner};
use super::ownership::RETAKE_MS;
use super::relay::Relay;
use super::sharing::LastAnswer;
use crate::mesh::io::{ConnId, Input, Ms, Now, ToEdge};
use crate::mesh::{Limits, Mesh};
use crate::model::{Epoch, LeaseRow};

#[derive(Debug)]
pub(super) enum Role {
    /// Nobody has asked for the mesh here.
    Idle,
    /// It runs here.
    Owner(Box<Owner>),
    /// It runs elsewhere.
    Relay(Box<Relay>),
}

/// See the module.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
pub struct Seat {
    pub(super) id: MeshId,
    pub(super) process: u64,
    pub(super) limits: Limits,
    /// Whether there are other nodes to reckon with.
    pub(super) clustered: bool,
    pub(super) lines: BTreeSet<ConnId>,
    pub(super) books: Books,
    pub(super) role: Role,
    /// Of the mesh that runs here; answers to another's questions are dropped.
    pub(super) term: u64,
    pub(super) link: LinkNo,
    /// The highest epoch that anybody has shown.
    pub(super) highest: Epoch,
    /// Who showed it, unless the ring has changed its mind since.
    pub(super) claimed: Option<NodeKey>,
    /// Whom the ring named when somebody else showed it, if that was another.
    pub(super) named: Option<NodeKey>,
    pub(super) fenced_at: Option<Ms>,
    pub(super) retake_at: Ms,
    pub(super) pause: Ms,
    /// It was fenced while it saw nothing: if it still sees nothing then, its peers should go.
    pub(super) shed_at: Option<Ms>,
    /// It is this node's turn, but it may not take the mesh yet.
    pub(super) waiting: bool,
    /// Somebody other than a connection wants the mesh to run.
    pub(super) wanted: bool,
    /// Leases in the commit that is under way.
    pub(super) saving: Vec<(PresenceId, Option<LeaseRow>)>,
    /// Whether the mesh has been told that it may have another owner.
    pub(super) doubtful: bool,
    /// What long answers from elsewhere may share.
    pub(super) last_answer: LastAnswer,
    pub(super) out: Vec<SeatEffect>,
}

impl Seat {
    /// A seat that nobody has asked anything of. `process` is the one of this node's connections.
    pub fn new(id: MeshId, process: u64, limits: Limits, clustered: bool) -> Self {
        Self {
            id,
            process,
            limits,
            clustered,
            lines: BTreeSet::new(),
            books: Books::default(),
            role: Role::Idle,
            term: 0,
            link: 0,
            highest: 0,
            claimed: None,
            named: None,
            fenced_at: None,
            retake_at: 0,
            pause: RETAKE_MS.0,
            shed_at: None,
            waiting: false,
            wanted: false,
            saving: Vec::new(),
            doubtful: false,
            last_answer: LastAnswer::default(),
            out: Vec::new(),
        }
    }

    /// The mesh, if it runs here.
    pub fn mesh(&self) -> Option<&Mesh> {
        match &self.role {
            Role::Owner(owner) => Some(&owner.mesh),
            _ => None,
        }
    }

    /// The same, to be asked things.
    pub fn mesh_mut(&mut self) -> Option<&mut Mesh> {
        match &mut self.role {
            Role::Owner(owner) => Some(&mut owner.mesh),
            _ => None,
        }
    }

    /// Links to other nodes, and the bytes that wait on all of them. No more than
    /// [`LINK_BYTES`](super::LINK_BYTES) for each.
    pub fn links(&self) -> (usize, usize) {
        match &self.role {
            Role::Idle => (0, 0),
            Role::Owner(owner) => owner.waiting(),
            Role::Relay(relay) => (1, relay.waiting()),
        }
    }

    /// Whether nothing would be lost by forgetting it.
    pub fn is_idle(&self) -> bool {
        let quiet = match &self.role {
            Role::Idle => !self.wanted,
            Role::Owner(owner) => owner.mesh.is_idle() && !owner.serves_others(),
            Role::Relay(relay) => relay.is_idle(),
        };
        quiet && self.lines.is_empty()
    }

    /// Whether there is no such mesh, as far as is known.
    pub fn is_missing(&self) -> bool {
        self.mesh().is_some_and(Mesh::is_missing)
    }

    /// Says goodbye to the owner, before the seat is forgotten.
    pub fn leave(&mut self) -> Vec<SeatEffect> {
        if let Role::Relay(relay) = std::mem::replace(&mut self.role, Role::Idle) {
            self.out.push(SeatEffect::Say(relay.owner.clone(), relay.bye()));
        }
        std::mem::take(&mut self.out)
    }

    /// When [`SeatInput::Tick`] is due.
    pub fn deadline(&self) -> Option<Ms> {
        let role = match &self.role {
            Role::Idle => None,
            Role::Owner(owner) => owner.mesh.deadline().into_iter().chain(owner.deadline()).min(),
            Role::Relay(relay) => relay.deadline(),
        };
        let retake = self.waiting.then_some(self.retake_at);
        role.into_iter().chain(retake).chain(self.shed_at).min()
    }

    pub(super) fn wants(&self) -> bool {
        self.wanted || !self.lines.is_empty()
    }

    // --- in --------------------------------------------------------------------------------

    /// Takes one input in. What it causes is collected by [`drain`](Self::drain).
    pub fn apply(&mut self, now: Now, sight: &Sight, input: SeatInput) {
        if self.doubtful == sight.fresh {
            self.doubtful = !sight.fresh;
            self.apply_mesh(now, Input::Doubt(self.doubtful));
        }
        match input {
            SeatInput::Open(conn) => self.open(now, sight, conn),
            SeatInput::Shut(conn) => self.shut(now, conn),
            SeatInput::Local(input) => self.local(now, sight, input),
            SeatInput::Store(term, input) if term == self.term => self.answered(now, sight, input),
            SeatInput::Store(..) => {}
            // Of a process that is dead, or not yet known: whoever lives says it again.
            SeatInput::Said(from, _) if !sight.view.knows(&from) => {}
            SeatInput::Said(from, Item::ToOwner(said)) => self.asked(now, sight, &from, said),
            SeatInput::Said(from, Item::FromOwner(said)) => self.told(now, sight, from, said),
            SeatInput::Lost { node, ago_ms } => self.lost(now, &node, ago_ms),
            SeatInput::Looked => self.looked(now, sight),
            SeatInput::Wake => {
                self.wanted = true;
                self.route(now, sight);
            }
            SeatInput::LeasesForgotten => self.mirror_all(),
            SeatInput::Outdone(epoch) => self.outdone(now, epoch),
            SeatInput::Tick => {
                self.apply_mesh(now, Input::Tick);
                if self.shed_at.take_if(|at| *at <= now.mono).is_some() && !sight.fresh {
                    self.out.push(SeatEffect::Shed);
                }
                self.route(now, sight);
            }
        }
    }

    /// The effects of all inputs since the last time, in the order to carry them out.
    pub fn drain(&mut self, now: Now, sight: &Sight) -> Vec<SeatEffect> {
        self.settle(now, sight);
        self.last_answer.sweep();
        let mut said = Vec::new();
        match &mut self.role {
            Role::Idle => {}
            Role::Owner(owner) => {
                for lost in owner.give_up(&mut said) {
                    owner.mesh.apply(now, lost);
                }
                owner.speak(now.mono, &mut said);
            }
            Role::Relay(relay) => {
                if relay.is_overfull() || relay.is_unserved(now.mono) {
                    self.link += 1;
                    **relay = Relay::new(relay.owner.clone(), self.link, now.mono);
                }
                let (books, process, mut items) = (&self.books, self.process, Vec::new());
                relay.speak(now.mono, self.highest, || books.edge(process), &mut items);
                said.extend(items.into_iter().map(|item| (relay.owner.clone(), item)));
            }
        }
        self.out.extend(said.into_iter().map(|(to, item)| SeatEffect::Say(to, item)));
        std::mem::take(&mut self.out)
    }

    // --- the connections of this node ------------------------------------------------------

    fn open(&mut self, now: Now, sight: &Sight, conn: ConnId) {
        self.lines.insert(conn);
        if self.is_missing() {
            // It may have been created since.
            self.start_mesh(now);
        }
        match &mut self.role {
            Role::Owner(owner) => {
                let reset = owner.mesh.serving().map(ToEdge::Reset);
                self.out.extend(reset.map(|reset| SeatEffect::Tell(vec![conn], reset)));
            }
            Role::Relay(relay) => match relay.epoch {
                Some(0) => {
                    let owner = relay.owner.clone();
                    self.relay_to(now, owner);
                }
                epoch => {
                    let reset = epoch.map(ToEdge::Reset);
                    self.out.extend(reset.map(|reset| SeatEffect::Tell(vec![conn], reset)));
                }
            },
            Role::Idle => self.route(now, sight),
        }
    }

    fn shut(&mut self, now: Now, conn: ConnId) {
        self.lines.remove(&conn);
        self.books.held.remove(&conn);
        match &mut self.role {
            Role::Owner(owner) => owner.mesh.apply(now, Input::Lost(conn)),
            Role::Relay(relay) => relay.lost(conn),
            Role::Idle => {}
        }
    }

    fn local(&mut self, now: Now, sight: &Sight, input: Input) {
        match (&mut self.role, input) {
            (Role::Owner(owner), input) => owner.mesh.apply(now, input),
            (Role::Relay(relay), Input::Command(numbered)) => relay.command(numbered),
            (Role::Relay(relay), Input::Pong { conn, nonce }) => {
                relay.tell(Up::Pong { conn, nonce });
            }
            (Role::Relay(relay), Input::Alive(conn)) => relay.tell(Up::Alive(conn)),
            (Role::Relay(relay), Input::Hook { presence, status }) => {
                relay.push(Up::Hook { presence, status });
            }
            (Role::Relay(relay), Input::MemberJoined(key)) => relay.push(Up::MemberJoined(key)),
            (Role::Idle, told @ (Input::Hook { .. } | Input::MemberJoined(_))) => {
                self.wanted = true;
                self.route(now, sight);
                if !matches!(self.role, Role::Idle) {
                    self.local(now, sight, told);
                }
            }
            _ => {}
        }
    }
}
