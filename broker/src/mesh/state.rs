//! One mesh: from inputs to effects, without I/O.
//!
//! The rules live in sub-states that own their fields: [`Roster`] (who is here), [`Delivery`] (who
//! gets what when), [`Pipeline`] (what becomes durable), [`Chain`] (audit), and the limits. This
//! file starts, stops and feeds them; [`attach`](super::attach), [`send`](super::send) and
//! [`query`](super::query) say what each command does.
//!
//! A mesh is active under one epoch. When a commit's outcome is unknown, or the store refuses a
//! unit, everything that the store or the edges can tell again is dropped, the mesh is activated
//! anew, and the edges send again what has no result: the same path as a change of owner.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use protocol::server::Frame;
use protocol::{MeshId, PresenceId, close};
use router::link::{Inbound, Verdict};
use sha2::{Digest, Sha256};

use super::attach::Arrival;
use super::audit::Chain;
use super::delivery::{self, Delivery};
use super::io::{Command, ConnId, Count, Effect, Held, Input, Ms, Now, Numbered, Question, Ticket};
use super::limits::{Buckets, Limits, Seen};
use super::pipeline::{Pipeline, Then};
use super::query::Asked;
use super::roster::{Hold, Lease, LeaseNo, Record, Roster};
use crate::model::{Activation, Duplicate, Epoch, MeshCommit, Outcome, Seq, StoredLease, Write};

/// First and longest pause between attempts to activate.
const BACKOFF_MS: (Ms, Ms) = (100, 5_000);
/// How often the store is told that leases in grace have an owner.
const BEAT_MS: Ms = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
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
    phase: Phase,
    /// How long to wait before the next activation that follows one without a commit.
    pause: Ms,
    pub(super) epoch: Epoch,
    floor: Epoch,
    /// The last sequence given out.
    pub(super) seq: Seq,
    /// The highest sequence the store may have.
    tail: Seq,
    entropy: (u128, u64),
    pub(super) generations: u64,
    pub(super) roster: Roster,
    pub(super) delivery: Delivery,
    pub(super) pipeline: Pipeline,
    pub(super) chain: Chain,
    pub(super) buckets: Buckets,
    pub(super) seen: Seen,
    pub(super) arrivals: BTreeMap<ConnId, Arrival>,
    /// Attaches that wait for a lease of the same key to have left.
    pub(super) late: BTreeMap<LeaseNo, Vec<ConnId>>,
    pub(super) asked: HashMap<Ticket, Asked>,
    /// Sends behind one that waits for an answer of the store: order is kept.
    pub(super) stalled: BTreeMap<ConnId, VecDeque<(u64, Arc<Command>)>>,
    inbound: HashMap<ConnId, Inbound>,
    beat_at: Option<Ms>,
    pub(super) out: Vec<Effect>,
}

impl Mesh {
    /// A mesh that asks to be activated.
    pub fn new(id: MeshId, limits: Limits) -> Self {
        Self {
            id,
            limits,
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
            arrivals: BTreeMap::new(),
            late: BTreeMap::new(),
            asked: HashMap::new(),
            stalled: BTreeMap::new(),
            inbound: HashMap::new(),
            beat_at: None,
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
                let rules = [self.roster.deadline(), self.delivery.deadline(), self.beat_at];
                rules.into_iter().flatten().min()
            }
            _ => None,
        }
    }

    /// Takes one input in. What it causes is collected by [`drain`](Self::drain).
    pub fn apply(&mut self, now: Now, input: Input) {
        match input {
            Input::Activated { activation: Some(activation), entropy, held } => {
                self.activated(now, *activation, entropy, held);
            }
            Input::Activated { activation: None, .. } => self.missing(),
            Input::NotActivated => self.not_activated(now),
            Input::Tick => self.tick(now),
            Input::Command(item) if self.phase == Phase::Missing => {
                self.unknown(item.conn, item.number);
            }
            _ if self.phase != Phase::Active => {} // the edges will send it again
            Input::Command(numbered) => self.command(now, &numbered),
            Input::Pong { conn, nonce } => self.pong(conn, nonce),
            Input::Lost(conn) => {
                self.inbound.remove(&conn);
                self.detach(now, conn, None);
            }
            Input::Committed(outcome) => self.committed(now, outcome),
            Input::CommitUnknown => self.reactivate(now),
            Input::Answer(ticket, answer) => self.answered(now, ticket, answer),
        }
    }

    /// The effects of all inputs since the last time, in the order to carry them out. Call it after
    /// a batch of inputs: deliveries and the next commit are worked out once for all of them.
    pub fn drain(&mut self, now: Now) -> Vec<Effect> {
        if self.phase == Phase::Active {
            let mut wanted = Vec::new();
            self.delivery.pump(now.mono, &mut wanted);
            self.carry_out(wanted);
            if let Some(units) = self.pipeline.next() {
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

    fn listening(&self, no: LeaseNo) -> Option<(ConnId, &Lease)> {
        let lease = self.roster.get(no)?;
        Some((lease.listening()?, lease))
    }

    // --- one epoch after another -----------------------------------------------------------

    fn activated(&mut self, now: Now, from: Activation, entropy: u128, held: Vec<Held>) {
        self.phase = Phase::Active;
        self.epoch = from.epoch;
        self.floor = from.epoch;
        self.seq = from.tail;
        self.tail = from.tail;
        self.entropy = (entropy, 0);
        self.generations = 0;
        self.chain = Chain::after(from.audit_hash);
        self.pipeline = Pipeline::default();
        self.roster = Roster::default();
        self.delivery = Delivery::load(from.queues, self.delivery.tickets());
        self.arrivals.clear();
        self.late.clear();
        self.asked.clear();
        self.stalled.clear();
        self.inbound.clear();
        self.beat_at = None;
        let mut held = self.newest(held);
        for stored in from.leases {
            let held = held.remove(&stored.row.presence);
            self.restore(now, stored, held);
        }
        let mut orphans: Vec<_> = held.into_values().map(|held| held.conn).collect();
        orphans.sort_unstable();
        for conn in orphans {
            self.out.push(Effect::Close { conn, close: close::UNAVAILABLE });
        }
        self.out.push(Effect::Reset(self.epoch));
        self.keep_beating(now);
    }

    /// A line that was displaced may not be gone yet: of those that hold a presence, the newest.
    fn newest(&mut self, all: Vec<Held>) -> HashMap<PresenceId, Held> {
        let mut newest: HashMap<PresenceId, Held> = HashMap::new();
        for held in all {
            let older = match newest.entry(held.presence.clone()) {
                Entry::Vacant(vacant) => {
                    vacant.insert(held);
                    continue;
                }
                Entry::Occupied(mut other) if other.get().generation < held.generation => {
                    other.insert(held)
                }
                Entry::Occupied(_) => held,
            };
            let close = close::SESSION_REPLACED;
            self.out.push(Effect::Close { conn: older.conn, close });
        }
        newest
    }

    /// A lease as the store has it, and as an edge holds it.
    fn restore(&mut self, now: Now, stored: StoredLease, edge: Option<Held>) {
        let Ok(record) = serde_json::from_str::<Record>(&stored.row.body) else {
            self.pipeline.push(vec![Write::DropLease(stored.row.presence)], Then::Settled);
            return;
        };
        let conn = edge.and_then(|held| {
            let current = held.generation >= record.generation;
            if !current {
                let close = close::SESSION_REPLACED;
                self.out.push(Effect::Close { conn: held.conn, close });
            }
            current.then_some(held.conn)
        });
        // Time without an owner does not count: the grace goes on where it stood.
        let left = self.limits.grace_ms.saturating_sub(stored.away_ms);
        let hold = match conn {
            Some(conn) => Hold::Online { conn, answered: true },
            None => Hold::Away { until: now.mono + left },
        };
        let lease = Lease::new(stored.row.presence, record, hold, true);
        let changed = lease.conn().is_none() != stored.row.away;
        let no = self.admit(lease);
        if conn.is_some() {
            self.delivery.attach(no, self.may_confirm_by_pong(no));
        }
        if changed {
            self.save(no, Then::Settled);
        }
    }

    fn missing(&mut self) {
        self.phase = Phase::Missing;
        self.epoch = 0;
        self.out.push(Effect::Reset(0));
    }

    fn not_activated(&mut self, now: Now) {
        if self.phase == Phase::Activating {
            self.pause = self.pause.max(BACKOFF_MS.0);
            self.pause(now);
        }
    }

    /// Nobody knows what the store holds: ask it, under a new epoch. At once, unless the epoch
    /// before has brought no commit either.
    fn reactivate(&mut self, now: Now) {
        if self.pause == 0 {
            self.pause = BACKOFF_MS.0;
            self.activate();
        } else {
            self.pause(now);
        }
    }

    fn pause(&mut self, now: Now) {
        self.phase = Phase::Pausing { until: now.mono + self.pause };
        self.pause = (self.pause * 2).min(BACKOFF_MS.1);
    }

    fn activate(&mut self) {
        self.phase = Phase::Activating;
        self.out.push(Effect::Activate { floor: self.floor });
    }

    fn tick(&mut self, now: Now) {
        match self.phase {
            Phase::Pausing { until } if until <= now.mono => self.activate(),
            Phase::Active => {
                while let Some(no) = self.roster.over(now.mono) {
                    self.leave(now, no);
                }
                let mut wanted = Vec::new();
                self.delivery.check(now.mono, &mut wanted);
                self.carry_out(wanted);
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
        // What was read before a close is executed before it.
        if let (Command::Detach, Some(stalled)) = (&**command, self.stalled.get_mut(&conn)) {
            stalled.push_back((number, command.clone()));
            return;
        }
        match &**command {
            Command::Attach(attach) => self.arrive(conn, number, attach),
            Command::Detach => self.detach(now, conn, Some(number)),
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
            Command::ListPeers { req_id } => self.list_peers(conn, number, req_id.clone()),
            Command::MessageStatus(ask) => self.message_status(conn, number, ask),
        }
    }

    fn pong(&mut self, conn: ConnId, nonce: u64) {
        if let Some(no) = self.roster.of_conn(conn) {
            let confirms = self.delivery.ponged(no, nonce);
            self.settle(confirms);
        }
    }

    fn settle(&mut self, confirms: Vec<crate::model::Confirm>) {
        if !confirms.is_empty() {
            let writes = confirms.into_iter().map(Write::Confirm).collect();
            self.pipeline.push(writes, Then::Settled);
        }
    }

    /// A connection ends. The result of its detach comes behind those of all it asked for before:
    /// until then the edge would ask again, should the mesh change its epoch.
    fn detach(&mut self, now: Now, conn: ConnId, number: Option<u64>) {
        let done = |number| Effect::Result { conn, number, frame: None };
        self.out.extend(self.arrivals.remove(&conn).map(|arrival| done(arrival.number)));
        match self.roster.of_conn(conn) {
            Some(no) => self.away(
                now,
                no,
                number.map_or(Then::Settled, |number| Then::Detached { conn, number }),
            ),
            None => self.out.extend(number.map(done)),
        }
    }

    // --- what the store says ---------------------------------------------------------------

    fn committed(&mut self, now: Now, outcome: Outcome) {
        let thens = self.pipeline.done();
        match outcome {
            Outcome::Committed { duplicates } => {
                self.pause = 0;
                self.settled(now, thens, duplicates);
            }
            Outcome::Fenced => {
                self.phase = Phase::Superseded;
                self.out.push(Effect::Superseded);
            }
            Outcome::Poisoned { committed, duplicates } => {
                let mut durable = thens;
                let behind = durable.split_off(committed.min(durable.len()));
                self.settled(now, durable, duplicates);
                if let Some(poison) = behind.into_iter().next() {
                    self.refuse_poison(poison);
                }
                // What was not written is worked out again, by those who asked for it.
                self.reactivate(now);
            }
        }
    }

    fn settled(&mut self, now: Now, thens: Vec<Then>, duplicates: Vec<Duplicate>) {
        let mut originals: HashMap<Seq, _> =
            duplicates.into_iter().map(|known| (known.seq, known.original)).collect();
        for then in thens {
            match then {
                Then::Settled => {}
                Then::Accepted(accepted) => {
                    let seq = accepted.envelope.seq;
                    self.tail = self.tail.max(seq);
                    self.accepted(*accepted, originals.remove(&seq));
                }
                Then::Attached { no, conn, number, ack } => {
                    self.attached(now, no, conn, number, *ack);
                }
                Then::Detached { conn, number } => {
                    self.out.push(Effect::Result { conn, number, frame: None });
                }
                Then::Left { no } => self.left(now, no),
            }
        }
    }

    fn refuse_poison(&mut self, poison: Then) {
        match poison {
            Then::Accepted(accepted) => {
                let accepted = *accepted;
                let text = "invalid: the store refuses this message";
                self.refuse_send(accepted.conn, accepted.number, accepted.ack_id, "poison", text);
            }
            Then::Attached { conn, number, .. } => {
                let text = "hello rejected: malformed";
                self.turn_down(
                    conn,
                    number,
                    "malformed",
                    text,
                    close::Close::rejected("malformed"),
                );
            }
            Then::Settled | Then::Detached { .. } | Then::Left { .. } => {}
        }
    }

    // --- small common parts ----------------------------------------------------------------

    pub(super) fn ask(&mut self, question: Question, asked: Asked) {
        let ticket = self.delivery.ticket();
        self.asked.insert(ticket, asked);
        self.out.push(Effect::Ask(ticket, question));
    }

    pub(super) fn reply(&mut self, conn: ConnId, number: u64, frame: Frame) {
        self.out.push(Effect::Result { conn, number, frame: Some(frame) });
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
