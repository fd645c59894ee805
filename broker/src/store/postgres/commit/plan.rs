//! How a batch becomes statements: pure, no database.
//!
//! One statement sees one snapshot, so what must see an earlier write of its own mesh goes to a
//! later stage: a confirmation of an envelope accepted in the same batch, and anything about
//! deliveries after an inheritance. Neither happens on the happy path, which is one stage.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use protocol::{MeshId, PresenceId};

use crate::model::{
    Accept, AcceptKey, AuditRow, Confirm, Envelope, Epoch, LeaseRow, MeshCommit, Recipient, Seq,
    Write,
};
use crate::store::StoreError;
use crate::store::postgres::error::stored;

/// A mesh by its place in [`Plan::meshes`], and what is to be written of it.
pub(super) type Of<T> = (usize, T);

/// A batch, sorted by how it is written.
#[derive(Default)]
pub(super) struct Plan<'a> {
    /// Meshes with the epochs they believe in, each pair once.
    pub(super) meshes: Vec<(&'a MeshId, i64)>,
    /// The mesh of each entry of the batch.
    pub(super) mesh_of: Vec<usize>,
    /// At least one.
    pub(super) stages: Vec<Stage<'a>>,
    /// Every accept, in order.
    pub(super) accepts: Vec<Entry<'a>>,
    /// Leases to remove; for some of them before they are written anew.
    pub(super) gone: Vec<Of<&'a PresenceId>>,
    /// Leases to write, each presence once.
    pub(super) leases: Vec<Of<&'a LeaseRow>>,
    /// Session keys and their members.
    pub(super) keys: Vec<Of<(&'a str, &'a str)>>,
    /// Entries of audit chains.
    pub(super) audits: Vec<Of<&'a AuditRow>>,
}

/// What one statement writes, and the inheritances after it.
#[derive(Default)]
pub(super) struct Stage<'a> {
    pub(super) accepts: Vec<Of<AcceptRow<'a>>>,
    pub(super) confirms: Vec<Of<ConfirmRow<'a>>>,
    pub(super) inherits: Vec<Of<(String, String)>>,
}

/// An accept as it is sent.
pub(super) struct AcceptRow<'a> {
    pub(super) envelope: &'a Envelope,
    pub(super) seq: i64,
    /// Separated by spaces.
    pub(super) recipients: String,
}

impl AcceptRow<'_> {
    /// A body nobody waits for is not kept.
    pub(super) fn body<'t>(&self, text: &'t str) -> &'t str {
        if self.recipients.is_empty() { "" } else { text }
    }
}

/// A confirmation as it is sent.
pub(super) struct ConfirmRow<'a> {
    pub(super) confirm: &'a Confirm,
    pub(super) seq: i64,
    pub(super) recipient: String,
}

/// An accept of the batch, and where its answer is found.
pub(super) struct Entry<'a> {
    /// Whose outcome it belongs to.
    pub(super) batch: usize,
    pub(super) envelope: &'a Arc<Envelope>,
    pub(super) source: Source,
}

pub(super) enum Source {
    /// A row of a stage.
    Row { stage: usize, row: usize },
    /// Not sent: an earlier accept of the batch has the same key.
    Twin { first: usize },
}

type Key<'a> = (usize, &'a str, &'a AcceptKey);

/// What planning keeps in mind.
#[derive(Default)]
struct Memory<'a> {
    meshes: HashMap<(&'a MeshId, Epoch), usize>,
    /// The stage each mesh has come to.
    stage: HashMap<usize, usize>,
    /// Envelopes accepted in the stage that their mesh is in.
    accepted: HashSet<(usize, Seq)>,
    keys: HashMap<Key<'a>, usize>,
    /// The last word on each presence, and whether an earlier grace of it ended in this batch.
    leases: BTreeMap<(usize, &'a str), (&'a PresenceId, Option<&'a LeaseRow>, bool)>,
}

impl<'a> Plan<'a> {
    pub(super) fn of(batch: &'a [MeshCommit]) -> Result<Self, StoreError> {
        let mut plan = Self { stages: vec![Stage::default()], ..Self::default() };
        let mut memory = Memory::default();
        for (at, commit) in batch.iter().enumerate() {
            let mesh = plan.mesh(&mut memory, commit)?;
            plan.mesh_of.push(mesh);
            for write in commit.units.iter().flat_map(|unit| &unit.0) {
                plan.add(&mut memory, at, mesh, write)?;
            }
        }
        for ((mesh, _), (presence, last, ended)) in memory.leases {
            if last.is_none_or(|row| ended && row.away) {
                plan.gone.push((mesh, presence));
            }
            plan.leases.extend(last.map(|row| (mesh, row)));
        }
        Ok(plan)
    }

    /// Whether one statement is all.
    pub(super) fn is_hot(&self) -> bool {
        self.stages.len() == 1
            && self.stages.iter().all(|stage| stage.inherits.is_empty())
            && self.gone.is_empty()
            && self.leases.is_empty()
            && self.keys.is_empty()
            && self.audits.is_empty()
    }

    pub(super) fn mesh_id(&self, mesh: usize) -> &str {
        self.meshes.get(mesh).map_or("", |(id, _)| id.as_str())
    }

    fn mesh(
        &mut self,
        memory: &mut Memory<'a>,
        commit: &'a MeshCommit,
    ) -> Result<usize, StoreError> {
        let epoch = stored("committing", commit.epoch)?;
        Ok(*memory.meshes.entry((&commit.mesh, commit.epoch)).or_insert_with(|| {
            self.meshes.push((&commit.mesh, epoch));
            self.meshes.len() - 1
        }))
    }

    fn add(
        &mut self,
        memory: &mut Memory<'a>,
        batch: usize,
        mesh: usize,
        write: &'a Write,
    ) -> Result<(), StoreError> {
        match write {
            Write::Accept(accept) => self.accept(memory, batch, mesh, accept)?,
            Write::Confirm(confirm) => {
                if memory.accepted.contains(&(mesh, confirm.seq)) {
                    memory.next_stage(mesh);
                }
                let seq = stored("committing", confirm.seq)?;
                let recipient = confirm.queue.recipient.to_string();
                let row = ConfirmRow { confirm, seq, recipient };
                self.stage(memory.stage_of(mesh)).confirms.push((mesh, row));
            }
            Write::Inherit { from, to } => {
                let pair = (
                    Recipient::Presence(from.clone()).to_string(),
                    Recipient::Member(to.clone()).to_string(),
                );
                self.stage(memory.stage_of(mesh)).inherits.push((mesh, pair));
                memory.next_stage(mesh);
            }
            Write::SaveLease(row) => memory.lease(mesh, &row.presence, Some(row)),
            Write::DropLease(presence) => memory.lease(mesh, presence, None),
            Write::RecordKey { key, member } => self.keys.push((mesh, (key, member.as_str()))),
            Write::Audit(row) => self.audits.push((mesh, row)),
        }
        Ok(())
    }

    fn accept(
        &mut self,
        memory: &mut Memory<'a>,
        batch: usize,
        mesh: usize,
        accept: &'a Accept,
    ) -> Result<(), StoreError> {
        let envelope = &accept.envelope;
        let key = (mesh, envelope.sender.member.as_str(), &envelope.key);
        let source = if let Some(&first) = memory.keys.get(&key) {
            Source::Twin { first }
        } else {
            memory.keys.insert(key, self.accepts.len());
            memory.accepted.insert((mesh, envelope.seq));
            let row = AcceptRow {
                envelope,
                seq: stored("committing", envelope.seq)?,
                recipients: join(&accept.recipients)?,
            };
            let stage = memory.stage_of(mesh);
            let rows = &mut self.stage(stage).accepts;
            rows.push((mesh, row));
            Source::Row { stage, row: rows.len() - 1 }
        };
        self.accepts.push(Entry { batch, envelope, source });
        Ok(())
    }

    fn stage(&mut self, at: usize) -> &mut Stage<'a> {
        if self.stages.len() <= at {
            self.stages.resize_with(at + 1, Stage::default);
        }
        &mut self.stages[at]
    }
}

impl<'a> Memory<'a> {
    fn stage_of(&self, mesh: usize) -> usize {
        self.stage.get(&mesh).copied().unwrap_or(0)
    }

    fn next_stage(&mut self, mesh: usize) {
        *self.stage.entry(mesh).or_default() += 1;
        self.accepted.retain(|(of, _)| *of != mesh);
    }

    fn lease(&mut self, mesh: usize, presence: &'a PresenceId, row: Option<&'a LeaseRow>) {
        let last = self.leases.entry((mesh, presence.as_str())).or_insert((presence, None, false));
        last.1 = row;
        last.2 |= row.is_none_or(|row| !row.away);
    }
}

/// The list as stored; its separator may not be part of an entry.
fn join(recipients: &[Recipient]) -> Result<String, StoreError> {
    let mut list = String::new();
    for recipient in recipients {
        let text = recipient.to_string();
        if text.contains(' ') {
            return Err(StoreError::BadData("committing: a recipient contains a space".to_owned()));
        }
        if !list.is_empty() {
            list.push(' ');
        }
        list.push_str(&text);
    }
    Ok(list)
}
