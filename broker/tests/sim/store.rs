//! The store as the rules may expect it: atomic commits behind an epoch fence, with the moments
//! that matter apart: a commit takes its row lock, ends, answers; a raise waits for the lock; the
//! tail is read after the raise. What a real store does with SQL is checked on real stores.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use broker::mesh::io::{Answer, Question};
use broker::model::*;
use protocol::{MemberId, MessageId, PresenceId};

use crate::faults::Planted;

#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) body: bool,
    pub(crate) delivered_at: Option<i64>,
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
    pub(crate) audit: Vec<(u64, AuditRow, String)>,
    pub(crate) beats: BTreeMap<u64, u64>,
    pub(crate) members: BTreeMap<String, Member>,
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
        now.epoch = now.epoch.max(floor) + 1;
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
            row: row.clone(),
            away_ms: match since {
                Some(since) if !self.plants(Planted::GraceRestarted) => {
                    from.taken_at.saturating_sub(*since)
                }
                _ => 0,
            },
        });
        Activation {
            epoch,
            tail: from.envelopes.keys().next_back().copied().unwrap_or(0),
            audit_hash: from.audit.last().map(|(_, row, _)| row.hash.clone()),
            queues: queues.into_iter().collect(),
            leases: leases.collect(),
        }
    }

    pub(crate) fn commit(&mut self, at: u64, units: &[Unit]) -> Outcome {
        let mut duplicates = Vec::new();
        for write in units.iter().flat_map(|unit| &unit.0) {
            match write {
                Write::Accept(accept) => self.accept(at, accept, &mut duplicates),
                Write::Confirm(confirm) => self.confirm(at, confirm),
                Write::SaveLease(row) => self.save(at, row),
                Write::DropLease(presence) => {
                    self.now.leases.remove(presence);
                }
                Write::Inherit { from, to } => self.inherit(from, to),
                Write::RecordKey { key, member } => {
                    self.now.keys.entry(key.clone()).or_insert_with(|| member.clone());
                }
                Write::Audit(row) => {
                    let presence = units
                        .iter()
                        .find(|unit| unit.0.contains(write))
                        .and_then(|unit| unit.0.iter().find_map(presence_of));
                    self.now.audit.push((at, row.clone(), presence.unwrap_or_default()));
                }
            }
        }
        Outcome::Committed { duplicates }
    }

    fn accept(&mut self, at: u64, accept: &Accept, duplicates: &mut Vec<Duplicate>) {
        let envelope = &accept.envelope;
        let key = (envelope.sender.member.clone(), envelope.key.clone());
        if let Some(original) = self.now.accepted.get(&key)
            && !self.plants(Planted::DedupeDropped)
        {
            duplicates.push(Duplicate { seq: envelope.seq, original: original.clone() });
            return;
        }
        let known =
            Accepted { message: envelope.id.clone(), fingerprint: envelope.fingerprint.clone() };
        self.now.accepted.insert(key, known);
        for recipient in &accept.recipients {
            let queue = QueueId { recipient: recipient.clone(), lane: envelope.lane() };
            self.now.deliveries.insert((queue, envelope.seq));
        }
        let row = Row {
            envelope: envelope.clone(),
            recipients: accept.recipients.clone(),
            body: true,
            delivered_at: accept.recipients.is_empty().then_some(at as i64),
        };
        if let Some(other) = self.now.envelopes.insert(envelope.seq, row) {
            let (first, second) = (&other.envelope.id, &envelope.id);
            self.clash = Some(format!("{first} and {second} have one place"));
        }
    }

    fn confirm(&mut self, at: u64, confirm: &Confirm) {
        let Some(row) = self.now.envelopes.get_mut(&confirm.seq) else { return };
        if row.envelope.id != confirm.message {
            return;
        }
        self.now.deliveries.remove(&(confirm.queue.clone(), confirm.seq));
        if self.planted == Some(Planted::ConfirmedByAnother) {
            self.now.deliveries.retain(|(_, seq)| *seq != confirm.seq);
        }
        let last = !self.now.deliveries.iter().any(|(_, seq)| *seq == confirm.seq);
        if last {
            row.delivered_at = Some(at as i64);
        }
        if last || self.planted == Some(Planted::BodyDroppedEarly) {
            row.body = false;
        }
    }

    fn save(&mut self, at: u64, row: &LeaseRow) {
        if self.plants(Planted::LeaseNotSaved) && !self.now.leases.contains_key(&row.presence) {
            return;
        }
        let since = self.now.leases.get(&row.presence).and_then(|(_, since)| *since);
        let since = row.away.then(|| since.unwrap_or(at));
        self.now.leases.insert(row.presence.clone(), (row.clone(), since));
    }

    fn inherit(&mut self, from: &PresenceId, to: &MemberId) {
        let from = Recipient::Presence(from.clone());
        let moved: Vec<_> =
            self.now.deliveries.iter().filter(|(q, _)| q.recipient == from).cloned().collect();
        for (queue, seq) in moved {
            self.now.deliveries.remove(&(queue.clone(), seq));
            let queue = QueueId { recipient: Recipient::Member(to.clone()), lane: queue.lane };
            self.now.deliveries.insert((queue, seq));
        }
    }

    pub(crate) fn answer(&self, question: &Question) -> Answer {
        match question {
            Question::Identity { pubkey, session } => {
                let member = self.now.members.get(&**pubkey).cloned();
                let key_member = session.as_ref().and_then(|key| self.now.keys.get(key)).cloned();
                Answer::Identity(Some(Box::new(Identity {
                    mesh_name: "sim".to_owned(),
                    archived: false,
                    self_editable: None,
                    member,
                    key_member,
                })))
            }
            Question::Accepted { member, key } => {
                Answer::Accepted(self.now.accepted.get(&(member.clone(), key.clone())).cloned())
            }
            Question::Messages { prefix } => Answer::Messages(self.messages(prefix)),
            Question::Page { queue, after, limit } => {
                Answer::Page(self.page(queue, *after, limit.rows))
            }
        }
    }

    fn messages(&self, prefix: &str) -> Vec<StoredMessage> {
        let Some(row) = MessageId::position(prefix).and_then(|seq| self.now.envelopes.get(&seq))
        else {
            return Vec::new();
        };
        let waiting = row.recipients.iter().filter(|recipient| {
            self.now
                .deliveries
                .iter()
                .any(|(q, seq)| *seq == row.envelope.seq && q.recipient == **recipient)
        });
        vec![StoredMessage {
            id: row.envelope.id.clone(),
            target: row.envelope.target.clone(),
            recipients: row.recipients.clone(),
            waiting: waiting.cloned().collect(),
            delivered_at: row.delivered_at,
        }]
    }

    /// Small pages, so that a modest backlog is read in several.
    fn page(&self, queue: &QueueId, after: Seq, rows: usize) -> Page {
        let rows = rows.min(4);
        let mut seqs: Vec<Seq> = self
            .now
            .deliveries
            .range((queue.clone(), after + 1)..=(queue.clone(), Seq::MAX))
            .map(|(_, seq)| *seq)
            .collect();
        let depth = seqs.len();
        if self.plants(Planted::PageUnordered) {
            seqs.reverse();
        }
        seqs.truncate(rows);
        let more = depth > seqs.len();
        let envelopes = seqs.iter().map(|seq| {
            let row = &self.now.envelopes[seq];
            let mut envelope = (*row.envelope).clone();
            if !row.body {
                envelope.ciphertext = String::new();
            }
            Arc::new(envelope)
        });
        Page { envelopes: envelopes.collect(), more, depth }
    }
}

fn presence_of(write: &Write) -> Option<String> {
    match write {
        Write::SaveLease(row) => Some(row.presence.to_string()),
        Write::DropLease(presence) => Some(presence.to_string()),
        _ => None,
    }
}
