//! One batch, one transaction.
//!
//! Writes of a batch are gathered by kind, so that each kind is a few multi-row statements. That
//! changes their order only where order means nothing: within a mesh, accepts come before
//! confirmations of them anyway, and leases, keys and audit keep to tables and an order of their
//! own. What moves deliveries (`Inherit`) is a barrier: see [`Plan`].

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use protocol::{MemberId, MeshId, PresenceId};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row as _, SqlitePool};

use super::batch::{Row, Statement, chunks};
use super::error::{StoreResult, corrupt, to_i64, to_u64};
use super::{now, queue};
use crate::model::{
    Accept, AuditRow, Confirm, Duplicate, Epoch, LeaseRow, MeshCommit, Outcome, Recipient, Write,
};

static EPOCHS: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new("SELECT mesh_id, epoch FROM mesh_owner WHERE mesh_id IN (", "?", ")")
});

static KEYS: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "INSERT INTO accepted (mesh_id, member_id, kind, key, message_id, fingerprint) VALUES",
        "(?, ?, ?, ?, ?, ?)",
        "ON CONFLICT DO NOTHING RETURNING mesh_id, member_id, kind, key",
    )
});

static ENVELOPES: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "INSERT INTO envelope (mesh_id, seq, id, lane, shared, created_at, delivered_at, \
           sender_member_id, accept_kind, accept_key, sender_member_pubkey, \
           sender_session_pubkey, sender_name, priority, fingerprint, reply_to, subtype, target, \
           recipients, nonce, ciphertext) VALUES",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    )
});

static DELIVERIES: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "INSERT INTO delivery (mesh_id, recipient, lane, seq, shared) VALUES",
        "(?, ?, ?, ?, ?)",
        "",
    )
});

// `CROSS JOIN` keeps the order of the joins: by the rows given, never over the envelopes. The
// table's trigger removes the body with the last delivery.
static CONFIRMS: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "DELETE FROM delivery WHERE (mesh_id, recipient, lane, seq) IN ( \
           SELECT c.column1, c.column2, c.column3, c.column4 FROM (VALUES",
        "(?, ?, ?, ?, ?)",
        ") c CROSS JOIN envelope e \
           ON e.mesh_id = c.column1 AND e.seq = c.column4 AND e.id = c.column5)",
    )
});

static LEASES: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "INSERT INTO lease (mesh_id, presence_id, body, away_at) VALUES",
        concat!("(?, ?, ?, iif(?, ", now!(), ", NULL))"),
        "ON CONFLICT DO UPDATE SET body = excluded.body, away_at = \
           iif(excluded.away_at IS NULL, NULL, coalesce(away_at, excluded.away_at))",
    )
});

static DROPS: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new("DELETE FROM lease WHERE (mesh_id, presence_id) IN (VALUES", "(?, ?)", ")")
});

static SESSION_KEYS: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "INSERT INTO session_key (mesh_id, key, member_id) VALUES",
        "(?, ?, ?)",
        "ON CONFLICT DO NOTHING",
    )
});

static AUDIT: LazyLock<Statement> = LazyLock::new(|| {
    Statement::new(
        "INSERT INTO audit_log (mesh_id, event_type, actor_member_id, actor_display_name, \
           payload, prev_hash, hash, created_at) VALUES",
        "(?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    )
});

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

struct NewEnvelope<'a> {
    /// Index of its mesh in the batch.
    commit: usize,
    mesh: &'a MeshId,
    accept: &'a Accept,
}

#[derive(Clone, Copy)]
enum Change<'a> {
    Save(&'a LeaseRow),
    Drop(&'a PresenceId),
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
    for chunk in chunks(accepts) {
        let new = KEYS.fetch(connection, chunk, bind_key).await?;
        if new.len() == chunk.1.len() {
            fresh.extend(chunk.1);
            continue;
        }
        let mut new = new.iter().map(key_of_row).collect::<StoreResult<HashSet<_>>>()?;
        for item in chunk.1 {
            // Once: of two with one key, the first was written.
            if new.remove(&key_of(item)) {
                fresh.push(item);
                continue;
            }
            let envelope = &item.accept.envelope;
            let member = &envelope.sender.member;
            let original = queue::known(connection, item.mesh, member, &envelope.key).await?;
            let original = original.ok_or_else(|| corrupt("a known key is not known"))?;
            duplicates.push((item.commit, Duplicate { seq: envelope.seq, original }));
        }
    }
    ENVELOPES.run(connection, &fresh, bind_envelope).await?;
    let deliveries: Vec<_> = fresh
        .iter()
        .flat_map(|item| item.accept.recipients.iter().map(|recipient| (*item, recipient)))
        .collect();
    DELIVERIES.run(connection, &deliveries, bind_delivery).await?;
    Ok(duplicates)
}

type Key<'a> = (&'a str, &'a str, &'a str, &'a str);

fn key_of<'a>(item: &'a NewEnvelope<'_>) -> Key<'a> {
    let envelope = &item.accept.envelope;
    let member = envelope.sender.member.as_str();
    (item.mesh.as_str(), member, envelope.key.kind(), envelope.key.as_str())
}

fn key_of_row(row: &SqliteRow) -> StoreResult<Key<'_>> {
    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?))
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

fn bind_key(row: &mut Row, item: &NewEnvelope<'_>) -> StoreResult<()> {
    let envelope = &item.accept.envelope;
    row.text(item.mesh.as_str())?;
    row.text(envelope.sender.member.as_str())?;
    row.value(envelope.key.kind())?;
    row.text(envelope.key.as_str())?;
    row.text(envelope.id.as_str())?;
    row.maybe_text(envelope.fingerprint.as_deref())
}

fn bind_envelope(row: &mut Row, item: &&NewEnvelope<'_>) -> StoreResult<()> {
    let (envelope, recipients) = (&item.accept.envelope, &item.accept.recipients);
    let sender = &envelope.sender;
    // Nobody was there: it is delivered, and its body of no use.
    let nobody = recipients.is_empty();
    row.text(item.mesh.as_str())?;
    row.value(to_i64(envelope.seq)?)?;
    row.text(envelope.id.as_str())?;
    row.value(envelope.lane().index())?;
    row.value(recipients.len() > 1)?;
    row.value(envelope.created_at)?;
    row.value(nobody.then_some(envelope.created_at))?;
    row.text(sender.member.as_str())?;
    row.value(envelope.key.kind())?;
    row.text(envelope.key.as_str())?;
    row.value(std::sync::Arc::clone(&sender.member_pubkey))?;
    row.value(sender.session_pubkey.clone())?;
    row.value(std::sync::Arc::clone(&sender.name))?;
    row.value(envelope.priority.as_str())?;
    row.maybe_text(envelope.fingerprint.as_deref())?;
    row.maybe_text(envelope.reply_to.as_deref())?;
    row.maybe_text(envelope.subtype.as_deref())?;
    row.text(&envelope.target)?;
    let names: Vec<_> = recipients.iter().map(Recipient::to_string).collect();
    row.value(names.join(" "))?;
    row.text(if nobody { "" } else { &envelope.nonce })?;
    row.text(if nobody { "" } else { &envelope.ciphertext })
}

fn bind_delivery(
    row: &mut Row,
    (item, recipient): &(&NewEnvelope<'_>, &Recipient),
) -> StoreResult<()> {
    let envelope = &item.accept.envelope;
    row.text(item.mesh.as_str())?;
    row.value(recipient.to_string())?;
    row.value(envelope.lane().index())?;
    row.value(to_i64(envelope.seq)?)?;
    row.value(item.accept.recipients.len() > 1)
}

fn bind_confirm(row: &mut Row, (mesh, confirm): &(&MeshId, &Confirm)) -> StoreResult<()> {
    row.text(mesh.as_str())?;
    row.value(confirm.queue.recipient.to_string())?;
    row.value(confirm.queue.lane.index())?;
    row.value(to_i64(confirm.seq)?)?;
    row.text(confirm.message.as_str())
}

fn bind_lease(row: &mut Row, (mesh, change): &(&MeshId, Change<'_>)) -> StoreResult<()> {
    row.text(mesh.as_str())?;
    match change {
        Change::Save(lease) => {
            row.text(lease.presence.as_str())?;
            row.text(&lease.body)?;
            row.value(lease.away)
        }
        Change::Drop(presence) => row.text(presence.as_str()),
    }
}

fn bind_audit(row: &mut Row, (mesh, entry): &(&MeshId, &AuditRow)) -> StoreResult<()> {
    row.text(mesh.as_str())?;
    row.value(entry.event)?;
    row.maybe_text(entry.actor.as_ref().map(MemberId::as_str))?;
    row.value(entry.actor_name.clone())?;
    row.text(&entry.payload)?;
    row.text(&entry.prev_hash)?;
    row.text(&entry.hash)?;
    row.value(entry.created_at)
}
