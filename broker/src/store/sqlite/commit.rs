//! One batch, one transaction.
//!
//! Writes of a batch are gathered by kind, so that each kind is a few multi-row statements. That
//! changes their order only where order means nothing: within a mesh, accepts come before
//! confirmations of them anyway, and leases, keys and audit keep to tables and an order of their
//! own. What moves deliveries or takes them back is a barrier: see [`Plan`].

use std::collections::HashMap;

use protocol::{MemberId, MeshId, PresenceId};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Row as _, SqlitePool};

use super::batch::{Row, chunks};
use super::error::{StoreResult, bad_data, to_u64};
use super::rows::{
    AUDIT, CONFIRMS, Change, DELIVERIES, DROPS, ENVELOPES, EPOCHS, KEYS, LEASES, NewEnvelope,
    SESSION_KEYS, bind_audit, bind_confirm, bind_delivery, bind_envelope, bind_key, bind_lease,
};
use super::{moves, people, queue};
use crate::model::{AuditRow, Confirm, Duplicate, Epoch, LeaseRow, MeshCommit, Outcome, Write};

/// Keys are written first and looked up only if one of them was not new: then all is undone and
/// done again without the meshes that have such a key. Looking first would cost every batch.
pub(super) async fn commit(writer: &SqlitePool, batch: &[MeshCommit]) -> StoreResult<Vec<Outcome>> {
    if let Some(outcomes) = attempt(writer, batch, false).await? {
        return Ok(outcomes);
    }
    let outcomes = attempt(writer, batch, true).await?;
    outcomes.ok_or_else(|| bad_data("a key is given twice in one commit"))
}

/// Nothing if a key was not new after all.
async fn attempt(
    writer: &SqlitePool,
    batch: &[MeshCommit],
    look: bool,
) -> StoreResult<Option<Vec<Outcome>>> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    let epochs = epochs(&mut tx, batch).await?;
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut plans = Vec::new();
    for (index, commit) in batch.iter().enumerate() {
        if epochs.get(commit.mesh.as_str()) != Some(&commit.epoch) {
            outcomes.push(Outcome::Fenced);
            continue;
        }
        let known = if look { known(&mut tx, commit).await? } else { Vec::new() };
        if known.is_empty() {
            plan(&mut plans, index, commit);
            outcomes.push(Outcome::Committed { purged: 0 });
        } else {
            outcomes.push(Outcome::Known(known));
        }
    }
    for plan in &plans {
        if !plan.write(&mut tx, &mut outcomes).await? {
            tx.rollback().await?;
            return Ok(None);
        }
    }
    if plans.is_empty() {
        tx.rollback().await?;
    } else {
        tx.commit().await?;
    }
    Ok(Some(outcomes))
}

/// The accepts of a mesh whose key is known.
async fn known(
    connection: &mut SqliteConnection,
    commit: &MeshCommit,
) -> StoreResult<Vec<Duplicate>> {
    let mut known = Vec::new();
    for write in commit.units.iter().flat_map(|unit| &unit.0) {
        let Write::Accept(accept) = write else { continue };
        let envelope = &accept.envelope;
        let (member, key) = (&envelope.sender.member, &envelope.key);
        let original = queue::known(&mut *connection, &commit.mesh, member, key).await?;
        known.extend(original.map(|original| Duplicate { seq: envelope.seq, original }));
    }
    Ok(known)
}

/// The transaction holds the file's only write lock: nobody raises an epoch before it ends.
async fn epochs(
    connection: &mut SqliteConnection,
    batch: &[MeshCommit],
) -> StoreResult<HashMap<String, Epoch>> {
    let mut epochs = HashMap::with_capacity(batch.len());
    for chunk in chunks(batch) {
        let bind = |row: &mut Row, commit: &MeshCommit| row.text(commit.mesh.as_str());
        for row in EPOCHS.fetch(connection, chunk, bind).await? {
            epochs.insert(row.try_get(0)?, to_u64(row.try_get(1)?, "mesh_owner.epoch")?);
        }
    }
    Ok(epochs)
}

/// Of a batch, what may be written kind by kind. A mesh that moves deliveries and then goes on
/// with them goes on in the next plan.
#[derive(Default)]
struct Plan<'a> {
    accepts: Vec<NewEnvelope<'a>>,
    confirms: Vec<(&'a MeshId, &'a Confirm)>,
    undeliverables: Vec<(&'a MeshId, &'a PresenceId, &'a str)>,
    inherits: Vec<(&'a MeshId, &'a PresenceId, &'a MemberId)>,
    purges: Vec<(usize, &'a MeshId, &'a MemberId, &'a [PresenceId])>,
    leases: Vec<(&'a MeshId, Change<'a>)>,
    /// Where in them the last save of a presence stands.
    saves: HashMap<(usize, &'a PresenceId), usize>,
    keys: Vec<(&'a MeshId, &'a str, &'a MemberId)>,
    audit: Vec<(&'a MeshId, &'a AuditRow)>,
    /// What is so seldom that each has statements of its own, in order.
    seldom: Vec<(&'a MeshId, &'a Write)>,
}

/// Adds the writes of one mesh to the plans, in order.
fn plan<'a>(plans: &mut Vec<Plan<'a>>, index: usize, commit: &'a MeshCommit) {
    let mesh = &commit.mesh;
    let (mut stage, mut moved) = (0, false);
    for write in commit.units.iter().flat_map(|unit| &unit.0) {
        let barrier = matches!(
            write,
            Write::Undeliverable { .. } | Write::Inherit { .. } | Write::Purge { .. }
        );
        if moved && (barrier || matches!(write, Write::Accept(_) | Write::Confirm(_))) {
            (stage, moved) = (stage + 1, false);
        }
        moved |= barrier;
        if plans.len() <= stage {
            plans.push(Plan::default());
        }
        let plan = &mut plans[stage];
        match write {
            Write::Accept(accept) => plan.accepts.push(NewEnvelope { mesh, accept }),
            Write::Confirm(confirm) => plan.confirms.push((mesh, confirm)),
            Write::Inherit { from, to } => plan.inherits.push((mesh, from, to)),
            Write::Undeliverable { presence, key } => {
                plan.undeliverables.push((mesh, presence, key));
            }
            Write::Purge { member, presences } => {
                plan.purges.push((index, mesh, member, presences));
            }
            Write::SaveLease(row) => plan.save_lease(index, mesh, row),
            Write::DropLease(presence) => {
                plan.saves.remove(&(index, presence));
                plan.leases.push((mesh, Change::Drop(presence)));
            }
            Write::RecordKey { key, member } => plan.keys.push((mesh, key, member)),
            Write::Audit(row) => plan.audit.push((mesh, row)),
            Write::SaveState(_)
            | Write::History(_)
            | Write::Revoke { .. }
            | Write::Reinstate { .. }
            | Write::Done { .. }
            | Write::SeeHello { .. }
            | Write::Kick(_)
            | Write::LiftKicks(_)
            | Write::UsePending(_) => plan.seldom.push((mesh, write)),
        }
    }
}

impl<'a> Plan<'a> {
    /// Of a lease that is saved several times the last row is written. When it went away and came
    /// back, both are: the time of its going is new then.
    fn save_lease(&mut self, index: usize, mesh: &'a MeshId, row: &'a LeaseRow) {
        if let Some(at) = self.saves.get(&(index, &row.presence))
            && let (_, Change::Save(before)) = &mut self.leases[*at]
            && before.away == row.away
        {
            *before = row;
            return;
        }
        self.saves.insert((index, &row.presence), self.leases.len());
        self.leases.push((mesh, Change::Save(row)));
    }

    /// Writes it. False if a key was not new: then some of it is written, and must be undone.
    async fn write(
        &self,
        connection: &mut SqliteConnection,
        outcomes: &mut [Outcome],
    ) -> StoreResult<bool> {
        if !accept(connection, &self.accepts).await? {
            return Ok(false);
        }
        CONFIRMS.run(connection, &self.confirms, bind_confirm).await?;
        for (mesh, presence, key) in &self.undeliverables {
            moves::undeliverable(connection, mesh, presence, key).await?;
        }
        for (mesh, from, to) in &self.inherits {
            moves::inherit(connection, mesh, from, to).await?;
        }
        // Keys first: what waits for a key belongs to whoever has proven it by then.
        let bind = |row: &mut Row, (mesh, key, member): &(&MeshId, &str, &MemberId)| {
            row.text(mesh.as_str())?;
            row.text(key)?;
            row.text(member.as_str())
        };
        SESSION_KEYS.run(connection, &self.keys, bind).await?;
        for (index, mesh, member, presences) in &self.purges {
            let removed = moves::purge(connection, mesh, member, presences).await?;
            if let Outcome::Committed { purged } = &mut outcomes[*index] {
                *purged += removed;
            }
        }
        for run in self.leases.chunk_by(|(_, a), (_, b)| is_save(a) == is_save(b)) {
            match run[0].1 {
                Change::Save(_) => LEASES.run(connection, run, bind_lease).await?,
                Change::Drop(_) => DROPS.run(connection, run, bind_lease).await?,
            }
        }
        AUDIT.run(connection, &self.audit, bind_audit).await?;
        for (mesh, write) in &self.seldom {
            people::write(connection, mesh, write).await?;
        }
        Ok(true)
    }
}

fn is_save(change: &Change) -> bool {
    matches!(change, Change::Save(_))
}

/// Keys first; then envelopes and deliveries. False if a key was not new.
async fn accept(
    connection: &mut SqliteConnection,
    accepts: &[NewEnvelope<'_>],
) -> StoreResult<bool> {
    for chunk in chunks(accepts) {
        if KEYS.chunk(connection, chunk, bind_key).await? != chunk.1.len() {
            return Ok(false);
        }
    }
    ENVELOPES.run(connection, accepts, bind_envelope).await?;
    let deliveries: Vec<_> = accepts
        .iter()
        .flat_map(|item| item.accept.recipients.iter().map(move |recipient| (item, recipient)))
        .collect();
    DELIVERIES.run(connection, &deliveries, bind_delivery).await?;
    Ok(true)
}
