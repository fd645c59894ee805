//! How a batch becomes statements: pure, no database.
//!
//! One statement sees one snapshot, so what must see an earlier write of its own mesh goes to a
//! later stage: a confirmation of an envelope accepted in the same batch, and anything about
//! deliveries after they were moved or taken back. Neither happens on the happy path, which is one
//! stage.

use std::collections::{BTreeMap, HashMap, HashSet};

use protocol::{MemberId, MeshId, PresenceId};

use crate::model::{
    Accept, AuditRow, Confirm, Envelope, Epoch, History, Kicked, LeaseRow, MeshCommit, Recipient,
    Seq, StateChange, Write,
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
    /// Entries of audit chains: written with the first stage.
    pub(super) audits: Vec<Of<&'a AuditRow>>,
    /// Leases to remove; for some of them before they are written anew.
    pub(super) gone: Vec<Of<&'a PresenceId>>,
    /// Leases to write, each presence once.
    pub(super) leases: Vec<Of<&'a LeaseRow>>,
    /// Session keys and their members.
    pub(super) keys: Vec<Of<(&'a str, &'a str)>>,
    /// Hellos that were accepted: digests and connections.
    pub(super) hellos: Vec<Of<(&'a str, &'a str)>>,
    /// Members' states, each member once.
    pub(super) states: Vec<Of<StateChange>>,
    /// Messages for the histories of their topics.
    pub(super) histories: Vec<Of<&'a History>>,
    /// What is so seldom that each has a statement of its own, in order.
    pub(super) seldom: Vec<Of<Seldom<'a>>>,
}

/// What one statement writes, and what is done to deliveries after it.
#[derive(Default)]
pub(super) struct Stage<'a> {
    pub(super) accepts: Vec<Of<AcceptRow<'a>>>,
    pub(super) confirms: Vec<Of<ConfirmRow<'a>>>,
    /// Before the inheritances: what is left of a presence is its member's.
    pub(super) undeliverables: Vec<Of<(String, &'a str)>>,
    pub(super) inherits: Vec<Of<(String, String)>>,
    pub(super) purges: Vec<Of<(&'a MemberId, Vec<String>)>>,
}

impl Stage<'_> {
    fn moves_nothing(&self) -> bool {
        self.undeliverables.is_empty() && self.inherits.is_empty() && self.purges.is_empty()
    }
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

/// See [`Plan::seldom`].
pub(super) enum Seldom<'a> {
    Revoke { member: &'a MemberId, at: i64 },
    Reinstate { member: &'a MemberId },
    Done { command: &'a str, reply: &'a str },
    Kick(&'a Kicked),
    LiftKicks(Vec<&'a str>),
    UsePending(i64),
}

/// What planning keeps in mind.
#[derive(Default)]
struct Memory<'a> {
    meshes: HashMap<(&'a MeshId, Epoch), usize>,
    /// The stage each mesh has come to.
    stage: HashMap<usize, usize>,
    /// Envelopes accepted in the stage that their mesh is in.
    accepted: HashSet<(usize, Seq)>,
    /// The last word on each presence, and whether an earlier grace of it ended in this batch.
    leases: BTreeMap<(usize, &'a str), (&'a PresenceId, Option<&'a LeaseRow>, bool)>,
    states: BTreeMap<(usize, &'a str), StateChange>,
}

impl<'a> Plan<'a> {
    pub(super) fn of(batch: &'a [MeshCommit]) -> Result<Self, StoreError> {
        let mut plan = Self { stages: vec![Stage::default()], ..Self::default() };
        let mut memory = Memory::default();
        for commit in batch {
            let mesh = plan.mesh(&mut memory, commit)?;
            plan.mesh_of.push(mesh);
            for write in commit.units.iter().flat_map(|unit| &unit.0) {
                plan.add(&mut memory, mesh, write)?;
            }
        }
        for ((mesh, _), (presence, last, ended)) in memory.leases {
            if last.is_none_or(|row| ended && row.away) {
                plan.gone.push((mesh, presence));
            }
            plan.leases.extend(last.map(|row| (mesh, row)));
        }
        plan.states = memory.states.into_iter().map(|((mesh, _), state)| (mesh, state)).collect();
        if plan.stages.len() > 1 && plan.has_twins() {
            // Of one stage the primary key says so.
            return Err(StoreError::BadData("committing: a key is given twice".to_owned()));
        }
        Ok(plan)
    }

    /// Whether one statement is all.
    pub(super) fn is_hot(&self) -> bool {
        self.stages.len() == 1
            && self.stages.iter().all(Stage::moves_nothing)
            && self.gone.is_empty()
            && self.leases.is_empty()
            && self.keys.is_empty()
            && self.hellos.is_empty()
            && self.states.is_empty()
            && self.histories.is_empty()
            && self.seldom.is_empty()
    }

    pub(super) fn mesh_id(&self, mesh: usize) -> &str {
        self.meshes.get(mesh).map_or("", |(id, _)| id.as_str())
    }

    /// Every accept, in the order of the stages.
    pub(super) fn accepts(&self) -> impl Iterator<Item = &Of<AcceptRow<'a>>> {
        self.stages.iter().flat_map(|stage| &stage.accepts)
    }

    fn has_twins(&self) -> bool {
        let mut seen = HashSet::new();
        let new = |(mesh, row): &Of<AcceptRow<'a>>| {
            seen.insert((*mesh, &row.envelope.sender.member, &row.envelope.key))
        };
        !self.accepts().all(new)
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
        mesh: usize,
        write: &'a Write,
    ) -> Result<(), StoreError> {
        match write {
            Write::Accept(accept) => self.accept(memory, mesh, accept)?,
            Write::Confirm(confirm) => self.confirm(memory, mesh, confirm)?,
            Write::Inherit { from, to } => {
                let pair = (
                    Recipient::Presence(from.clone()).to_string(),
                    Recipient::Member(to.clone()).to_string(),
                );
                self.stage(memory.stage_of(mesh)).inherits.push((mesh, pair));
                memory.next_stage(mesh);
            }
            Write::Undeliverable { presence, key } => {
                let from = Recipient::Presence(presence.clone()).to_string();
                let ended = (mesh, (from, &**key));
                self.stage(memory.stage_of(mesh)).undeliverables.push(ended);
            }
            Write::SeeHello { digest, conn } => {
                self.hellos.push((mesh, (digest.as_str(), conn.as_str())));
            }
            Write::Purge { member, presences } => {
                let text = |id: &PresenceId| Recipient::Presence(id.clone()).to_string();
                let purge = (member, presences.iter().map(text).collect());
                self.stage(memory.stage_of(mesh)).purges.push((mesh, purge));
                memory.next_stage(mesh);
            }
            Write::SaveLease(row) => memory.lease(mesh, &row.presence, Some(row)),
            Write::DropLease(presence) => memory.lease(mesh, presence, None),
            Write::RecordKey { key, member } => self.keys.push((mesh, (key, member.as_str()))),
            Write::Audit(row) => self.audits.push((mesh, row)),
            Write::SaveState(change) => memory.state(mesh, change),
            Write::History(history) => self.histories.push((mesh, history)),
            Write::Revoke { member, at } => {
                self.seldom.push((mesh, Seldom::Revoke { member, at: *at }));
            }
            Write::Reinstate { member } => self.seldom.push((mesh, Seldom::Reinstate { member })),
            Write::Done { command, reply } => {
                self.seldom.push((mesh, Seldom::Done { command, reply }));
            }
            Write::Kick(kicked) => self.seldom.push((mesh, Seldom::Kick(kicked))),
            Write::LiftKicks(keys) => {
                let keys = keys.iter().map(|key| &**key).collect();
                self.seldom.push((mesh, Seldom::LiftKicks(keys)));
            }
            Write::UsePending(id) => self.seldom.push((mesh, Seldom::UsePending(*id))),
        }
        Ok(())
    }

    fn accept(
        &mut self,
        memory: &mut Memory<'a>,
        mesh: usize,
        accept: &'a Accept,
    ) -> Result<(), StoreError> {
        let envelope = &accept.envelope;
        memory.accepted.insert((mesh, envelope.seq));
        let row = AcceptRow {
            envelope,
            seq: stored("committing", envelope.seq)?,
            recipients: join(&accept.recipients)?,
        };
        self.stage(memory.stage_of(mesh)).accepts.push((mesh, row));
        Ok(())
    }

    fn confirm(
        &mut self,
        memory: &mut Memory<'a>,
        mesh: usize,
        confirm: &'a Confirm,
    ) -> Result<(), StoreError> {
        if memory.accepted.contains(&(mesh, confirm.seq)) {
            memory.next_stage(mesh);
        }
        let seq = stored("committing", confirm.seq)?;
        let row = ConfirmRow { confirm, seq, recipient: confirm.queue.recipient.to_string() };
        self.stage(memory.stage_of(mesh)).confirms.push((mesh, row));
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

    /// Later words count, counts add up.
    fn state(&mut self, mesh: usize, change: &'a StateChange) {
        let Some(all) = self.states.get_mut(&(mesh, change.member.as_str())) else {
            self.states.insert((mesh, change.member.as_str()), change.clone());
            return;
        };
        let before = std::mem::replace(all, change.clone());
        all.groups = all.groups.take().or(before.groups);
        all.profile = all.profile.take().or(before.profile);
        all.visible = all.visible.or(before.visible);
        all.summary = all.summary.take().or(before.summary);
        let (sum, stats) = (&mut all.stats, before.stats);
        sum.messages_in = sum.messages_in.saturating_add(stats.messages_in);
        sum.messages_out = sum.messages_out.saturating_add(stats.messages_out);
        sum.tool_calls = sum.tool_calls.saturating_add(stats.tool_calls);
        sum.errors = sum.errors.saturating_add(stats.errors);
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
