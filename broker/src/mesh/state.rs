//! One mesh: from inputs to effects, without I/O.
//!
//! The rules live in sub-states that own their fields: [`Roster`] (who is here), [`Delivery`] (who
//! gets what when), [`Pipeline`] (what becomes durable), [`Chain`] (audit), [`Facts`] (what others
//! may change beside us), [`Expiries`] and the limits. This file feeds them and says what follows
//! a commit; [`activation`](super::activation) starts them, and [`attach`](super::attach),
//! [`departure`](super::departure), [`send`](super::send), [`presence`](super::presence), [`moderation`](super::moderation) and
//! [`query`](super::query) say what each command does.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use protocol::client::{Request, Verb};
use protocol::server::Frame;
use protocol::{Close, MemberId, MeshId};
use router::link::{Inbound, Verdict};
use sha2::{Digest, Sha256};

use super::attach::Arrival;
use super::audit::Chain;
use super::delivery::{self, Delivery};
use super::facts::Facts;
use super::io::{Command, ConnId, Count, Effect, Input, Ms, Now, Numbered, Question, Ticket};
use super::limits::{Buckets, Limits, Seen};
use super::moderation::Cooldowns;
use super::pipeline::{Left, Pipeline, Then};
use super::presence::Change;
use super::query::Asked;
use super::roster::{Lease, LeaseNo, Roster};
use super::status::Expiries;
use crate::model::{Duplicate, Envelope, Epoch, LeaseRow, MeshCommit, Outcome, Seq, Write};

/// How often an owner in doubt asks the fence, though it has nothing to write.
const DOUBT_MS: Ms = 3_000;
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
    pub(super) buckets: Buckets,
    pub(super) seen: Seen,
    pub(super) facts: Facts,
    pub(super) expiries: Expiries,
    pub(super) cooldowns: Cooldowns,
    /// Members removed a moment ago, and until when what was read of them before may still be on
    /// its way.
    pub(super) revoked: HashMap<MemberId, Ms>,
    /// Presences that are not announced yet, and when they will be.
    pub(super) news: BTreeSet<(Ms, LeaseNo)>,
    /// Whether any edge remembers what its peers were told.
    pub(super) recalled: bool,
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
            buckets: Buckets::default(),
            seen: Seen::default(),
            facts: Facts::default(),
            expiries: Expiries::default(),
            cooldowns: Cooldowns::default(),
            revoked: HashMap::new(),
            news: BTreeSet::new(),
            recalled: false,
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
                let rules = [graces, statuses, news, self.delivery.deadline(), self.beat_at, asks];
                rules.into_iter().flatten().min()
            }
            _ => None,
        }
    }

    /// Takes one input in. What it causes is collected by [`drain`](Self::drain).
    pub fn apply(&mut self, now: Now, input: Input) {
        if !self.revoked.is_empty() {
            self.revoked.retain(|_, until| *until > now.mono);
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
            Input::Hook { presence, status } => self.hook(now, &presence, status),
            Input::Lost(conn) => {
                self.inbound.remove(&conn);
                self.detach(now, conn, None, false);
            }
            Input::EdgeLost { process, ago_ms } => self.edge_lost(now, process, ago_ms),
            Input::Announced(edge) => self.announced(now, &edge),
            Input::Heard(conn) => self.let_on(now, conn),
            Input::AllAnnounced => self.all_announced(),
            Input::Committed(outcome) => self.committed(now, outcome),
            Input::CommitUnknown => self.reactivate(now),
            Input::Answer(ticket, answer) => self.answered(now, ticket, answer),
        }
    }

    /// The effects of all inputs since the last time, in the order to carry them out. Call it after
    /// a batch of inputs: deliveries and the next commit are worked out once for all of them.
    pub fn drain(&mut self, now: Now) -> Vec<Effect> {
        if self.phase == Phase::Active {
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
        if self.revoked.contains_key(&envelope.sender.member) {
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
                while let Some(no) =
                    self.roster.over(now.mono).filter(|_| self.patience <= now.mono)
                {
                    self.leave(now, no, Left::default());
                }
                while self.end_working(now.mono) {}
                while let Some((at, no)) = self.news.first().copied().filter(|n| n.0 <= now.mono) {
                    self.news.remove(&(at, no));
                    self.announce_arrival(now, no);
                }
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

    // --- what edges say --------------------------------------------------------------------

    fn command(&mut self, now: Now, item: &Numbered) {
        if item.epoch != self.epoch {
            return;
        }
        let inbound = self.inbound.entry(item.conn).or_default();
        if inbound.accept(item.base, item.number) == Verdict::Fresh {
            self.execute(now, item.conn, item.number, &item.command);
        }
    }

    pub(super) fn execute(&mut self, now: Now, conn: ConnId, number: u64, command: &Arc<Command>) {
        if let Some(stalled) = self.stalled.get_mut(&conn) {
            stalled.push_back((number, command.clone()));
            return;
        }
        self.heard(now, conn);
        match &**command {
            Command::Attach(attach) => self.arrive(conn, number, attach),
            Command::Detach { clean } => self.detach(now, conn, Some(number), *clean),
            Command::Send(send) => self.send(now, conn, number, send, command),
            Command::ClientAck(ack) => {
                if let Some(no) = self.roster.of_conn(conn)
                    && !self.pipeline.is_full(self.limits.capacity)
                {
                    let confirms = self.delivery.acked(no, ack, self.tail);
                    self.settle(confirms);
                }
                self.out.push(Effect::Result { conn, number, frame: None });
            }
            Command::Request(request) => self.request(now, conn, number, request),
        }
    }

    fn request(&mut self, now: Now, conn: ConnId, number: u64, request: &Request) {
        let mut change = |to: Change<'_>| self.change(conn, number, request.req_id.clone(), &to);
        match &request.verb {
            Verb::SetSummary { summary } => change(Change::Summary(summary)),
            Verb::SetVisible { visible } => change(Change::Visible(*visible)),
            Verb::SetProfile(profile) => change(Change::Profile(profile)),
            Verb::SetStats { stats } => change(Change::Stats(stats)),
            Verb::JoinGroup(group) => change(Change::Join(group)),
            Verb::LeaveGroup { name } => change(Change::Leave(name)),
            Verb::SetStatus { status } => self.set_status(now, conn, number, *status),
            Verb::ListPeers
            | Verb::MessageStatus { .. }
            | Verb::ListBans
            | Verb::AuditQuery { .. }
            | Verb::AuditVerify => self.query(conn, number, request),
            Verb::Disconnect(_) | Verb::Kick(_) | Verb::Ban { .. } | Verb::Unban { .. } => {
                self.moderate(conn, number, request);
            }
        }
    }

    fn heard(&mut self, now: Now, conn: ConnId) {
        if let Some(lease) = self.roster.of_conn(conn).and_then(|no| self.roster.get_mut(no)) {
            lease.heard = now.mono;
        }
    }

    fn pong(&mut self, conn: ConnId, nonce: u64) {
        if let Some(no) = self.roster.of_conn(conn) {
            let confirms = self.delivery.ponged(no, nonce);
            self.settle(confirms);
        }
    }

    pub(super) fn settle(&mut self, confirms: Vec<crate::model::Confirm>) {
        if !confirms.is_empty() {
            let writes = confirms.into_iter().map(Write::Confirm).collect();
            self.pipeline.push(writes, Then::Settled);
        }
    }

    /// A connection ends. The result of its detach comes behind those of all it asked for before:
    /// until then the edge would ask again, should the mesh change its epoch.
    fn detach(&mut self, now: Now, conn: ConnId, number: Option<u64>, clean: bool) {
        let done = |number| Effect::Result { conn, number, frame: None };
        self.out.extend(self.arrivals.remove(&conn).map(|arrival| done(arrival.number)));
        match self.roster.of_conn(conn) {
            Some(no) if clean && self.is_brief(no) => {
                let reply = number.map(|number| (conn, number, None));
                self.leave(now, no, Left { reply, ..Left::default() });
            }
            Some(no) => self.away(
                now,
                no,
                0,
                number.map_or(Then::Settled, |number| Then::Done {
                    conn,
                    number,
                    frame: None,
                    tell: None,
                }),
            ),
            None => self.out.extend(number.map(done)),
        }
    }

    // --- what the store says ---------------------------------------------------------------

    fn committed(&mut self, now: Now, outcome: Outcome) {
        match outcome {
            Outcome::Committed { purged } => {
                self.pause = 0;
                self.chain.settle();
                if purged > 0 {
                    self.out.push(Effect::Count(Count::Dropped("banned", purged)));
                }
                let durable = self.pipeline.done();
                self.settled(now, durable);
            }
            Outcome::Known(known) => {
                let mut originals: HashMap<Seq, _> =
                    known.into_iter().map(|known| (known.seq, known.original)).collect();
                let taken = self.pipeline.take_out(&originals.keys().copied().collect());
                for accepted in taken {
                    let original = originals.remove(&accepted.envelope.seq);
                    self.accepted(accepted, original);
                }
            }
            Outcome::Fenced => {
                self.phase = Phase::Superseded;
                self.out.push(Effect::Superseded);
            }
            Outcome::Stopped { committed, at } => {
                let mut durable = self.pipeline.done();
                let behind = durable.split_off(committed.min(durable.len()));
                self.settled(now, durable);
                if let Some(stopped) = behind.into_iter().next() {
                    self.refuse_stopped(stopped, at);
                }
                // What was not written is worked out again, by those who asked for it.
                self.reactivate(now);
            }
        }
    }

    fn settled(&mut self, now: Now, thens: Vec<Then>) {
        for then in thens {
            match then {
                Then::Settled => {}
                Then::Accepted(accepted) => {
                    self.tail = self.tail.max(accepted.envelope.seq);
                    self.accepted(*accepted, None);
                }
                Then::Attached { no, conn, number, ack } => {
                    self.attached(now, no, conn, number, *ack);
                }
                Then::Done { conn, number, frame, tell } => {
                    self.out.push(Effect::Result { conn, number, frame });
                    if let Some((event, no)) = tell {
                        self.announce(now, event, no);
                    }
                }
                Then::Left(left) => self.gone(now, *left),
                Then::Refused(refused) => self.out.push(*refused),
                Then::Said { conn, number, frame } => {
                    self.out.push(Effect::Result { conn, number, frame: Some(frame) });
                    self.let_on(now, conn);
                }
                Then::Refusal { conn, number, frame } => {
                    self.out.push(Effect::Refusal { conn, number, frame });
                }
            }
        }
    }

    /// Departures are durable: the one way in which what a session owned is freed.
    fn gone(&mut self, now: Now, left: Left) {
        for no in left.leases {
            self.left(now, no);
        }
        for member in &left.banned {
            self.delivery.forget_member(member);
        }
        if let Some((conn, number, frame)) = left.reply {
            self.out.push(Effect::Result { conn, number, frame });
        }
        for (conn, close) in left.conns {
            self.out.push(Effect::Close { conn, close });
        }
    }

    /// A unit that the store did not write: its data was refused, or its key was known.
    fn refuse_stopped(&mut self, stopped: Then, at: Option<Duplicate>) {
        match (stopped, at) {
            (Then::Accepted(accepted), Some(known)) => {
                self.accepted(*accepted, Some(known.original));
            }
            (Then::Accepted(accepted), None) => {
                let accepted = *accepted;
                let text = "invalid: the store refuses this message";
                self.refuse_send(accepted.conn, accepted.number, accepted.ack_id, "poison", text);
            }
            (Then::Attached { conn, number, .. }, _) => {
                let text = "hello rejected: malformed";
                self.turn_down(conn, number, "malformed", text, Close::rejected("malformed"));
            }
            (Then::Done { conn, number, .. }, _) => {
                self.out.push(Effect::Result { conn, number, frame: None });
            }
            (Then::Left(left), _) => {
                if let Some((conn, number, _)) = left.reply {
                    self.out.push(Effect::Result { conn, number, frame: None });
                }
            }
            (Then::Settled | Then::Refused(_) | Then::Said { .. } | Then::Refusal { .. }, _) => {}
        }
    }

    // --- small common parts ----------------------------------------------------------------

    pub(super) fn ask(&mut self, question: Question, asked: Asked) {
        let ticket = self.delivery.ticket();
        self.asked.insert(ticket, asked);
        self.out.push(Effect::Ask(ticket, question));
    }

    pub(super) fn reply(&mut self, conn: ConnId, number: u64, frame: Frame) {
        if self.doubtful {
            // Were this lost with its commit, what is asked next would be answered behind what is not.
            self.hold_up(conn);
            return self.pipeline.push(Vec::new(), Then::Said { conn, number, frame });
        }
        self.out.push(Effect::Result { conn, number, frame: Some(frame) });
    }

    /// A send is refused. What a connection elsewhere asks next waits until its edge has heard: were
    /// the refusal lost with this owner, and a later message accepted, the next owner would be asked
    /// for both again, and accept the first behind the second.
    pub(super) fn reply_refusal(&mut self, conn: ConnId, number: u64, frame: Frame) {
        if conn.process == self.process {
            return self.reply(conn, number, frame);
        }
        self.hold_up(conn);
        if self.doubtful {
            return self.pipeline.push(Vec::new(), Then::Refusal { conn, number, frame });
        }
        self.out.push(Effect::Refusal { conn, number, frame });
    }

    fn hold_up(&mut self, conn: ConnId) {
        self.stalled.entry(conn).or_default();
        *self.unsaid.entry(conn).or_default() += 1;
    }

    /// One answer of those a connection waits behind is where it should be.
    fn let_on(&mut self, now: Now, conn: ConnId) {
        let Entry::Occupied(mut unsaid) = self.unsaid.entry(conn) else { return };
        *unsaid.get_mut() -= 1;
        if *unsaid.get() == 0 {
            unsaid.remove();
            self.go_on(now, conn);
        }
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
