//! Where a mesh runs, as one node decides it, and what follows for the connections it has.
//!
//! The owner is whom the ring names, or whoever has since shown a higher epoch. A node takes a mesh
//! over only while it sees Redis and is named itself, and after it was fenced only once it has looked
//! again: so nodes that disagree cannot take a mesh from each other for ever. It lets a mesh go as
//! soon as it sees that another is named; and while it sees nothing, it goes on with what it has, for
//! the store's fence is what keeps two owners apart (design §4).
//!
//! The peers of a node hear of one owner at a time: what an earlier one still says is of an older
//! link or a lower epoch, and is dropped.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::{MeshId, PresenceId};
use router::membership::View;
use router::node::NodeKey;

use super::item::{Down, FromOwner, Item, LinkNo, ToOwner, Up};
use super::mirror;
use super::owner::{Books, Owner, events_for};
use super::relay::{Heard, Relay};
use crate::mesh::io::{ConnId, Count, Effect, Input, Ms, News, Now, Question, Ticket, ToEdge};
use crate::mesh::{Limits, Mesh};
use crate::model::{Epoch, LeaseRow, MeshCommit, Outcome, Write};

/// First and longest pause before a node that was fenced takes the mesh again, in milliseconds.
pub const RETAKE_MS: (Ms, Ms) = (100, 5_000);
/// Whoever has held a mesh for so long was not taking part in a quarrel, in milliseconds.
const SETTLED_MS: Ms = 10_000;

/// How long a node that was fenced while it saw nothing may take to see again, before it sends its
/// peers elsewhere, in milliseconds: one that was only frozen sees again after the time to live.
const SHED_MS: Ms = 8_000;

/// What a node sees of the cluster at one moment.
#[derive(Debug, Clone)]
pub struct Sight {
    /// Who is alive.
    pub view: Arc<View>,
    /// When it last looked.
    pub read_at: Ms,
    /// Whether it may act on that: it looked within the time to live, and has looked long enough.
    pub fresh: bool,
}

/// What goes in.
#[derive(Debug, Clone)]
pub enum SeatInput {
    /// A connection of this node wants to attach.
    Open(ConnId),
    /// A connection of this node is gone.
    Shut(ConnId),
    /// A connection of this node says something.
    Local(Input),
    /// The store answers what was asked in this term.
    Store(u64, Input),
    /// Another node says something.
    Said(NodeKey, Item),
    /// Another process of the cluster is gone: its last heartbeat was so long ago.
    Lost {
        /// Which.
        node: NodeKey,
        /// In milliseconds.
        ago_ms: Ms,
    },
    /// Who is alive has changed.
    Looked,
    /// The mesh holds leases: somebody should run it.
    Wake,
    /// Redis lacks leases of this mesh.
    LeasesForgotten,
    /// Redis knows an owner of this higher epoch.
    Outdone(Epoch),
    /// A deadline may have passed.
    Tick,
}

/// What comes out, to be carried out in order.
#[derive(Debug, Clone)]
pub enum SeatEffect {
    /// For connections of this node.
    Tell(Vec<ConnId>, ToEdge),
    /// For another node.
    Say(NodeKey, Item),
    /// For every other node.
    SayAll(Item),
    /// See [`Effect::Activate`].
    Activate {
        /// To be given back with the answer.
        term: u64,
        /// The highest epoch ever seen.
        floor: Epoch,
    },
    /// See [`Effect::Commit`].
    Commit {
        /// To be given back with the answer.
        term: u64,
        /// What.
        commit: MeshCommit,
    },
    /// See [`Effect::Ask`].
    Ask {
        /// To be given back with the answer.
        term: u64,
        /// Of the question.
        ticket: Ticket,
        /// What.
        question: Question,
    },
    /// What was asked of the store before is nobody's business any more.
    Forget,
    /// Leases that have become durable, for Redis.
    Mirror(mirror::News),
    /// See [`Effect::Beat`].
    Beat,
    /// See [`Effect::Count`].
    Count(Count),
    /// Without a cluster: another process has the store. Stop.
    Superseded,
    /// Others have taken the mesh while this node saw nothing: whoever is connected is better off
    /// elsewhere.
    Shed,
}

#[derive(Debug)]
enum Role {
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
    id: MeshId,
    process: u64,
    limits: Limits,
    /// Whether there are other nodes to reckon with.
    clustered: bool,
    lines: BTreeSet<ConnId>,
    books: Books,
    role: Role,
    /// Of the mesh that runs here; answers to another's questions are dropped.
    term: u64,
    link: LinkNo,
    /// The highest epoch that anybody has shown.
    highest: Epoch,
    /// Who showed it, unless the ring has changed its mind since.
    claimed: Option<NodeKey>,
    /// Whom the ring named when somebody else showed it, if that was another.
    named: Option<NodeKey>,
    fenced_at: Option<Ms>,
    retake_at: Ms,
    pause: Ms,
    /// It was fenced while it saw nothing: if it still sees nothing then, its peers should go.
    shed_at: Option<Ms>,
    /// It is this node's turn, but it may not take the mesh yet.
    waiting: bool,
    /// Somebody other than a connection wants the mesh to run.
    wanted: bool,
    /// Leases in the commit that is under way.
    saving: Vec<(PresenceId, Option<LeaseRow>)>,
    /// Whether the mesh has been told that it may have another owner.
    doubtful: bool,
    out: Vec<SeatEffect>,
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

    fn wants(&self) -> bool {
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
                if relay.is_overfull() {
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
            (Role::Idle, hook @ Input::Hook { .. }) => {
                self.wanted = true;
                self.route(now, sight);
                if !matches!(self.role, Role::Idle) {
                    self.local(now, sight, hook);
                }
            }
            _ => {}
        }
    }

    // --- the store -------------------------------------------------------------------------

    fn answered(&mut self, now: Now, sight: &Sight, input: Input) {
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
    fn mirror(&mut self) {
        let changes = std::mem::take(&mut self.saving);
        if let Some(mesh) = self.mesh().filter(|_| self.clustered && !changes.is_empty())
            && let Some(epoch) = mesh.serving()
        {
            let (tail, whole) = (mesh.tail(), false);
            self.out.push(SeatEffect::Mirror(mirror::News { epoch, tail, changes, whole }));
        }
    }

    /// Whoever has that epoch fences this one, or the store has forgotten it: a new epoch tells.
    fn outdone(&mut self, now: Now, epoch: Epoch) {
        self.highest = self.highest.max(epoch);
        if self.mesh().and_then(Mesh::serving).is_some_and(|own| own < epoch) {
            self.start_mesh(now);
        }
    }

    fn mirror_all(&mut self) {
        if let Some(mesh) = self.mesh().filter(|_| self.clustered)
            && let Some(epoch) = mesh.serving().filter(|epoch| *epoch > 0)
        {
            let rows = mesh.lease_rows().into_iter();
            let changes = rows.map(|row| (row.presence.clone(), Some(row))).collect();
            let (tail, whole) = (mesh.tail(), true);
            self.out.push(SeatEffect::Mirror(mirror::News { epoch, tail, changes, whole }));
        }
    }

    fn note_arrivals(&mut self, now: Now) {
        if let Role::Owner(owner) = &mut self.role
            && owner.is_complete()
        {
            owner.mesh.apply(now, Input::AllAnnounced);
        }
    }

    fn apply_mesh(&mut self, now: Now, input: Input) {
        if let Role::Owner(owner) = &mut self.role {
            owner.mesh.apply(now, input);
        }
    }

    /// What the mesh wants done.
    fn settle(&mut self, now: Now, sight: &Sight) {
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

    fn carry_out(&mut self, now: Now, sight: &Sight, effect: Effect) {
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
            Effect::Push { conn, envelope, hide_member } => {
                self.tell(vec![conn], ToEdge::Push { envelope, hide_member });
            }
            Effect::Broadcast { conns, frame } => self.tell(conns, ToEdge::Event(frame)),
            Effect::Probe { conn, nonce } => self.tell(vec![conn], ToEdge::Probe(nonce)),
            Effect::Close { conn, close } => self.tell(vec![conn], ToEdge::Close(close)),
        }
    }

    /// From the mesh to connections, wherever they are.
    fn tell(&mut self, conns: Vec<ConnId>, item: ToEdge) {
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

    fn know(&mut self, events: Vec<(Vec<ConnId>, ToEdge)>, news: &News) {
        self.books.remember(news);
        self.out.extend(events.into_iter().map(|(conns, item)| SeatEffect::Tell(conns, item)));
    }

    fn tell_here(&mut self, conns: Vec<ConnId>, item: ToEdge) {
        if let ToEdge::Attached { held, .. } = &item
            && self.lines.contains(&held.conn)
        {
            self.books.held.insert(held.conn, held.clone());
        }
        self.out.push(SeatEffect::Tell(conns, item));
    }

    // --- who owns it -----------------------------------------------------------------------

    /// The mesh must begin a new epoch. Only who sees that it is still its owner may.
    fn may_activate(&mut self, now: Now, sight: &Sight, floor: Epoch) {
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
    fn owner_by(&self, sight: &Sight) -> Option<NodeKey> {
        let claimed = self.claimed.as_ref().filter(|node| sight.view.knows(node));
        let owner = claimed.or_else(|| sight.view.owner(self.id.as_str()));
        owner.filter(|owner| *owner != sight.view.me()).cloned()
    }

    /// Whom the ring names, if it is another.
    fn named_by(&self, sight: &Sight) -> Option<NodeKey> {
        let owner = sight.view.owner(self.id.as_str());
        owner.filter(|owner| *owner != sight.view.me()).cloned()
    }

    /// Who is alive has changed: the ring may name another.
    fn looked(&mut self, now: Now, sight: &Sight) {
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
    fn route(&mut self, now: Now, sight: &Sight) {
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
    fn take(&mut self, now: Now, sight: &Sight) -> bool {
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
    fn forget_the_absent(&mut self) {
        if self.lines.is_empty() {
            self.books.forget();
        }
    }

    fn start_mesh(&mut self, now: Now) {
        self.forget_the_absent();
        self.waiting = false;
        self.term += 1;
        self.out.push(SeatEffect::Forget);
        let mesh = Mesh::new(self.id.clone(), self.limits);
        self.doubtful = false;
        match &mut self.role {
            Role::Owner(owner) => owner.mesh = mesh,
            role => *role = Role::Owner(Box::new(Owner::new(mesh, now.mono))),
        }
    }

    fn relay_to(&mut self, now: Now, owner: NodeKey) {
        self.link = (self.link + 1).max(now.mono);
        self.forget_the_absent();
        self.role = Role::Relay(Box::new(Relay::new(owner, self.link, now.mono)));
    }

    /// The mesh does not run here any more. What is not durable, the edges ask again; what is, the
    /// next owner finds.
    fn step_down(&mut self, now: Now, sight: &Sight) {
        let Role::Owner(owner) = std::mem::replace(&mut self.role, Role::Idle) else { return };
        self.term += 1;
        self.out.push(SeatEffect::Forget);
        let farewell = owner.farewell().map(|(to, item)| SeatEffect::Say(to, item));
        self.out.extend(farewell.collect::<Vec<_>>());
        self.route(now, sight);
    }

    /// A commit found another owner in the store.
    fn fenced(&mut self, now: Now, sight: &Sight) {
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

    // --- the other nodes -------------------------------------------------------------------

    /// An edge says something to the owner.
    fn asked(&mut self, now: Now, sight: &Sight, from: &NodeKey, said: ToOwner) {
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
    fn told(&mut self, now: Now, sight: &Sight, from: NodeKey, said: FromOwner) {
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
            Heard::Nothing => {}
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
            Heard::Down(Down::To(conns, item)) => self.tell_here(conns, item),
        }
    }

    /// Another node has taken the mesh.
    fn claim(&mut self, now: Now, sight: &Sight, from: NodeKey, epoch: Epoch) {
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
    fn lost(&mut self, now: Now, node: &NodeKey, ago_ms: Ms) {
        let Role::Owner(owner) = &mut self.role else { return };
        owner.arrived(node);
        if let Some(process) = owner.drop_link(node) {
            owner.mesh.apply(now, Input::EdgeLost { process, ago_ms });
        }
        self.note_arrivals(now);
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
