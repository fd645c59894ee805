//! One mesh: from inputs to effects, without I/O.
//!
//! The rules live in sub-states that own their fields: [`Roster`] (who is here), [`Delivery`] (who
//! gets what when), [`Pipeline`] (what becomes durable), [`Chain`] (audit), [`Facts`] (what others
//! may change beside us), [`Expiries`] and the limits. This file feeds them, and says what is due as
//! time passes; [`activation`](super::activation) starts them. [`commands`](super::commands) are what
//! comes from connections: [`attach`](super::attach), [`departure`](super::departure),
//! [`send`](super::send), [`presence`](super::presence), [`moderation`](super::moderation),
//! [`beside`](super::beside) and
//! [`query`](super::query) say what each does, [`outcome`](super::outcome) what follows its commit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use protocol::{MemberId, MeshId};
use router::link::Inbound;
use sha2::{Digest, Sha256};

use super::attach::Arrival;
use super::audit::Chain;
use super::beside::{Reinstated, Removal};
use super::cooldown::Cooldowns;
use super::delivery::{self, Delivery};
use super::facts::Facts;
use super::io::{Command, ConnId, Count, Effect, Input, Ms, Now, Question, Ticket};
use super::limits::{Buckets, Limits, Rate, Seen};
use super::missed::Missed;
use super::pipeline::{Left, Pipeline, Then};
use super::query::Asked;
use super::room::Room;
use super::roster::{Lease, LeaseNo, Roster};
use super::status::Expiries;
use super::visibility::Visibility;
use crate::model::{Envelope, Epoch, LeaseRow, MeshCommit, Seq, Verified};

/// How often an owner in doubt asks the fence, though it has nothing to write.
const DOUBT_MS: Ms = 3_000;
/// How often the store is asked whether what is about to be refused was accepted before, for one
/// member. Who asks more often is told to try later.
const LOOKUPS: Rate = Rate { per_minute: 1_200, burst: 1_000 };
/// How often the store is told that leases in grace have an owner.
const BEAT_MS: Ms = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// An activation is under way.
    Activating,
    /// The last one failed, or brought nothing: the next comes then.
    Pausing { until: Ms },
    /// The mesh is ours.
    Active,
    /// There is no such mesh.
    Missing,
    /// Another process has taken it.
    Superseded,
}

/// See the module.
#[derive(Debug)]
pub struct Mesh {
    pub(super) id: MeshId,
    pub(super) limits: Limits,
    /// Where it runs: what is said to connections of this process cannot be lost without them.
    pub(super) process: u64,
    pub(super) phase: Phase,
    /// How long to wait before the next activation that follows one without a commit.
    pub(super) pause: Ms,
    pub(super) epoch: Epoch,
    pub(super) floor: Epoch,
    /// The last sequence given out.
    pub(super) seq: Seq,
    /// The highest sequence the store may have.
    pub(super) tail: Seq,
    pub(super) entropy: (u128, u64),
    pub(super) generations: u64,
    pub(super) roster: Roster,
    pub(super) delivery: Delivery,
    pub(super) pipeline: Pipeline,
    pub(super) chain: Chain,
    /// How much of the stored chain this owner has verified. Not kept in the store: what a forger can
    /// reach proves nothing.
    pub(super) verified: Verified,
    pub(super) sends: Buckets<MemberId>,
    /// By the member's key.
    pub(super) hellos: Buckets<Arc<str>>,
    /// Refused sends that the store is asked about.
    pub(super) lookups: Buckets<MemberId>,
    pub(super) visibility: Visibility,
    pub(super) seen: Seen,
    pub(super) facts: Facts,
    pub(super) expiries: Expiries,
    pub(super) cooldowns: Cooldowns,
    pub(super) room: Room,
    /// Members removed a moment ago.
    pub(super) revoked: HashMap<MemberId, Removal>,
    pub(super) reinstated: Reinstated,
    /// Connections that end with a commit under way: what they ask meanwhile is refused.
    pub(super) ending: HashSet<ConnId>,
    /// When the last input came in.
    pub(super) clock: Ms,
    /// Presences that are not announced yet, and when they will be.
    pub(super) news: BTreeSet<(Ms, LeaseNo)>,
    /// Whom an owner before may have announced: no edge has said so yet.
    pub(super) unsure: BTreeSet<LeaseNo>,
    /// The edges, by process, that remember what their peers were told.
    pub(super) recalling: BTreeSet<u64>,
    /// What peers that are away are to be told when they are back.
    pub(super) missed: Missed,
    pub(super) arrivals: BTreeMap<ConnId, Arrival>,
    /// Attaches that wait for a lease of the same key to have left.
    pub(super) late: BTreeMap<LeaseNo, Vec<ConnId>>,
    pub(super) asked: HashMap<Ticket, Asked>,
    /// Commands behind one that waits for an answer of the store: order is kept.
    pub(super) stalled: BTreeMap<ConnId, VecDeque<(u64, Arc<Command>)>>,
    /// Answers that a connection's next commands wait behind: for the fence to let them through, or
    /// for its edge to have them.
    pub(super) unsaid: HashMap<ConnId, u32>,
    pub(super) inbound: HashMap<ConnId, Inbound>,
    pub(super) beat_at: Option<Ms>,
    /// No lease ends before.
    pub(super) patience: Ms,
    pub(super) doubtful: bool,
    /// When the fence was last asked for nothing but itself.
    pub(super) asked_fence: Ms,
    pub(super) out: Vec<Effect>,
}

impl Mesh {
    /// A mesh that asks to be activated, in this process.
    pub fn new(id: MeshId, limits: Limits, process: u64) -> Self {
        Self {
            id,
            limits,
            process,
            phase: Phase::Activating,
            pause: 0,
            epoch: 0,
            floor: 0,
            seq: 0,
            tail: 0,
            entropy: (0, 0),
            generations: 0,
            roster: Roster::default(),
            delivery: Delivery::default(),
            pipeline: Pipeline::default(),
            chain: Chain::after(None),
            verified: Verified::default(),
            sends: Buckets::new(limits.sends()),
            hellos: Buckets::new(limits.hellos()),
            lookups: Buckets::new(LOOKUPS),
            visibility: Visibility::default(),
            seen: Seen::default(),
            facts: Facts::default(),
            expiries: Expiries::default(),
            cooldowns: Cooldowns::default(),
            room: Room::default(),
            revoked: HashMap::new(),
            reinstated: Reinstated::default(),
            ending: HashSet::new(),
            clock: 0,
            news: BTreeSet::new(),
            unsure: BTreeSet::new(),
            recalling: BTreeSet::new(),
            missed: Missed::default(),
            arrivals: BTreeMap::new(),
            late: BTreeMap::new(),
            asked: HashMap::new(),
            stalled: BTreeMap::new(),
            unsaid: HashMap::new(),
            inbound: HashMap::new(),
            beat_at: None,
            patience: 0,
            doubtful: false,
            asked_fence: 0,
            out: vec![Effect::Activate { floor: 0 }],
        }
    }

    /// The epoch that commands must carry, once there is one.
    pub fn serving(&self) -> Option<Epoch> {
        matches!(self.phase, Phase::Active | Phase::Missing).then_some(self.epoch)
    }

    /// Whether there is no such mesh, as far as is known.
    pub fn is_missing(&self) -> bool {
        self.phase == Phase::Missing
    }

    /// Whether nothing would be lost by forgetting it.
    pub fn is_idle(&self) -> bool {
        let quiet = self.arrivals.is_empty() && self.pipeline.is_empty();
        self.phase != Phase::Activating && self.roster.len() == 0 && quiet
    }

    /// Every lease that is durable.
    pub fn lease_rows(&self) -> Vec<LeaseRow> {
        let durable = self.roster.iter().filter(|(_, lease)| lease.joined);
        durable.map(|(_, lease)| lease.row()).collect()
    }

    /// The highest place in the mesh that the store may have given.
    pub fn tail(&self) -> Seq {
        self.tail
    }

    /// Leases, those in grace included.
    pub fn leases(&self) -> usize {
        self.roster.len()
    }

    /// Bytes of envelopes in memory. Bounded by [`MESH_BYTES`](super::MESH_BYTES) and,
    /// for each connection, a little more.
    pub fn cached_bytes(&self) -> usize {
        self.delivery.bytes()
    }

    /// When [`Input::Tick`] is due.
    pub fn deadline(&self) -> Option<Ms> {
        match self.phase {
            Phase::Pausing { until } => Some(until),
            Phase::Active => {
                let news = self.news.first().map(|(at, _)| *at);
                let graces = self.roster.deadline().map(|at| at.max(self.patience));
                let statuses = self.expiries.deadline();
                let asks = self.doubtful.then_some(self.asked_fence + DOUBT_MS);
                let recalls =
                    (self.patience > 0 && !self.unsure.is_empty()).then_some(self.patience);
                let shows = self.visibility.deadline();
                let rules = [
                    recalls,
                    graces,
                    statuses,
                    news,
                    self.delivery.deadline(),
                    self.beat_at,
                    asks,
                    shows,
                ];
                rules.into_iter().flatten().min()
            }
            _ => None,
        }
    }

    /// Takes one input in. What it causes is collected by [`drain`](Self::drain).
    pub fn apply(&mut self, now: Now, input: Input) {
        self.clock = now.mono;
        if !self.revoked.is_empty() {
            self.revoked.retain(|_, removal| removal.until > now.mono);
        }
        match input {
            Input::Activated { activation: Some(activation), entropy, edges } => {
                self.activated(now, *activation, entropy, &edges);
            }
            Input::Activated { activation: None, .. } => self.missing(),
            Input::NotActivated => self.not_activated(now),
            Input::Tick => self.tick(now),
            Input::Doubt(doubtful) => self.doubtful = doubtful,
            Input::Command(item) if self.phase == Phase::Missing => {
                self.unknown(item.conn, item.number);
            }
            _ if self.phase != Phase::Active => {} // the edges will send it again
            Input::Command(numbered) => self.command(now, &numbered),
            Input::Pong { conn, nonce } => {
                self.heard(now, conn);
                self.pong(conn, nonce);
            }
            Input::Alive(conn) => self.heard(now, conn),
            Input::Membership { asked, membership } => self.reviewed(now, asked, &membership),
            Input::Hook { presence, status } => self.hook(now, &presence, status),
            Input::MemberJoined(key) => self.end_claims(now, &key),
            Input::Lost(conn) => {
                self.inbound.remove(&conn);
                self.ending.remove(&conn);
                self.detach(now, conn, None, (false, None));
            }
            Input::EdgeLost { process, ago_ms } => self.edge_lost(now, process, ago_ms),
            Input::Announced(edge) => self.announced(now, &edge),
            Input::Heard(conn) => self.let_on(now, conn),
            Input::AllAnnounced => self.all_announced(now),
            Input::Committed(outcome) => self.committed(now, outcome),
            Input::CommitUnknown => self.reactivate(now),
            Input::Answer(ticket, answer) => self.answered(now, ticket, answer),
        }
    }

    /// The effects of all inputs since the last time, in the order to carry them out. Call it after
    /// a batch of inputs: deliveries and the next commit are worked out once for all of them.
    pub fn drain(&mut self, now: Now) -> Vec<Effect> {
        if self.phase == Phase::Active {
            self.probe_listeners();
            if !self.facts.awaits_grants() {
                let mut wanted = Vec::new();
                self.delivery.pump(now.mono, &mut wanted);
                self.carry_out(wanted);
            }
            if let Some(mut units) = self.pipeline.next() {
                self.chain.seal(&self.id, &mut units);
                let commit = MeshCommit { mesh: self.id.clone(), epoch: self.epoch, units };
                self.out.push(Effect::Commit(commit));
            }
        }
        std::mem::take(&mut self.out)
    }

    fn carry_out(&mut self, wanted: Vec<delivery::Out>) {
        for out in wanted {
            let effect = match out {
                delivery::Out::Ask(ticket, question) => Effect::Ask(ticket, question),
                delivery::Out::Push { to, envelope } => {
                    let Some((conn, lease)) = self.listening(to) else { continue };
                    if !self.admits(lease, &envelope) {
                        self.withhold(to, &envelope);
                        continue;
                    }
                    // Members' own sockets drop what names their member (protocol-core §11.2).
                    let hide_member =
                        !lease.record.proven && envelope.sender.member == lease.record.member;
                    self.out.push(Effect::Count(Count::Routed(envelope.priority)));
                    Effect::Push { conn, envelope, hide_member }
                }
                delivery::Out::Probe { to, nonce } => {
                    let Some((conn, _)) = self.listening(to) else { continue };
                    Effect::Probe { conn, nonce }
                }
            };
            self.out.push(effect);
        }
    }

    /// Grants are asked again when an envelope leaves: it may have waited for days.
    fn admits(&self, lease: &Lease, envelope: &Envelope) -> bool {
        let removal = self.revoked.get(&envelope.sender.member);
        if removal.is_some_and(|removal| envelope.seq <= removal.up_to) {
            return false;
        }
        let wanted = envelope.capability();
        wanted.is_none_or(|cap| self.facts.allow(&lease.record.member, &envelope.sender, cap))
    }

    fn withhold(&mut self, from: LeaseNo, envelope: &Envelope) {
        let confirms = self.delivery.drop_envelope(from, &envelope.id, self.tail);
        self.settle(confirms);
        self.out.extend(envelope.capability().map(|cap| Effect::Count(Count::Denied(cap))));
    }

    fn listening(&self, no: LeaseNo) -> Option<(ConnId, &Lease)> {
        let lease = self.roster.get(no)?;
        Some((lease.listening()?, lease))
    }

    fn tick(&mut self, now: Now) {
        match self.phase {
            Phase::Pausing { until } if until <= now.mono => self.activate(),
            Phase::Active => {
                self.make_up_for_lateness(now);
                if self.patience > 0 && self.patience <= now.mono {
                    self.patience = 0;
                    self.assume_known();
                }
                while let Some(no) =
                    self.roster.over(now.mono).filter(|_| self.patience <= now.mono)
                {
                    self.leave(now, no, Left::default());
                }
                while self.end_working(now.mono) {}
                while let Some((at, no)) = self.news.first().copied().filter(|n| n.0 <= now.mono) {
                    self.news.remove(&(at, no));
                    self.short_lived_due(now, no);
                }
                self.tell_held_back(now);
                let mut wanted = Vec::new();
                self.delivery.check(now.mono, &mut wanted);
                self.carry_out(wanted);
                if self.doubtful && self.asked_fence + DOUBT_MS <= now.mono {
                    self.asked_fence = now.mono;
                    self.pipeline.push(Vec::new(), Then::Settled);
                }
                if self.beat_at.is_some_and(|at| at <= now.mono) {
                    self.beat_at = None;
                    self.keep_beating(now);
                }
            }
            _ => {}
        }
    }

    pub(super) fn keep_beating(&mut self, now: Now) {
        if self.beat_at.is_none() && self.roster.any_away() {
            self.beat_at = Some(now.mono + BEAT_MS);
            self.out.push(Effect::Beat);
        }
    }

    pub(super) fn ask(&mut self, question: Question, asked: Asked) {
        let ticket = self.delivery.ticket();
        self.asked.insert(ticket, asked);
        self.out.push(Effect::Ask(ticket, question));
    }

    /// Fresh bits for an id: unpredictable if the activation's were.
    pub(super) fn draw(&mut self) -> u128 {
        self.entropy.1 += 1;
        let mut hasher = Sha256::new();
        hasher.update(self.entropy.0.to_le_bytes());
        hasher.update(self.entropy.1.to_le_bytes());
        hasher.update(self.epoch.to_le_bytes());
        let digest = hasher.finalize();
        digest.iter().take(16).fold(0, |bits, byte| bits << 8 | u128::from(*byte))
    }
}
