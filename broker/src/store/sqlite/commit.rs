//! One batch, one transaction.
//!
//! Writes of a batch are gathered by kind, so that each kind is a few multi-row statements. That
//! changes their order only where order means nothing: within a mesh, accepts come before
//! confirmations of them anyway, and leases, keys and audit keep to tables and an order of their
//! own. What moves deliveries (`Inherit`) is a barrier: see [`Plan`].

use std::collections::{HashMap, HashSet};

use protocol::{MemberId, MeshId, PresenceId};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Row as _, SqlitePool};

use super::batch::{Row, chunks};
use super::error::{StoreResult, corrupt, to_i64, to_u64};
use super::queue;
use super::rows::{
    AUDIT, CONFIRMS, Change, DELIVERIES, DROPS, ENVELOPES, EPOCHS, KEYS, LEASES, NewEnvelope,
    SESSION_KEYS, bind_audit, bind_confirm, bind_delivery, bind_envelope, bind_key, bind_lease,
};
use crate::model::{
    AcceptKey, Accepted, AuditRow, Confirm, Duplicate, Epoch, MeshCommit, Outcome, Recipient, Write,
};

pub(super) async fn commit(writer: &SqlitePool, batch: &[MeshCommit]) -> StoreResult<Vec<Outcome>> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    let epochs = epochs(&mut tx, batch).await?;
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut plans = Vec::new();
    for (index, commit) in batch.iter().enumerate() {
        if epochs.get(commit.mesh.as_str()) == Some(&commit.epoch) {
            plan(&mut plans, index, commit);
            outcomes.push(Outcome::Committed { duplicates: Vec::new() });
        } else {
            outcomes.push(Outcome::Fenced);
        }
    }
    for plan in &plans {
        for (mesh, duplicate) in plan.write(&mut tx).await? {
            if let Outcome::Committed { duplicates } = &mut outcomes[mesh] {
                duplicates.push(duplicate);
            }
        }
    }
    if plans.is_empty() {
        tx.rollback().await?;
    } else {
        tx.commit().await?;
    }
    Ok(outcomes)
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
    inherits: Vec<(&'a MeshId, &'a PresenceId, &'a MemberId)>,
    leases: Vec<(&'a MeshId, Change<'a>)>,
    keys: Vec<(&'a MeshId, &'a str, &'a MemberId)>,
    audit: Vec<(&'a MeshId, &'a AuditRow)>,
}

/// Adds the writes of one mesh to the plans, in order.
fn plan<'a>(plans: &mut Vec<Plan<'a>>, index: usize, commit: &'a MeshCommit) {
    let mesh = &commit.mesh;
    let (mut stage, mut moved) = (0, false);
    for write in commit.units.iter().flat_map(|unit| &unit.0) {
        if moved && matches!(write, Write::Accept(_) | Write::Confirm(_)) {
            (stage, moved) = (stage + 1, false);
        }
        if plans.len() <= stage {
            plans.push(Plan::default());
        }
        let plan = &mut plans[stage];
        match write {
            Write::Accept(accept) => {
                plan.accepts.push(NewEnvelope { commit: index, mesh, accept });
            }
            Write::Confirm(confirm) => plan.confirms.push((mesh, confirm)),
            Write::Inherit { from, to } => {
                plan.inherits.push((mesh, from, to));
                moved = true;
            }
            Write::SaveLease(row) => plan.leases.push((mesh, Change::Save(row))),
            Write::DropLease(presence) => plan.leases.push((mesh, Change::Drop(presence))),
            Write::RecordKey { key, member } => plan.keys.push((mesh, key, member)),
            Write::Audit(row) => plan.audit.push((mesh, row)),
        }
    }
}

impl Plan<'_> {
    /// Writes it; answers the accepts whose key was known, with the index of their mesh.
    async fn write(
        &self,
        connection: &mut SqliteConnection,
    ) -> StoreResult<Vec<(usize, Duplicate)>> {
        let duplicates = accept(connection, &self.accepts).await?;
        CONFIRMS.run(connection, &self.confirms, bind_confirm).await?;
        for (mesh, from, to) in &self.inherits {
            inherit(connection, mesh, from, to).await?;
        }
        for run in self.leases.chunk_by(|(_, a), (_, b)| is_save(a) == is_save(b)) {
            match run[0].1 {
                Change::Save(_) => LEASES.run(connection, run, bind_lease).await?,
                Change::Drop(_) => DROPS.run(connection, run, bind_lease).await?,
            }
        }
        let bind = |row: &mut Row, (mesh, key, member): &(&MeshId, &str, &MemberId)| {
            row.text(mesh.as_str())?;
            row.text(key)?;
            row.text(member.as_str())
        };
        SESSION_KEYS.run(connection, &self.keys, bind).await?;
        AUDIT.run(connection, &self.audit, bind_audit).await?;
        Ok(duplicates)
    }
}

fn is_save(change: &Change) -> bool {
    matches!(change, Change::Save(_))
}

/// Keys first; then envelopes and deliveries of those that were new.
async fn accept(
    connection: &mut SqliteConnection,
    accepts: &[NewEnvelope<'_>],
) -> StoreResult<Vec<(usize, Duplicate)>> {
    let mut fresh = Vec::with_capacity(accepts.len());
    let mut duplicates = Vec::new();
    let mut keys = HashSet::new();
    for chunk in chunks(accepts) {
        // Which of them were new is not asked (`RETURNING`) but looked up in the rare case that
        // not all were: rows that come back made a commit some 15 % dearer in processor time.
        if KEYS.chunk(connection, chunk, bind_key).await? == chunk.1.len() {
            fresh.extend(chunk.1);
            continue;
        }
        for item in chunk.1 {
            match original(connection, item).await? {
                // Of two with one key in one batch, the first was written.
                None if keys.insert(key_of(item)) => fresh.push(item),
                known => {
                    let envelope = &item.accept.envelope;
                    let original = known.unwrap_or_else(|| Accepted {
                        message: envelope.id.clone(),
                        fingerprint: envelope.fingerprint.clone(),
                    });
                    duplicates.push((item.commit, Duplicate { seq: envelope.seq, original }));
                }
            }
        }
    }
    let bind = |row: &mut Row, item: &&NewEnvelope<'_>| bind_envelope(row, item);
    ENVELOPES.run(connection, &fresh, bind).await?;
    let deliveries: Vec<_> = fresh
        .iter()
        .flat_map(|item| item.accept.recipients.iter().map(|recipient| (*item, recipient)))
        .collect();
    DELIVERIES.run(connection, &deliveries, bind_delivery).await?;
    Ok(duplicates)
}

/// What the key of an accept belonged to before this batch. The key is there by now: it is this
/// batch's if it names this envelope, and the envelope is not there yet.
async fn original(
    connection: &mut SqliteConnection,
    item: &NewEnvelope<'_>,
) -> StoreResult<Option<Accepted>> {
    let envelope = &item.accept.envelope;
    let known = queue::known(connection, item.mesh, &envelope.sender.member, &envelope.key).await?;
    let known = known.ok_or_else(|| corrupt("an accepted key is not there"))?;
    if known.message != envelope.id {
        return Ok(Some(known));
    }
    let written = sqlx::query("SELECT 1 FROM envelope WHERE mesh_id = ? AND seq = ? AND id = ?")
        .bind(item.mesh.as_str())
        .bind(to_i64(envelope.seq)?)
        .bind(envelope.id.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(written.map(|_| known))
}

type Key<'a> = (&'a str, &'a str, &'a AcceptKey);

fn key_of<'a>(item: &NewEnvelope<'a>) -> Key<'a> {
    let envelope = &item.accept.envelope;
    (item.mesh.as_str(), envelope.sender.member.as_str(), &envelope.key)
}

/// Moved deliveries are found from their envelope, as shared ones are: their recipient is not the
/// one that the envelope names.
async fn inherit(
    connection: &mut SqliteConnection,
    mesh: &MeshId,
    from: &PresenceId,
    to: &MemberId,
) -> StoreResult<()> {
    let from = Recipient::Presence(from.clone()).to_string();
    sqlx::query(
        "UPDATE OR IGNORE delivery SET recipient = ?3, shared = 1 \
         WHERE mesh_id = ?1 AND recipient = ?2",
    )
    .bind(mesh.as_str())
    .bind(&from)
    .bind(Recipient::Member(to.clone()).to_string())
    .execute(&mut *connection)
    .await?;
    // What is left waits for the member already.
    sqlx::query("DELETE FROM delivery WHERE mesh_id = ?1 AND recipient = ?2")
        .bind(mesh.as_str())
        .bind(&from)
        .execute(connection)
        .await?;
    Ok(())
}
