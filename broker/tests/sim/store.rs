//! The store as the rules may expect it: atomic commits behind an epoch fence, with the moments
//! that matter apart: a commit takes its row lock, ends, answers; a raise waits for the lock; the
//! tail is read after the raise. What a real store does with SQL is checked on real stores.

mod answer;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use broker::model::*;
use protocol::{MemberId, PresenceId};

use crate::faults::Planted;

/// The mesh owner's key, which is no member's.
pub(crate) const OWNER_KEY: &str =
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) body: bool,
    pub(crate) delivered_at: Option<i64>,
}

/// A delivery that was confirmed.
#[derive(Clone)]
pub(crate) struct Gone {
    pub(crate) queue: QueueId,
    pub(crate) seq: Seq,
}

/// A hook's word for a session that is not here yet.
#[derive(Clone)]
pub(crate) struct Waiting {
    pub(crate) id: i64,
    pub(crate) status: NewPending,
    pub(crate) used: bool,
}

#[derive(Clone, Default)]
pub(crate) struct Durable {
    pub(crate) epoch: Epoch,
    pub(crate) owner: u64,
    pub(crate) taken_at: u64,
    pub(crate) envelopes: BTreeMap<Seq, Row>,
    pub(crate) deliveries: BTreeSet<(QueueId, Seq)>,
    pub(crate) accepted: BTreeMap<(MemberId, AcceptKey), Accepted>,
    pub(crate) leases: BTreeMap<PresenceId, (LeaseRow, Option<u64>)>,
    pub(crate) keys: BTreeMap<Arc<str>, MemberId>,
    pub(crate) audit: Vec<AuditRow>,
    pub(crate) beats: BTreeMap<u64, u64>,
    pub(crate) members: BTreeMap<MemberId, Member>,
    pub(crate) archived: bool,
    /// Session keys that stay out, and until when.
    pub(crate) kicked: BTreeMap<Arc<str>, (Kicked, u64)>,
    pub(crate) revoked_at: BTreeMap<MemberId, i64>,
    pub(crate) topics: Vec<Topic>,
    pub(crate) saved: BTreeMap<MemberId, SavedState>,
    pub(crate) history: Vec<History>,
    pub(crate) done: BTreeMap<String, String>,
    pub(crate) pendings: Vec<Waiting>,
    /// Hellos that were accepted, by digest: on which connection, and when.
    pub(crate) hellos: BTreeMap<String, (String, i64)>,
    /// What was sealed to a claimed key that is gone.
    pub(crate) undeliverable: BTreeSet<Seq>,
    /// Deliveries that a ban took back.
    pub(crate) purged: BTreeSet<(Recipient, Seq)>,
    /// Deliveries that the last commit ended because they were confirmed.
    pub(crate) gone: Vec<Gone>,
    /// How many wait for each place.
    waiting: BTreeMap<Seq, usize>,
}

pub(crate) struct SimStore {
    pub(crate) now: Durable,
    pub(crate) planted: Option<Planted>,
    /// Commits that hold the mesh's row.
    pub(crate) locks: BTreeSet<u64>,
    /// What a real store would have refused: a place in the mesh given out twice.
    pub(crate) clash: Option<String>,
}

impl SimStore {
    pub(crate) fn new(planted: Option<Planted>) -> Self {
        Self { now: Durable::default(), planted, locks: BTreeSet::new(), clash: None }
    }

    fn plants(&self, fault: Planted) -> bool {
        self.planted == Some(fault)
    }

    /// The fence of a commit: does it own the mesh, and does it hold the row from here on?
    pub(crate) fn fence(&mut self, op: u64, epoch: Epoch) -> bool {
        if self.plants(Planted::FenceIgnored) {
            return true;
        }
        let ours = self.now.epoch == epoch;
        if ours && !self.plants(Planted::NoRowLock) {
            self.locks.insert(op);
        }
        ours
    }

    /// A new owner. Absences move on by the time that had none: the one before was alive when it
    /// took the mesh and when it last beat.
    pub(crate) fn raise(&mut self, at: u64, process: u64, floor: Epoch) -> (Epoch, u64) {
        let now = &mut self.now;
        let before = now.owner;
        let beat = now.beats.get(&before).copied().unwrap_or(0);
        let alive = now.taken_at.max(beat);
        for since in now.leases.values_mut().filter_map(|(_, since)| since.as_mut()) {
            *since = at - alive.saturating_sub(*since);
        }
        let floor = if self.planted == Some(Planted::EpochReset) { 0 } else { floor };
        now.epoch = now.epoch.max(floor.min(now.epoch + EPOCH_STEP)) + 1;
        now.owner = process;
        now.taken_at = at;
        (now.epoch, before)
    }

    /// What a new owner starts from, read from `from`.
    pub(crate) fn read(&self, from: &Durable, epoch: Epoch) -> Activation {
        let mut queues: BTreeMap<QueueId, Seq> = BTreeMap::new();
        for (queue, seq) in &from.deliveries {
            let tail = queues.entry(queue.clone()).or_default();
            *tail = (*tail).max(*seq);
        }
        let leases = from.leases.values().map(|(row, since)| StoredLease {
            row: self.stored(row),
            away_ms: match since {
                Some(since) if !self.plants(Planted::GraceRestarted) => {
                    from.taken_at.saturating_sub(*since)
                }
                _ => 0,
            },
        });
        Activation {
            epoch,
            previous: epoch.saturating_sub(1),
            tail: from.envelopes.keys().next_back().copied().unwrap_or(0),
            audit_hash: from.audit.last().map(|row| row.hash.clone()),
            queues: queues.into_iter().collect(),
            leases: leases.collect(),
            kicked: self.kicked(from),
            stale_leases: None,
        }
    }

    fn kicked(&self, from: &Durable) -> Vec<Kicked> {
        if self.plants(Planted::KickForgotten) {
            return Vec::new();
        }
        let left = |(kicked, until): &(Kicked, u64)| {
            let left_ms = until.checked_sub(from.taken_at)?;
            Some(Kicked { left_ms, ..kicked.clone() })
        };
        from.kicked.values().filter_map(left).collect()
    }

    fn stored(&self, row: &LeaseRow) -> LeaseRow {
        let mut row = row.clone();
        if self.plants(Planted::CountedTwice) {
            let mut body: serde_json::Value = serde_json::from_str(&row.body).expect("JSON");
            body["unsaved"]["counted"] = serde_json::json!({});
            row.body = body.to_string();
        }
        row
    }

    /// All units, or none because some of their keys are known.
    pub(crate) fn commit(&mut self, at: u64, units: &[Unit]) -> Outcome {
        let known = self.known(units);
        if !known.is_empty() {
            if self.plants(Planted::AuditApart) {
                for write in units.iter().flat_map(|unit| &unit.0) {
                    if let Write::Audit(row) = write {
                        self.now.audit.push(row.clone());
                    }
                }
            }
            return Outcome::Known(known);
        }
        self.now.gone.clear();
        let purged = units.iter().flat_map(|unit| &unit.0).map(|write| self.write(at, write)).sum();
        Outcome::Committed { purged }
    }

    fn known(&self, units: &[Unit]) -> Vec<Duplicate> {
        if self.plants(Planted::DedupeDropped) {
            return Vec::new();
        }
        let accepts = units.iter().flat_map(|unit| &unit.0).filter_map(|write| match write {
            Write::Accept(accept) => Some(&accept.envelope),
            _ => None,
        });
        let known = accepts.filter_map(|envelope| {
            let key = (envelope.sender.member.clone(), envelope.key.clone());
            let original = self.now.accepted.get(&key)?.clone();
            Some(Duplicate { seq: envelope.seq, original })
        });
        known.collect()
    }
}

impl Durable {
    /// Bytes that wait.
    pub(crate) fn queue_bytes(&self) -> QueueBytes {
        let mut recipients: BTreeMap<Recipient, u64> = BTreeMap::new();
        let mut bodies: BTreeMap<Seq, u64> = BTreeMap::new();
        for (queue, seq) in &self.deliveries {
            let bytes = self.envelopes[seq].envelope.body_bytes();
            *recipients.entry(queue.recipient.clone()).or_default() += bytes;
            bodies.insert(*seq, bytes);
        }
        QueueBytes { mesh: bodies.values().sum(), recipients: recipients.into_iter().collect() }
    }

    /// How the members stand that hold leases.
    pub(crate) fn membership(&self) -> Membership {
        let mut membership = Membership { archived: self.archived, ..Membership::default() };
        for (row, _) in self.leases.values() {
            let member = &self.members[&row.member];
            membership.add(member.id.clone(), member.revoked, member.may_moderate());
        }
        membership
    }

    /// Who is behind a member's key.
    pub(crate) fn member_of(&self, pubkey: &str) -> Option<&Member> {
        self.members.values().find(|member| *member.pubkey == *pubkey)
    }

    fn wait(&mut self, queue: QueueId, seq: Seq) {
        if self.deliveries.insert((queue, seq)) {
            *self.waiting.entry(seq).or_default() += 1;
        }
    }

    fn received(&mut self, queue: &QueueId, seq: Seq) -> bool {
        let waited = self.deliveries.remove(&(queue.clone(), seq));
        if waited && let Some(waiting) = self.waiting.get_mut(&seq) {
            *waiting -= 1;
        }
        waited
    }

    pub(crate) fn received_by_all(&mut self, seq: Seq) {
        self.deliveries.retain(|(_, other)| *other != seq);
        self.waiting.remove(&seq);
    }

    fn waits(&self, seq: Seq) -> bool {
        self.waiting.get(&seq).is_some_and(|waiting| *waiting > 0)
    }

    pub(crate) fn topic(&self, spec: &str) -> Option<&Topic> {
        let by_id = self.topics.iter().find(|topic| *topic.id == *spec);
        by_id.or_else(|| self.topics.iter().find(|topic| *topic.name == *spec))
    }
}
